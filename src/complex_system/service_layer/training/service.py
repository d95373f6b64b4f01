"""What the trainer services share: requests, their own schedule, one training at a time, progress and outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from abc import abstractmethod
from datetime import UTC, datetime
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.background import Worker
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import has_known_function
from complex_system.errors import InvalidRequestError, TrackingUnavailableError
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import TRAIN_MODEL_SUBJECT, TRAINING_FINISHED, TRAINING_PROGRESS
from complex_system.protocol.operations import State
from complex_system.service_layer.training.job import JobContext, TrainingJob
from complex_system.tracking.base import Tracker
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.base import Trainer, TrainingParameters

log = logging.getLogger(__name__)

THREAD = "trainer"
GRACE = 1.5
"""Seconds that a training under way gets to end when its service ends."""
LONGEST_LOOK = 60.0


class TrainerService(SystemService):
    """Trains one framework's model, on request and on its own schedule.

    The framework and MLflow take seconds to import; that happens in the background, the service is ready at once, and a
    training that is accepted meanwhile waits for it.
    """

    trainer_name: ClassVar[str]
    """How rounds and registered models call this trainer."""
    framework: ClassVar[str]
    """``lightgbm``, ``pytorch`` or ``tensorflow``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._worker = Worker(f"{THREAD}-{self.trainer_name}")
        self._loading: asyncio.Task[tuple[Trainer, Tracker]] | None = None
        self._job: TrainingJob | None = None
        self._job_task: asyncio.Task[None] | None = None
        self._made_at = time.monotonic()
        self._last_training: float | None = None
        self._last_outcome: dict[str, Any] = {}

    @classmethod
    @override
    def main(cls, **kwargs: Any) -> None:
        super().main(**kwargs)
        if any(thread.name.startswith(THREAD) for thread in threading.enumerate()):
            # An import or a request that cannot be interrupted is under way; everything else has ended in order.
            logging.shutdown()
            os._exit(0)

    # What a service overrides

    @abstractmethod
    def make_trainer(self, parameters: TrainingParameters) -> Trainer:
        """The trainer. Imports the framework, so it is called in the background thread."""

    def make_tracker(self) -> Tracker:
        """The tracker; MLflow unless a service says otherwise. Called in the background thread."""
        prefix = self.settings.model_prefix or self.dataset.name
        return MlflowTracker(self.settings.mlflow_tracking_uri, self.settings.mlflow_experiment, prefix)

    # The service

    @override
    async def on_start(self) -> None:
        self._loading = asyncio.create_task(self._load())
        self.every(LONGEST_LOOK, self.train_on_schedule)

    @override
    def initial_state(self) -> tuple[State, str]:
        loaded = self._loading is not None and self._loading.done()
        return "ready", "" if loaded else f"loading {self.framework}"

    @override
    async def on_stop(self) -> None:
        if self._job is not None:
            self._job.cancel()
        tasks = [task for task in (self._job_task, self._loading) if task is not None]
        tracker = self._loaded_tracker()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tracker is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self._worker.run(tracker.close)
        await self._worker.close(0.5)

    @answers(TRAIN_MODEL_SUBJECT)
    async def train_model(self, value: Any) -> dict[str, Any]:
        """Accepts a training round or says why not; the training itself goes on after the answer."""
        round_id, trainers, after = _request(value)
        if trainers is not None and self.trainer_name not in trainers:
            return self._refusal("not asked", round_id)
        if self._job is not None:
            return self._refusal("busy", self._job.round)
        if self._last_outcome.get("round") == round_id:
            # The caller missed the end of its round: it gets the outcome again, not another training.
            await self.announce(TRAINING_FINISHED, self._last_outcome)
        else:
            self._begin(round_id, after)
        return {"trainer": self.trainer_name, "accepted": True, "round": round_id}

    async def train_on_schedule(self) -> float:
        """Begins a training when the last one is ``training_interval`` ago; returns the seconds until the next look.

        The last one is that of the newest registered model, so that a restart does not put the schedule off.
        """
        if self._last_training is None:
            await self._recall()
        last = self._made_at if self._last_training is None else self._last_training
        remaining = last + self.settings.training_interval - time.monotonic()
        if remaining <= 0 and self._job is None:
            self._begin(f"{self.trainer_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
            remaining = self.settings.training_interval
        return min(max(remaining, 0.5), LONGEST_LOOK)

    async def _recall(self) -> None:
        registry = ModelRegistry(self.settings.mlflow_tracking_uri, self.settings.model_prefix or self.dataset.name)
        try:
            versions = await self.while_running(self._worker.run(registry.newest_versions), grace=0.0)
        except TrackingUnavailableError as error:
            log.debug("When the last training was is asked for again: %s", error.message)
            return
        ages = [(datetime.now(UTC) - ref.created_at).total_seconds() for ref in versions if ref.trainer == self.trainer_name]
        if self._last_training is None:  # else a training was asked for meanwhile
            self._last_training = time.monotonic() - max(0.0, ages[0]) if ages else self._made_at

    def _begin(self, round_id: str, after: str | None = None) -> None:
        self._last_training = time.monotonic()
        self._job = TrainingJob(self._context(), round_id, after)
        self._job_task = asyncio.create_task(self._carry_out(self._job))

    async def _carry_out(self, job: TrainingJob) -> None:
        outcome = await job.run()
        # First free, then heard: who asks for the next round upon the event is not told that this one is busy.
        self._job, self._last_outcome = None, outcome
        await self.announce(TRAINING_FINISHED, outcome)
        await self.set_state("ready", outcome.get("error", ""))

    def _context(self) -> JobContext:
        return JobContext(
            trainer_name=self.trainer_name,
            framework=self.framework,
            dataset=self.dataset,
            database=DatabaseClient(self),
            documents=DocumentClient(self),
            worker=self._worker,
            tools=self._tools,
            announce=lambda value: self.announce(TRAINING_PROGRESS, value),
            report=self.set_state,
            few=0 if has_known_function(self.dataset) else self.settings.cross_validate_below,
        )

    async def _tools(self) -> tuple[Trainer, Tracker]:
        """Trainer and tracker, once they are loaded; a failed load is tried again."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> tuple[Trainer, Tracker]:
        def load() -> tuple[Trainer, Tracker]:
            trainer = self.make_trainer(self._parameters())
            trainer.prepare()
            tracker = self.make_tracker()
            tracker.prepare()
            return trainer, tracker

        begin = time.monotonic()
        try:
            tools = await self._worker.run(load)
        except Exception as error:
            log.exception("%s cannot be loaded", self.framework)
            await self.set_state("failing", f"{self.framework} cannot be loaded: {error}")
            raise
        log.info("Loaded %s and the tracker in %.1f s", self.framework, time.monotonic() - begin)
        if self._job is None and self.health().state == "ready":
            await self.set_state("ready")
        return tools

    def _loaded_tracker(self) -> Tracker | None:
        loading = self._loading
        if loading is None or not loading.done() or loading.cancelled() or loading.exception() is not None:
            return None
        return loading.result()[1]

    def _parameters(self) -> TrainingParameters:
        return TrainingParameters(
            seed=self.settings.seed,
            epochs=self.settings.epochs,
            patience=self.settings.patience,
            learning_rate=self.settings.learning_rate,
            network_batch=self.settings.network_batch,
            boosting_rounds=self.settings.boosting_rounds,
        )

    def _refusal(self, reason: str, round_id: str) -> dict[str, Any]:
        return {"trainer": self.trainer_name, "accepted": False, "round": round_id, "reason": reason}


def _request(value: Any) -> tuple[str, list[str] | None, str | None]:
    """Round id, trainers and the key to train after of a request; a round without an id gets one."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise InvalidRequestError(
            'A training is asked for with a mapping: {"round"?: text, "trainers"?: list of names, "after"?: key}.'
        )
    round_id, trainers, after = value.get("round"), value.get("trainers"), value.get("after")
    if round_id is not None and not (isinstance(round_id, str) and 0 < len(round_id) <= 100):
        raise InvalidRequestError("'round' must be a text of 1 to 100 characters.")
    if trainers is not None and not (isinstance(trainers, list) and all(isinstance(name, str) for name in trainers)):
        raise InvalidRequestError("'trainers' must be a list of trainer names, or missing for all.")
    if after is not None and not (isinstance(after, str) and 0 < len(after) <= 64):
        raise InvalidRequestError("'after' must be a key of 1 to 64 characters, or missing for all records.")
    return round_id or new_key(), trainers, after
