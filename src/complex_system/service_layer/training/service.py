"""The base of the trainer services: requests, a schedule of their own, one training at a time, progress and outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from abc import abstractmethod
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.background import Worker, importing
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import has_known_function
from complex_system.errors import ComplexSystemError, TrackingUnavailableError
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.protocol.operations import State
from complex_system.protocol.training import TRAIN_MODEL, TRAINING_FINISHED, TrainingFinished, TrainReply, TrainRequest
from complex_system.service_layer.training.job import TrainingJob, finished, log_when_possible
from complex_system.tracking.base import Tracker
from complex_system.tracking.connection import server_time
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.outbox import KeptTraining, Outbox
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.base import Trainer, TrainingParameters
from complex_system.training.cluster import ClusterParameters, RayExecutor
from complex_system.training.executor import SEQUENTIAL, Executor

log = logging.getLogger(__name__)

THREAD = "trainer"
GRACE, CLUSTER_GRACE = 1.5, 8.0
"""Seconds that a running training has to end when its service ends; with a cluster, which it has to leave in order."""
MAX_LOOK_PAUSE = 60.0


class TrainerService(SystemService):
    """Trains one framework's model, on request and on its own schedule.

    The framework and MLflow take seconds to import. That happens in the background: the service is ready before, and a training
    that is accepted meanwhile waits for it.

    Attributes:
        worker: The background thread.
        few: Labelled records below which models are cross-validated, too; 0 for never.
        has_trained: Whether a model of this trainer is registered, as far as is known.
        executor: Runs the fits of searches and cross-validations.
        outbox: Models that the tracking server does not have yet, on disk.
    """

    trainer_name: ClassVar[str]
    """Name of this trainer in rounds and registered models."""
    framework: ClassVar[str]
    """Name of the framework for people, such as ``lightgbm``: in events, on the page and beside the models."""
    shared_from: ClassVar[int] = 150_000
    """Labelled records from which the workers of a cluster, where one is set, fetch them and share the fit. So many need neither a
    search nor a cross-validation, and LightGBM does not train again on both parts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.worker = Worker(f"{THREAD}-{self.trainer_name}")
        self.executor: Executor = SEQUENTIAL
        self.outbox = Outbox(Path(self.settings.outbox_dir) / self.trainer_name)
        self._kept: list[KeptTraining] = []
        self._kept_task: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[tuple[Trainer, Tracker]] | None = None
        self._tracker: Tracker | None = None
        self._job: TrainingJob | None = None
        self._job_task: asyncio.Task[None] | None = None
        self._made_at = time.monotonic()
        self._last_training: float | None = None
        self.has_trained = False
        self._before_waiting: tuple[State, str] | None = None
        self._last_outcome: TrainingFinished | None = None
        self.few = 0 if has_known_function(self.dataset) else self.settings.cross_validate_below

    @classmethod
    @override
    def main(cls, **kwargs: Any) -> None:
        super().main(**kwargs)
        if any(thread.name.startswith(THREAD) for thread in threading.enumerate()):
            # An import or a request that cannot be interrupted is running; everything else has ended.
            logging.shutdown()
            os._exit(0)

    # What a service overrides

    @abstractmethod
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        """Make the trainer. This imports the framework, so it is called in the background thread."""

    def make_tracker(self) -> Tracker:
        """Make the tracker, by default MLflow's. Called in the background thread."""
        settings = self.settings
        prefix = settings.model_prefix or self.dataset.name
        return MlflowTracker(settings.mlflow_tracking_uri, settings.mlflow_experiment, prefix, settings.model_key)

    # The service

    @override
    async def on_start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loading = asyncio.create_task(self._load())
        self._kept = await asyncio.to_thread(self.outbox.trainings)
        if self._kept:
            self._kept_task = asyncio.create_task(self._log_kept())
        self.every(MAX_LOOK_PAUSE, self.train_on_schedule)

    @override
    def initial_state(self) -> tuple[State, str]:
        loaded = self._loading is not None and self._loading.done()
        return "ready", "" if loaded else f"loading {self.framework}"

    @override
    async def on_stop(self) -> None:
        if self._job is not None:
            self._job.cancel()
        tasks = [task for task in (self._job_task, self._kept_task, self._loading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLUSTER_GRACE if self.settings.ray_address else GRACE):
                await self.worker.run(self.executor.close)
                if self._tracker is not None:
                    await self.worker.run(self._tracker.close)
        await self.worker.close(0.5)

    @answers(TRAIN_MODEL)
    async def train_model(self, request: TrainRequest) -> TrainReply:
        """Accept a training round or say why not; the training itself goes on after the reply."""
        round_id, reply = request.round or new_key(), partial(TrainReply, trainer=self.trainer_name)
        if request.trainers is not None and self.trainer_name not in request.trainers:
            return reply(accepted=False, round=round_id, reason="not asked")
        if self._job is not None:
            return reply(accepted=False, round=self._job.round, reason="busy")
        if any(kept.round == round_id for kept in self._kept):
            return reply(accepted=True, round=round_id)  # trained before a restart; its end is announced when it is logged
        if self._last_outcome is not None and self._last_outcome.round == round_id:
            # The caller missed the end of its round: it gets the outcome again, not another training.
            await self.announce(TRAINING_FINISHED, self._last_outcome)
        else:
            self._begin(round_id, request)
        return reply(accepted=True, round=round_id)

    async def train_on_schedule(self) -> float:
        """Begin a training when the last one is ``training_interval`` ago; return the seconds until the next look.

        The last one is that of the newest registered model, so that a restart does not delay the schedule.
        """
        if self._last_training is None:
            await self._recall()
        last = self._made_at if self._last_training is None else self._last_training
        remaining = last + self.settings.training_interval - time.monotonic()
        if remaining <= 0 and self._job is None:
            self._begin(f"{self.trainer_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}", TrainRequest())
            remaining = self.settings.training_interval
        return min(max(remaining, 0.5), MAX_LOOK_PAUSE)

    async def _recall(self) -> None:
        uri = self.settings.mlflow_tracking_uri
        registry = ModelRegistry(uri, self.settings.model_prefix or self.dataset.name)

        def read() -> tuple[list[ModelVersionRef], datetime]:
            return registry.newest_versions(), server_time(uri)

        try:
            versions, now = await self.while_running(self.worker.run(read), grace=0.0)
        except TrackingUnavailableError as error:
            log.debug("The time of the last training is not known yet: %s", error.message)
            return
        ages = [(now - ref.created_at).total_seconds() for ref in versions if ref.trainer == self.trainer_name]
        self.has_trained = self.has_trained or bool(ages)
        if self._last_training is None:  # else a training was asked for meanwhile
            self._last_training = time.monotonic() - max(0.0, ages[0]) if ages else self._made_at

    def _begin(self, round_id: str, request: TrainRequest) -> None:
        self._last_training = time.monotonic()
        self._job = TrainingJob(self, round_id, request)
        self._job_task = asyncio.create_task(self._run_job(self._job))

    async def _run_job(self, job: TrainingJob) -> None:
        outcome = await job.run()
        try:
            await self.worker.run(self.executor.close)
        except Exception:  # else this trainer would be busy until it is started again
            log.exception("The connection to the Ray cluster was not closed in order")
        # Free before the event is published: a request for the next round that follows it must not be refused as busy.
        self._job, self._last_outcome, self._before_waiting = None, outcome, None
        self.has_trained = self.has_trained or outcome.status == "finished"
        await self.announce(TRAINING_FINISHED, outcome)
        await self.set_state("ready", outcome.error)

    def cluster_waits(self, text: str) -> None:
        """Show what the cluster is waited for; with an empty text, that it no longer is. Called in the background thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and this thread goes on
            self._loop.call_soon_threadsafe(lambda: self.run_task(self._show_waiting(text)))

    async def _show_waiting(self, text: str) -> None:
        before = self._before_waiting
        if text:
            self._before_waiting = before or (self._state, self._detail)
            await self.set_state("waiting", text)
        elif before is not None:
            self._before_waiting = None
            await self.set_state(*before)

    async def _log_kept(self) -> None:
        """Log, and announce, what was trained before a restart and could not be logged."""
        while self._kept:
            kept = self._kept[0]
            try:
                trainer, tracker = await self.tools()
                result = await self.worker.run(partial(self.outbox.load, kept, trainer))
                logged = await log_when_possible(self, tracker, result)
            except ComplexSystemError as error:
                log.warning(
                    "The model of round %s, kept from before a restart, cannot be logged: %s", kept.round, error.message
                )
            except Exception:
                log.exception("The model of round %s, kept from before a restart, cannot be logged", kept.round)
            else:
                log.info("Logged the model of round %s, kept from before a restart", kept.round)
                await self.worker.run(partial(self.outbox.remove, kept))
                # The round may wait for it; else it is compared as a model of this trainer's own schedule.
                await self.announce(TRAINING_FINISHED, finished(result, logged, 0.0, result.timings))
            self._kept.remove(kept)
            if self._job is None:
                await self.set_state("ready")

    async def tools(self) -> tuple[Trainer, Tracker]:
        """Return trainer and tracker once they are loaded; a failed load is tried again."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> tuple[Trainer, Tracker]:
        def load() -> tuple[Trainer, Tracker]:
            with importing():
                trainer = self.make_trainer(TrainingParameters.of(self.settings))
                trainer.prepare()
            cluster = ClusterParameters.of(self.settings)
            if cluster.is_set:
                self.executor = RayExecutor(cluster, trainer.prepare, on_gpus=trainer.on_gpus, report=self.cluster_waits)
            tracker = self.make_tracker()
            tracker.prepare()
            return trainer, tracker

        begin = time.monotonic()
        try:
            tools = await self.worker.run(load)
            self._tracker = tools[1]
        except Exception as error:
            log.exception("%s cannot be loaded", self.framework)
            await self.set_state("failing", f"{self.framework} cannot be loaded: {error}")
            raise
        log.info("Loaded %s and the tracker in %.1f s", self.framework, time.monotonic() - begin)
        if self._job is None and self.health().state == "ready":
            await self.set_state("ready")
        return tools
