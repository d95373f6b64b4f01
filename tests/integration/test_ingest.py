"""The ingest for publishers that do not wait, on both databases and a broker that keeps its streams on disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.js.errors import APIError

from complex_system.domain.dataset import ID
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import NobodyListensError, TooLargeError
from complex_system.local.servers import NatsServer, Server, free_port
from complex_system.messaging import subjects
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.dead_letters import ROOM_FOR_REASON, DeadLetter, DeadLetters
from complex_system.messaging.ingest_client import IngestClient
from complex_system.messaging.ingest_streams import DEAD_STREAM, STREAM, IngestStreams
from complex_system.messaging.replies import to_thing
from complex_system.roles.database import DatabaseService
from complex_system.settings import Settings
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from proxy import proxied
from support import TesterService, eventually, running

SERVICES: dict[str, type[DatabaseService]] = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
SUBJECT = subjects.INGEST_RAW_DATAPOINTS.name
PATIENCE = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker for these tests alone: whatever they leave in its streams is nobody else's."""
    server = NatsServer(tmp_path_factory.mktemp("ingest-nats"), port=0)
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fields() -> dict[str, Any]:
    return {}


@pytest.fixture
def settings(
    database: str,
    request: pytest.FixtureRequest,
    broker: NatsServer,
    make_settings: Callable[..., Settings],
    fields: dict[str, Any],
) -> Settings:
    name = f"i{uuid4().hex[:12]}"
    return make_settings(broker, request.getfixturevalue(f"{database}_server"), mongo_name=name, maria_name=name, **fields)


@pytest.fixture
async def tester(broker: NatsServer, make_settings: Callable[..., Settings]) -> AsyncIterator[TesterService]:
    """A client; the streams are made anew."""
    async with running(TesterService, make_settings(broker)) as tester:
        context = tester.broker.client.jetstream()
        for stream in (STREAM, DEAD_STREAM):
            try:
                await context.delete_stream(stream)
            except APIError:
                pass
        yield tester


def sample(count: int, seed: int = 5) -> list[Record]:
    return list(Laboratory(seed=seed).records(count))


def thing(value: Any) -> bytes:
    return serialize_to_bin(Thing, to_thing(value, "Device"))


def keyless(count: int) -> list[Record]:
    return [{name: value for name, value in record.items() if name != ID} for record in sample(count)]


async def publish(client: Client, payload: bytes, subject: str = SUBJECT, **headers: str) -> None:
    """Publishes and waits for the stream's own acknowledgement, not for the database's."""
    await client.jetstream().publish(subject, payload, headers={name.replace("_", "-"): v for name, v in headers.items()})


async def raw(tester: TesterService) -> list[Record]:
    records: list[Record] = await tester.ask(subjects.DB_GET_ALL_RAW_DATA_SUBJECT, {})
    return records


async def settled(tester: TesterService) -> dict[str, Any]:
    """Waits until the streams hold nothing that is not settled."""

    async def check() -> dict[str, Any] | None:
        counts: dict[str, Any] = await tester.ask(subjects.GET_INGEST_COUNTS_SUBJECT, {})
        return counts if (counts["waiting"], counts["in_flight"]) == (0, 0) else None

    found: dict[str, Any] = await eventually(check, PATIENCE)
    return found


async def letters(tester: TesterService) -> list[DeadLetter]:
    return [letter async for letter in DeadLetters(tester.broker.client, tester.settings).read(100)]


async def test_records_published_in_any_form_are_saved_once(
    tester: TesterService, settings: Settings, database: str
) -> None:
    records = sample(8)
    client = tester.broker.client
    async with running(SERVICES[database], settings) as service:
        await eventually(lambda: service.ingest is not None and not service.ingest.problem)
        await IngestStreams(client, settings).ensure()
        await publish(client, thing(records[:2]))
        await publish(client, thing(records[2]), f"{SUBJECT}.press-4")
        await publish(client, json.dumps(records[3:5]).encode(), f"{SUBJECT}.plant.line.press-4")
        await publish(client, b"\n " + json.dumps(records[5]).encode())
        await publish(client, thing(records[6:]), Nats_Msg_Id="a")
        counts = await settled(tester)
        assert await raw(tester) == records
        assert (counts["saved"], counts["refused"], counts["dead"], counts["problem"]) == (8, 0, 0, "")
        assert (await tester.broker.client.jetstream().stream_info(STREAM)).state.messages == 0
