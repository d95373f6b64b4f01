"""Helpers of the tests: services in this process, and clients that talk to them over the real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeVar

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import Server
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.handlers import hears
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import reply_subject
from complex_system.messaging.things import to_thing
from complex_system.messaging.users import BrokerUser, authorization, broker_users
from complex_system.protocol import serving as serving_messages
from complex_system.protocol import training
from complex_system.settings import Settings
from complex_system.testing.waiting import eventually
from given import server_of

S = TypeVar("S", bound=SystemService)
V = TypeVar("V", bound=Server)

BROKER_PASSWORD = "n8Rk2vTq5w"
"""Of every user of the tests' broker."""


def guarded(*devices: str) -> str:
    """Configuration of a broker where services come with their own users, and everybody else may do everything."""
    users = (*broker_users(SERVICES, devices), BrokerUser("tester", "TESTER"))
    passwords = dict.fromkeys(("FASTIOT_NATS_PASSWORD", *(user.variable for user in users)), BROKER_PASSWORD)
    return authorization(users, {**passwords, "FASTIOT_NATS_USER": "operator"}, default="tester")


class TesterService(SystemService):
    """A service without handlers: who asks, in the tests."""

    __test__ = False


class Ear(SystemService):
    """Hears what trainers, consumer and serving announce, and asks trainers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.progress: list[training.TrainingProgress] = []
        self.finished: list[training.TrainingFinished] = []
        self.comparisons: list[training.ComparisonFinished] = []
        self.rounds: list[training.TrainingRound] = []
        self.champions: list[training.ChampionChanged] = []
        self.predictions: list[serving_messages.PredictedRecord] = []
        self.truths: list[serving_messages.Truth] = []
        self.origins: set[str] = set()

    @hears(training.TRAINING_PROGRESS)
    async def on_progress(self, message: training.TrainingProgress) -> None:
        self.progress.append(message)

    @hears(training.TRAINING_FINISHED)
    async def on_finished(self, message: training.TrainingFinished) -> None:
        self.finished.append(message)

    @hears(training.COMPARISON_FINISHED)
    async def on_comparison(self, message: training.ComparisonFinished) -> None:
        self.comparisons.append(message)

    @hears(training.TRAINING_ROUND)
    async def on_round(self, message: training.TrainingRound) -> None:
        self.rounds.append(message)

    @hears(training.CHAMPION_CHANGED)
    async def on_champion(self, message: training.ChampionChanged) -> None:
        self.champions.append(message)

    @hears(serving_messages.PREDICTION_MADE)
    async def on_prediction(self, message: serving_messages.PredictionMade) -> None:
        self.predictions += message.predictions
        self.origins.add(message.origin)

    @hears(serving_messages.TRUTH_KNOWN)
    async def on_truth(self, message: serving_messages.TruthKnown) -> None:
        self.truths += message.truths

    async def ask_trainers(self, *, expected: int = 1, **fields: Any) -> list[training.TrainReply]:
        """Ask all trainers for a round until so many have replied; ``fields`` are those of the request."""
        subject, request = reply_subject(training.TRAIN_MODEL), training.TrainRequest(**fields)
        replies = await self.broker.gather(subject, to_thing(request, "Ear"), 60.0, expected)
        return [training.TRAIN_MODEL.decode_reply(reply.value) for reply in replies]

    async def outcome(self, round_id: str, seconds: float) -> training.TrainingFinished:
        def found() -> list[training.TrainingFinished]:
            return [message for message in self.finished if message.round == round_id]

        return (await eventually(found, seconds))[0]


@asynccontextmanager
async def running(service: type[S], settings: Settings, dataset: Dataset | None = None, **kwargs: Any) -> AsyncIterator[S]:
    """Runs a service in this process, on a connection of its own, until the block ends.

    On the tests' broker it has its own user, and nothing that it does may have been refused.
    """
    if settings.nats_password == BROKER_PASSWORD and not settings.nats_user and service.service_name() in SERVICES:
        settings = settings.copy(update={"nats_user": service.service_name()})
    connection = await ServiceConnection.open(settings, service.service_name())
    instance = service(broker_connection=connection, settings=settings, dataset=dataset, **kwargs)
    try:
        async with instance:
            yield instance
    finally:
        await connection.close()
    assert connection.refusals == []


@contextmanager
def started(server: V) -> Iterator[V]:
    """Start a server, wait until it is ready, and stop it at the end."""
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def server_fixture(kind: type[V], scope: Literal["session", "module", "function"] = "session") -> Any:
    """Return a fixture: a server of that class on a free port, in a folder of its own, or the one that is given by address."""

    @pytest.fixture(scope=scope)
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[V]:
        with started(server_of(kind, tmp_path_factory.mktemp(kind.name))) as ready:
            yield ready

    return server
