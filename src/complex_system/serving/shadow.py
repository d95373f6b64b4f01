"""Challengers that score a share of the live requests in the background, so that they can be compared with the champion."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError
from complex_system.serving.engine import PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import Predictor

log = logging.getLogger(__name__)

WAITING_REQUESTS = 100
"""Requests that wait for the challengers; further ones are not shadowed, because an answer never waits for a challenger."""
MOST_RECORDS = 1000
"""Records of one request that a challenger scores."""


@dataclass(frozen=True)
class ShadowPredictions:
    """What one challenger made of a request, or why it made nothing."""

    model: str
    version: str = ""
    framework: str = ""
    milliseconds: float = 0.0
    predictions: tuple[float, ...] = ()
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """It as an event carries it."""
        if self.error:
            return {"model": self.model, "version": self.version, "error": self.error}
        return {
            "model": self.model,
            "version": self.version,
            "framework": self.framework,
            "milliseconds": self.milliseconds,
            "predictions": list(self.predictions),
        }


class Shadow:
    """Takes results of the champion, and hands them on with what the challengers say."""

    def __init__(
        self,
        models: ModelManager,
        share: float,
        names: tuple[str, ...],
        done: Callable[[PredictionResult, list[ShadowPredictions]], None],
        metrics: ServingMetrics | None = None,
    ) -> None:
        """Makes a shadow; :meth:`run` does its work.

        Args:
            models: Has the challengers.
            share: Share of the requests that are shadowed, 0 to 1.
            names: Registered names of the challengers; empty for all. The newest version of each scores, also one of the
                champion's own model that is not the champion.
            done: Takes the result; called in the event loop.
            metrics: Counts.
        """
        self._models = models
        self._share = share
        self._names = names
        self._done = done
        self._metrics = metrics
        self._random = random.Random()  # noqa: S311 - a sample, no secret
        self._waiting: asyncio.Queue[PredictionResult] = asyncio.Queue(WAITING_REQUESTS)

    def takes(self, result: PredictionResult) -> bool:
        """Whether this result is shadowed; if so, ``done`` is called with it later. Returns at once."""
        if not self._share or self._random.random() >= self._share:
            return False
        try:
            self._waiting.put_nowait(result)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Works until it is cancelled; what waits then is handed on without challengers."""
        try:
            while True:
                await self._shadow(await self._waiting.get())
        finally:
            while not self._waiting.empty():
                self._done(self._waiting.get_nowait(), [])

    async def _shadow(self, result: PredictionResult) -> None:
        shadows: list[ShadowPredictions] = []
        try:
            scored = [await self._score(name, result) for name in await self._challengers()]
            shadows = [each for each in scored if each is not None]
        except Exception as error:  # noqa: BLE001 - a challenger must never end the shadow
            log.warning("A request could not be shadowed: %s", error)
        finally:
            self._done(result, shadows)

    async def _challengers(self) -> list[str]:
        return list(self._names) or [each.newest.name for each in await self._models.listed()]

    async def _score(self, name: str, result: PredictionResult) -> ShadowPredictions | None:
        """What the newest version of a model makes of it; None where that is the one that answered."""
        try:
            predictor = await self._models.predictor(name)
            if (predictor.info.name, predictor.info.version) == (result.model.name, result.model.version):
                return None
            began = time.perf_counter()
            predictions = await asyncio.to_thread(_predicted, predictor, result)
        except Exception as error:  # noqa: BLE001 - whatever a challenger does, it is only noted
            reason = error.message if isinstance(error, ComplexSystemError) else type(error).__name__
            self._count(name, "failed")
            return ShadowPredictions(name, error=reason)
        self._count(name, "scored")
        milliseconds = (time.perf_counter() - began) * 1000
        info = predictor.info
        return ShadowPredictions(name, info.version, info.framework, milliseconds, tuple(predictions))

    def _count(self, name: str, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.shadowed.labels(name, outcome).inc()


def _predicted(predictor: Predictor, result: PredictionResult) -> list[float]:
    if predictor.info.pipeline_version == result.model.pipeline_version:
        return predictor.predict_features(result.features[:MOST_RECORDS])
    # Its features are others: it makes them of what it knows of the records.
    known = {ID, *predictor.pipeline.dataset.raw_names}
    records = [{name: record[name] for name in known & record.keys()} for record in result.batch.head(MOST_RECORDS)]
    return predictor.predict(records)
