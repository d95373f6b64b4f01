"""The main job of a running stack, seen from the host: records, trainings, champion, predictions."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import httpx

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import ComplexSystemError
from complex_system.local.plan import TRAINER_SERVICES
from complex_system.messaging.clients import DatabaseClient, ServingClient, SystemClient
from complex_system.messaging.subjects import reply_subject
from complex_system.messaging.things import to_thing, value_of
from complex_system.protocol.base import Empty
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import health_request
from complex_system.protocol.training import (
    GET_COMPARISON,
    TRAIN_MODEL,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
    ComparisonFinished,
    TrainingFinished,
    TrainingProgress,
    TrainRequest,
)
from complex_system.settings import Settings
from complex_system.tracking.connection import open_client
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from compose.stack import ProofError


class Job:
    """Asks the stack as its users do."""

    def __init__(
        self, client: SystemClient, settings: Settings, urls: dict[str, str], dataset: Dataset | None = None
    ) -> None:
        self.client = client
        self.settings = settings
        self.urls = urls
        self.dataset = dataset or Dataset.load()
        self.database = DatabaseClient(client)
        self.registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix or self.dataset.name)
        self.record = Laboratory(seed=4711).complete_record()

    async def until(self, what: str, check: Callable[[], Any], seconds: float) -> tuple[Any, float]:
        """Repeat ``check`` until its result is true; an error counts as not yet. Return the result and the seconds."""
        began = time.monotonic()
        last: object = None
        while time.monotonic() - began < seconds:
            try:
                result = await check()
                if result:
                    return result, time.monotonic() - began
                last = result
            except (ComplexSystemError, httpx.HTTPError, ProofError) as error:
                last = error
            await asyncio.sleep(0.5)
        raise ProofError(f"{what}: not within {seconds:.0f} s; last seen: {last}")

    async def counts(self) -> RecordCounts:
        return await self.database.counts()

    async def comparison(self) -> ComparisonFinished | None:
        return await self.client.ask(GET_COMPARISON, Empty(), 10)

    async def champion(self) -> ModelVersionRef | None:
        return await asyncio.to_thread(self.registry.champion)

    async def runs(self) -> list[Any]:
        def search() -> list[Any]:
            mlflow = open_client(self.settings.mlflow_tracking_uri)
            experiment = mlflow.get_experiment_by_name(self.settings.mlflow_experiment)
            return list(mlflow.search_runs([experiment.experiment_id], max_results=200)) if experiment else []

        return await asyncio.to_thread(search)

    async def over_rest(self, service: str) -> float:
        headers = {"X-API-Key": self.settings.api_key}
        async with httpx.AsyncClient(timeout=10, trust_env=False, headers=headers) as http:
            answer = await http.post(f"{self.urls[service]}/predict", json={"records": [self.record]})
        if answer.status_code != httpx.codes.OK:
            raise ProofError(f"{service} answered {answer.status_code}: {answer.text[:200]}")
        return float(answer.json()["predictions"][0])

    async def over_nats(self) -> float:
        return (await ServingClient(self.client).predict([self.record]))[0]

    async def predicts(self) -> tuple[float, float]:
        """Return the champion's prediction, the same over REST and NATS, and that of the W&B model."""
        rest, nats = await self.over_rest("ml_serving_mlflow"), await self.over_nats()
        if not math.isclose(rest, nats, rel_tol=1e-4, abs_tol=1e-3):
            raise ProofError(f"The prediction over REST is {rest}, over NATS {nats}")
        return rest, await self.over_rest("ml_serving")

    async def goes_on(self, seconds: float = 120) -> float:
        """Wait until new records are saved and processed and both services predict; return the seconds."""
        before, waited = await self.until("the database answers", self.counts, seconds)

        async def more() -> bool:
            now = await self.counts()
            return now.raw > before.raw and now.processed > before.processed

        _, growing = await self.until("new records are saved and processed", more, seconds)
        _, predicting = await self.until("predictions", self.predicts, seconds)
        return waited + growing + predicting

    async def is_up(self, service: str, hostname: str) -> bool:
        health = await self.client.ask(health_request(f"{service}.{hostname}"), Empty(), 5)
        return health.state in ("ready", "working") or "no model yet" in health.detail

    async def train(self, trainers: tuple[str, ...], name: str, seconds: float) -> list[TrainingFinished]:
        """Let trainers train once more, in a round of that name; return how they ended."""
        ended: dict[str, TrainingFinished] = {}
        everybody = asyncio.Event()

        async def heard(event: TrainingFinished) -> None:
            if event.round == name:
                ended[event.trainer] = event
                if set(ended) >= set(trainers):
                    everybody.set()

        await self.client.hear(TRAINING_FINISHED, heard)
        await self.ask_to_train(trainers, name, seconds)
        async with asyncio.timeout(seconds):
            await everybody.wait()
        return list(ended.values())

    async def ask_to_train(self, trainers: tuple[str, ...], name: str, seconds: float) -> None:
        """Ask until every trainer has accepted; one that is busy with another round is asked again."""
        asked: set[str] = set()
        began = time.monotonic()
        while missing := sorted(set(trainers) - asked):
            if time.monotonic() - began > seconds:
                raise ProofError(f"{', '.join(missing)} did not accept a training within {seconds:.0f} s")
            request = to_thing(TrainRequest(round=name, trainers=missing), "compose_test")
            things = await self.client.broker.gather(reply_subject(TRAIN_MODEL), request, 3, len(TRAINER_SERVICES))
            replies = [TRAIN_MODEL.decode_reply(value_of(thing)) for thing in things]
            asked |= {reply.trainer for reply in replies if reply.accepted}

    async def training_begins(self, trainer: str, name: str, seconds: float) -> None:
        """Let a trainer train; return while it trains."""
        at_work = asyncio.Event()

        async def heard(event: TrainingProgress) -> None:
            if event.round == name and event.stage == "training":
                at_work.set()

        await self.client.hear(TRAINING_PROGRESS, heard)
        await self.ask_to_train((trainer,), name, seconds)
        async with asyncio.timeout(seconds):
            await at_work.wait()
