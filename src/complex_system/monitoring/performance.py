"""Errors and latencies of the served predictions, over moving windows for each model of each service, errors by who asked."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from complex_system.monitoring.aggregates import LATENCY_QUANTILES, Served, latency_metrics
from complex_system.monitoring.history import Pair
from complex_system.protocol.base import Message
from complex_system.training.base import score

Errors = npt.NDArray[np.float64]
"""Absolute errors, in the target's unit."""

MAX_MODELS = 8
"""Models with windows of their own; the one that has not predicted for longest is dropped."""
PAIRS_SAVED = 1000
"""Newest pairs of a window that outlive a restart."""
MIN_LIVE_PAIRS = 30
"""Pairs of clients' predictions from which they stand for the model; with fewer the requests of this system do."""
LIVE_FOR = 86_400.0
"""Seconds after the newest of them in which they do: what clients asked long ago does not hide what is found now."""


OUTLIER = 8.0
"""Times the usual error from which on a single one is an outlier: 5.4 standard deviations of normal errors."""


class WindowPair(NamedTuple):
    """A pair in a window.

    Attributes:
        truth: The measured value.
        prediction: The predicted one.
        at: When it was predicted, seconds since 1970; 0 where an earlier release kept it.
        key: The record's key; empty where an earlier release kept it.
    """

    truth: float
    prediction: float
    at: float = 0.0
    key: str = ""


class ErrorWindow:
    """Scores the newest pairs of truth and prediction; a record counts once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pairs: OrderedDict[str, WindowPair] = OrderedDict()
        self._unnamed = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, pair: WindowPair) -> bool:
        """Add a pair of finite numbers; return False where its record is in the window already, which then takes the newer figures."""
        key, is_known = pair.key, pair.key in self._pairs
        if not key:
            self._unnamed += 1
            key = f"\0{self._unnamed}"
        self._pairs[key] = pair
        if len(self._pairs) > self._size:
            self._pairs.popitem(last=False)
        return not is_known

    def put_before(self, pairs: Iterable[WindowPair]) -> None:
        """Put older pairs before those at hand."""
        newer, self._pairs = self._pairs, OrderedDict()
        for pair in pairs:
            if pair.key not in newer:
                self.add(pair)
        for pair in newer.values():
            self.add(pair)

    @property
    def errors(self) -> Errors:
        """The absolute errors, the newest last."""
        return np.array([abs(pair.prediction - pair.truth) for pair in self._pairs.values()])

    def metrics(self) -> dict[str, float]:
        """Return ``rmse``, ``mae``, ``bias`` (mean of prediction - truth), ``r2`` and ``count``; only ``count`` while it is 0.

        All but R2 and the count are in the target's unit. R2 needs two pairs.
        """
        count = len(self._pairs)
        if not count:
            return {"count": 0.0}
        pairs = np.array([pair[:2] for pair in self._pairs.values()], dtype=np.float32)
        truth, predicted = pairs[:, 0], pairs[:, 1]
        scores = score(truth, predicted)
        bias = float(np.mean(predicted.astype(np.float64) - truth.astype(np.float64)))
        r2 = {"r2": scores.r2} if count > 1 else {}
        return {"rmse": scores.rmse, "mae": scores.mae, "bias": bias, **r2, "count": float(count)}

    def outliers(self, usual: float = 0.0) -> list[WindowPair]:
        """Return the pairs whose error is at least ``OUTLIER`` times the median one, the oldest first.

        Args:
            usual: Median error that was expected; the window's counts where it is larger.
        """
        errors = self.errors
        least = OUTLIER * max(usual, float(np.median(errors)) if len(errors) else 0.0)
        return [pair for pair, error in zip(self._pairs.values(), errors, strict=True) if error >= least > 0.0]

    @property
    def pairs(self) -> list[WindowPair]:
        """The pairs, the newest last."""
        return list(self._pairs.values())


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
        errors: The error window.
    """

    served: Served
    performance: dict[str, float]
    latency: dict[str, float]
    requests: int = 0
    by_origin: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: ErrorWindow = field(default_factory=lambda: ErrorWindow(0), compare=False)


class KeptWindows(Message, frozen=True, kw_only=True):
    """The windows, for the next process.

    Attributes:
        newest: The models that answered last, one a service.
        pairs: The newest pairs of truth and prediction by model and origin.
    """

    newest: tuple[Served, ...] = ()
    pairs: tuple[tuple[Served, list[WindowPair]], ...] = ()


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

    def joined(self, pair: Pair) -> bool:
        """Record a pair; return False where its model's window has the record already."""
        window = self._of(pair.served).of(pair.served.origin)
        return window.add(WindowPair(pair.truth, pair.prediction, pair.at, pair.key))

    def metrics(self) -> dict[str, ServedMetrics]:
        """Return the metrics of every service, each over the windows of the model that it answered with last."""
        return {service: self._metrics(served) for service, served in self._newest.items()}

    def shadows(self) -> list[ServedMetrics]:
        """Return the metrics of the challengers that predicted the same requests, the newest first."""
        # Reading moves a model to the end, where it is the last to be dropped; from the oldest on, the order stays as it is.
        return [self._metrics(served) for served in [*self._windows] if served.shadow][::-1]

    def kept(self) -> KeptWindows:
        """Return the newest pairs of all windows, for the next process."""
        pairs = tuple(
            (served._replace(origin=origin), errors.pairs[-PAIRS_SAVED:])
            for served, windows in self._windows.items()
            for origin, errors in windows.errors.items()
        )
        return KeptWindows(newest=tuple(self._newest.values()), pairs=pairs)

    def restore(self, kept: KeptWindows) -> None:
        """Put the pairs of an earlier process before those at hand."""
        for served, pairs in kept.pairs:
            self._of(served).of(served.origin).put_before(pairs)
        for served in kept.newest:
            self._newest.setdefault(served.service, served)

    def _metrics(self, served: Served) -> ServedMetrics:
        windows = self._of(served)
        origin, found = windows.decisive, {origin: errors.metrics() for origin, errors in windows.errors.items()}
        window, latency = windows.errors.get(origin, ErrorWindow(0)), windows.latency
        by, performance = served._replace(origin=origin), found.get(origin, {"count": 0.0})
        return ServedMetrics(by, performance, latency.metrics(), len(latency), found, window)

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
