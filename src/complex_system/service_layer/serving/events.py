"""Announces what was predicted, without delaying an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import zip_longest

from complex_system.domain.dataset import ID
from complex_system.protocol.serving import PredictedRecord, PredictionMade, ShadowPredictions
from complex_system.serving.engine import PredictionResult
from complex_system.serving.metrics import ServingMetrics

log = logging.getLogger(__name__)

WAITING_EVENTS = 200
"""Prediction events that wait to be sent; further ones are dropped, because a response never waits for an event."""
STOP_SECONDS = 1.0
"""How long sending the last events may take when the service stops."""
COMPARED_RECORDS, COMPARED_PAUSE = 100, 0.05
"""Records of one request that are compared with the training data although nobody asked, and seconds between two such requests."""


class PredictionEvents:
    """The queue of predictions to announce, one event a request."""

    def __init__(self, service: str, announce: Callable[[PredictionMade], Awaitable[None]], metrics: ServingMetrics) -> None:
        """Make an empty queue; :meth:`run` sends.

        Args:
            service: Name of the service that predicts.
            announce: Sends one event.
            metrics: Counts what is dropped, and what is far from the training data.
        """
        self._service = service
        self._announce = announce
        self._metrics = metrics
        self._waiting: deque[tuple[PredictionResult, list[ShadowPredictions]]] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._dropped = 0
        self._compared_at = 0.0

    def put(self, result: PredictionResult, shadows: list[ShadowPredictions]) -> None:
        """Add a prediction, with the challengers' predictions of its records."""
        if len(self._waiting) < WAITING_EVENTS:
            self._waiting.append((result, shadows))
            self._wake.set()
            return
        self._metrics.events_dropped.inc()
        self._dropped += 1
        if self._dropped % 1000 == 1:
            log.warning("%d prediction events were dropped: the broker is slow or away", self._dropped)

    async def run(self) -> None:
        """Send until :meth:`stop` is called and the queue is empty."""
        while self._waiting or not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                result, shadows = self._waiting.popleft()
                try:
                    await self._announce(self._event(result, shadows, await self._distances(result)))
                except Exception as error:  # noqa: BLE001 - an event that cannot be sent must not stop the sender
                    log.warning("A prediction event could not be sent: %s", error)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Let the task of :meth:`run` send what waits, if the broker takes it in time, and end it."""
        self._stopping = True
        self._wake.set()
        await asyncio.wait({running}, timeout=STOP_SECONDS)
        if not running.done():
            log.warning("%d prediction events were not sent: the broker is slow or away", len(self._waiting))
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def _distances(self, result: PredictionResult) -> list[float]:
        """Return the distances of the first records from the training data; of a sample of the requests that did not ask for them."""
        found = result.distances or []
        now, predictor = time.monotonic(), result.predictor
        is_due = not found and not self._stopping and now - self._compared_at >= COMPARED_PAUSE
        if is_due and predictor is not None and predictor.known is not None:
            self._compared_at = now
            found = await asyncio.to_thread(predictor.distances, result.features[:COMPARED_RECORDS])
        far = sum(distance > 1.0 for distance in found)
        self._metrics.compared.labels("far").inc(far)
        self._metrics.compared.labels("near").inc(len(found) - far)
        return found

    def _event(self, result: PredictionResult, shadows: list[ShadowPredictions], distances: list[float]) -> PredictionMade:
        intervals = result.predictor.intervals if result.predictor else None
        rows = zip_longest(result.batch.head(result.batch.size), result.predictions, distances)
        return PredictionMade(
            service=self._service,
            model=result.model.name,
            version=result.model.version,
            pipeline_version=result.model.pipeline_version,
            milliseconds=result.milliseconds,
            predictions=tuple(
                PredictedRecord(id=record.get(ID), record=record, prediction=prediction, distance=distance)
                for record, prediction, distance in rows
            ),
            shadows=tuple(shadows),
            origin=result.origin,
            half_width=result.model.half_width_90,
            calibrated=intervals.units if intervals else 0,
        )
