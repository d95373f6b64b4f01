"""How good and how quick the served predictions are, over a moving window."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from complex_system.training.base import Scores

MIN_WAITING = 10_000
"""At least so many predictions without a truth, and truths without a prediction, are kept until the other comes."""
MOST_MODELS = 8
"""Models with windows of their own; the one that has not predicted for longest is forgotten."""


class ErrorWindow:
    """Joins predictions and truths by record id, whichever comes first, and scores the newest pairs.

    Memory is bounded: of what waits for its other half the oldest is forgotten. A record that is predicted again before its
    truth comes counts with the newest prediction; a pair that is complete counts once.
    """

    def __init__(self, size: int, most_waiting: int | None = None) -> None:
        """Makes a window.

        Args:
            size: Number of pairs that are scored.
            most_waiting: Predictions, and truths, that may wait at once; by default ten windows and at least 10,000.
        """
        self._most_waiting = most_waiting or max(MIN_WAITING, 10 * size)
        self._predictions: OrderedDict[str, float] = OrderedDict()
        self._truths: OrderedDict[str, float] = OrderedDict()
        self._pairs: deque[tuple[float, float]] = deque(maxlen=size)

    def predicted(self, key: str, prediction: float) -> None:
        """Takes a prediction."""
        if math.isfinite(prediction):
            truth = self._truths.pop(key, None)
            if truth is None:
                self._wait(self._predictions, key, prediction)
            else:
                self._pairs.append((truth, prediction))

    def measured(self, key: str, truth: float) -> None:
        """Takes a truth."""
        if math.isfinite(truth):
            prediction = self._predictions.pop(key, None)
            if prediction is None:
                self._wait(self._truths, key, truth)
            else:
                self._pairs.append((truth, prediction))

    @property
    def waiting(self) -> int:
        """How many predictions and truths wait for their other half."""
        return len(self._predictions) + len(self._truths)

    def metrics(self) -> dict[str, float]:
        """``rmse``, ``mae``, ``bias`` (mean of prediction - truth), ``r2`` and ``count``; only ``count`` while it is 0.

        All but R2 and the count are in the target's unit. R2 needs two pairs.
        """
        count = len(self._pairs)
        if not count:
            return {"count": 0.0}
        pairs = np.asarray(self._pairs, dtype=np.float32)
        truth, predicted = pairs[:, 0], pairs[:, 1]
        scores = Scores.of(truth, predicted)
        bias = float(np.mean(predicted.astype(np.float64) - truth.astype(np.float64)))
        r2 = {"r2": scores.r2} if count > 1 else {}
        return {"rmse": scores.rmse, "mae": scores.mae, "bias": bias, **r2, "count": float(count)}

    def _wait(self, waiting: OrderedDict[str, float], key: str, value: float) -> None:
        waiting[key] = value
        waiting.move_to_end(key)
        if len(waiting) > self._most_waiting:
            waiting.popitem(last=False)


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

    def answered(self, milliseconds: float, predictions: int) -> None:
        """Takes an answered request of so many predictions."""
        self._milliseconds.append(milliseconds)
        self._count += predictions

    def metrics(self) -> dict[str, float]:
        """``latency_ms_mean``, ``latency_ms_p95``, ``latency_ms_p99`` over the window, and ``predictions_per_second``.

        The rate covers the time since the last call. Latencies are those of requests; they are missing before the first.
        """
        now = self._clock()
        passed, self._since = now - self._since, now
        count, self._count = self._count, 0
        rate = {"predictions_per_second": count / passed} if passed > 0 else {}
        if not self._milliseconds:
            return rate
        times = np.asarray(self._milliseconds)
        p95, p99 = np.percentile(times, [95, 99])
        return {
            "latency_ms_mean": float(times.mean()),
            "latency_ms_p95": float(p95),
            "latency_ms_p99": float(p99),
            **rate,
        }


@dataclass(frozen=True)
class ServedModel:
    """One version of a model as one service serves it."""

    service: str
    model: str
    version: str


@dataclass(frozen=True)
class ServedMetrics:
    """How the model that a service serves now does; see :class:`ErrorWindow` and :class:`LatencyWindow`."""

    served: ServedModel
    performance: dict[str, float]
    latency: dict[str, float]


class ModelWindows:
    """An error and a latency window for every model of every service, so that no figure mixes two models.

    A truth counts for every model that predicted the record, also for one that predicts it only later.
    """

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Makes the windows, none at first.

        Args:
            size: Number of pairs, and of answered requests, in a window.
            clock: Monotonic time in seconds.
        """
        self._size = size
        self._clock = clock
        self._most_truths = max(MIN_WAITING, 10 * size)
        self._truths: OrderedDict[str, float] = OrderedDict()
        self._windows: OrderedDict[ServedModel, tuple[ErrorWindow, LatencyWindow]] = OrderedDict()
        self._newest: dict[str, ServedModel] = {}

    def predicted(self, by: ServedModel, milliseconds: float, predictions: Iterable[tuple[str | None, float]]) -> bool:
        """Takes an answered request: record ids, where there are any, and predictions.

        Returns:
            Whether the service answered with another model than the last time, or for the first time.
        """
        pairs = list(predictions)
        errors, latency = self._of(by)
        latency.answered(milliseconds, len(pairs))
        for key, prediction in pairs:
            if key is not None:
                errors.predicted(key, prediction)
        before, self._newest[by.service] = self._newest.get(by.service), by
        return before != by

    def measured(self, key: str, truth: float) -> None:
        """Takes a truth."""
        self._truths[key] = truth
        self._truths.move_to_end(key)
        if len(self._truths) > self._most_truths:
            self._truths.popitem(last=False)
        for errors, _ in self._windows.values():
            errors.measured(key, truth)

    def metrics(self) -> dict[str, ServedMetrics]:
        """The metrics of every service, each over the window of the model that it answered with last."""
        return {
            service: ServedMetrics(served, self._windows[served][0].metrics(), self._windows[served][1].metrics())
            for service, served in self._newest.items()
        }

    def _of(self, by: ServedModel) -> tuple[ErrorWindow, LatencyWindow]:
        if by not in self._windows:
            errors = ErrorWindow(self._size)
            for key, truth in self._truths.items():
                errors.measured(key, truth)
            self._windows[by] = (errors, LatencyWindow(self._size, self._clock))
        self._windows.move_to_end(by)
        if len(self._windows) > MOST_MODELS:
            forgotten, _ = self._windows.popitem(last=False)
            if self._newest.get(forgotten.service) == forgotten:
                del self._newest[forgotten.service]
        return self._windows[by]
