"""Wait for what becomes true soon; nothing sleeps for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(check: Callable[[], Awaitable[Any] | Any], seconds: float = 60.0) -> Any:
    """Poll ``check`` until it returns something true, and return that.

    Raises:
        AssertionError: Nothing true was returned for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"Not true within {seconds:g} s: {check}")
        await asyncio.sleep(0.02)
