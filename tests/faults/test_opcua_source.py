"""Readings of an OPC UA server while the broker is killed, the connection to the server breaks, and the source itself is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastiot.core.serialization import serialize_from_bin
from fastiot.msg import Thing
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from complex_system.domain.dataset import ID
from complex_system.local.servers import MariaServer, NatsServer
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.readings import FASTIOT
from complex_system.messaging.readings import STREAM as READINGS
from complex_system.settings import Settings
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from plant import all_raw, kill, plant
from plc import Plc, plc
from support import eventually, running

NODES, TURNS = 200, 100
"""Nodes, and values of each: 20,000 readings."""
STREAM = "readings_of_opcua"
SOURCE, COLLECTION, DATABASE = "dummy_data_generation", "thing_collection", "database_maria"
PARTS, SENSORS = 2_000, 9
"""Parts, and sensors, each with another value for every part: with the one that the part is done, 20,000 readings."""
ALONE, UNSURE = 10, 5
"""Parts that the press makes after a kill before it stands still, and parts that may have been on their way at the kill."""
DECLARATION = """
name: press
target: strength
columns:
{columns}
  - {{name: strength, type: number, optional: true}}
pipeline:
  - {{step: keep, column: s0}}
collect:
  things: [press-4.*]
  columns:
{sensors}
  record: {{on: 'thing "press-4.part_done"', id: value, wait: 2s}}
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats", port=0)
    server.start()
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        server.stop()


async def stored(settings: Settings) -> Counter[tuple[str, float]]:
    """How often each reading is in the stream."""
    found: Counter[tuple[str, float]] = Counter()
    async with await SystemClient.open(settings, "reader") as client:
        context = client.broker.client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
        subscription = await context.pull_subscribe("v1.thing.>", stream=STREAM, config=config)
        left = (await context.stream_info(STREAM)).state.messages
        while left:
            messages = await subscription.fetch(min(left, 500), 10)
            left -= len(messages)
            found.update((thing.name, thing.value) for thing in (serialize_from_bin(Thing, each.data) for each in messages))
    return found


async def count(settings: Settings) -> int:
    async with await SystemClient.open(settings, "counter") as client:
        return int((await client.broker.client.jetstream().stream_info(STREAM)).state.messages)


async def write_values(press: Plc, at: Callable[[int], Any]) -> None:
    for turn in range(1, TURNS + 1):
        await at(turn)
        for number in range(NODES):
            await press.set(f"n{number}", float(turn))
        await asyncio.sleep(0.05)


async def test_a_killed_broker_and_broken_connections_lose_no_reading(
    broker: NatsServer, make_settings: Callable[..., Settings], tmp_path: Path, record_property: Any
) -> None:
    settings = make_settings(broker, config_dir=str(tmp_path), opcua_file="opcua.yaml")
    names = [f"n{number}" for number in range(NODES)]
    async with await SystemClient.open(settings, "maker") as client:
        await client.broker.client.jetstream().add_stream(name=STREAM, subjects=["v1.thing.>"])
    async with plc(dict.fromkeys(names, 0.0)) as press:
        nodes = "\n".join(f'  - {{node: "ns=2;s={name}", name: {name}}}' for name in names)
        text = f"endpoint: {press.url}\nmachine: press-4\nsampling: 0.02s\npublishing: 0.1s\nnodes:\n{nodes}\n"
        (tmp_path / "opcua.yaml").write_text(text)
        async with running(DummyDataGenerationService, settings) as service:

            async def begun() -> bool:
                # One whose acknowledgement was lost is stored twice.
                return await count(settings) >= NODES and {name for name, _ in await stored(settings)} == set(names)

            await eventually(begun)

            async def break_something(turn: int) -> None:
                if turn in (20, 70):
                    press.break_connections()
                if turn in (30, 60):
                    await asyncio.to_thread(kill, broker.child)
                if turn in (45, 85):
                    broker.start()
                    await asyncio.to_thread(broker.wait_ready)

            await write_values(press, break_something)

            everything = {(name, float(turn)) for name in names for turn in range(TURNS + 1)}

            async def all_there() -> Counter[tuple[str, float]] | None:
                await asyncio.sleep(0.5)
                enough = await count(settings) >= len(everything)  # some are stored twice, so these may not be all
                found = await stored(settings) if enough else None
                return found if found and set(found) == everything else None

            # Each reading is on the broker's disk before the next one of the stream.
            found: Counter[tuple[str, float]] = await eventually(all_there, 400)
            await eventually(lambda: service.health().state == "ready")
            record_property("readings stored twice", sum(found.values()) - len(found))
            assert "dropped" not in service.health().detail


class Press:
    """Makes parts, one after the other: sets all sensors, and then that the part is done."""

    def __init__(self, controller: Plc) -> None:
        self._controller = controller
        self.made = 0

    @staticmethod
    def value(part: int, sensor: int) -> float:
        return part + sensor / 16

    async def make(self, until: int) -> None:
        while self.made < until:
            for sensor in range(SENSORS):
                await self._controller.set(f"s{sensor}", self.value(self.made, sensor))
            await self._controller.set("part_done", f"part-{self.made}")
            self.made += 1
            await asyncio.sleep(0.03)


async def test_a_killed_source_makes_no_record_twice_and_loses_only_what_the_press_does_meanwhile(
    broker: NatsServer, tmp_path: Path, record_property: Any
) -> None:
    """Through to the database. Where the press stood when the source came back, it is read once, too."""
    database = MariaServer(tmp_path / "maria", port=0)
    database.start()
    names = [f"s{sensor}" for sensor in range(SENSORS)]
    columns = "\n".join(f"  - {{name: {name}, type: number, optional: true, fill: 0, range: [-9, 9999]}}" for name in names)
    sensors = "\n".join(f"    {name}: {{name: {name}, take: last, not_older: 10s}}" for name in names)
    (tmp_path / "dataset.yaml").write_text(DECLARATION.format(columns=columns, sensors=sensors))
    values = {
        "FASTIOT_CONFIG_DIR": str(tmp_path), "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
        "COMPLEX_SYSTEM_OPCUA_FILE": "opcua.yaml",
    }  # fmt: skip
    unsure: set[int] = set()
    try:
        await asyncio.to_thread(database.wait_ready)
        async with (
            plc({**dict.fromkeys(names, -1.0), "part_done": "none"}) as controller,
            plant(tmp_path, broker, database, values, PARTS, 0) as system,
        ):
            nodes = "\n".join(f'  - {{node: "ns=2;s={name}", name: {name}}}' for name in [*names, "part_done"])
            text = f"endpoint: {controller.url}\nmachine: press-4\nsampling: 0.01s\npublishing: 0.1s\nnodes:\n{nodes}\n"
            (tmp_path / "opcua.yaml").write_text(text)
            for service in (DATABASE, COLLECTION, SOURCE):
                system.start(service)
            await eventually(lambda: all(system.state(name) == "ready" for name in (DATABASE, COLLECTION, SOURCE)), 60)
            press, context = Press(controller), system.client.broker.client.jetstream(timeout=60.0)

            async def all_but_some_are_stored() -> bool:
                message = await context.get_last_msg(READINGS, f"{FASTIOT}.press-4.part_done")
                part = str(serialize_from_bin(Thing, message.data).value).removeprefix("part-")
                return part != "none" and int(part) >= press.made - UNSURE

            for place in (1, 2, 3):
                await press.make(place * PARTS // 4)
                await eventually(all_but_some_are_stored)  # a busy source is further behind
                first = press.made
                system.kill(SOURCE)
                await press.make(press.made + ALONE)
                system.start(SOURCE)
                await eventually(lambda: system.state(SOURCE) == "ready", 60)
                unsure.update(range(first - UNSURE, press.made - 1))  # the last one is what the server still shows
            await press.make(PARTS)

            async def all_there() -> dict[str, dict[str, Any]] | None:
                await asyncio.sleep(0.5)
                records = await all_raw(system.database)
                found = {record[ID]: record for record in records}
                assert len(found) == len(records)
                sure = (f"part-{part}" for part in range(PARTS) if part not in unsure)
                return found if found.keys() >= set(sure) else None

            found: dict[str, dict[str, Any]] = await eventually(all_there, 120)
            made = {f"part-{part}": part for part in range(PARTS)}
            assert found.keys() - made.keys() <= {"none"}
            for key, record in found.items():
                if key in made and made[key] not in unsure:
                    assert [record[name] for name in names] == [press.value(made[key], each) for each in range(SENSORS)], key
            counts = await eventually(system.counts)
            assert (counts.raw, counts.conflicts) == (len(found), 0)
            record_property("parts lost with the source", len(made.keys() - found.keys()))
            await system.recovered()
    finally:
        database.stop()
