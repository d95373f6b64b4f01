"""When the error began to change: river's ADWIN on the absolute errors. The only module that imports river, which is an extra."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

SENSITIVITY = 0.002
"""ADWIN's delta: the probability of a false alarm at any one look (A. Bifet, R. Gavalda, 2007)."""
MOST_REMEMBERED = 20_000
"""Newest errors that are remembered, to name the one with which a change began."""
FEWEST_SEARCHED = 200
"""Newest errors among which the begin of a change is searched, at least."""


@dataclass(frozen=True)
class Change:
    """A change in the stream of errors: when it began, when it was noticed, and the mean absolute error before and since."""

    began: float
    noticed: float
    before: float
    since: float

    def as_dict(self) -> dict[str, float]:
        """It as JSON."""
        return dict(vars(self))


class ChangeDetector:
    """ADWIN notices that the newest errors are not like the older ones; where they parted is then looked up among those remembered.

    The first of the different ones is where the cumulated distance from the mean is greatest (the usual CUSUM estimate of one change:
    E. S. Page, 1957); ADWIN itself only knows it to one of its buckets.
    """

    def __init__(self, delta: float = SENSITIVITY) -> None:
        """Makes a detector. The first one of a process imports river, which takes seconds: make it in a thread."""
        self._adwin = _adwin(delta)
        self._errors: deque[tuple[float, float]] = deque(maxlen=MOST_REMEMBERED)

    @property
    def is_there(self) -> bool:
        """Whether river is installed; without it nothing is detected."""
        return self._adwin is not None

    def add(self, at: float, error: float) -> Change | None:
        """Takes the absolute error of a prediction made at a time; returns the change that it made visible."""
        if self._adwin is None:
            return None
        self._errors.append((at, error))
        self._adwin.update(error)
        if not self._adwin.drift_detected:
            return None
        newest = list(self._errors)[
            -max(FEWEST_SEARCHED, 3 * int(self._adwin.width)) :
        ]  # an earlier change lies before them
        errors = np.array([error for _, error in newest])
        place = int(np.argmax(np.abs(np.cumsum(errors - errors.mean()))[:-1])) + 1
        self._errors.clear()
        self._errors.extend(newest[place:])  # what was before the change says nothing of the next one
        return Change(newest[place][0], at, float(errors[:place].mean()), float(errors[place:].mean()))


def _adwin(delta: float) -> Any:
    try:
        from river.drift import ADWIN
    except ImportError:
        return None
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]
