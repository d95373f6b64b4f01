"""The programs of the documentation that are written for NATS alone, as the users that it names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import raw_check
from complex_system.local.servers import NatsServer
from complex_system.messaging import mqtt, readings
from complex_system.messaging.ingest.streams import STREAM
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.messaging.users import device_user
from documented import ROOT, blocks
from support import started

DEVICE, PASSWORD = "press-4", "of-the-press"
ADDRESS = '"nats://127.0.0.1:4222"'


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker that asks for users, and has one for the device."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), port=0, asks=True)
    server.devices = {device_user(DEVICE).variable: PASSWORD}
    with started(server):
        yield server


@pytest.fixture
async def operator(broker: NatsServer) -> AsyncIterator[Client]:
    """A client of the user that may do everything."""
    found = broker.environment()
    client = Client()
    await client.connect(broker.url, user=found["FASTIOT_NATS_USER"], password=found["FASTIOT_NATS_PASSWORD"])
    yield client
    await client.close()


def program(page: str, call: str) -> str:
    """The program of a page that makes a call."""
    [found] = [block.text for block in blocks(page) if block.language == "python" and call in block.text]
    return found


def run(program: str, broker: NatsServer, options: str) -> None:
    """Runs a program as its reader does, but for the address, the user, and patience with a busy machine."""
    assert program.count(ADDRESS) == 1
    code = program.replace(ADDRESS, f"{broker.url!r}, {options}").replace(".jetstream()", ".jetstream(timeout=60)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def as_operator(broker: NatsServer) -> str:
    found = broker.environment()
    return f"user={found['FASTIOT_NATS_USER']!r}, password={found['FASTIOT_NATS_PASSWORD']!r}"


async def test_a_device_publishes_a_record_with_its_own_user(broker: NatsServer, operator: Client, dataset: Dataset) -> None:
    await operator.jetstream(timeout=60).add_stream(name=STREAM, subjects=[INGEST_RAW.name, f"{INGEST_RAW.name}.>"])
    publish = program("docs/ingest.md", "asyncio.run(publish())")
    own = f'user="{DEVICE}", password="{PASSWORD}", inbox_prefix="_INBOX_{DEVICE}"'
    assert own.replace(f'"{PASSWORD}"', "...") in (ROOT / "docs" / "ingest.md").read_text(encoding="utf-8")
    run(publish, broker, own)
    message = await operator.jetstream(timeout=60).get_last_msg(STREAM, f"{INGEST_RAW.name}.{DEVICE}")
    assert message.data is not None
    raw_check(dataset)([json.loads(message.data)])  # the declared fields, or an error


async def test_the_stream_of_readings_is_removed_by_the_operator(broker: NatsServer, operator: Client) -> None:
    await operator.jetstream(timeout=60).add_stream(name=readings.STREAM, subjects=["readings"])
    run(program("docs/services/thing_collection.md", "delete_stream"), broker, as_operator(broker))
    with pytest.raises(NotFoundError):
        await operator.jetstream(timeout=60).stream_info(readings.STREAM)


async def test_the_consumer_of_readings_by_mqtt_is_removed_by_the_operator(broker: NatsServer, operator: Client) -> None:
    context = operator.jetstream(timeout=60)
    await context.add_stream(name=mqtt.STREAM, subjects=["mqtt"])
    await context.add_consumer(mqtt.STREAM, ConsumerConfig(durable_name=readings.CONSUMER))
    [call] = re.findall(
        r"`client\.jetstream\(\)\.(delete_consumer\(.*\))`", (ROOT / "docs" / "machines.md").read_text("utf-8")
    )
    remove = program("docs/services/thing_collection.md", "delete_stream")
    assert remove.count('delete_stream("READINGS")') == 1
    run(remove.replace('delete_stream("READINGS")', call), broker, as_operator(broker))
    with pytest.raises(NotFoundError):
        await context.consumer_info(mqtt.STREAM, readings.CONSUMER)
