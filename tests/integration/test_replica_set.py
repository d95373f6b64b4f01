"""Errors of a MongoDB replica set: none of them is a record's, so nothing is refused, and everything is there in the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.js.errors import APIError

from complex_system.domain.dataset import ID
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import InvalidRecordError, StoreUnavailableError
from complex_system.local.servers import NatsServer, Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.ingest import consumer, writer
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM, IngestStreams
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.messaging.things import to_thing
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS
from complex_system.service_layer.database.service import DatabaseService
from complex_system.settings import Settings
from complex_system.storage import quarantine
from complex_system.storage.base import RAW
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from replica_set import Failure, ReplicaSet, replica_set
from support import TesterService, eventually, running, server_fixture

RETRYABLE = "RetryableWriteError"
FAILURES = {
    "64, not replicated in time": Failure(64, "concern"),
    "91, shutting down": Failure(91, "command", label=RETRYABLE),
    "91, shutting down while replicating": Failure(91, "concern", label=RETRYABLE),
    "112, a conflict with another write": Failure(112, "documents"),
    "189, no longer the primary": Failure(189, "command", label=RETRYABLE),
    "189, no longer the primary while replicating": Failure(189, "concern", label=RETRYABLE),
    "292, too little memory": Failure(292, "command"),
    "11601, interrupted": Failure(11601, "command"),
    "11601, interrupted while replicating": Failure(11601, "concern"),
    "11602, interrupted by an election": Failure(11602, "command", label=RETRYABLE),
    "10107, not writable": Failure(10107, "command", label=RETRYABLE),
    "14031, disk full": Failure(14031, "command"),
    "14031, disk full, of each document": Failure(14031, "documents"),
    "100, too few members": Failure(100, "concern"),
    "13, not allowed": Failure(13, "command"),
    "a code of the future with the label": Failure(77001, "command", label=RETRYABLE),
    "a code of the future": Failure(77002, "command"),
    "a code of the future, of each document": Failure(77003, "documents"),
    "a code of the future while replicating": Failure(77004, "concern"),
}

broker = server_fixture(NatsServer, "module")


@pytest.fixture
async def members(mongo_server: Server) -> AsyncIterator[ReplicaSet]:
    async with replica_set(mongo_server.port) as made:
        made.failing = RAW
        yield made


@pytest.fixture
def settings(
    members: ReplicaSet, mongo_server: Server, broker: NatsServer, make_settings: Callable[..., Settings]
) -> Settings:
    name = f"r{uuid4().hex[:12]}"
    return make_settings(broker, mongo_server, mongo_name=name).copy(update={"mongo_port": members.port})


@pytest.fixture
async def tester(broker: NatsServer, make_settings: Callable[..., Settings]) -> AsyncIterator[TesterService]:
    async with running(TesterService, make_settings(broker)) as tester:
        for stream in (STREAM, DEAD_STREAM):
            with contextlib.suppress(APIError):
                await tester.broker.client.jetstream().delete_stream(stream)
        yield tester


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseService, "watch_interval", 0.05)
    monkeypatch.setattr(consumer, "_PAUSE", 0.02)
    monkeypatch.setattr(writer, "_AGAIN", 0.02)
    monkeypatch.setattr(writer, "_AGAIN_LATE", 0.02)
    monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0))


async def publish(tester: TesterService, settings: Settings, records: list[dict[str, object]]) -> None:
    await IngestStreams(tester.broker.client, settings).ensure()
    context = tester.broker.client.jetstream()
    for record in records:
        await context.publish(INGEST_RAW.name, serialize_to_bin(Thing, to_thing(record, "Device")))


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_an_error_of_the_server_refuses_nothing(
    tester: TesterService, settings: Settings, members: ReplicaSet, failure: Failure
) -> None:
    records = list(Laboratory(5).records(12))
    client = DatabaseClient(tester)
    async with running(DatabaseMongoService, settings) as service:
        members.failure = failure
        await publish(tester, settings, records[:6])
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=rf"error {failure.code} of the test"):
                await client.save_raw(records[6:])
        await eventually(lambda: members.answered > 3)
        assert service.health().state == "failing"
        assert f"error {failure.code} of the test" in service.health().detail
        members.failure = None

        async def saved() -> bool:
            with contextlib.suppress(StoreUnavailableError):
                await client.save_raw(records[6:])
            counts = await tester.ask(GET_INGEST_COUNTS, Empty())
            return (counts.waiting, counts.in_flight, counts.saved) == (0, 0, 6)

        await eventually(saved)
        counts = await tester.ask(GET_INGEST_COUNTS, Empty())
        assert (counts.refused, counts.dead) == (0, 0)
        assert await service.store.raw_records(100) == records
        await eventually(lambda: service.health().state == "ready")


@pytest.mark.parametrize("code", [121, 10334, 77005])
async def test_an_error_of_one_record_refuses_this_record_alone(
    tester: TesterService, settings: Settings, members: ReplicaSet, code: int
) -> None:
    records = list(Laboratory(5).records(12))
    bad = records[3][ID]
    client = DatabaseClient(tester)
    async with running(DatabaseMongoService, settings) as service:
        members.failure = Failure(code, "documents", key=bad)
        with pytest.raises(InvalidRecordError, match=rf"Record 3 \(id {bad}\).*error {code} of the test") as caught:
            await client.save_raw(records[:6])
        assert "Nothing of this batch was written" in caught.value.message
        assert await service.store.raw_records(100) == []
        await publish(tester, settings, records)

        async def done() -> bool:
            counts = await tester.ask(GET_INGEST_COUNTS, Empty())
            return (counts.waiting, counts.in_flight, counts.saved, counts.refused, counts.dead) == (0, 0, 11, 1, 1)

        await eventually(done)
        assert await service.store.raw_records(100) == records[:3] + records[4:]
        await eventually(lambda: service.health().state == "ready")


async def test_records_are_written_to_the_majority_and_its_journals(
    tester: TesterService, settings: Settings, members: ReplicaSet
) -> None:
    async with running(DatabaseMongoService, settings) as service:
        await asyncio.gather(service.store.probe(), service.store.save_raw(list(Laboratory(5).records(3))))
        concerns = [{name: each[name] for name in ("w", "j")} for each in members.concerns]
        assert concerns == [{"w": "majority", "j": True}] * len(concerns)
        assert len(concerns) >= 3
        assert all(0 < each["wtimeout"] < 20_000 for each in members.concerns)
