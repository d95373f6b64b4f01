"""MQTT with quality of service 1 while broker and services are killed: what had its PUBACK is in the database, once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import MariaServer, MongoServer, NatsServer, Server, free_port
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts
from mqtt_device import MqttDevice, mqtt_device
from plant import Plant, all_raw, kill, plant
from support import eventually

DEVICES, COLLECTION = 3, "thing_collection"
KILLS = 6
PART = 5
"""Readings of a part."""
DECLARATION = """
name: press
target: strength
columns:
  - {name: temp, type: number, optional: true, fill: 20, range: [0, 1000000]}
  - {name: readings, type: integer, optional: true, fill: 0}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: keep, column: temp}
"""
COLLECTED = (
    DECLARATION
    + """
collect:
  things: ["*.*"]
  columns:
    temp: {name: temperature, take: mean}
    readings: {name: temperature, take: count}
  record: {on: measurement_id, id: measurement_id, wait: 30s}
"""
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker for each test: what was collected is remembered there, and a part with the same measurement_id is not made again."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), port=0)
    server.mqtt_port = free_port()
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kind = MongoServer if request.param == "mongo" else MariaServer
    server = kind(tmp_path_factory.mktemp(request.param), port=0)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
async def system(broker: NatsServer, database: Server, tmp_path: Path) -> AsyncIterator[Plant]:
    (tmp_path / "dataset.yaml").write_text(DECLARATION)
    name = f"q{uuid.uuid4().hex[:10]}"
    values = {
        "FASTIOT_CONFIG_DIR": str(tmp_path), "FASTIOT_NATS_DEFAULT_TIMEOUT": "20", "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
        "COMPLEX_SYSTEM_MARIA_NAME": name, "COMPLEX_SYSTEM_MONGO_NAME": name, "COMPLEX_SYSTEM_RECONNECT_TIMEOUT": "60",
    }  # fmt: skip
    async with plant(tmp_path, broker, database, values, 1, 0) as made:
        try:
            yield made
        finally:
            made.stop()


def service_of(database: Server) -> str:
    return "database_maria" if isinstance(database, MariaServer) else "database_mongo"


async def ready(system: Plant, *services: str) -> None:
    for service in services:
        system.start(service)
    for service in services:
        await eventually(lambda service=service: system.state(service) == "ready", 60)


async def again(server: NatsServer) -> None:
    kill(server.child)
    server.start()
    await asyncio.to_thread(server.wait_ready)


async def killed(seed: int, faults: list[Callable[[], Awaitable[None]]]) -> None:
    """Brings about the faults in turn, each after a while."""
    chance = random.Random(seed)
    for turn in range(KILLS):
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        await faults[turn % len(faults)]()


async def publishing(device: MqttDevice, messages: Iterator[tuple[str, Any]], until: asyncio.Task[None]) -> list[Any]:
    """Publishes as fast as acknowledgements come, until the faults are over; returns what was published."""
    sent = []
    while not until.done():
        if device.waiting > 200:
            await asyncio.sleep(0.005)
            continue
        topic, content = next(messages)
        device.publish(topic, json.dumps(content))
        sent.append(content)
        await asyncio.sleep(0)
    await asyncio.to_thread(device.settle, 120)
    return sent


async def settled(system: Plant) -> IngestCounts:
    async def check() -> IngestCounts | None:
        try:
            counts: IngestCounts = await system.client.ask(GET_INGEST_COUNTS, Empty(), 5.0)
        except ComplexSystemError:
            return None
        return counts if (counts.waiting, counts.in_flight) == (0, 0) else None

    found: IngestCounts = await eventually(check, 240)
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_broker_and_database_service_are_killed_while_records_come(
    broker: NatsServer, database: Server, system: Plant, seed: int, record_property: Callable[[str, object], None]
) -> None:
    service = service_of(database)
    await ready(system, service)
    await settled(system)  # so it forwards

    async def service_again() -> None:
        system.kill(service)
        system.start(service)

    faults = asyncio.create_task(killed(seed, [lambda: again(broker), lambda: again(broker), service_again]))

    def records(number: int) -> Iterator[tuple[str, Any]]:
        for count in itertools.count():
            yield f"ingest-raw-datapoints/device-{number}", {ID: f"{number}-{count}", "temp": count}

    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(mqtt_device(broker.mqtt_port, f"device-{number}")) for number in range(DEVICES)]
        each = (publishing(device, records(number), faults) for number, device in enumerate(devices))
        sent = [record for part in await asyncio.gather(*each) for record in part]
        await faults
        await settled(system)
        saved = await all_raw(system.database)
    connections = sum(device.connections for device in devices)
    record_property(
        f"MQTT, {service}, seed {seed}", f"{len(sent)} records with PUBACK, {KILLS} kills, {connections} connections"
    )
    assert len(sent) > 1_000
    assert connections >= DEVICES * (1 + KILLS // 2)
    assert {record[ID]: record["temp"] for record in saved} == {record[ID]: record["temp"] for record in sent}
    assert len(saved) == len(sent)


async def test_broker_and_collection_are_killed_while_readings_come(
    broker: NatsServer, database: Server, system: Plant, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A reading that is lost, or came so late that its part was complete, would be seen in the record of its part."""
    (tmp_path / "dataset.yaml").write_text(COLLECTED)
    service = service_of(database)
    await ready(system, service, COLLECTION)

    async def collection_again() -> None:
        system.kill(COLLECTION)
        system.start(COLLECTION)

    faults = asyncio.create_task(killed(3, [lambda: again(broker), collection_again]))

    def readings(number: int) -> Iterator[tuple[str, Any]]:
        for part in itertools.count():
            for each in range(PART):
                reading = {"value": part % 97 + each, "timestamp": time.time(), "measurement_id": f"{number}-{part}"}
                yield f"things/device-{number}/temperature", reading

    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(mqtt_device(broker.mqtt_port, f"device-{number}")) for number in range(DEVICES)]
        each = (publishing(device, readings(number), faults) for number, device in enumerate(devices))
        sent = [content for part in await asyncio.gather(*each) for content in part]
        await faults
    parts = Counter(reading["measurement_id"] for reading in sent)
    expected = {part: (int(part.split("-")[1]) % 97 + (count - 1) / 2, count) for part, count in parts.items()}
    try:
        await system.until(lambda counts: counts.raw >= len(expected))
    except AssertionError as error:
        missing = sorted(expected.keys() - {record[ID] for record in await all_raw(system.database)})
        said = "\n".join(system.log(name)[-3000:] for name in (COLLECTION, service))
        raise AssertionError(f"{len(missing)} of {len(expected)} records are missing: {missing[:20]}\n{said}") from error
    saved = await all_raw(system.database)
    record_property(
        f"MQTT, {COLLECTION} and {service}", f"{len(sent)} readings with PUBACK, {KILLS} kills, {len(saved)} records"
    )
    assert len(sent) > 1_000
    assert {record[ID]: (record["temp"], record["readings"]) for record in saved} == expected
