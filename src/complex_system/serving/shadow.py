"""Score a share of the live requests with challengers, in the background, to compare them with the champion."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError
from complex_system.protocol.serving import ShadowPredictions
from complex_system.serving.engine import PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import Predictor

log = logging.getLogger(__name__)

WAITING_REQUESTS = 100
"""Requests that wait for the challengers; further ones are not shadowed: a response never waits for a challenger."""
MAX_RECORDS = 1000
"""Records of one request that a challenger scores at most."""


class Shadow:
    """Takes results of the champion, and passes them on with the predictions of the challengers."""

    def __init__(
        self,
        models: ModelManager,
        share: float,
        names: tuple[str, ...],
        done: Callable[[PredictionResult, list[ShadowPredictions]], None],
        metrics: ServingMetrics | None = None,
    ) -> None:
        """Make a shadow; :meth:`run` does the work.

        Args:
            models: The challengers are among them.
            share: Share of the requests that are shadowed, 0 to 1.
            names: Registered names of the challengers; empty for all. The newest version of each scores, also one of the
                champion's own model that is not the champion.
            done: Receives the result; called in the event loop.
            metrics: Counts the outcomes.
        """
        self._models = models
        self._share = share
        self._names = names
        self._done = done
        self._metrics = metrics
        self._random = random.Random()  # noqa: S311 - a sample, not a secret
        self._waiting: asyncio.Queue[PredictionResult] = asyncio.Queue(WAITING_REQUESTS)

    def accept(self, result: PredictionResult) -> bool:
        """Return whether this result is shadowed; if so, ``done`` is called with it later."""
        if not self._share or self._random.random() >= self._share:
            return False
        try:
            self._waiting.put_nowait(result)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Work until cancelled; what waits then is passed on without challengers."""
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
        except Exception as error:  # noqa: BLE001 - a challenger must not end the shadow
            log.warning("A request could not be shadowed: %s", error)
        finally:
            self._done(result, shadows)

    async def _challengers(self) -> list[str]:
        return list(self._names) or [each.newest.name for each in await self._models.listed()]

    async def _score(self, name: str, result: PredictionResult) -> ShadowPredictions | None:
        """Predict with the newest version of a model; None where that is the one that answered."""
        try:
            predictor = await self._models.predictor(name)
            if (predictor.info.name, predictor.info.version) == (result.model.name, result.model.version):
                return None
            began = time.perf_counter()
            predictions = await asyncio.to_thread(_predicted, predictor, result)
        except Exception as error:  # noqa: BLE001 - a failed challenger is only reported
            reason = error.message if isinstance(error, ComplexSystemError) else type(error).__name__
            self._count(name, "failed")
            return ShadowPredictions(model=name, error=reason)
        self._count(name, "scored")
        milliseconds = (time.perf_counter() - began) * 1000
        return ShadowPredictions(
            model=name,
            version=predictor.info.version,
            framework=predictor.info.framework,
            milliseconds=milliseconds,
            predictions=tuple(predictions),
        )

    def _count(self, name: str, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.shadowed.labels(name, outcome).inc()


def _predicted(predictor: Predictor, result: PredictionResult) -> list[float]:
    if predictor.info.pipeline_version == result.model.pipeline_version:
        return predictor.predict_features(result.features[:MAX_RECORDS])
    # It has other features, made from the columns that it knows.
    known = {ID, *predictor.pipeline.dataset.raw_names}
    records = [{name: record[name] for name in known & record.keys()} for record in result.batch.head(MAX_RECORDS)]
    return predictor.predict(records)
