"""One training from the request to the announced outcome: fetch, fit, check the twin, log, register."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from complex_system.background import Worker
from complex_system.domain.dataset import Dataset
from complex_system.errors import (
    ComplexSystemError,
    NobodyListensError,
    ReplyTimeoutError,
    StoreUnavailableError,
    TrackingRefusedError,
    TrackingUnavailableError,
    TrainingFailedError,
)
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.monitoring.reference import RAW_SAMPLE, Reference
from complex_system.protocol.operations import State
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.training.base import Progress, Scores, TrainedModel, Trainer
from complex_system.training.cross_validation import CrossValidation, FewRecords, Keyed, Predict, cross_validate
from complex_system.training.data import KeySample, Part, SampleCollector, Samples, TrainingData
from complex_system.training.onnx import export_onnx

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_PAUSE = 0.2
"""Seconds between two progress events, at least."""
SIGN_OF_LIFE = 5.0
"""Seconds after which a stage without progress of its own says again that it is at work."""
FETCH_ATTEMPTS = 5
CROSS_VALIDATING = "cross-validating"
"""Stage in which a step is a fold."""
LONGEST_PAUSE = 30.0

Announce = Callable[[dict[str, Any]], Awaitable[None]]
Report = Callable[[State, str], Awaitable[None]]


class CancelledInThread(Exception):
    """Ends a fit whose service ends."""


@dataclass(frozen=True)
class JobContext:
    """What a job needs of its service.

    Attributes:
        tools: Trainer and tracker, once they are imported.
        announce: Publishes a progress event.
        report: Sets the service's state.
        few: Labelled records below which the model is cross-validated too; 0 for never.
    """

    trainer_name: str
    framework: str
    dataset: Dataset
    database: DatabaseClient
    documents: DocumentClient
    worker: Worker
    tools: Callable[[], Awaitable[tuple[Trainer, Tracker]]]
    announce: Announce
    report: Report
    few: int = 0


class TrainingJob:
    """One training. :meth:`run` always returns an outcome, unless it is cancelled."""

    def __init__(self, context: JobContext, round_id: str, after: str | None = None) -> None:
        """Makes a job.

        Args:
            context: What it needs of its service.
            round_id: Round that it belongs to.
            after: Only records with larger keys are trained on; None for all.
        """
        self.round = round_id
        self._after = after
        self._context = context
        self._cancelled = threading.Event()
        self._announced = 0.0
        self._timings: dict[str, float] = {}
        self._keys = KeySample(Part.TRAIN, RAW_SAMPLE)
        self._few: Keyed | None = None

    def cancel(self) -> None:
        """Ends a fit under way at its next step."""
        self._cancelled.set()

    async def run(self) -> dict[str, Any]:
        """Trains, logs and registers; returns the value of the event ``TRAINING_FINISHED``."""
        begin = time.monotonic()
        common = {"trainer": self._context.trainer_name, "framework": self._context.framework, "round": self.round}
        try:
            logged, result = await self._train()
        except ComplexSystemError as error:
            log.warning("The training of round %s failed: %s", self.round, error.message)
            return {**common, "status": "failed", "error": error.message, "seconds": time.monotonic() - begin}
        except Exception as error:
            log.exception("The training of round %s failed", self.round)
            message = f"The training failed inside ({type(error).__name__}); the service's log says more."
            return {**common, "status": "failed", "error": message, "seconds": time.monotonic() - begin}
        return {
            **common,
            "status": "finished",
            "model": logged.model,
            "version": logged.version,
            "run_id": logged.run_id,
            "run_url": logged.run_url,
            "validation": result.validation.as_dict(),
            "samples": result.samples,
            **({"cross_validation": result.cross_validation.as_dict()} if result.cross_validation else {}),
            "seconds": time.monotonic() - begin,
            "timings": self._timings,
        }

    async def _train(self) -> tuple[LoggedModel, TrainingResult]:
        await self._context.report("working", "fetching data")
        await self._announce("fetching")
        data = await self._timed("fetching", self._fetch())
        trainer, tracker = await self._with_signs("fetching", self._timed("loading", self._context.tools()))
        await self._context.report("working", f"training on {len(data.train)} samples")
        started_at = datetime.now(UTC)
        model, onnx = await self._timed("training", self._fit(trainer, data))
        last = model.history[-1]
        await self._announce("training", last)
        crossed = None
        if self._few is not None:
            await self._context.report("working", f"cross-validating with {len(self._few.keys)} records")
            crossed = await self._timed("cross_validation", self._cross_validated(trainer, data, self._few))
        result = TrainingResult(
            trainer=self._context.trainer_name,
            framework=trainer.framework,
            round=self.round,
            dataset=self._context.dataset,
            data=data,
            model=model,
            onnx_model=onnx,
            validation=Scores.of(data.validation.y, model.predict(data.validation.x)),
            started_at=started_at,
            trained_at=datetime.now(UTC),
            timings=dict(self._timings),
            reference=await self._timed("reference", self._reference(data)),
            cross_validation=crossed,
        )
        await self._context.report("working", "logging")
        await self._announce("logging", last)
        logged = await self._with_signs("logging", self._timed("logging", self._log(tracker, result)), last)
        return logged, result

    async def _fetch(self) -> TrainingData:
        """The labelled records of the present pipeline version; the database may be away for a moment."""
        for attempt in range(1, FETCH_ATTEMPTS + 1):
            collector = SampleCollector(self._context.dataset, [Part.TRAIN, Part.VALIDATION])
            try:
                version = self._context.dataset.version
                pages = self._context.database.processed_pages(
                    collector.columns, labelled=True, version=version, start=self._after
                )
                self._keys = KeySample(Part.TRAIN, RAW_SAMPLE)
                few = FewRecords(self._context.dataset, self._context.few)
                async for page in pages:
                    collector.add(page.table)
                    self._keys.add(page.table)
                    few.add(page.table)
                self._few = few.keyed()
                return collector.training_data()
            except (NobodyListensError, ReplyTimeoutError, StoreUnavailableError) as error:
                if attempt == FETCH_ATTEMPTS:
                    raise
                await self._context.report("waiting", f"the database: {error.message}")
                await asyncio.sleep(0.25 * 2**attempt)
        raise AssertionError("unreachable")

    async def _reference(self, data: TrainingData) -> dict[str, Any]:
        """What the training data are like; without the raw columns where the database does not answer: the model counts more."""
        raw: pa.Table | None = None
        try:
            raw = await self._context.documents.raw_by_keys(self._keys.keys())
        except ComplexSystemError as error:
            log.warning("The reference of round %s is without raw columns: %s", self.round, error.message)
        reference = await asyncio.to_thread(Reference.of, self._context.dataset, data.train.x, raw)
        return reference.as_dict()

    async def _fit(self, trainer: Trainer, data: TrainingData) -> tuple[TrainedModel, bytes]:
        loop = asyncio.get_running_loop()

        def on_progress(progress: Progress) -> None:
            if self._cancelled.is_set():
                raise CancelledInThread
            now = time.monotonic()
            if now - self._announced >= PROGRESS_PAUSE:
                self._announced = now
                asyncio.run_coroutine_threadsafe(self._announce("training", progress), loop)

        def work() -> tuple[TrainedModel, bytes]:
            model = trainer.fit(data, on_progress)
            return model, export_onnx(model, data.validation.x)

        return await self._context.worker.run(work)

    async def _cross_validated(self, trainer: Trainer, data: TrainingData, few: Keyed) -> CrossValidation | None:
        """Trains anew without each fold; the model that is registered is not touched by it."""
        loop = asyncio.get_running_loop()

        def look(_: Progress) -> None:
            if self._cancelled.is_set():
                raise CancelledInThread

        def on_fold(done: int, of: int) -> None:
            progress = Progress(done, of, math.nan, math.nan)
            asyncio.run_coroutine_threadsafe(self._announce(CROSS_VALIDATING, progress), loop)

        def fit(train: Samples, validation: Samples) -> Predict:
            return trainer.fit(replace(data, train=train, validation=validation), look).predict

        try:
            return await self._context.worker.run(partial(cross_validate, fit, few, on_fold))
        except TrainingFailedError as error:
            log.warning("The model of round %s is not cross-validated: %s", self.round, error.message)
            return None

    async def _log(self, tracker: Tracker, result: TrainingResult) -> LoggedModel:
        """Logs the result; as long as the tracking server is away it is kept and tried again."""
        attempt = 0
        while True:
            try:
                return await self._context.worker.run(partial(tracker.log, result))
            except TrackingRefusedError:
                raise
            except TrackingUnavailableError as error:
                attempt += 1
                pause = min(0.5 * 2 ** min(attempt, 10), LONGEST_PAUSE)
                await self._context.report("waiting", f"{error.message} The model is kept; again in {pause:.0f} s.")
                await asyncio.sleep(pause)

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        begin = time.monotonic()
        try:
            return await work
        finally:
            self._timings[stage] = time.monotonic() - begin

    async def _with_signs(self, stage: str, work: Awaitable[T], last: Progress | None = None) -> T:
        """Waits for ``work`` and says now and then that the training is at it."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=SIGN_OF_LIFE))[0]:
                await self._announce(stage, last)
            return task.result()
        finally:
            task.cancel()

    async def _announce(self, stage: str, progress: Progress | None = None) -> None:
        await self._context.announce(
            {
                "trainer": self._context.trainer_name,
                "framework": self._context.framework,
                "round": self.round,
                "stage": stage,
                "step": progress.step if progress else 0,
                "steps": progress.steps if progress else 0,
                "train_rmse": _finite(progress.train_rmse) if progress else None,
                "validation_rmse": _finite(progress.validation_rmse) if progress else None,
            }
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
