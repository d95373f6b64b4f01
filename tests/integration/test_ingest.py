"""The ingest for publishers that do not wait, on both databases and a broker that keeps its streams on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import kio.ml_lifecycle_broker_facade as kio
import msgspec
import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.js.api import RetentionPolicy
from nats.js.errors import APIError

import complex_system.domain
import complex_system.protocol.documents
import complex_system.protocol.operations
import complex_system.protocol.serving
import complex_system.protocol.training
from complex_system import protocol
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, NobodyListensError, StoreUnavailableError, TooLargeError
from complex_system.local.processes import Child
from complex_system.local.servers import NatsServer, Server, free_port
from complex_system.messaging import operators, subjects
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.ingest import consumer as ingest
from complex_system.messaging.ingest import dead_letters
from complex_system.messaging.ingest import streams as ingest_streams
from complex_system.messaging.ingest import writer as ingest_batch
from complex_system.messaging.ingest.dead_letters import ROOM_FOR_REASON, DeadLetter, DeadLetters
from complex_system.messaging.ingest.publisher import IngestClient, published_records
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM, IngestStreams
from complex_system.messaging.operators import manage_dead_letters
from complex_system.messaging.things import to_thing
from complex_system.protocol.base import Empty, Request
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts, Saved
from complex_system.service_layer.database.service import DatabaseService
from complex_system.settings import Settings
from complex_system.storage import quarantine
from complex_system.storage.base import DataStore
from complex_system.storage.conflicts import Orders
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.testing.proxy import proxied
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import envelopes, make_unique
from support import TesterService, eventually, running, server_fixture, started

SERVICES: dict[str, type[DatabaseService]] = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
SUBJECT = subjects.INGEST_RAW.name
PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


broker = server_fixture(NatsServer, "module")
"""A broker for these tests alone: nobody else meets what they leave in its streams."""


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
            with contextlib.suppress(APIError):
                await context.delete_stream(stream)
        yield tester


def sample(count: int, seed: int = 5) -> list[Record]:
    return list(Laboratory(seed=seed).records(count))


def thing(value: Any) -> bytes:
    return serialize_to_bin(Thing, to_thing(value, "Device"))


def keyless(count: int) -> list[Record]:
    return [{name: value for name, value in record.items() if name != ID} for record in sample(count)]


async def publish(client: Client, payload: bytes, subject: str = SUBJECT, **headers: str) -> bool:
    """Publishes and waits for the stream's own acknowledgement, not for the database's; whether it was a duplicate there."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return bool((await client.jetstream().publish(subject, payload, headers=named)).duplicate)


async def publish_all(client: Client, payloads: Sequence[bytes]) -> None:
    """Publishes as a device does that sends several messages before it waits."""
    for start in range(0, len(payloads), 50):
        await asyncio.gather(*(publish(client, payload) for payload in payloads[start : start + 50]))


async def raw(tester: TesterService) -> list[Record]:
    records: list[Record] = await tester.ask(subjects.GET_ALL_RAW, {})
    return records


async def settled(tester: TesterService) -> IngestCounts:
    """Waits until the streams hold nothing that is not settled."""

    async def check() -> IngestCounts | None:
        try:
            counts = await tester.ask(GET_INGEST_COUNTS, Empty())
        except NobodyListensError:  # the service has not found the broker again yet
            return None
        return counts if (counts.waiting, counts.in_flight) == (0, 0) else None

    found: IngestCounts = await eventually(check, PATIENCE)
    return found


async def letters(tester: TesterService, source: str | None = None) -> list[DeadLetter]:
    return [letter async for letter in DeadLetters(tester.broker.client, tester.settings).read(100, source=source)]


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
        assert (counts.saved, counts.refused, counts.dead, counts.problem) == (8, 0, 0, "")
        await eventually(lambda: keeps(client, 0), PATIENCE)


async def keeps(client: Client, count: int) -> bool:
    """Whether the stream has so many messages; it removes one a moment after it was acknowledged."""
    return bool((await client.jetstream().stream_info(STREAM)).state.messages == count)


async def new_to_the_stream(client: Client, records: list[Record]) -> bool:
    """Publishes under an id that never changes; false while the stream remembers it."""
    return not await publish(client, thing(records), Nats_Msg_Id="device-7-batch-1")


async def test_a_repeated_publish_changes_nothing(tester: TesterService, settings: Settings, database: str) -> None:
    with_keys, without = sample(3), keyless(4)
    client = tester.broker.client
    async with running(SERVICES[database], settings):
        # The stream's own memory for ids is short; what it has forgotten is told by the keys.
        for _ in range(3):
            await publish_when_there(tester, thing(with_keys))
            await eventually(lambda: new_to_the_stream(client, without))
        # Another message under the same id, as from a device that counts from 1 again, is not the same.
        await eventually(lambda: new_to_the_stream(client, keyless(5)[4:]))
        await settled(tester)
        # Without an id and without keys it cannot be told from a new measurement.
        await publish(client, thing(without[0]))
        await publish(client, thing(without[0]))
        await settled(tester)
        saved = await raw(tester)
    assert len(saved) == 3 + 4 + 1 + 2
    assert len({record[ID] for record in saved}) == 10


async def test_what_is_published_while_the_database_is_away_is_there_once_afterwards(
    tester: TesterService,
    make_settings: Callable[..., Settings],
    broker: NatsServer,
    database: str,
    request: pytest.FixtureRequest,
    settings: Settings,
) -> None:
    records = sample(60)
    server: Server = request.getfixturevalue(f"{database}_server")
    async with proxied(server.port) as proxy:
        away = settings.copy(update={f"{database}_port": proxy.port})
        async with running(SERVICES[database], away) as service:
            await publish_when_there(tester, thing(records[:10]))
            await settled(tester)
            await proxy.cut()
            for record in records[10:]:
                await publish(tester.broker.client, thing(record))
            assert service.ingest is not None
            await eventually(lambda: service.ingest is not None and service.ingest.problem, PATIENCE)
            state = await tester.broker.client.jetstream().stream_info(STREAM)
            assert state.state.messages == 50
            await proxy.join()
            await settled(tester)
            assert await raw(tester) == records
            # Only what was under way when the database went was delivered twice.
            consumer = await tester.broker.client.jetstream().consumer_info(STREAM, "database")
            assert consumer.delivered is not None
            assert consumer.delivered.consumer_seq <= 1 + 2 * 50
            assert service.ingest.writer.refused == 0


async def publish_when_there(tester: TesterService, payload: bytes) -> None:
    async def tried() -> bool:
        try:
            await publish(tester.broker.client, payload)
        except Exception:
            return False
        return True

    await eventually(tried, PATIENCE)


async def test_a_message_that_cannot_be_accepted_is_a_dead_letter_and_its_neighbours_are_saved(
    tester: TesterService, settings: Settings, database: str
) -> None:
    good = sample(4)
    client = tester.broker.client
    await IngestStreams(client, settings).ensure()
    bad = {
        "no msgpack": b"\xc1\xc1\xc1",
        "half a JSON": b'{"material_id": ',
        "empty": b"",
        "a number": b"[1, 2]",
        "a wrong type": json.dumps({**good[0], ID: "b1", "rohwert_1_labormessung": "drei"}).encode(),
        "an unknown field": thing([good[0], {**good[1], ID: "b2", "ä": 1}]),
        "no finite number": thing([{**good[0], ID: "b3", "rohwert_1_labormessung": float("inf")}]),
        "not even a Thing": msgspec.msgpack.encode([good[0]]),
    }
    # All of it waits when the service starts, so that good and bad come in one batch.
    await publish(client, thing(good[:2]))
    for payload in bad.values():
        await publish(client, payload, f"{SUBJECT}.press-4", Nats_Msg_Id=str(uuid4()))
    await publish(client, thing(good[2:]))
    async with running(SERVICES[database], settings):
        counts = await settled(tester)
        assert await raw(tester) == good
        assert (counts.saved, counts.refused, counts.dead) == (4, len(bad), len(bad))
        found = await letters(tester)
        by_payload = {letter.payload: letter for letter in found}
        reasons = {name: by_payload[payload].reason for name, payload in bad.items()}
        assert "rohwert_1_labormessung" in reasons["a wrong type"]
        assert "Record 1 (id b2)" in reasons["an unknown field"]
        assert "finite" in reasons["no finite number"]
        assert "Record 0: must be a mapping" in reasons["a number"]
        for name in ("no msgpack", "half a JSON", "empty", "not even a Thing"):
            assert "JSON" in reasons[name]
        assert {letter.subject for letter in found} == {f"{SUBJECT}.press-4"}
        assert {letter.code for letter in found} == {"invalid_request", "invalid_record"}
        assert [letter.sequence for letter in found] == sorted(letter.sequence for letter in found)
        assert all(letter.message_id for letter in found)


async def test_a_record_whose_value_an_operators_index_has_is_a_dead_letter_and_nothing_is_lost(
    tester: TesterService, settings: Settings, database: str
) -> None:
    client, column = tester.broker.client, "rohwert_1_labormessung"
    first = {**Laboratory(3).measured_record(), ID: "B-0007"}
    taken, free = {**first, ID: "B-0008"}, {**first, ID: "B-0009", column: first[column] / 2}
    await IngestStreams(client, settings).ensure()
    async with running(SERVICES[database], settings):
        await DatabaseClient(tester).save_raw([first])
        make_unique(database, settings, column)
        await publish(client, json.dumps([taken]).encode(), f"{SUBJECT}.press-4")
        await publish(client, json.dumps([free]).encode(), f"{SUBJECT}.press-4")
        await settled(tester)
        assert await raw(tester) == [first, free]
        [letter] = await letters(tester)
        assert json.loads(letter.payload) == [taken]
        assert "B-0008" in letter.reason
        assert "operators_own" in letter.reason


async def test_dead_letters_are_heard_at_once_and_can_be_published_again(
    tester: TesterService, settings: Settings, database: str
) -> None:
    client = tester.broker.client
    heard = await client.subscribe(f"{subjects.DEAD_RAW.name}.>")
    async with running(SERVICES[database], settings):
        await publish_when_there(tester, b"[]")
        await publish(client, b"{}", f"{SUBJECT}.press-4")
        message = await heard.next_msg(timeout=PATIENCE)
        assert message.subject == f"{subjects.DEAD_RAW.name}.press-4"
        assert message.data == b"{}"
        assert message.headers is not None
        assert "is missing" in message.headers["Ingest-Reason"]
        await settled(tester)
        [letter] = await letters(tester)
        dead = DeadLetters(client, settings)
        await dead.replay(letter)
        # It is refused again, under a number of its own.
        again = (await eventually(lambda: letters(tester), PATIENCE))[0]
        assert (again.payload, again.subject) == (letter.payload, letter.subject)
        assert again.number > letter.number
        await dead.remove(again)
        assert await letters(tester) == []


async def command(broker: NatsServer, *options: str) -> tuple[int | None, str]:
    """Runs ``fiot extras dead-letters`` and returns its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("fiot")), "extras", "dead-letters", "mongo", *options,
        cwd=ROOT, env={**os.environ, **broker.environment()}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_an_operator_sees_dead_letters_and_publishes_them_again_when_the_cause_is_gone(
    tester: TesterService, settings: Settings, database: str, broker: NatsServer, dataset: Dataset
) -> None:
    record = {**sample(1)[0], "feuchte": 0.4}
    async with running(SERVICES[database], settings):
        await publish_when_there(tester, thing(record))
        await publish(tester.broker.client, b"\xff\x00", f"{SUBJECT}.press-4")
        await eventually(lambda: has_letters(tester, 2), PATIENCE)
    code, said = await command(broker, "--payload")
    assert code == 0, said
    assert "'feuchte': is not a declared field" in said
    assert '"feuchte":0.4' in said
    assert f"{SUBJECT}.press-4" in said
    assert "2 dead letter(s)." in said
    # The data set is declared anew, with the field.
    text = (Path(complex_system.domain.__path__[0]) / "lab.yaml").read_text(encoding="utf-8")
    assert "columns:\n" in text
    declared = Dataset.parse(text.replace("columns:\n", "columns:\n  - {name: feuchte, type: number, optional: true}\n", 1))
    async with running(SERVICES[database], settings.copy(update={"mongo_name": settings.mongo_name + "b"}), declared):
        told: list[str] = []
        assert await manage_dead_letters(tester.settings, "replay", told.append, number=1) == 1
        assert "1 dead letter(s) published again" in told[-1]
        await eventually(lambda: has_letters(tester, 1), PATIENCE)
        await settled(tester)
        assert [row["feuchte"] for row in await raw(tester)] == [0.4]
    assert await manage_dead_letters(tester.settings, "remove", told.append) == 1
    assert await letters(tester) == []


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_an_operator_without_a_broker_is_told_so(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "_PATIENCE", 0.5)
    with pytest.raises(NobodyListensError, match=r"No broker at 127\.0\.0\.1:\d+ accepts a connection .*FASTIOT_NATS_PORT"):
        await manage_dead_letters(settings.copy(update={"nats_port": free_port()}), "show", lambda _: None)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for room among the dead letters is tried again within moments."""
    monkeypatch.setattr(dead_letters, "_STOPPED_SECONDS", 0.05)
    monkeypatch.setattr(ingest_batch, "_AGAIN_LATE", 0.1)
    monkeypatch.setattr(ingest_batch, "_AGAIN_LATEST", 0.2)


async def remove_letters(tester: TesterService, found: set[bytes]) -> int:
    """Removes the dead letters, as an operator does, and notes their payloads."""
    there = await letters(tester)
    for letter in there:
        found.add(letter.payload)
        await DeadLetters(tester.broker.client, tester.settings).remove(letter)
    return len(there)


@pytest.mark.usefixtures("soon")
async def test_a_full_share_of_dead_letters_stops_its_source_only_and_nothing_is_lost(
    tester: TesterService, settings: Settings, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    small, client = settings.copy(update={"ingest_dead_share": 3}), tester.broker.client
    bad, good = [f"bad {i}".encode() for i in range(8)], sample(10)
    async with running(SERVICES[database], small):
        await publish_when_there(tester, thing(good[0]))
        for payload, record in zip(bad, good[1:], strict=False):
            await publish(client, payload, f"{SUBJECT}.press-4")
            await publish(client, thing(record), f"{SUBJECT}.press-4")
        await publish(client, b"bad 9", f"{SUBJECT}.press-5")
        await publish(client, thing(good[9]), f"{SUBJECT}.press-5")

        async def stopped() -> IngestCounts | None:
            counts: IngestCounts = await tester.ask(GET_INGEST_COUNTS, Empty())
            done = (counts.dead, counts.in_flight, counts.waiting, counts.saved) == (4, 5, 0, 10)
            # All five may be under way without having been tried.
            return counts if done and "No room for another dead letter of 'press-4'" in caplog.text else None

        counts = await eventually(stopped, PATIENCE)
        assert counts.stopped == ("press-4",)
        assert [letter.payload for letter in await letters(tester, "press-5")] == [b"bad 9"]
        assert len(await letters(tester, "press-4")) == 3
        assert "1 source(s) have no room for another dead letter, such as 'press-4'" in counts.problem
        # Its own good records and all of the others are there.
        assert await raw(tester) == good
        assert sum("No room for another dead letter of 'press-4'" in text for text in caplog.messages) == 1
        # Whoever handles the dead letters makes room for the next ones, until the last one has come.
        found: set[bytes] = set()
        while len(found) < 9:
            assert await eventually(lambda: remove_letters(tester, found), PATIENCE) <= 4
        assert found == {*bad, b"bad 9"}
        counts = await settled(tester)
        assert (counts.stopped, counts.problem, counts.dead) == ((), "", 0)
        assert any("There is room for dead letters of 'press-4' again" in text for text in caplog.messages)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_large_dead_letters_fill_the_share_of_their_source_only(
    tester: TesterService, settings: Settings, database: str
) -> None:
    small, client = settings.copy(update={"ingest_dead_bytes": 8_000_000}), tester.broker.client
    bad = [f"{i}".encode() * 300_000 for i in range(5)]
    async with running(SERVICES[database], small):
        await publish_when_there(tester, thing(sample(1)))
        for payload in bad:
            await publish(client, payload, f"{SUBJECT}.press-4")
        await publish(client, bad[0], f"{SUBJECT}.press-5")

        async def stopped() -> IngestCounts | None:
            counts: IngestCounts = await tester.ask(GET_INGEST_COUNTS, Empty())
            done = (counts.dead, counts.in_flight, counts.waiting) == (4, 2, 0)
            return counts if done and counts.stopped else None  # as above

        assert (await eventually(stopped, PATIENCE)).stopped == ("press-4",)
        assert len(await letters(tester, "press-5")) == 1
        found: set[bytes] = set()
        while len(found) < 5:
            await eventually(lambda: remove_letters(tester, found), PATIENCE)
        assert found == set(bad)
        assert (await settled(tester)).stopped == ()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_full_dead_letters_of_all_sources_drop_nothing(
    tester: TesterService, settings: Settings, database: str
) -> None:
    small, client = settings.copy(update={"ingest_dead_bytes": 1_000_000}), tester.broker.client
    bad = {f"press-{i}": f"{i}".encode() * 300_000 for i in range(5)}
    async with running(SERVICES[database], small):
        for source, payload in bad.items():
            await publish_when_there(tester, thing(sample(1)))
            await publish(client, payload, f"{SUBJECT}.{source}")

        async def full() -> IngestCounts | None:
            counts: IngestCounts = await tester.ask(GET_INGEST_COUNTS, Empty())
            done = (counts.dead, counts.in_flight, counts.waiting) == (3, 2, 0)
            return counts if done and len(counts.stopped) == 2 else None

        counts = await eventually(full, PATIENCE)
        assert "2 source(s) have no room" in counts.problem
        assert await raw(tester) == sample(1)
        found: set[bytes] = set()
        while len(found) < 5:
            await eventually(lambda: remove_letters(tester, found), PATIENCE)
        assert found == set(bad.values())
        assert (await settled(tester)).stopped == ()


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_refused_messages_that_wait_do_not_use_up_what_may_be_under_way(
    tester: TesterService, settings: Settings, database: str
) -> None:
    small, client = settings.copy(update={"ingest_dead_share": 1}), tester.broker.client
    await IngestStreams(client, small).ensure()
    # More than a consumer of JetStream may have under way unless it says otherwise.
    for _ in range(1_100):
        await client.publish(f"{SUBJECT}.press-4", b"bad")

    await eventually(lambda: keeps(client, 1_100), PATIENCE)
    await publish(client, thing(sample(1)), f"{SUBJECT}.press-5")
    assert (await client.jetstream().consumer_info(STREAM, "database")).config.max_ack_pending == -1
    async with running(SERVICES[database], small):
        await eventually(lambda: raw(tester), PATIENCE)
        assert await raw(tester) == sample(1)
    await eventually(lambda: keeps(client, 1_099), PATIENCE)


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_source_has_a_share_of_the_stream_too(tester: TesterService, settings: Settings, database: str) -> None:
    small = settings.copy(update={"ingest_source_messages": 3})
    await IngestStreams(tester.broker.client, small).ensure()
    records = sample(8)
    press_4, press_5 = (IngestClient(tester.broker, small, "Test", f"press-{i}") for i in (4, 5))
    for record in records[:3]:
        assert await press_4.publish([record])
    with pytest.raises(NobodyListensError, match="too many of its source wait"):
        await press_4.publish([records[3]])
    assert await press_5.publish([records[4]])
    async with running(SERVICES[database], small):
        await settled(tester)
        assert await press_4.publish([records[3]])
        await settled(tester)
        assert await raw(tester) == records[:5]


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_limit_that_is_introduced_or_lowered_deletes_nothing(
    tester: TesterService, settings: Settings, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = tester.broker.client
    context = client.jetstream()
    # As an earlier release made them.
    for name, subject in ((STREAM, SUBJECT), (DEAD_STREAM, subjects.DEAD_RAW.name)):
        retention = RetentionPolicy.WORK_QUEUE if name == STREAM else RetentionPolicy.LIMITS
        await context.add_stream(name=name, subjects=[subject, f"{subject}.>"], retention=retention)
        for i in range(20):
            await context.publish(f"{subject}.press-4", f"{i}".encode())
    low = settings.copy(update={"ingest_source_messages": 10, "ingest_dead_share": 10})
    await IngestStreams(client, low).ensure()
    for name in (STREAM, DEAD_STREAM):
        assert (await context.stream_info(name)).state.messages == 20
        assert f"Stream {name} holds too much of one source" in caplog.text
        await context.purge_stream(name)
    await IngestStreams(client, low).ensure()
    for name in (STREAM, DEAD_STREAM):
        assert (await context.stream_info(name)).config.max_msgs_per_subject == 10


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_odd_dead_letters_are_listed_and_published_below_the_ingest_only(
    tester: TesterService, settings: Settings, database: str, broker: NatsServer
) -> None:
    client = tester.broker.client
    await IngestStreams(client, settings).ensure()
    odd = {"Ingest-Subject": "get-record-counts", "Ingest-Sequence": "12x", "Ingest-Cut": "-5", "Ingest-Time": "yesterday",
           "Ingest-Reason": "\x1b[2J\x1b]0;owned\x07 gone", "Ingest-Code": "\x9b31m", "Ingest-Msg-Id": "a: b"}  # fmt: skip
    dead = f"{subjects.DEAD_RAW.name}.press-4"
    await client.jetstream().publish(dead, b'"\x1b[31m"', headers=odd)
    await client.jetstream().publish(dead, b"\x1b[31m")
    assert [(each.subject, each.sequence, each.cut) for each in await letters(tester)] == [(f"{SUBJECT}.press-4", 0, 0)] * 2
    code, said = await command(broker, "--payload")
    assert code == 0, said
    assert "2 dead letter(s)" in said
    assert "\x1b" not in said
    assert "\x9b" not in said
    heard = await client.subscribe("get-record-counts")
    [first, _] = await letters(tester)
    await DeadLetters(client, settings).replay(first)
    again = await client.jetstream().get_msg(STREAM, seq=1)
    assert (again.subject, again.data) == (f"{SUBJECT}.press-4", b'"\x1b[31m"')
    assert heard.pending_msgs == 0


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_subject_that_is_cut_is_one_that_may_be_published(
    tester: TesterService, settings: Settings, database: str
) -> None:
    subject = f"{SUBJECT}.{'a' * 499}.press-4"
    async with running(SERVICES[database], settings):
        await publish_when_there(tester, thing(sample(1)))
        await publish(tester.broker.client, b"bad", subject)
        await settled(tester)
        [letter] = await letters(tester)
        assert letter.subject == subject
        await DeadLetters(tester.broker.client, settings).replay(letter)
        [again] = await eventually(lambda: letters(tester), PATIENCE)
        assert (again.subject, again.payload) == (subject, b"bad")


async def test_devices_that_count_alike_lose_nothing_to_each_other(
    tester: TesterService, settings: Settings, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    [one, other] = keyless(2)
    client = tester.broker.client

    async def accepted(source: str, record: Record, number: int) -> bool:
        return not await publish(client, thing(record), f"{SUBJECT}.{source}", Nats_Msg_Id=str(number))

    async with running(SERVICES[database], settings):
        await publish_when_there(tester, b"[]")
        for number in (1, 2, 3):
            for source in ("press-4", "press-5"):
                await eventually(lambda source=source, number=number: accepted(source, one, number))
        await settled(tester)
        assert len(await raw(tester)) == 6
        # Under the same key, the first value stays, and the other one is a conflict.
        await publish(client, thing({**one, ID: "1"}), f"{SUBJECT}.press-4")
        await settled(tester)
        for _ in range(2):
            await publish(client, thing({**other, ID: "1"}), f"{SUBJECT}.press-5")
        await settled(tester)
        counts = await tester.ask(protocol.database.GET_COUNTS, Empty())
        assert (counts.raw, counts.conflicts) == (7, 1)
        assert "First: '1' from 'press-5'; the stored one is from 'press-4'" in caplog.text
        saved = await tester.ask(subjects.SAVE_RAW, [{**other, ID: "1"}])
        assert (saved["existing"], saved["conflicts"]) == (1, 1)


async def has_letters(tester: TesterService, count: int) -> bool:
    return len(await letters(tester)) == count


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_message_without_room_for_a_reason_is_too_large(
    tester: TesterService, settings: Settings, database: str
) -> None:
    client = tester.broker.client
    most = int(client.max_payload) - ROOM_FOR_REASON
    record = json.dumps(sample(1)[0])[:-1]
    fits = (record + " " * (most - len(record) - 1) + "}").encode()
    async with running(SERVICES[database], settings):
        await publish_when_there(tester, fits)
        await publish(client, fits[:-1] + b" }")
        await settled(tester)
        assert len(await raw(tester)) == 1
        [letter] = await letters(tester)
        assert letter.cut == most + 1
        assert letter.code == "too_large"
        assert f"at most {most}" in letter.reason
        assert len(letter.payload) == most
        publisher = IngestClient(tester.broker, settings, "Test")
        with pytest.raises(TooLargeError, match="smaller batches"):
            await publisher.publish([{**sample(1)[0], "laborant": "x" * most}])


async def test_two_replicas_share_and_one_that_ends_leaves_its_work_to_the_other(
    tester: TesterService, make_settings: Callable[..., Settings], settings: Settings, database: str
) -> None:
    records = sample(600)
    small = settings.copy(update={"ingest_messages": 10, "service_id": "one"})
    await IngestStreams(tester.broker.client, settings).ensure()
    await publish_all(tester.broker.client, [thing(records[start : start + 2]) for start in range(0, 600, 2)])
    async with running(SERVICES[database], small) as one, running(SERVICES[database], small) as two:
        assert one.ingest is not None
        assert two.ingest is not None
        await settled(tester)
        assert await raw(tester) == records
        assert one.ingest.writer.saved + two.ingest.writer.saved == 600
        more = sample(200, seed=6)
        await publish_all(tester.broker.client, [thing(record) for record in more])
        await one.ingest.stop()
        await settled(tester)
        assert len(await raw(tester)) == 800


async def test_a_service_that_is_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    tester: TesterService, settings: Settings, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await IngestStreams(tester.broker.client, settings).ensure()
    records = keyless(1200)
    await publish_all(tester.broker.client, [thing(records[start : start + 2]) for start in range(0, 1200, 2)])
    environment = {"FASTIOT_MONGO_DB_NAME": settings.mongo_name, "COMPLEX_SYSTEM_MARIA_NAME": settings.maria_name,
                   "COMPLEX_SYSTEM_INGEST_MESSAGES": "20"}  # fmt: skip
    module = f"complex_system_services.database_{database}.run"
    process = Child(module, [sys.executable, "-m", module], tmp_path / "service.log", env=environment)
    process.start()
    context = tester.broker.client.jetstream()
    try:
        # Some are acknowledged, and some are under way.
        async def begun() -> bool:
            return (await context.stream_info(STREAM)).state.messages < 560

        await eventually(begun, PATIENCE)
    finally:
        process.signal_group(signal.SIGKILL)
    await eventually(lambda: not process.alive)
    monkeypatch.setattr(ingest_streams, "ACK_WAIT", 1.0)  # else the others wait half a minute for what it held
    async with running(SERVICES[database], settings):
        await settled(tester)
        saved = await raw(tester)
    assert len(saved) == 1200
    values = sorted(json.dumps({name: value for name, value in record.items() if name != ID}) for record in saved)
    assert values == sorted(json.dumps(record) for record in records)


async def test_a_broker_that_is_killed_loses_nothing_it_has_acknowledged(
    tmp_path: Path, make_settings: Callable[..., Settings], request: pytest.FixtureRequest, database: str
) -> None:
    name = f"k{uuid4().hex[:12]}"
    records = sample(40)
    with started(NatsServer(tmp_path / "nats", port=0)) as server:
        settings = make_settings(server, request.getfixturevalue(f"{database}_server"), mongo_name=name, maria_name=name)
        async with running(TesterService, settings) as tester:
            client = tester.broker.client
            await IngestStreams(client, settings).ensure()
            for record in records[:20]:
                await publish(client, thing(record))
            await publish(client, b"{}")
            assert server.child is not None
            killed = server.child.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: server.child is not None and not server.child.alive)
            server.start()  # on the same folder
            await asyncio.to_thread(server.wait_ready)
            await eventually(lambda: tester.broker.connected, PATIENCE)
            async with running(SERVICES[database], settings) as service:
                for record in records[20:]:
                    await publish_when_there(tester, thing(record))
                await settled(tester)
                # And while the service reads.
                os.kill(server.child.pid or 0, signal.SIGKILL)
                await eventually(lambda: server.child is not None and not server.child.alive)
                server.start()
                await asyncio.to_thread(server.wait_ready)
                last = {**records[0], ID: "last"}
                await publish_when_there(tester, thing(last))
                await settled(tester)
                assert await raw(tester) == [*records, last]
                assert service.ingest is not None
                assert len(await letters(tester)) == 1


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_broker_without_jetstream_is_named_once_and_requests_are_answered(
    default_nats_server: Server,
    mongo_server: Server,
    make_settings: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
    database: str,
) -> None:
    settings = make_settings(default_nats_server, mongo_server, mongo_name=f"n{uuid4().hex[:8]}")
    async with running(DatabaseMongoService, settings) as service, running(TesterService, settings) as tester:
        await DatabaseClient(tester).save_raw(sample(3))
        await eventually(lambda: service.ingest is not None and service.ingest.problem)
        counts = await tester.ask(GET_INGEST_COUNTS, Empty())
        assert "has no JetStream" in counts.problem
        assert counts.waiting is None
        assert service.health().state == "ready"
        with pytest.raises(NobodyListensError, match="COMPLEX_SYSTEM_INGEST=false"):
            await IngestClient(tester.broker, settings, "Test").publish(sample(1))
        assert sum("has no JetStream" in text for text in caplog.messages) == 1
    off = settings.copy(update={"ingest": False})
    async with running(DatabaseMongoService, off), running(TesterService, off) as tester:
        counts = await tester.ask(GET_INGEST_COUNTS, Empty())
        assert counts.on is False


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_streams_follow_the_settings_and_take_no_request(
    tester: TesterService, settings: Settings, database: str
) -> None:
    client = tester.broker.client
    await IngestStreams(client, settings).ensure()
    more = settings.copy(update={"ingest_bytes": 5_000_000, "ingest_age": 60.0, "ingest_dead_share": 7})
    await IngestStreams(client, more).ensure()
    config = (await client.jetstream().stream_info(STREAM)).config
    assert (config.max_bytes, config.max_age) == (5_000_000, 60.0)
    assert config.duplicate_window == 0.1
    assert (await client.jetstream().stream_info(DEAD_STREAM)).config.max_msgs_per_subject == 7
    modules = (subjects, protocol.database, protocol.documents, protocol.operations, protocol.serving, protocol.training)
    asked = {each.name for module in modules for each in vars(module).values() if isinstance(each, Request)}
    assert {subjects.SAVE_RAW.name, GET_INGEST_COUNTS.name, protocol.training.TRAIN_MODEL.name} <= asked
    for stream in (STREAM, DEAD_STREAM):
        kept = (await client.jetstream().stream_info(stream)).config.subjects or []
        assert not {name for name in asked for subject in kept if name == subject or name.startswith(subject.rstrip(">"))}
    # A cluster of one cannot keep three copies, and that is said.
    with pytest.raises(NobodyListensError, match="COMPLEX_SYSTEM_INGEST_REPLICAS"):
        await IngestStreams(client, settings.copy(update={"ingest_replicas": 3})).ensure()


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_full_stream_refuses_and_keeps_what_it_has(tester: TesterService, settings: Settings, database: str) -> None:
    small = settings.copy(update={"ingest_bytes": 1_000_000})
    await IngestStreams(tester.broker.client, small).ensure()
    publisher = IngestClient(tester.broker, small, "Test")
    large = [{**record, "laborant": "x" * 60_000} for record in sample(20)]  # 300,000 bytes a message of five
    for start in (0, 5, 10):
        assert await publisher.publish(large[start : start + 5])
    with pytest.raises(NobodyListensError, match="COMPLEX_SYSTEM_INGEST_BYTES"):
        await publisher.publish(large[15:])
    async with running(SERVICES[database], small):
        await settled(tester)
        assert await raw(tester) == large[:15]
        assert await publisher.publish(large[15:])
        await settled(tester)
        assert await raw(tester) == large


async def test_the_source_of_each_record_is_kept_with_it(tester: TesterService, settings: Settings, database: str) -> None:
    records = sample(5)
    await IngestStreams(tester.broker.client, settings).ensure()
    async with running(SERVICES[database], settings):
        await publish(tester.broker.client, thing(records[0]), f"{SUBJECT}.lab-7")
        await publish(tester.broker.client, thing(records[1:3]), f"{SUBJECT}.line.4")
        await publish(tester.broker.client, thing(records[3]))
        await settled(tester)
        await tester.ask(subjects.SAVE_RAW, records[4:])
    assert [each.source for each in envelopes(database, settings)] == ["lab-7", "line.4", "line.4", "", "TesterService"]


async def test_a_lab_value_that_comes_later_reaches_the_processed_record(
    tester: TesterService, settings: Settings, database: str, dataset: Dataset
) -> None:
    """By a message, by kio's subject, and by a message of the key and the value alone."""
    client, target = tester.broker.client, dataset.target
    base = {**Laboratory(3).complete_record(), target: None}
    keys = ["by-message", "by-request", "by-value"]
    await IngestStreams(client, settings).ensure()
    async with running(SERVICES[database], settings), running(DataProcessingService, settings):
        store = DatabaseClient(tester)
        for key in keys:
            await publish(client, json.dumps({**base, ID: key}).encode(), f"{SUBJECT}.press-4")

        async def processed(count: int, labelled: int) -> bool:
            counts = await store.counts()
            return (counts.processed, counts.labelled) == (count, labelled)

        await eventually(lambda: processed(3, 0), PATIENCE)
        await publish(client, json.dumps({**base, ID: keys[0], target: 1.5}).encode(), f"{SUBJECT}.lims")
        saved = await kio.request_save_many_raw_data_points(tester, [{**base, ID: keys[1], target: 2.5}])
        assert (saved["filled"], saved["conflicts"]) == (1, 0)
        alone = {name: None for name in base if dataset.by_name.get(name) and dataset.by_name[name].optional}
        required = {name: value for name, value in base.items() if name not in alone}
        await publish(client, json.dumps({**required, ID: keys[2], target: 3.5}).encode(), f"{SUBJECT}.lims")
        await eventually(lambda: processed(3, 3), PATIENCE)
        assert await store.targets(keys) == dict(zip(keys, (1.5, 2.5, 3.5), strict=True))
        assert (await store.counts()).conflicts == 0


@pytest.mark.parametrize("newer_first", [False, True])
async def test_the_newer_message_stays_whichever_is_written_first(
    tester: TesterService, settings: Settings, database: str, dataset: Dataset, newer_first: bool
) -> None:
    client, target = tester.broker.client, dataset.target
    record = {**Laboratory(3).complete_record(), ID: "B-0007", target: 1.0}
    old, new = ({**record, "_revision": 1}, "1"), ({**record, target: 99.99, "_revision": 2}, "2")
    by_header = ({**record, target: 50.0}, "1.5")
    await IngestStreams(client, settings).ensure()
    async with running(SERVICES[database], settings.copy(update={"on_conflict": "replace"})):
        for values, order in [*((new, old) if newer_first else (old, new)), by_header, old]:
            await publish(client, json.dumps(values).encode(), f"{SUBJECT}.lims", Record_Revision=order)
            await settled(tester)
        [kept] = await raw(tester)
        assert (kept[target], "_revision" in kept) == (99.99, False)
        # A request says by the time of its Thing when its values were made; this one is older than any message.
        assert (await DatabaseClient(tester).save_raw([{**record, target: 7.0}], made=0.5)).replaced == 0
        assert (await DatabaseClient(tester).save_raw([{**record, target: 7.0}])).replaced == 1
        # Without a revision, a later message is newer.
        await publish(client, json.dumps({**record, target: 8.0}).encode(), f"{SUBJECT}.lims")
        await settled(tester)
        assert [each[target] for each in await raw(tester)] == [8.0]


class CountingStore(MongoDataStore):
    """Counts the writes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sizes: list[int] = []

    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        self.sizes.append(len(records))
        return await super().save_raw(records, sources, orders)


class CountingService(DatabaseMongoService):
    def make_store(self) -> DataStore:
        return CountingStore(self.dataset, self.settings)


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_many_messages_become_few_writes_of_bounded_size(
    tester: TesterService, settings: Settings, database: str
) -> None:
    records = sample(300)
    await IngestStreams(tester.broker.client, settings).ensure()
    for start in range(0, 300, 3):
        await publish(tester.broker.client, thing(records[start : start + 3]))
    async with running(CountingService, settings.copy(update={"ingest_batch": 100})) as service:
        await settled(tester)
        assert isinstance(service.store, CountingStore)
        assert sum(service.store.sizes) == 300
        assert max(service.store.sizes) <= 100
        assert len(service.store.sizes) < 50
        assert await raw(tester) == records


class PoisonedStore(MongoDataStore):
    """A store with a fault in it: one record makes it fail, whatever the database does.

    Attributes:
        alone: Whether it fails at this record also when it is tried alone.
        healed: Whether the fault is gone.
    """

    alone = True
    healed = False

    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        self._fail_at(records)
        return await super().save_raw(records, sources, orders)

    async def trial(self, records: list[Record]) -> None:
        if self.alone:
            self._fail_at(records)
        await super().trial(records)

    def _fail_at(self, records: list[Record]) -> None:
        if not self.healed and any(record["laborant"] == "poison" for record in records):
            raise ZeroDivisionError


class PoisonedService(DatabaseMongoService):
    def make_store(self) -> DataStore:
        return PoisonedStore(self.dataset, self.settings)


@pytest.fixture
async def poisoned(tester: TesterService, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Five good records, published with one between them at which the service fails."""
    monkeypatch.setattr(ingest_batch, "_AGAIN", 0.01)
    monkeypatch.setattr(ingest_batch, "_AGAIN_LATE", 0.2)
    monkeypatch.setattr(quarantine, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(DatabaseService, "watch_interval", 0.05)
    records = sample(5)
    poison = {**sample(6)[5], "laborant": "poison"}
    await IngestStreams(tester.broker.client, settings).ensure()
    for record in [*records[:2], poison, *records[2:]]:
        await publish(tester.broker.client, thing(record))
    return records


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_record_at_which_the_service_fails_whenever_it_is_tried_alone_is_kept_aside(
    tester: TesterService, settings: Settings, database: str, poisoned: list[Record]
) -> None:
    async with running(PoisonedService, settings) as service:
        counts = await settled(tester)
        assert await raw(tester) == poisoned
        assert (counts.saved, counts.refused) == (5, 1)
        [letter] = await letters(tester)
        assert (letter.code, letter.sequence) == ("invalid_record", 3)
        assert "Record 0" in letter.reason
        assert "ZeroDivisionError" in letter.reason
        await eventually(lambda: service.health().state == "ready")
        # The sender of a request is told which record it is.
        with pytest.raises(InvalidRecordError, match="Record 1 .*ZeroDivisionError.* Nothing of this batch was written"):
            await DatabaseClient(tester).save_raw([{**poisoned[0], ID: "new"}, {**poisoned[1], "laborant": "poison"}])
        assert await raw(tester) == poisoned


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_fault_of_the_service_that_cannot_be_blamed_on_a_record_makes_it_wait_and_holds_up_nothing_else(
    tester: TesterService, settings: Settings, database: str, poisoned: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PoisonedStore, "alone", False)
    async with running(PoisonedService, settings) as service:
        assert service.ingest is not None
        await eventually(lambda: service.ingest is not None and service.ingest.writer.saved == 5)
        await eventually(lambda: "ZeroDivisionError" in service.health().detail)
        assert await raw(tester) == poisoned
        assert service.ingest.writer.refused == 0
        monkeypatch.setattr(PoisonedStore, "healed", True)
        counts = await settled(tester)
        assert (counts.saved, counts.refused, counts.dead) == (6, 0, 0)


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_message_at_which_reading_fails_is_kept_aside_and_holds_up_nothing_else(
    tester: TesterService, settings: Settings, database: str, poisoned: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_poison(payload: bytes) -> list[Any]:
        if b"poison" in payload:
            raise ZeroDivisionError
        return published_records(payload)

    monkeypatch.setattr(ingest_batch, "published_records", fail_at_poison)
    async with running(SERVICES[database], settings):
        counts = await settled(tester)
        assert (counts.saved, counts.refused) == (5, 1)
        [letter] = await letters(tester)
        assert (letter.code, letter.sequence) == ("internal", 3)


class ShakyStore(MongoDataStore):
    """A store whose database is away for so many writes, and which then fails once."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.errors: list[Exception] = [*(StoreUnavailableError("away") for _ in range(8)), ZeroDivisionError()]

    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        if self.errors:
            raise self.errors.pop(0)
        return await super().save_raw(records, sources, orders)


class ShakyService(DatabaseMongoService):
    def make_store(self) -> DataStore:
        return ShakyStore(self.dataset, self.settings)


@pytest.mark.parametrize("database", ["mongo"], indirect=True)
async def test_a_database_that_was_away_refuses_no_message_however_often(
    tester: TesterService, settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_batch, "_AGAIN", 0.01)
    monkeypatch.setattr(ingest_batch, "_AGAIN_LATE", 0.01)
    monkeypatch.setattr(ingest, "_PAUSE", 0.01)
    await IngestStreams(tester.broker.client, settings).ensure()
    await publish(tester.broker.client, thing(sample(1)))
    async with running(ShakyService, settings) as service:
        counts = await settled(tester)
        assert isinstance(service.store, ShakyStore)
        assert service.store.errors == []
        assert (counts.saved, counts.refused, counts.dead) == (1, 0, 0)
        assert await raw(tester) == sample(1)
