"""When the error began to change: river's ADWIN on the absolute errors. The only module that imports river, which is an extra."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SENSITIVITY = 0.002
"""ADWIN's delta: the probability of a false alarm at any one look (A. Bifet, R. Gavalda, 2007)."""
MOST_REMEMBERED = 20_000
"""Newest errors that are remembered, to name the one with which a change began."""
EDGE = 10
"""Fewest values on either side of a change."""
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

    ADWIN itself only knows the place to one of its buckets, and looks for it seldom; see :func:`parting_of`.
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
        place = parting_of(errors)
        self._errors.clear()
        self._errors.extend(newest[place:])  # what was before the change says nothing of the next one
        return Change(newest[place][0], at, float(errors[:place].mean()), float(errors[place:].mean()))


def parting_of(errors: npt.NDArray[np.float64]) -> int:
    """Where one change of the mean is most likely: the number of values before it.

    The place k of n where the standardized cumulated sum ``|sum of the first k (x - mean)| / sqrt(k (n - k) / n)`` is greatest, which
    for normal errors is the maximum likelihood estimate (D. V. Hinkley, 1970).
    """
    n = len(errors)
    k = np.arange(1, n)
    cumulated = np.abs(np.cumsum(errors - errors.mean())[:-1]) / np.sqrt(k * (n - k) / n)
    edge = min(EDGE, n // 4)  # a few values at an end differ from the rest by chance
    return edge + int(np.argmax(cumulated[edge : n - 1 - edge])) + 1


def _adwin(delta: float) -> Any:
    try:
        from river.drift import ADWIN
    except ImportError:
        return None
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]
