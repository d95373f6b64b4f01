"""Tells monitoring of predictions, behind the answers: what was predicted waits in a bounded line and is sent all in one go."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from complex_system.domain.dataset import ID
from complex_system.serving.engine import PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.shadow import ShadowPredictions

log = logging.getLogger(__name__)

WAITING_EVENTS = 200
"""Prediction events that wait to be sent; further ones are dropped, because an answer never waits for an event."""
LAST_SECONDS = 1.0
"""How long what waits may take to be sent when the service ends."""


class PredictionEvents:
    """The line of predictions that are to be announced, one event a request."""

    def __init__(self, service: str, announce: Callable[[dict[str, Any]], Awaitable[None]], metrics: ServingMetrics) -> None:
        """Makes an empty line; :meth:`run` sends.

        Args:
            service: Name of the service that predicts.
            announce: Sends one event.
            metrics: Counts what is dropped.
        """
        self._service = service
        self._announce = announce
        self._metrics = metrics
        self._waiting: deque[tuple[PredictionResult, list[ShadowPredictions]]] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        self._dropped = 0

    def put(self, result: PredictionResult, shadows: list[ShadowPredictions]) -> None:
        """Takes a prediction, and what challengers made of its records. Returns at once."""
        if len(self._waiting) < WAITING_EVENTS:
            self._waiting.append((result, shadows))
            self._wake.set()
            return
        self._metrics.events_dropped.inc()
        self._dropped += 1
        if self._dropped % 1000 == 1:
            log.warning("%d prediction events were dropped: the broker is slow or away", self._dropped)

    async def run(self) -> None:
        """Sends until :meth:`end` is called and nothing waits any more."""
        while self._waiting or not self._ending:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                result, shadows = self._waiting.popleft()
                try:
                    await self._announce(self._event(result, shadows))
                except Exception as error:  # noqa: BLE001 - an event that cannot be sent must not end the sender
                    log.warning("A prediction event could not be sent: %s", error)

    async def end(self, running: asyncio.Task[None]) -> None:
        """Lets the task of :meth:`run` send what waits, if the broker takes it in time, and ends it."""
        self._ending = True
        self._wake.set()
        await asyncio.wait({running}, timeout=LAST_SECONDS)
        if not running.done():
            log.warning("%d prediction events were not sent: the broker is slow or away", len(self._waiting))
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def _event(self, result: PredictionResult, shadows: list[ShadowPredictions]) -> dict[str, Any]:
        pairs = zip(result.batch.head(result.batch.size), result.predictions, strict=True)
        event: dict[str, Any] = {
            "service": self._service,
            "model": result.model.name,
            "version": result.model.version,
            "pipeline_version": result.model.pipeline_version,
            "milliseconds": result.milliseconds,
            "predictions": [
                {"id": record.get(ID), "record": record, "prediction": prediction} for record, prediction in pairs
            ],
        }
        if shadows:
            event["shadows"] = [each.as_dict() for each in shadows]
        return event
