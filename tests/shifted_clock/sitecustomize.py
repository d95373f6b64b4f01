"""Shifts the clock of a whole Python process: put this folder first in ``PYTHONPATH`` and set ``CLOCK_SHIFT`` to seconds.

Monotonic clocks stay as they are, as they do on a host whose clock is wrong.
"""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

_SHIFT = float(os.environ.get("CLOCK_SHIFT", "0"))
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


class _LikeDatetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _datetime)


class _Shifted(_datetime, metaclass=_LikeDatetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


if _SHIFT:
    time.time = lambda: _time() + _SHIFT
    time.time_ns = lambda: _time_ns() + int(_SHIFT * 1e9)
    datetime.datetime = _Shifted  # type: ignore[misc]
