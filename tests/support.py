"""Helpers of the tests: services in this process, and clients that talk to them over the real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeVar

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import Server
from complex_system.messaging import subjects
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.errors import to_thing
from complex_system.messaging.handlers import hears
from complex_system.messaging.service import SystemService
from complex_system.settings import Settings

S = TypeVar("S", bound=SystemService)
V = TypeVar("V", bound=Server)


class TesterService(SystemService):
    """A service without handlers: who asks, in the tests."""

    __test__ = False


class Ear(SystemService):
    """Hears what trainers, consumer and serving announce, and asks trainers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.progress: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.finished: list[dict[str, Any]] = []
        self.comparisons: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.champions: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.truths: list[dict[str, Any]] = []

    @hears(subjects.TRAINING_PROGRESS)
    async def on_progress(self, value: dict[str, Any]) -> None:
        self.progress.append(value)
        self.times.append(time.monotonic())

    @hears(subjects.TRAINING_FINISHED)
    async def on_finished(self, value: dict[str, Any]) -> None:
        self.finished.append(value)

    @hears(subjects.COMPARISON_FINISHED)
    async def on_comparison(self, value: dict[str, Any]) -> None:
        self.comparisons.append(value)

    @hears(subjects.TRAINING_ROUND)
    async def on_round(self, value: dict[str, Any]) -> None:
        self.rounds.append(value)

    @hears(subjects.CHAMPION_CHANGED)
    async def on_champion(self, value: dict[str, Any]) -> None:
        self.champions.append(value)

    @hears(subjects.PREDICTION_MADE)
    async def on_prediction(self, value: dict[str, Any]) -> None:
        self.predictions += value["predictions"]

    @hears(subjects.TRUTH_KNOWN)
    async def on_truth(self, value: dict[str, Any]) -> None:
        self.truths += value["truths"]

    async def ask_trainers(self, value: Any, expected: int = 1) -> list[dict[str, Any]]:
        replies = await self.broker.gather(subjects.TRAIN_MODEL_SUBJECT, to_thing(value, "Ear"), 5.0, expected)
        return [reply.value for reply in replies]

    async def outcome(self, round_id: str, seconds: float) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [value for value in self.finished if value["round"] == round_id]

        return (await eventually(found, seconds))[0]


@asynccontextmanager
async def running(service: type[S], settings: Settings, dataset: Dataset | None = None, **kwargs: Any) -> AsyncIterator[S]:
    """Runs a service in this process, on a connection of its own, until the block ends."""
    connection = await ServiceConnection.open(settings, service.service_name())
    instance = service(broker_connection=connection, settings=settings, dataset=dataset, **kwargs)
    try:
        async with instance:
            yield instance
    finally:
        await connection.close()


@contextmanager
def started(server: V) -> Iterator[V]:
    """Start a server, wait until it is ready, and stop it at the end."""
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def server_fixture(kind: type[V], scope: Literal["session", "module"] = "session") -> Any:
    """Return a fixture: a server of that class on a free port, in a folder of its own."""

    @pytest.fixture(scope=scope)
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[V]:
        with started(kind(tmp_path_factory.mktemp(kind.name), port=0)) as ready:
            yield ready

    return server


async def eventually(check: Callable[[], Awaitable[Any] | Any], seconds: float = 20.0) -> Any:
    """Polls ``check`` until it returns something true, and returns that; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"Not true within {seconds:g} s: {check}")
        await asyncio.sleep(0.02)
