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
from complex_system.messaging.errors import to_thing
from complex_system.messaging.subjects import (
    GET_COMPARISON_SUBJECT,
    ML_SERVING_WANDB_SUBJECT,
    TRAIN_MODEL_SUBJECT,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
)
from complex_system.protocol.base import Empty
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import health_request
from complex_system.settings import Settings
from complex_system.tracking.connection import open_client
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from compose.stack import ProofError


class Job:
    """Asks the stack as its users do."""

    def __init__(self, client: SystemClient, settings: Settings, urls: dict[str, str]) -> None:
        self.client = client
        self.settings = settings
        self.urls = urls
        self.dataset = Dataset.load()
        self.database = DatabaseClient(client)
        self.registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix or self.dataset.name)
        self.record = Laboratory(seed=4711).complete_record()

    async def until(self, what: str, check: Callable[[], Any], seconds: float) -> tuple[Any, float]:
        """Asks again and again until the answer is true; an error counts as not yet. Returns the answer and the seconds."""
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

    async def comparison(self) -> Any:
        return await self.client.ask(GET_COMPARISON_SUBJECT, {}, 10)

    async def champion(self) -> ModelVersionRef | None:
        return await asyncio.to_thread(self.registry.champion)

    async def runs(self) -> list[Any]:
        def search() -> list[Any]:
            mlflow = open_client(self.settings.mlflow_tracking_uri)
            experiment = mlflow.get_experiment_by_name(self.settings.mlflow_experiment)
            return list(mlflow.search_runs([experiment.experiment_id], max_results=200)) if experiment else []

        return await asyncio.to_thread(search)

    async def by_rest(self, service: str) -> float:
        headers = {"X-API-Key": self.settings.api_key}
        async with httpx.AsyncClient(timeout=10, trust_env=False, headers=headers) as http:
            answer = await http.post(f"{self.urls[service]}/predict", json={"records": [self.record]})
        if answer.status_code != httpx.codes.OK:
            raise ProofError(f"{service} answered {answer.status_code}: {answer.text[:200]}")
        return float(answer.json()["predictions"][0])

    async def by_broker(self) -> float:
        return (await ServingClient(self.client).predict([self.record]))[0]

    async def by_broker_wandb(self) -> float:
        return (await ServingClient(self.client, ML_SERVING_WANDB_SUBJECT).predict([self.record]))[0]

    async def predicts(self) -> tuple[float, float]:
        """One prediction by REST and the same by the broker."""
        rest, broker = await self.by_rest("ml_serving_mlflow"), await self.by_broker()
        if not math.isclose(rest, broker, rel_tol=1e-4, abs_tol=1e-3):
            raise ProofError(f"REST predicts {rest} and the broker {broker}")
        return rest, await self.by_rest("ml_serving")

    async def goes_on(self, seconds: float = 120) -> float:
        """Waits until new records are saved and processed and both services predict; returns the seconds."""
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

    async def train(self, trainers: tuple[str, ...], name: str, seconds: float) -> list[dict[str, Any]]:
        """Has trainers train once more, in a round of that name; returns how they ended."""
        ended: dict[str, dict[str, Any]] = {}
        everybody = asyncio.Event()

        async def heard(event: dict[str, Any]) -> None:
            if event.get("round") == name:
                ended[event["trainer"]] = event
                if set(ended) >= set(trainers):
                    everybody.set()

        await self.client.hear(TRAINING_FINISHED, heard)
        await self.ask_to_train(trainers, name, seconds)
        async with asyncio.timeout(seconds):
            await everybody.wait()
        return list(ended.values())

    async def ask_to_train(self, trainers: tuple[str, ...], name: str, seconds: float) -> None:
        """Asks until every trainer has accepted; one that is busy with another round says so and is asked again."""
        asked: set[str] = set()
        began = time.monotonic()
        while missing := sorted(set(trainers) - asked):
            if time.monotonic() - began > seconds:
                raise ProofError(f"{', '.join(missing)} did not accept a training within {seconds:.0f} s")
            request = to_thing({"round": name, "trainers": missing}, "compose_test")
            replies = await self.client.broker.gather(TRAIN_MODEL_SUBJECT, request, 3, len(TRAINER_SERVICES))
            asked |= {reply.value["trainer"] for reply in replies if reply.value["accepted"]}

    async def training_begins(self, trainer: str, name: str, seconds: float) -> None:
        """Has a trainer train, and returns while it is at it."""
        at_work = asyncio.Event()

        async def heard(event: dict[str, Any]) -> None:
            if event.get("round") == name and event["stage"] == "training":
                at_work.set()

        await self.client.hear(TRAINING_PROGRESS, heard)
        await self.ask_to_train((trainer,), name, seconds)
        async with asyncio.timeout(seconds):
            await at_work.wait()
