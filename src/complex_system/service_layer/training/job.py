"""One training from the request to its outcome: fetch, fit, export to ONNX and check, log, register."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from complex_system.domain.record_time import RecordTimes
from complex_system.errors import (
    ComplexSystemError,
    TrackingRefusedError,
    TrackingUnavailableError,
    TrainingFailedError,
)
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.reference import RAW_SAMPLE
from complex_system.pipeline.onnx_graph import with_raw_onnx
from complex_system.protocol.scores import Scores
from complex_system.protocol.training import TRAINING_PROGRESS, TrainingFinished, TrainingProgress, TrainRequest
from complex_system.service_layer.training.description import training_description
from complex_system.service_layer.training.pages import AWAY, FETCH_ATTEMPTS, LabelledPages
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.tracking.outbox import KeptTraining
from complex_system.training.base import Progress, TrainedModel, Trainer, score
from complex_system.training.cluster import ClusterParameters
from complex_system.training.conformal import interval_files, set_apart
from complex_system.training.cross_validation import FewRecords, Keyed, TrainerFit, out_of_fold
from complex_system.training.data import SampleCollector, TrainingData
from complex_system.training.distributed import Fitted, SharedFit, fit_on_cluster
from complex_system.training.onnx import export_onnx
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from complex_system.training.split import Part
from complex_system.training.targets import TargetCheck, targets_message
from complex_system.training.training_set import MAX_LISTED, describe_training

if TYPE_CHECKING:
    from complex_system.service_layer.training.service import TrainerService

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_PAUSE = 0.2
"""Seconds between two progress events, at least."""
PROGRESS_REPEAT = 5.0
"""Seconds after which a stage without progress of its own is announced again."""
CROSS_VALIDATING = "cross-validating"
"""Stage in which a step is a fold."""
SEARCHING = "searching"
"""Stage of a search for parameters."""
MAX_RETRY_PAUSE = 30.0


class CancelledInThread(Exception):
    """Ends a fit when its service ends."""


class TrainingJob:
    """One training. :meth:`run` always returns an outcome, unless it is cancelled."""

    def __init__(self, service: TrainerService, round_id: str, request: TrainRequest) -> None:
        """Make a job.

        Args:
            service: Whose training it is.
            round_id: Round that it belongs to.
            request: Which records are trained on, and which of them count more.
        """
        self.round = round_id
        self._request = request
        self._service = service
        self._dataset = service.dataset
        self._cancelled = threading.Event()
        self._announced = 0.0
        self._timings: dict[str, float] = {}
        self._keys: list[str] = []
        self._few: Keyed | None = None
        self._labelled = 0

    def cancel(self) -> None:
        """End a running fit at its next step."""
        self._cancelled.set()

    async def run(self) -> TrainingFinished:
        """Train, log and register; return the outcome, also of a training that failed."""
        begin, service = time.monotonic(), self._service
        outcome = partial(TrainingFinished, trainer=service.trainer_name, framework=service.framework, round=self.round)
        try:
            logged, result = await self._train()
        except ComplexSystemError as error:
            log.warning("The training of round %s failed: %s", self.round, error.message)
            return outcome(status="failed", error=error.message, seconds=time.monotonic() - begin)
        except Exception as error:
            log.exception("The training of round %s failed", self.round)
            message = f"The training failed with an internal error ({type(error).__name__}); the service's log says more."
            return outcome(status="failed", error=message, seconds=time.monotonic() - begin)
        return finished(result, logged, time.monotonic() - begin, self._timings)

    async def _train(self) -> tuple[LoggedModel, TrainingResult]:
        await self._service.set_state("working", "fetching data")
        await self._announce("fetching")
        pages = await self._retried(self._pages_of_workers)
        if pages is not None:
            return await self._trained_on_cluster(pages)
        data = await self._timed("fetching", self._retried(self._fetched))
        trainer, tracker = await self._with_progress("fetching", self._timed("loading", self._service.tools()))
        # With many records the first model is trained without a search, so that it is there soon.
        if trainer.searches and (self._few is not None or self._service.has_trained):
            await self._service.set_state("working", f"searching for parameters with {len(data.train)} samples")
            await self._announce(SEARCHING)
            trainer = await self._with_progress(SEARCHING, self._timed(SEARCHING, self._tuned(trainer, data)))
        await self._service.set_state("working", f"training on {len(data.train)} samples")
        started_at = datetime.now(UTC)
        model, onnx = await self._timed("training", self._fit(trainer, data))
        await self._announce("training", model.history[-1])
        crossed = None
        if self._few is not None:
            await self._service.set_state("working", f"cross-validating with {len(self._few.groups)} records")
            crossed = await self._timed("cross_validation", self._cross_validated(trainer, data, self._few))
        validation = score(data.validation.y, model.predicted_validation(data))
        return await self._logged(trainer, tracker, data, model, onnx, validation, crossed, started_at)

    async def _trained_on_cluster(self, pages: LabelledPages) -> tuple[LoggedModel, TrainingResult]:
        """Have the workers of the cluster fetch and train; only a sample of the records comes here."""
        trainer, tracker = await self._with_progress("fetching", self._timed("loading", self._service.tools()))
        cluster = ClusterParameters.of(self._service.settings)
        await self._service.set_state("working", f"training on the Ray cluster at {cluster.address}")
        started_at, loop, first = datetime.now(UTC), asyncio.get_running_loop(), asyncio.Event()

        def on_progress(progress: Progress) -> None:
            loop.call_soon_threadsafe(first.set)
            self._progress(progress, loop)

        def work() -> tuple[TrainedModel, Fitted, bytes]:
            shared = SharedFit(trainer, self._dataset, pages, RAW_SAMPLE)
            model, fitted = fit_on_cluster(cluster, shared, on_progress, self._look, self._service.cluster_waits)
            return model, fitted, export_onnx(model, fitted.data.validation.x, fitted.data.validation.y)

        fitting = asyncio.ensure_future(self._timed("training", self._service.worker.run(work)))
        begun = asyncio.ensure_future(first.wait())
        await self._with_progress("fetching", asyncio.wait({fitting, begun}, return_when=asyncio.FIRST_COMPLETED))
        begun.cancel()
        model, fitted, onnx = await fitting
        await self._announce("training", model.history[-1])
        self._keys, self._labelled = fitted.keys, fitted.labelled
        for message in fitted.messages:
            log.warning("Round %s: %s", self.round, message)
        return await self._logged(trainer, tracker, fitted.data, model, onnx, fitted.validation, None, started_at)

    async def _logged(
        self, trainer: Trainer, tracker: Tracker, data: TrainingData, model: TrainedModel, onnx: bytes, validation: Scores,
        crossed: OutOfFold | None, started_at: datetime,
    ) -> tuple[LoggedModel, TrainingResult]:  # fmt: skip
        """Describe, keep, log and register a model."""
        if "device" in model.parameters:
            log.info("Round %s: trained on %s", self.round, model.parameters["device"])
        last = model.history[-1]
        description = training_description(DatabaseClient(self._service), self._dataset, data, self._keys, self._labelled)
        reference, files = await self._timed("reference", description)
        intervals = partial(interval_files, self._dataset, model.predict, data, crossed)
        files |= await self._service.worker.run(intervals)
        if crossed is not None:
            files[OUT_OF_FOLD_FILE] = crossed.encoded()
        asked = self._request
        described = partial(describe_training, trainer, self._dataset, data, model, asked.since, asked.after)
        result = TrainingResult(
            trainer=self._service.trainer_name,
            framework=trainer.framework,
            round=self.round,
            dataset=self._dataset,
            data=data,
            model=model,
            onnx_model=onnx,
            validation=validation,
            started_at=started_at,
            trained_at=datetime.now(UTC),
            timings=dict(self._timings),
            reference=reference,
            cross_validation=None if crossed is None else crossed.summary(),
            files=await self._service.worker.run(partial(with_raw_onnx, self._dataset, onnx, files)),
            training=await self._service.worker.run(described),
        )
        await self._service.set_state("working", "logging")
        await self._announce("logging", last)
        kept = await self._keep(result)
        logging_it = self._timed("logging", log_when_possible(self._service, tracker, result))
        logged = await self._with_progress("logging", logging_it, last)
        if kept is not None:
            await self._service.worker.run(partial(self._service.outbox.remove, kept))
        return logged, result

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Ask the database; try again while it is away."""
        for attempt in range(1, FETCH_ATTEMPTS + 1):
            try:
                return await work()
            except AWAY as error:
                if attempt == FETCH_ATTEMPTS:
                    raise
                await self._service.set_state("waiting", f"the database: {error.message}")
                await asyncio.sleep(0.25 * 2**attempt)
        raise AssertionError("unreachable")

    async def _pages_of_workers(self) -> LabelledPages | None:
        """Return what the workers of the cluster fetch; None where this service trains itself."""
        settings, asked, dataset = self._service.settings, self._request, self._dataset
        if not settings.ray_address or asked.since is not None or asked.after is not None or dataset.split.by != "key":
            return None
        database = DatabaseClient(self._service)
        if (await database.counts()).labelled < self._service.shared_from:
            return None
        collector = SampleCollector(dataset, [], timed=True)
        name = type(self._service).service_name()
        return await LabelledPages.of(database, settings, name, dataset.version, collector.columns, collector.raw)

    async def _fetched(self) -> TrainingData:
        """Fetch the labelled records of the present pipeline version."""
        since = self._request.since
        collector = SampleCollector(
            self._dataset, [Part.TRAIN, Part.VALIDATION], keys=RAW_SAMPLE, timed=True, listed=MAX_LISTED
        )
        times, targets = RecordTimes(self._dataset), TargetCheck(self._dataset)
        few, self._labelled = FewRecords(self._dataset, self._service.few), 0
        pages = DatabaseClient(self._service).processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, start=self._request.after, raw=collector.raw,
            arrived_after=since,
        )  # fmt: skip

        def take(page: pa.Table) -> int:
            table = times.newer(page, since)
            for each in (collector, few, targets):
                each.add(table)
            return int(table.num_rows)

        async for page in pages:
            self._labelled += await asyncio.to_thread(take, page.table)
        if times.message:
            log.warning("Round %s: %s", self.round, times.message)
        if message := targets_message(await asyncio.to_thread(targets.found)):
            log.warning("Round %s: %s", self.round, message)
        self._few = await asyncio.to_thread(few.keyed)
        data = await asyncio.to_thread(collector.training_data)
        self._keys = await asyncio.to_thread(collector.keys, Part.TRAIN)
        return data if self._few else await asyncio.to_thread(set_apart, self._dataset, data, self._labelled)

    def _look(self) -> None:
        """End what runs in the worker thread once this job is cancelled."""
        if self._cancelled.is_set():
            raise CancelledInThread

    async def _tuned(self, trainer: Trainer, data: TrainingData) -> Trainer:
        return await self._service.worker.run(partial(trainer.tuned, data, self._few, self._look, self._service.executor))

    async def _fit(self, trainer: Trainer, data: TrainingData) -> tuple[TrainedModel, bytes]:
        loop = asyncio.get_running_loop()

        def work() -> tuple[TrainedModel, bytes]:
            model = trainer.fit(data, lambda progress: self._progress(progress, loop))
            return model, export_onnx(model, data.validation.x, data.validation.y)

        return await self._service.worker.run(work)

    def _progress(self, progress: Progress, loop: asyncio.AbstractEventLoop) -> None:
        """Announce a step of the training, in the worker thread."""
        self._look()
        now = time.monotonic()
        if now - self._announced >= PROGRESS_PAUSE:
            self._announced = now
            asyncio.run_coroutine_threadsafe(self._announce("training", progress), loop)

    async def _cross_validated(self, trainer: Trainer, data: TrainingData, few: Keyed) -> OutOfFold | None:
        """Train anew without each fold; this does not change the model that is registered."""
        loop = asyncio.get_running_loop()

        def on_fold(done: int, of: int) -> None:
            progress = Progress(done, of, math.nan, math.nan)
            asyncio.run_coroutine_threadsafe(self._announce(CROSS_VALIDATING, progress), loop)

        fit = TrainerFit.of(trainer, data)
        try:
            return await self._service.worker.run(
                partial(out_of_fold, fit, few, on_fold, look=self._look, executor=self._service.executor)
            )
        except TrainingFailedError as error:
            log.warning("The model of round %s is not cross-validated: %s", self.round, error.message)
            return None

    async def _keep(self, result: TrainingResult) -> KeptTraining | None:
        """Write the result to disk before it is logged; without, where the disk does not take it."""
        try:
            return await self._service.worker.run(partial(self._service.outbox.keep, result))
        except OSError as error:
            log.warning("The model of round %s is not kept on disk, so a restart would lose it: %s", self.round, error)
            return None

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        begin = time.monotonic()
        try:
            return await work
        finally:
            self._timings[stage] = time.monotonic() - begin

    async def _with_progress(self, stage: str, work: Awaitable[T], last: Progress | None = None) -> T:
        """Wait for ``work``; announce the stage again from time to time."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=PROGRESS_REPEAT))[0]:
                await self._announce(stage, last)
            return task.result()
        finally:
            task.cancel()

    async def _announce(self, stage: str, progress: Progress | None = None) -> None:
        about = {} if progress is None else vars(progress)
        finite = {name: value for name, value in about.items() if math.isfinite(value)}
        await self._service.announce(
            TRAINING_PROGRESS,
            TrainingProgress(
                trainer=self._service.trainer_name,
                framework=self._service.framework,
                round=self.round,
                stage=stage,
                **finite,
            ),
        )


async def log_when_possible(service: TrainerService, tracker: Tracker, result: TrainingResult) -> LoggedModel:
    """Log a result; try again as long as the tracking server is away, or has no room.

    Raises:
        TrackingRefusedError: It would refuse the result again.
    """
    attempt = 0
    while True:
        try:
            return await service.worker.run(partial(tracker.log, result))
        except TrackingRefusedError:
            raise
        except TrackingUnavailableError as error:
            attempt += 1
            pause = min(0.5 * 2 ** min(attempt, 10), MAX_RETRY_PAUSE)
            await service.set_state("waiting", f"{error.message} The model is kept; again in {pause:.0f} s.")
            await asyncio.sleep(pause)


def finished(result: TrainingResult, logged: LoggedModel, seconds: float, timings: dict[str, float]) -> TrainingFinished:
    """Return what is announced of a training whose model is registered."""
    return TrainingFinished(
        trainer=result.trainer, framework=result.framework, round=result.round, status="finished", model=logged.model,
        version=logged.version, run_id=logged.run_id, run_url=logged.run_url, validation=result.validation,
        samples=result.samples, cross_validation=result.cross_validation, seconds=seconds, timings=timings,
    )  # fmt: skip
