"""What tests of training rounds need: a quick consumer, records, and trainers that submit tiny models."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
from msgspec import structs
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, processed_schema
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.training import TRAIN_MODEL, TRAINING_FINISHED, TrainingFinished, TrainReply, TrainRequest
from complex_system.service_layer.rounds.round import RoundTimes
from complex_system_services.ml_consumer.ml_consumer_service import MlConsumerService
from models import linear_onnx, register_onnx


class QuickConsumer(MlConsumerService):
    """The consumer with the patience of a test."""

    look_interval = 0.1
    round_times = RoundTimes(patience=3.0, ask_again=0.2, check_again=0.5)
    outside_pause = 0.3
    looks = 0

    @override
    async def _look(self) -> float:
        self.looks += 1
        return await super()._look()


async def fill(tester: SystemService, dataset: Dataset, seed: int, count: int) -> pa.Table:
    """Saves raw records and their processed records; returns the latter."""
    database = DatabaseClient(tester)
    records = list(Laboratory(seed).records(count))
    await database.save_raw(records)
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    await database.upsert_processed(Page(table, None, {"version": dataset.version}))
    return table


class StandInTrainer(SystemService):
    """Keeps to the protocol of a trainer and submits a tiny model that answers ``bias + sum of the features``."""

    trainer = ""
    __test__ = False

    def __init__(self, bias: float | None = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bias = bias
        self.changes: dict[str, Any] = {}
        self.asked: list[TrainRequest] = []
        self.round: str | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.job: asyncio.Task[None] | None = None

    async def on_stop(self) -> None:
        if self.job is not None:
            self.job.cancel()

    @property
    def rounds(self) -> list[TrainRequest]:
        """The first request of every round; a slow trainer is asked again whether it still trains."""
        return list({request.round: request for request in reversed(self.asked)}.values())[::-1]

    @answers(TRAIN_MODEL)
    async def train(self, request: TrainRequest) -> TrainReply:
        assert request.round is not None
        if request.trainers and self.trainer not in request.trainers:
            return TrainReply(trainer=self.trainer, accepted=False, round=request.round, reason="not asked")
        self.asked.append(request)
        if self.round is not None:
            return TrainReply(trainer=self.trainer, accepted=False, round=self.round, reason="busy")
        self.round = request.round
        self.job = asyncio.create_task(self.work(request.round))
        return TrainReply(trainer=self.trainer, accepted=True, round=request.round)

    async def work(self, round_id: str) -> None:
        await self.go_on.wait()
        outcome = TrainingFinished(
            trainer=self.trainer, framework=self.trainer, round=round_id, status="failed", error="out of paper"
        )
        if self.bias is not None:
            model, version = await asyncio.to_thread(
                register_onnx, self.settings.mlflow_tracking_uri, self.dataset, linear_onnx(self.dataset, self.bias),
                prefix=self.settings.model_prefix, trainer=self.trainer, champion=False, **{"round": round_id, **self.changes},
            )  # fmt: skip
            outcome = structs.replace(outcome, status="finished", model=model, version=version, error="")
        await self.announce(TRAINING_FINISHED, outcome)
        self.round = None


class StandInLightgbm(StandInTrainer):
    trainer = "lightgbm"


class StandInPytorch(StandInTrainer):
    trainer = "pytorch"
