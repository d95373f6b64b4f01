"""Records by MQTT: a real client on a real broker, from PUBACK to the database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from nats.js.errors import APIError

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import NobodyListensError
from complex_system.local.servers import NatsServer, Server, free_port
from complex_system.messaging import mqtt, readings, subjects
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM, IngestStreams
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION, CollectionState
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.thing_collection.thing_collection_service import ThingCollectionService
from mqtt_device import MqttDevice, mqtt_device
from support import BROKER_PASSWORD, TesterService, eventually, guarded, running, server_fixture

ROOT = Path(__file__).parents[2]
TOPIC = "ingest-raw-datapoints/press-4"
DOCS = (ROOT / "docs/machines.md").read_text(encoding="utf-8").partition("## By MQTT")[2]
DEVICES = ("COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4", "COMPLEX_SYSTEM_NATS_DEVICE_PRESS_5")


class MqttServer(NatsServer):
    """A broker that takes MQTT, where services and two devices have their own users."""

    def prepare(self) -> None:
        self.mqtt_port = self.mqtt_port or free_port()
        super().prepare()
        with (self.directory / "nats.conf").open("a") as configuration:
            configuration.write(guarded(*DEVICES))

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "FASTIOT_NATS_PASSWORD": BROKER_PASSWORD}


broker = server_fixture(MqttServer, "module")


@pytest.fixture
def settings(broker: MqttServer, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    name = f"m{uuid4().hex[:12]}"
    return make_settings(broker, mongo_server, mongo_name=name, ingest_source_messages=200)


@pytest.fixture
async def tester(settings: Settings) -> AsyncIterator[TesterService]:
    """A client; the streams are made anew."""
    async with running(TesterService, settings) as tester:
        context = tester.broker.client.jetstream()
        for stream in (STREAM, DEAD_STREAM, readings.STREAM, f"KV_{readings.BUCKET}"):
            with contextlib.suppress(APIError):
                await context.delete_stream(stream)
        for consumer in ("database", readings.CONSUMER):  # the broker's own stream stays, as it does for those who use it
            with contextlib.suppress(APIError):
                await context.delete_consumer(mqtt.STREAM, consumer)
        yield tester


@pytest.fixture
async def database(tester: TesterService, settings: Settings) -> AsyncIterator[DatabaseMongoService]:
    async with running(DatabaseMongoService, settings) as service:
        await eventually(lambda: service.ingest is not None and service.ingest.streams and forwards(tester))
        yield service


@pytest.fixture
def device(broker: MqttServer) -> Iterator[MqttDevice]:
    with mqtt_device(broker.mqtt_port, "press-4", BROKER_PASSWORD) as device:
        yield device


async def forwards(tester: TesterService) -> bool:
    try:
        await tester.broker.client.jetstream().consumer_info(mqtt.STREAM, "database")
    except APIError:
        return False
    return True


async def kept(tester: TesterService, stream: str) -> int:
    return int((await tester.broker.client.jetstream().stream_info(stream)).state.messages)


async def nothing_kept(tester: TesterService) -> bool:
    """Whether the broker's stream is empty; it removes a message a moment after it was acknowledged."""
    return await kept(tester, mqtt.STREAM) == 0


def sample(count: int) -> list[Record]:
    return list(Laboratory(seed=5).records(count))


async def raw(tester: TesterService) -> list[Record]:
    records: list[Record] = await tester.ask(subjects.GET_ALL_RAW, {})
    return records


async def settled(tester: TesterService, saved: int) -> IngestCounts:
    """Waits until so many records are saved and nothing is under way."""

    async def check() -> IngestCounts | None:
        with contextlib.suppress(NobodyListensError):
            counts: IngestCounts = await tester.ask(GET_INGEST_COUNTS, Empty())
            if counts.saved >= saved and (counts.waiting, counts.in_flight) == (0, 0):
                return counts
        return None

    found: IngestCounts = await eventually(check)
    return found


@pytest.mark.usefixtures("database")
async def test_records_of_any_quality_of_service_are_saved_once(tester: TesterService, device: MqttDevice) -> None:
    records = sample(7)
    keyless = {name: value for name, value in records[6].items() if name != ID}
    device.publish(TOPIC, json.dumps(records[0]), 0)
    device.publish(TOPIC, json.dumps(records[1]))
    device.publish(TOPIC, json.dumps(records[2:5]))
    device.publish(TOPIC, json.dumps(records[5]), 2)
    device.publish(TOPIC, json.dumps(keyless))
    await asyncio.to_thread(device.settle)
    counts = await settled(tester, 7)
    saved = await raw(tester)
    assert [record for record in saved if record[ID] in {each[ID] for each in records[:6]}] == records[:6]
    assert len(saved) == 7
    assert (counts.saved, counts.refused, counts.problem) == (7, 0, "")


@pytest.mark.usefixtures("database")
async def test_a_bad_payload_becomes_a_dead_letter_and_its_neighbours_are_saved(
    tester: TesterService, device: MqttDevice, settings: Settings
) -> None:
    good = sample(2)
    device.publish(TOPIC, json.dumps(good[0]))
    for bad in (b"{", b"", b"\xc1", json.dumps({**good[0], "nobody": 1})):
        device.publish(TOPIC, bad)
    device.publish(TOPIC, json.dumps(good[1]))
    await asyncio.to_thread(device.settle)
    counts = await settled(tester, 2)
    assert await raw(tester) == good
    letters = [letter async for letter in DeadLetters(tester.broker.client, settings).read(100)]
    assert (counts.refused, counts.dead) == (4, 4)
    assert {letter.subject for letter in letters} == {"ingest-raw-datapoints.press-4"}
    assert {letter.code for letter in letters} == {"invalid_request", "invalid_record"}


@pytest.mark.usefixtures("database")
async def test_a_device_publishes_under_its_own_name_only(
    tester: TesterService, device: MqttDevice, broker: MqttServer
) -> None:
    """NATS acknowledges what it refuses, as MQTT 3.1.1 wants it; its log names the device."""
    [record, foreign] = sample(2)
    for topic in ("ingest-raw-datapoints/press-5", "ingest-raw-datapoints", "$MQTT/msgs/ingest-raw-datapoints/press-5"):
        device.publish(topic, json.dumps(foreign))
    device.publish("get-time", b"{}")
    device.publish(TOPIC, json.dumps(record))
    await asyncio.to_thread(device.settle)
    await settled(tester, 1)
    assert await raw(tester) == [record]
    device.subscribe("#")
    device.subscribe("ingest-raw-datapoints/press-5")
    await eventually(lambda: len(device.subscribed) == 2)
    assert all(reason.is_failure for reason in device.subscribed)  # type: ignore[attr-defined]
    assert 'Publish Violation - Subject "get-time"' in broker.log_file.read_text()


async def test_what_was_acknowledged_waits_for_a_database_service_that_is_away_or_has_no_room(
    tester: TesterService, device: MqttDevice, settings: Settings
) -> None:
    """PUBACK also comes for what our own stream refuses; here it has room for two hundred messages."""
    records = sample(250)
    async with running(DatabaseMongoService, settings):
        await eventually(lambda: forwards(tester))
    for record in records:
        device.publish(TOPIC, json.dumps(record))
    await eventually(lambda: device.waiting <= 50)
    assert len(device.acknowledged) == 200  # the others have no PUBACK, so the device keeps them
    assert await kept(tester, mqtt.STREAM) == 200

    async def copied() -> bool:  # later than PUBACK
        return await kept(tester, STREAM) == 200

    await eventually(copied)
    async with running(DatabaseMongoService, settings):
        await asyncio.to_thread(device.settle)
        await settled(tester, 250)
        assert await raw(tester) == records
    await eventually(lambda: nothing_kept(tester))


async def test_what_came_before_the_system_forwards_is_not_taken_for_a_copy(
    tester: TesterService, device: MqttDevice, settings: Settings
) -> None:
    """An older release, or a setting that is new: the stream of records is there, the consumer of MQTT messages is not."""
    records = sample(3)
    await IngestStreams(tester.broker.client, settings).ensure()
    device.publish(TOPIC, json.dumps(records[0]))
    await asyncio.to_thread(device.settle)
    async with running(DatabaseMongoService, settings):
        await settled(tester, 1)
        device.publish(TOPIC, json.dumps(records[1]))
        await asyncio.to_thread(device.settle)
        await settled(tester, 2)
        assert await raw(tester) == records[:2]
        # The consumer stays as it is when the service starts again.
    context = tester.broker.client.jetstream()
    created = (await context.consumer_info(mqtt.STREAM, "database")).created
    async with running(DatabaseMongoService, settings):
        device.publish(TOPIC, json.dumps(records[2]))
        await asyncio.to_thread(device.settle)
        await settled(tester, 1)
        assert await raw(tester) == records
    info = await context.consumer_info(mqtt.STREAM, "database")
    assert info.created == created


@pytest.mark.usefixtures("database")
async def test_the_example_of_the_docs_works_as_it_is_printed(tester: TesterService, broker: MqttServer) -> None:
    code = DOCS.partition("```python\n")[2].partition("```")[0]
    names = {"password": BROKER_PASSWORD, "port": broker.mqtt_port}
    await asyncio.to_thread(exec, code, names)
    names["client"].loop_stop()  # type: ignore[attr-defined]
    await settled(tester, 1)
    [record] = await raw(tester)
    assert (record[ID], record["rohwert_1_labormessung"]) == ("P-4711", 12.5)


PRESS = """
name: press
target: strength
columns:
  - {name: temp, type: number, optional: true, fill: 20, range: [0, 500], unit: degC}
  - {name: readings, type: integer, optional: true, fill: 0}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: keep, column: temp}
collect:
  things: [press-4.*, lab.*]
  columns:
    temp: {machine: press-4, name: temperature, over: 1h, take: mean}
    readings: {machine: press-4, name: temperature, over: 1h, take: count, unit: degC}
  record: {on: 'thing "press-4.part_done"', id: value, wait: 0.3s}
  label: {column: strength, from: 'thing "lab.strength"', match: id, within: 1h}
"""


async def publish_as_printed(broker: MqttServer, what: str) -> None:
    """Run the documentation's command block with ``mosquitto_pub`` that has a text; only port and password are this broker's."""
    [block] = [each for each in DOCS.split("```")[1::2] if "mosquitto_pub" in each and what in each]
    assert "-p 1883 -u press-4 -P ..." in block
    script = block.replace("-p 1883", f"-p {broker.mqtt_port}").replace("-P ...", f"-P {BROKER_PASSWORD}")
    bash = await asyncio.create_subprocess_exec("bash", "-euc", script, stderr=asyncio.subprocess.PIPE)
    _, said = await bash.communicate()
    assert (bash.returncode, said) == (0, b"")


@pytest.mark.usefixtures("database")
async def test_the_command_that_publishes_a_record_works_as_it_is_printed(tester: TesterService, broker: MqttServer) -> None:
    await publish_as_printed(broker, "rohwert_1_labormessung")
    await settled(tester, 1)
    [record] = await raw(tester)
    assert (record[ID], record["rohwert_1_labormessung"]) == ("P-4711", 12.5)


async def test_the_commands_that_publish_readings_work_as_they_are_printed(
    tester: TesterService, broker: MqttServer, settings: Settings
) -> None:
    press = Dataset.parse(PRESS)
    async with (
        running(DatabaseMongoService, settings, press),
        running(ThingCollectionService, settings, press) as collection,
    ):
        await eventually(lambda: collection.health().state == "ready")
        await publish_as_printed(broker, "things/press-4/temperature")

        async def heard() -> CollectionState | None:
            state: CollectionState = await tester.ask(GET_COLLECTION, Empty())
            known = any(sensor.value is not None for sensor in state.sensors)
            return state if known and not state.behind and not await kept(tester, mqtt.STREAM) else None

        state = await eventually(heard)
        assert (state.counts.malformed, state.counts.unusable, state.notes) == (0, 0, ())
        assert [(each.name, each.value) for each in state.sensors if each.value is not None] == [
            ("press-4.temperature", 61.5)
        ]


async def test_readings_become_records_each_counted_once(
    tester: TesterService, device: MqttDevice, broker: MqttServer, settings: Settings
) -> None:
    """Plain numbers are of the time at which the broker took them; QoS 1 brings each message to the stream twice."""
    press = Dataset.parse(PRESS)
    async with (
        running(DatabaseMongoService, settings, press),
        running(ThingCollectionService, settings, press) as collection,
    ):
        await eventually(lambda: collection.health().state == "ready")
        now = time.time()
        device.publish("things/press-4/temperature", "61.5")
        device.publish("things/press-4/temperature", "62.5", 0)
        reading = {"value": 60.0, "unit": "degC", "timestamp": now - 1, "measurement_id": "m1"}
        device.publish("things/press-4/temperature", json.dumps(reading))
        for bad in (b"", b"{", json.dumps({**reading, "machine": "press-5"})):
            device.publish("things/press-4/temperature", bad)
        await asyncio.to_thread(device.settle)
        device.publish("things/press-5/temperature", "99")  # refused: another device's
        device.publish("things/press-4/part_done", json.dumps({"value": "P-1", "timestamp": time.time() + 0.5}))
        with mqtt_device(broker.mqtt_port) as laboratory:
            laboratory.publish("things/lab/strength", json.dumps({"value": {"id": "P-1", "strength": 31.5}}))
            await asyncio.to_thread(laboratory.settle)

        async def made() -> list[Record] | None:
            state: CollectionState = await tester.ask(GET_COLLECTION, Empty())
            return await raw(tester) if state.counts.labels else None

        [record] = await eventually(made)
        assert record == {ID: "P-1", "temp": pytest.approx((61.5 + 62.5 + 60) / 3), "readings": 3, "strength": 31.5}
        state: CollectionState = await tester.ask(GET_COLLECTION, Empty())
        assert (state.counts.records, state.counts.labels, state.counts.malformed) == (1, 1, 3)
        assert any("press-5.temperature" in note for note in state.notes)
    await eventually(lambda: nothing_kept(tester))
