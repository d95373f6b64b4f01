"""Finds when the error began to change, with river's ADWIN. The only module that imports river, which is an extra."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.protocol.base import Message

SENSITIVITY = 0.002
"""ADWIN's delta: the probability of a false alarm at any one look (A. Bifet, R. Gavalda, 2007)."""
MAX_REMEMBERED = 20_000
"""Newest errors that are remembered, to name the one with which a change began."""
EDGE = 10
"""Values on either side of a change, at least."""
MIN_SEARCHED = 200
"""Newest errors among which the begin of a change is searched, at least."""


class Change(Message, frozen=True, kw_only=True):
    """A change in the errors of a model.

    Attributes:
        began: When it began, seconds since 1970 (UTC).
        noticed: When it was noticed.
        before: Mean absolute error before it, in the target's unit.
        since: Mean absolute error since then.
        model: Registered name of the model.
        version: Registered version.
        origin: Whose requests the errors are of.
        rose: Whether the errors are larger since then.
    """

    began: float
    noticed: float
    before: float
    since: float
    model: str = ""
    version: str = ""
    origin: str = ""
    rose: bool = True


class ChangeDetector:
    """Notices with ADWIN that the newest errors are not like the older ones, and then searches the remembered errors for the place.

    ADWIN itself knows the place only to one of its buckets, and looks for it seldom; see :func:`parting_of`.
    """

    def __init__(self, delta: float = SENSITIVITY) -> None:
        """Make a detector. The first one of a process imports river, which takes seconds: make it in a thread."""
        self._adwin = _adwin(delta)
        self._errors: deque[tuple[float, float, float]] = deque(maxlen=MAX_REMEMBERED)

    @property
    def is_there(self) -> bool:
        """True if river is installed; without it nothing is detected."""
        return self._adwin is not None

    def add(self, at: float, error: float, score: float | None = None) -> Change | None:
        """Record the absolute error of a prediction made at a time; return the change that it made visible.

        Args:
            at: When the prediction was made.
            error: Its absolute error.
            score: What is watched, 0 to 1: the error's place among those that were expected, so an outlier counts little. None for
                the error itself.
        """
        if self._adwin is None:
            return None
        watched = error if score is None else score
        self._errors.append((at, error, watched))
        self._adwin.update(watched)
        if not self._adwin.drift_detected:
            return None
        searched = max(MIN_SEARCHED, 3 * int(self._adwin.width))
        newest = list(self._errors)[-searched:]  # an earlier change lies before them
        errors, scores = np.array(newest)[:, 1:].T
        place = parting_of(scores)
        self._errors.clear()
        self._errors.extend(newest[place:])  # what was before the change says nothing of the next one
        return Change(
            began=newest[place][0], noticed=at, before=float(errors[:place].mean()), since=float(errors[place:].mean()),
            rose=bool(scores[place:].mean() > scores[:place].mean()),
        )  # fmt: skip


def parting_of(errors: npt.NDArray[np.float64]) -> int:
    """Return the number of values before the place where one change of the mean is most likely.

    The place k of n where the standardized cumulated sum ``|sum of the first k (x - mean)| / sqrt(k (n - k) / n)`` is greatest, which
    for normal errors is the maximum likelihood estimate (D. V. Hinkley, 1970).
    """
    n = len(errors)
    if n < 2:
        return 0
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
