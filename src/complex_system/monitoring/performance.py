"""Errors and latencies of the served predictions, over a moving window for each model of each service."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from complex_system.monitoring.aggregates import LATENCY_QUANTILES, Served, latency_metrics
from complex_system.monitoring.history import Pair
from complex_system.protocol.base import Message
from complex_system.training.base import score

MAX_MODELS = 8
"""Models with windows of their own; the one that has not predicted for longest is dropped."""
PAIRS_SAVED = 1000
"""Newest pairs of a window that outlive a restart."""


class ErrorWindow:
    """Scores the newest pairs of truth and prediction."""

    def __init__(self, size: int) -> None:
        self._pairs: deque[tuple[float, float]] = deque(maxlen=size)

    def add(self, truth: float, prediction: float) -> None:
        """Add a pair of finite numbers."""
        self._pairs.append((truth, prediction))

    def metrics(self) -> dict[str, float]:
        """Return ``rmse``, ``mae``, ``bias`` (mean of prediction - truth), ``r2`` and ``count``; only ``count`` while it is 0.

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

    def newest(self, limit: int) -> list[tuple[float, float]]:
        """Return the newest pairs, the oldest of them first."""
        return list(self._pairs)[-limit:]


class LatencyWindow:
    """Times and number of the newest answered requests, all of them exact; for longer times, ``aggregates.LatencySums``."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Make a window.

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
        """Record an answered request of so many predictions."""
        self._milliseconds.append(milliseconds)
        self._count += predictions

    def metrics(self) -> dict[str, float]:
        """Return ``latency_ms_mean``, ``_p50``, ``_p95``, ``_p99`` over the window, and ``predictions_per_second``.

        The rate covers the time since the last call. Latencies are those of requests; they are missing before the first.
        """
        now = self._clock()
        passed, self._since = now - self._since, now
        count, self._count = self._count, 0
        rate = {"predictions_per_second": count / passed} if passed > 0 else {}
        if not self._milliseconds:
            return rate
        times = np.asarray(self._milliseconds)
        return {**latency_metrics(float(times.mean()), np.quantile(times, LATENCY_QUANTILES).tolist()), **rate}


@dataclass(frozen=True)
class ServedMetrics:
    """Errors and latencies of a served model.

    Attributes:
        served: The model.
        performance: From :class:`ErrorWindow`.
        latency: From :class:`LatencyWindow`.
        requests: Requests in the latency window.
    """

    served: Served
    performance: dict[str, float]
    latency: dict[str, float]
    requests: int = 0


class KeptWindows(Message, frozen=True, kw_only=True):
    """The windows, for the next process.

    Attributes:
        newest: The models that answered last, one a service.
        pairs: The newest pairs of truth and prediction by model.
    """

    newest: tuple[Served, ...] = ()
    pairs: tuple[tuple[Served, list[tuple[float, float]]], ...] = ()


class ModelWindows:
    """An error and a latency window for every model of every service, so that no figure mixes two models."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Make the windows, none at first.

        Args:
            size: Number of pairs, and of answered requests, in a window.
            clock: Monotonic time in seconds.
        """
        self._size = size
        self._clock = clock
        self._windows: OrderedDict[Served, tuple[ErrorWindow, LatencyWindow]] = OrderedDict()
        self._newest: dict[str, Served] = {}

    def answered(self, by: Served, milliseconds: float, predictions: int) -> bool:
        """Record an answered request.

        Returns:
            Whether the service answered with another model than the last time, or for the first time. A shadow answers nobody.
        """
        self._of(by)[1].answered(milliseconds, predictions)
        if by.shadow:
            return False
        before, self._newest[by.service] = self._newest.get(by.service), by
        return before != by

    def joined(self, pair: Pair) -> None:
        """Record a pair."""
        self._of(pair.served)[0].add(pair.truth, pair.prediction)

    def metrics(self) -> dict[str, ServedMetrics]:
        """Return the metrics of every service, each over the window of the model that it answered with last."""
        return {service: self._metrics(served) for service, served in self._newest.items()}

    def shadows(self) -> list[ServedMetrics]:
        """Return the metrics of the challengers that predicted the same requests, the newest first."""
        return [self._metrics(served) for served in reversed(self._windows) if served.shadow]

    def kept(self) -> KeptWindows:
        """Return the newest pairs of all windows, for the next process."""
        pairs = tuple((served, errors.newest(PAIRS_SAVED)) for served, (errors, _) in self._windows.items())
        return KeptWindows(newest=tuple(self._newest.values()), pairs=pairs)

    def restore(self, kept: KeptWindows) -> None:
        """Put the pairs of an earlier process before those at hand."""
        for served, pairs in kept.pairs:
            window, _ = self._of(served)
            for truth, prediction in [*pairs, *window.newest(self._size)]:
                window.add(truth, prediction)
        for served in kept.newest:
            self._newest.setdefault(served.service, served)

    def _metrics(self, served: Served) -> ServedMetrics:
        errors, latency = self._of(served)
        return ServedMetrics(served, errors.metrics(), latency.metrics(), len(latency))

    def _of(self, by: Served) -> tuple[ErrorWindow, LatencyWindow]:
        if by not in self._windows:
            self._windows[by] = (ErrorWindow(self._size), LatencyWindow(self._size, self._clock))
        self._windows.move_to_end(by)
        if len(self._windows) > MAX_MODELS:
            dropped, _ = self._windows.popitem(last=False)
            if self._newest.get(dropped.service) == dropped:
                del self._newest[dropped.service]
        return self._windows[by]
