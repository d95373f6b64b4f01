"""How good and how quick the served predictions are, over a moving window for each model of each service."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.history import Pair
from complex_system.training.base import score

MOST_MODELS = 8
"""Models with windows of their own; the one that has not predicted for longest is forgotten."""
PAIRS_SAVED = 1000
"""Newest pairs of a window that outlive a restart."""


class ErrorWindow:
    """Scores the newest pairs of truth and prediction."""

    def __init__(self, size: int) -> None:
        self._pairs: deque[tuple[float, float]] = deque(maxlen=size)

    def add(self, truth: float, prediction: float) -> None:
        """Takes a pair of finite numbers."""
        self._pairs.append((truth, prediction))

    def metrics(self) -> dict[str, float]:
        """``rmse``, ``mae``, ``bias`` (mean of prediction - truth), ``r2`` and ``count``; only ``count`` while it is 0.

        All but R2 and the count are in the target's unit. R2 needs two pairs.
        """
        count = len(self._pairs)
        if not count:
            return {"count": 0.0}
        pairs = np.asarray(self._pairs, dtype=np.float32)
        truth, predicted = pairs[:, 0], pairs[:, 1]
        scores = score(truth, predicted)
        bias = float(np.mean(predicted.astype(np.float64) - truth.astype(np.float64)))
        r2 = {"r2": scores.r2} if count > 1 else {}
        return {"rmse": scores.rmse, "mae": scores.mae, "bias": bias, **r2, "count": float(count)}

    def newest(self, most: int) -> list[tuple[float, float]]:
        """The newest pairs, the oldest of them first."""
        return list(self._pairs)[-most:]


class LatencyWindow:
    """How long predictions take and how many there are."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Makes a window.

        Args:
            size: Number of answered requests in it.
            clock: Monotonic time in seconds.
        """
        self._milliseconds: deque[float] = deque(maxlen=size)
        self._clock = clock
        self._since = clock()
        self._count = 0

    def __len__(self) -> int:
        return len(self._milliseconds)

    def answered(self, milliseconds: float, predictions: int) -> None:
        """Takes an answered request of so many predictions."""
        self._milliseconds.append(milliseconds)
        self._count += predictions

    def metrics(self) -> dict[str, float]:
        """``latency_ms_mean``, ``_p50``, ``_p95``, ``_p99`` over the window, and ``predictions_per_second``.

        The rate covers the time since the last call. Latencies are those of requests; they are missing before the first.
        """
        now = self._clock()
        passed, self._since = now - self._since, now
        count, self._count = self._count, 0
        rate = {"predictions_per_second": count / passed} if passed > 0 else {}
        if not self._milliseconds:
            return rate
        times = np.asarray(self._milliseconds)
        quantiles = zip((50, 95, 99), np.percentile(times, [50, 95, 99]), strict=True)
        return {
            "latency_ms_mean": float(times.mean()),
            **{f"latency_ms_p{share}": float(value) for share, value in quantiles},
            **rate,
        }


@dataclass(frozen=True)
class ServedMetrics:
    """How a served model does; see :class:`ErrorWindow` and :class:`LatencyWindow`."""

    served: Served
    performance: dict[str, float]
    latency: dict[str, float]
    requests: int = 0
    """Requests in the latency window."""


class ModelWindows:
    """An error and a latency window for every model of every service, so that no figure mixes two models."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Makes the windows, none at first.

        Args:
            size: Number of pairs, and of answered requests, in a window.
            clock: Monotonic time in seconds.
        """
        self._size = size
        self._clock = clock
        self._windows: OrderedDict[Served, tuple[ErrorWindow, LatencyWindow]] = OrderedDict()
        self._newest: dict[str, Served] = {}

    def answered(self, by: Served, milliseconds: float, predictions: int) -> bool:
        """Takes an answered request.

        Returns:
            Whether the service answered with another model than the last time, or for the first time. A shadow answers nobody.
        """
        self._of(by)[1].answered(milliseconds, predictions)
        if by.shadow:
            return False
        before, self._newest[by.service] = self._newest.get(by.service), by
        return before != by

    def joined(self, pair: Pair) -> None:
        """Takes a pair."""
        self._of(pair.served)[0].add(pair.truth, pair.prediction)

    def metrics(self) -> dict[str, ServedMetrics]:
        """The metrics of every service, each over the window of the model that it answered with last."""
        return {service: self._metrics(served) for service, served in self._newest.items()}

    def shadows(self) -> list[ServedMetrics]:
        """The metrics of the challengers that scored along, the newest first."""
        return [self._metrics(served) for served in reversed(self._windows) if served.shadow]

    def as_dict(self) -> dict[str, Any]:
        """The newest pairs of all windows as JSON, for the time after a restart."""
        pairs = [[list(served), errors.newest(PAIRS_SAVED)] for served, (errors, _) in self._windows.items()]
        return {"newest": [list(served) for served in self._newest.values()], "pairs": pairs}

    def load(self, body: dict[str, Any]) -> None:
        """Puts what :meth:`as_dict` made before what is at hand."""
        for values, pairs in body.get("pairs", ()):
            served = Served(str(values[0]), str(values[1]), str(values[2]), bool(values[3]))
            window, _ = self._of(served)
            present = window.newest(self._size)
            for truth, prediction in [*pairs, *present]:
                window.add(float(truth), float(prediction))
        for values in body.get("newest", ()):
            self._newest.setdefault(str(values[0]), Served(str(values[0]), str(values[1]), str(values[2])))

    def _metrics(self, served: Served) -> ServedMetrics:
        errors, latency = self._of(served)
        return ServedMetrics(served, errors.metrics(), latency.metrics(), len(latency))

    def _of(self, by: Served) -> tuple[ErrorWindow, LatencyWindow]:
        if by not in self._windows:
            self._windows[by] = (ErrorWindow(self._size), LatencyWindow(self._size, self._clock))
        self._windows.move_to_end(by)
        if len(self._windows) > MOST_MODELS:
            forgotten, _ = self._windows.popitem(last=False)
            if self._newest.get(forgotten.service) == forgotten:
                del self._newest[forgotten.service]
        return self._windows[by]
