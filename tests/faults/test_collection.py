"""Readings and labels while collection, broker and database are killed or frozen: every record once, every label joined."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.errors import Error as NatsError

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import MariaServer, MongoServer, NatsServer, Server
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.readings import BUCKET, STREAM
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION, CollectionState
from plant import Plant, all_raw, kill, plant
from support import eventually

PARTS, EACH = 2_000, 10
"""Parts, each with a label, and readings of a part: nine of sensors, and the one that it is done."""
COLLECTION = "thing_collection"
DATABASES: dict[str, type[Server]] = {"mongo": MongoServer, "maria": MariaServer}
BEGAN = 1_777_000_000.0
# Between the readings of a part and its end the broker may be frozen for 10 s, and then the press repeats its message after 3 s:
# readings are kept for what the columns look back and twice the waiting time.
DECLARATION = """
name: press
target: strength
columns:
  - {name: temp, type: number, optional: true, fill: 20, range: [0, 100]}
  - {name: readings, type: integer, optional: true, fill: 0}
  - {name: before, type: number, optional: true, fill: 0}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: keep, column: temp}
collect:
  things: [press-4.*]
  columns:
    temp: {name: temperature, over: 0.9s, take: mean}
    readings: {name: temperature, over: 0.9s, take: count}
    before: {column: temp, lag: 1}
  record: {on: 'thing "press-4.part_done"', id: value, wait: 8s}
  label: {column: strength, from: 'subject "lab.results"', match: id, within: 1h}
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


class Servers(NamedTuple):
    """A broker and a database of this module's own, for they are killed."""

    nats: NatsServer
    database: Server
    service: str


@pytest.fixture(scope="module", params=DATABASES)
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder, kind = tmp_path_factory.mktemp("collection"), request.param
    both = NatsServer(folder / "nats", port=0), DATABASES[kind](folder / kind, port=0)
    for server in both:
        server.start()
    try:
        for server in both:
            server.wait_ready()
        yield Servers(*both, f"database_{kind}")
    finally:
        for server in both:
            server.stop()


@pytest.fixture
async def system(servers: Servers, tmp_path: Path) -> AsyncIterator[Plant]:
    (tmp_path / "dataset.yaml").write_text(DECLARATION)
    name = f"c{uuid.uuid4().hex[:10]}"
    values = {
        "FASTIOT_CONFIG_DIR": str(tmp_path), "FASTIOT_NATS_DEFAULT_TIMEOUT": "5", "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
        "COMPLEX_SYSTEM_MARIA_NAME": name, "FASTIOT_MONGO_DB_NAME": name, "COMPLEX_SYSTEM_COLLECT_BATCH": "100",
    }  # fmt: skip
    async with plant(tmp_path, servers.nats, servers.database, values, PARTS, 0) as made:
        made.start(servers.service)
        made.start(COLLECTION)
        await eventually(lambda: made.state(COLLECTION) == "ready", 60)
        try:
            yield made
        finally:
            made.stop()
            context = made.client.broker.client.jetstream(timeout=60.0)
            for stream in (STREAM, f"KV_{BUCKET}"):
                await context.delete_stream(stream)


def temperature(part: int, reading: int) -> float:
    return float((part * 31 + reading * 7) % 97)


class Press:
    """Publishes what the press and the laboratory do, and repeats what the stream does not acknowledge: some of it is there twice.

    The readings of a part come in any order, and are all in the stream before the one that it is done. Every third label comes before
    its record.
    """

    def __init__(self, client: SystemClient) -> None:
        self._context = client.broker.client.jetstream(timeout=3.0)
        self.published = 0

    async def run(self) -> None:
        labels: set[asyncio.Task[None]] = set()
        for part in range(PARTS):
            at = BEGAN + part
            label = self._publish("lab.results", {"id": f"part-{part}", "strength": part / 4, "timestamp": at + 60})
            if part % 3 == 0:
                await label
            await asyncio.gather(
                *(
                    self._publish(
                        "things.press-4.temperature", {"value": temperature(part, each), "timestamp": at + each / 100}
                    )
                    for each in range(EACH - 1)
                )
            )
            await self._publish("things.press-4.part_done", {"value": f"part-{part}", "timestamp": at + 0.1})
            if part % 3:
                labels.add(asyncio.create_task(label))
        await asyncio.gather(*labels)

    async def _publish(self, subject: str, content: dict[str, Any]) -> None:
        payload = json.dumps(content).encode()
        while True:
            try:
                await self._context.publish(subject, payload)
                break
            except (NatsError, TimeoutError):
                await asyncio.sleep(0.2)
        self.published += 1


async def state_of(system: Plant) -> CollectionState | None:
    try:
        return await system.client.ask(GET_COLLECTION, Empty(), 2.0)
    except ComplexSystemError:
        return None


async def disturbed(system: Plant, *faults: Callable[[], Awaitable[None]]) -> None:
    """Brings faults about, one after the other while readings flow, and verifies what there is at the end."""
    press = Press(system.client)
    running = asyncio.create_task(press.run())
    for place, fault in enumerate(faults, 1):
        wanted = place * PARTS * (EACH + 1) // (len(faults) + 1)
        await eventually(lambda wanted=wanted: press.published >= wanted or running.done(), 240)
        await fault()
    await running

    async def labelled() -> list[dict[str, Any]] | None:
        await asyncio.sleep(0.3)
        counts = await system.counts()
        state = await state_of(system)
        if counts is None or counts.raw < PARTS or state is None or state.waiting_labels:
            return None
        try:
            records = await all_raw(system.database)
        except ComplexSystemError:
            return None
        # A label that the collection has not read yet does not wait.
        return records if all(record["strength"] is not None for record in records) else None

    found = {record[ID]: record for record in await eventually(labelled, 240)}
    assert len(found) == PARTS
    for part in range(PARTS):
        mean = [sum(temperature(each, r) for r in range(EACH - 1)) / (EACH - 1) for each in (part - 1, part)]
        record = found[f"part-{part}"]
        assert record["temp"] == pytest.approx(mean[1]), record
        assert record["readings"] == EACH - 1
        assert record["strength"] == part / 4
        assert record["before"] == (pytest.approx(mean[0]) if part else None)
    counts = await eventually(system.counts)
    assert (counts.raw, counts.conflicts) == (PARTS, 0)
    state = await eventually(lambda: state_of(system))
    assert state.counts.records == PARTS
    await system.recovered()


async def again(server: Server) -> None:
    server.start_process()
    await asyncio.to_thread(server.wait_ready)


async def test_the_collection_is_killed_and_started_again(system: Plant) -> None:
    async def fault() -> None:
        system.kill(COLLECTION)
        system.start(COLLECTION)
        await eventually(lambda: system.state(COLLECTION) in ("ready", "waiting"), 60)

    await disturbed(system, fault, fault, fault)


async def test_the_collection_is_frozen_and_a_stand_by_takes_over(system: Plant) -> None:
    system.start(COLLECTION, "_b")
    await eventually(lambda: "stand-by" in system.detail(f"{COLLECTION}_b"), 60)

    async def fault() -> None:
        frozen = system.children.pop(COLLECTION)
        frozen.signal_group(signal.SIGSTOP)
        try:
            await eventually(lambda: system.state(f"{COLLECTION}_b") == "ready" and not system.detail(f"{COLLECTION}_b"), 60)
        finally:
            frozen.signal_group(signal.SIGCONT)
        await eventually(lambda: not frozen.alive, 60)  # it finds that another one has the lease

    await disturbed(system, fault)


async def test_the_broker_is_killed(servers: Servers, system: Plant) -> None:
    async def fault() -> None:
        kill(servers.nats.child)
        await again(servers.nats)

    await disturbed(system, fault, fault)


async def test_the_broker_is_frozen(servers: Servers, system: Plant) -> None:
    async def fault() -> None:
        broker = servers.nats.child
        assert broker is not None
        broker.signal_group(signal.SIGSTOP)
        try:
            await asyncio.sleep(10)  # the fault lasts so long
        finally:
            broker.signal_group(signal.SIGCONT)

    await disturbed(system, fault)


async def test_the_database_and_its_service_are_killed(servers: Servers, system: Plant) -> None:
    async def server() -> None:
        kill(servers.database.child)
        await eventually(lambda: system.state(COLLECTION) == "waiting", 60)
        await again(servers.database)

    async def service() -> None:
        system.kill(servers.service)
        system.start(servers.service)

    await disturbed(system, server, service)
