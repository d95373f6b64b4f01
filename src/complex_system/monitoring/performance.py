"""Errors and latencies of the served predictions, over moving windows for each model of each service, errors by who asked."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from complex_system.monitoring.aggregates import LATENCY_QUANTILES, Served, latency_metrics
from complex_system.monitoring.history import Pair
from complex_system.protocol.base import Message
from complex_system.training.base import score

MAX_MODELS = 8
"""Models with windows of their own; the one that has not predicted for longest is dropped."""
PAIRS_SAVED = 1000
"""Newest pairs of a window that outlive a restart."""
MIN_LIVE_PAIRS = 30
"""Pairs of clients' predictions from which they stand for the model; with fewer the requests of this system do."""
LIVE_FOR = 86_400.0
"""Seconds after the newest of them in which they do: what clients asked long ago does not hide what is found now."""


class ErrorWindow:
    """Scores the newest pairs of truth and prediction."""

    def __init__(self, size: int) -> None:
        self._pairs: deque[tuple[float, float]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._pairs)

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
        served: The model; its origin says whose requests ``performance`` is of.
        performance: From :class:`ErrorWindow`: of clients' requests where there are enough, else of this system's.
        latency: From :class:`LatencyWindow`, whoever asked.
        requests: Requests in the latency window.
        by_origin: As ``performance``, for every origin with a pair.
    """

    served: Served
    performance: dict[str, float]
    latency: dict[str, float]
    requests: int = 0
    by_origin: dict[str, dict[str, float]] = field(default_factory=dict)


class KeptWindows(Message, frozen=True, kw_only=True):
    """The windows, for the next process.

    Attributes:
        newest: The models that answered last, one a service.
        pairs: The newest pairs of truth and prediction by model and origin.
    """

    newest: tuple[Served, ...] = ()
    pairs: tuple[tuple[Served, list[tuple[float, float]]], ...] = ()


class _Windows:
    """The windows of one model: its latencies, and its errors by origin."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.latency = LatencyWindow(size, clock)
        self.errors: dict[str, ErrorWindow] = {}
        self._size = size
        self._clock = clock
        self._live_at = clock()

    def of(self, origin: str) -> ErrorWindow:
        """Return the errors of an origin, to be added to."""
        if origin == "live":
            self._live_at = self._clock()
        return self.errors.setdefault(origin, ErrorWindow(self._size))

    @property
    def decisive(self) -> str:
        """Origin whose errors stand for the model; empty without any."""
        live = len(self.errors.get("live", ())) >= MIN_LIVE_PAIRS and self._clock() - self._live_at < LIVE_FOR
        return "live" if live else max(self.errors, key=lambda origin: len(self.errors[origin]), default="")


class ModelWindows:
    """Windows for every model of every service and every origin of requests, so that no figure mixes two of them."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Make the windows, none at first.

        Args:
            size: Number of pairs, and of answered requests, in a window.
            clock: Monotonic time in seconds.
        """
        self._size = size
        self._clock = clock
        self._windows: OrderedDict[Served, _Windows] = OrderedDict()
        self._newest: dict[str, Served] = {}

    def answered(self, by: Served, milliseconds: float, predictions: int) -> bool:
        """Record an answered request.

        Returns:
            Whether the service answered with another model than the last time, or for the first time. A shadow answers nobody.
        """
        self._of(by).latency.answered(milliseconds, predictions)
        if by.shadow:
            return False
        before, self._newest[by.service] = self._newest.get(by.service), by.whole
        return before != by.whole

    def joined(self, pair: Pair) -> None:
        """Record a pair."""
        self._of(pair.served).of(pair.served.origin).add(pair.truth, pair.prediction)

    def metrics(self) -> dict[str, ServedMetrics]:
        """Return the metrics of every service, each over the windows of the model that it answered with last."""
        return {service: self._metrics(served) for service, served in self._newest.items()}

    def shadows(self) -> list[ServedMetrics]:
        """Return the metrics of the challengers that predicted the same requests, the newest first."""
        return [self._metrics(served) for served in reversed(self._windows) if served.shadow]

    def kept(self) -> KeptWindows:
        """Return the newest pairs of all windows, for the next process."""
        pairs = tuple(
            (served._replace(origin=origin), errors.newest(PAIRS_SAVED))
            for served, windows in self._windows.items()
            for origin, errors in windows.errors.items()
        )
        return KeptWindows(newest=tuple(self._newest.values()), pairs=pairs)

    def restore(self, kept: KeptWindows) -> None:
        """Put the pairs of an earlier process before those at hand."""
        for served, pairs in kept.pairs:
            window = self._of(served).of(served.origin)
            for truth, prediction in [*pairs, *window.newest(self._size)]:
                window.add(truth, prediction)
        for served in kept.newest:
            self._newest.setdefault(served.service, served)

    def _metrics(self, served: Served) -> ServedMetrics:
        windows = self._of(served)
        found = {origin: errors.metrics() for origin, errors in windows.errors.items()}
        performance = found.get(windows.decisive, {"count": 0.0})
        by, latency = served._replace(origin=windows.decisive), windows.latency
        return ServedMetrics(by, performance, latency.metrics(), len(latency), found)

    def _of(self, by: Served) -> _Windows:
        key = by.whole
        if key not in self._windows:
            self._windows[key] = _Windows(self._size, self._clock)
        self._windows.move_to_end(key)
        if len(self._windows) > MAX_MODELS:
            dropped, _ = self._windows.popitem(last=False)
            if self._newest.get(dropped.service) == dropped:
                del self._newest[dropped.service]
        return self._windows[key]
