"""Readings of an OPC UA server while the broker is killed and the connection to the server breaks: none is lost."""

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

from complex_system.local.servers import NatsServer
from complex_system.messaging.clients import SystemClient
from complex_system.settings import Settings
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from plant import kill
from plc import Plc, plc
from support import eventually, running

NODES, TURNS = 200, 100
"""Nodes, and values of each: 20,000 readings."""
STREAM = "readings_of_opcua"

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
                return await count(settings) == NODES

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
