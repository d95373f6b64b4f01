"""How many true values lie within the 90 % intervals of the model that predicted them, and how likely so few are by chance."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.performance import Errors
from complex_system.protocol.serving import PredictionMade

LEVEL = 0.9
"""Of the intervals that are counted: ``PredictionMade.half_width`` is theirs."""
NEWEST = 100
"""Newest pairs that are judged beside the whole window, so that a change is found before it fills the window."""
MAX_MODELS = 32


class Coverage:
    """Counts with the half width that each model announces with its predictions."""

    def __init__(self) -> None:
        self._widths: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def told(self, event: PredictionMade) -> None:
        """Keep the half width of the model's intervals."""
        if event.half_width is not None:
            self._widths[event.model, event.version] = event.half_width, event.calibrated
            self._widths.move_to_end((event.model, event.version))
            if len(self._widths) > MAX_MODELS:
                self._widths.popitem(last=False)

    def judge(self, served: Served, errors: Errors, alike: float) -> dict[str, float]:
        """Return what is known of a model's intervals.

        Args:
            served: The model.
            errors: Absolute errors of its window, the newest last.
            alike: Errors that count as one (``Residuals.alike``).

        Returns:
            ``half_width``, ``coverage`` (share within), and ``coverage_p`` (:func:`chance`, of all or of the newest,
            the smaller one times two). Empty where the model has no intervals or no error is known.
        """
        known = self._widths.get((served.model, served.version))
        if known is None or not len(errors):
            return {}
        half, calibrated = known
        within = errors <= half
        windows = [within[-size:] for size in sorted({min(NEWEST, len(within)), len(within)})]
        p = min(chance(float(each.sum()) / alike, len(each) / alike, calibrated) for each in windows)
        return {"half_width": half, "coverage": float(within.mean()), "coverage_p": min(1.0, len(windows) * p)}


def chance(within: float, of: float, calibrated: int) -> float:
    """Return the probability that at most so many new errors lie within the 90 % intervals, if they are like those of the calibration.

    The half width is the r-th smallest of n errors, r = ceil(0.9 (n + 1)), so the probability to lie within is itself random, with the
    beta distribution (r, n + 1 - r), and the count has the beta-binomial one: exact for exchangeable records (V. Vovk, Conditional
    validity of inductive conformal predictors, Machine Learning 92, 2013). So few calibration records raise no alarm by themselves.
    With n unknown (0) it is the binomial distribution.

    Args:
        within: New errors that do; rounded up.
        of: New errors; rounded down.
        calibrated: Independent records of the calibration, n.
    """
    count, size = math.ceil(within - 1e-9), math.floor(of + 1e-9)
    if count >= size:
        return 1.0
    found = np.arange(size)
    if calibrated:
        r = math.ceil(LEVEL * (calibrated + 1) - 1e-9)
        a, b = float(r), calibrated + 1.0 - r
        first = math.lgamma(size + b) + math.lgamma(a + b) - math.lgamma(size + a + b) - math.lgamma(b)
        steps = (size - found) / (found + 1) * (found + a) / (size - found - 1 + b)
    else:
        first = size * math.log(1 - LEVEL)
        steps = (size - found) / (found + 1) * (LEVEL / (1 - LEVEL))
    logs = first + np.concatenate([[0.0], np.cumsum(np.log(steps[:count]))])
    return float(min(1.0, np.exp(logs).sum()))
