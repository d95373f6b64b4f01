"""Readings become records, and labels find them: the service on a real broker and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.js.api import PersistMode
from nats.js.errors import NotFoundError

from complex_system.collection import Collector, Readings
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.errors import ReplyTimeoutError, StartError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.readings import BUCKET, STREAM
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import PREDICT
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION, CollectionState
from complex_system.protocol.database import Saved
from complex_system.protocol.operations import GET_MONITORING
from complex_system.service_layer.collection import labels
from complex_system.service_layer.collection.collection import Collection
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from complex_system_services.thing_collection.thing_collection_service import ThingCollectionService
from models import linear_onnx, register_onnx
from plant import all_raw
from support import TesterService, eventually, running

DATABASES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
DECLARATION = """
name: press
target: strength
columns:
  - {name: temp, type: number, optional: true, fill: 20, range: [0, 500], unit: degC}
  - {name: state, type: category, categories: [run, idle], optional: true}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: keep, column: temp}
  - {step: one_hot, column: state}
collect:
  things: [press-4.*]
  columns:
    temp: {name: temperature, over: 10s, take: mean, unit: degC}
    state: {name: state, not_older: 60s}
  record: {on: 'thing "press-4.part_done"', id: value, wait: 0.3s, predict: true}
  label: {column: strength, from: 'subject "lab.results"', match: id, within: 1h}
"""
BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def press() -> Dataset:
    return Dataset.parse(DECLARATION)


@pytest.fixture(params=[pytest.param("mongo", marks=pytest.mark.long), "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def settings(
    database: str, request: pytest.FixtureRequest, nats_server: Server, make_settings: Callable[..., Settings]
) -> AsyncIterator[Settings]:
    name = f"t{uuid4().hex[:8]}"
    server: Server = request.getfixturevalue(f"{database}_server")
    made = make_settings(nats_server, server, mongo_name=name, maria_name=name)
    yield made
    async with running(TesterService, made) as tester:
        context = tester.broker.client.jetstream()
        for stream in (STREAM, f"KV_{BUCKET}"):
            with contextlib.suppress(NotFoundError):
                await context.delete_stream(stream)


class Predictor(SystemService):
    """Answers requests for predictions: 1 for every record."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked: list[Record] = []

    @answers(PREDICT)
    async def predict(self, records: list[Record]) -> list[list[float]]:
        self.asked += records
        return [[1.0] for _ in records]


@asynccontextmanager
async def collecting(settings: Settings, dataset: Dataset) -> AsyncIterator[ThingCollectionService]:
    """The service, when its stream is there."""
    async with running(ThingCollectionService, settings, dataset) as service:
        await eventually(lambda: service.health().state == "ready", 20)
        yield service


class Machine:
    """Publishes what a press and its laboratory do, and waits until the stream has it."""

    def __init__(self, tester: SystemService) -> None:
        self._tester = tester
        self._context = tester.broker.client.jetstream()
        self.database = DatabaseClient(tester)

    async def thing(self, name: str, value: Any, at: float, unit: str = "", machine: str = "press-4") -> None:
        """As FastIoT's services do."""
        made = Thing(machine=machine, name=name, value=value, timestamp=datetime.fromtimestamp(at, UTC), unit=unit)
        await self._context.publish(made.default_subject.name, serialize_to_bin(Thing, made))

    async def json(self, subject: str, content: Any) -> None:
        await self._context.publish(subject, content if isinstance(content, bytes) else json.dumps(content).encode())

    async def state(self) -> CollectionState:
        return await self._tester.ask(GET_COLLECTION, Empty(), 5.0)

    async def records(self, count: int) -> dict[str, Record]:
        async def there() -> list[Record] | None:
            await asyncio.sleep(0.1)
            found = await all_raw(self.database)
            return found if len(found) >= count else None

        return {record[ID]: record for record in await eventually(there, 20)}

    async def labelled(self, key: str, value: float | None) -> None:
        async def there() -> bool:
            await asyncio.sleep(0.1)
            return (await self.database.raw_by_keys([key])).to_pydict()["strength"] == [value]

        await eventually(there, 20)

    async def counted(self, **wanted: int) -> CollectionState:
        async def there() -> CollectionState | None:
            await asyncio.sleep(0.1)
            state = await self.state()
            return state if all(getattr(state.counts, name) == n for name, n in wanted.items()) else None

        found: CollectionState = await eventually(there, 20)
        return found


async def test_things_json_and_plain_values_become_a_record_that_is_predicted_at_once(
    settings: Settings, database: str, press: Dataset
) -> None:
    async with (
        running(DATABASES[database], settings, press),
        running(Predictor, settings, press) as predictor,
        collecting(settings, press),
        running(TesterService, settings, press) as tester,
    ):
        machine = Machine(tester)
        await machine.thing("temperature", 100.0, BEGAN, "degC")
        await machine.json("things.press-4.temperature", {"value": 212.0, "timestamp": BEGAN + 1, "unit": "degF"})
        await machine.json("things.press-4.temperature", [{"value": 110.0, "timestamp": "2026-05-01T12:00:02Z"}])
        await machine.json("things.press-4.temperature", {"value": 1.0, "timestamp": BEGAN + 2, "unit": "bar"})
        await machine.json("things.press-4.state", {"value": "run", "timestamp": BEGAN})
        await machine.json("things.press-4.state", b'{"value": ')
        await machine.thing("part_done", "part-1", BEGAN + 3)
        [record] = (await machine.records(1)).values()
        assert record == {ID: "part-1", "temp": pytest.approx(310 / 3), "state": "run", "strength": None}
        await eventually(lambda: predictor.asked, 10)
        assert [asked[ID] for asked in predictor.asked] == ["part-1"]
        state = await machine.counted(records=1, predicted=1, malformed=1)
        temperature = next(sensor for sensor in state.sensors if sensor.name == "press-4.temperature")
        assert (temperature.value, temperature.unit, temperature.at) == (110.0, "degC", BEGAN + 2)
        assert any("bar" in note and "degC" in note for note in state.notes)
        # A value alone, without a time of its own, has that of its arrival.
        await machine.json("things.press-4.temperature", b"21.5")
        await machine.json("things.press-4.state", b"idle")
        await machine.json("things.press-4.part_done", b'"part-2"')
        found = (await machine.records(2))["part-2"]
        assert (found["temp"], found["state"]) == (21.5, "idle")


async def test_labels_come_after_their_record_before_it_corrected_and_never(
    settings: Settings, database: str, press: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "_AGAIN", 0.2)
    async with (
        running(DATABASES[database], settings.copy(update={"on_conflict": "replace"}), press),
        running(TesterService, settings, press) as tester,
    ):
        machine = Machine(tester)
        async with collecting(settings, press):
            await machine.thing("part_done", "after", BEGAN)
            await machine.records(1)
            await machine.json("lab.results", {"id": "after", "strength": 41.5, "timestamp": BEGAN + 100})
            await machine.labelled("after", 41.5)
            await machine.json("lab.results", {"id": "before", "strength": 42.5, "timestamp": BEGAN + 100})
            await machine.json("lab.results", [{"id": "after", "strength": 43.5, "timestamp": BEGAN + 200}])
            await machine.labelled("after", 43.5)
            # An older value that comes later does not replace a newer one.
            await machine.json("lab.results", {"id": "after", "strength": 9.0, "timestamp": BEGAN + 150})
            state = await machine.counted(labels=3)
            assert [(each.record, each.value) for each in state.open_labels] == [("before", 42.5)]
            await machine.labelled("after", 43.5)
        # The label waits through a restart, for a record that comes then.
        async with collecting(settings, press):
            assert (await machine.counted(labels=3)).waiting_labels == 1
            await machine.thing("part_done", "before", BEGAN + 10)
            await machine.labelled("before", 42.5)
            state = await machine.counted(labels=4, records=2)
            assert state.waiting_labels == 0
            for _ in range(3):
                await machine.json("lab.results", {"strength": 1.0})
            state = await machine.counted(malformed=3)
            [note] = [each for each in state.notes if "lab.results" in each]
            assert note.endswith("(3 times)")
        short = Dataset.parse(DECLARATION.replace("within: 1h", "within: 1s"))
        async with collecting(settings, short):
            await machine.json("lab.results", {"id": "never", "strength": 1.0})
            state = await machine.counted(unmatched=1)
            assert [each.record for each in state.unmatched] == ["never"]
            assert state.waiting_labels == 0
        assert len(await all_raw(machine.database)) == 2


async def test_a_restart_in_the_middle_of_a_record_makes_it_once_and_as_if_there_was_none(
    settings: Settings, database: str, press: Dataset
) -> None:
    open_ended = Dataset.parse(DECLARATION.replace("wait: 0.3s", "wait: 1h"))
    async with running(DATABASES[database], settings, press), running(TesterService, settings, press) as tester:
        machine = Machine(tester)
        async with collecting(settings, open_ended):
            await machine.thing("temperature", 100.0, BEGAN)
            began = time.monotonic()
            await machine.thing("part_done", "one", BEGAN + 1)

            async def open_record() -> Any:
                return (await machine.state()).open_records

            [waiting] = await eventually(open_record, 20)
            assert waiting.key == "one"
            assert await all_raw(machine.database) == []
        await machine.thing("temperature", 200.0, BEGAN + 0.5)  # while nobody reads
        # However long that took on a busy machine, the reading is not too late for the record, which is due a second later.
        wait = time.monotonic() - began + 1
        async with collecting(settings, Dataset.parse(DECLARATION.replace("wait: 0.3s", f"wait: {wait:.2f}s"))):
            record = (await machine.records(1))["one"]
            assert record["temp"] == 150.0
            await machine.thing("part_done", "two", BEGAN + 2)
            assert (await machine.records(2))["two"]["temp"] == 150.0
            assert (await machine.counted(records=2)).counts.refused == 0
        assert (await machine.database.counts()).conflicts == 0


@pytest.mark.long
async def test_without_the_database_nothing_is_read_on_and_it_says_so(
    settings: Settings, database: str, press: Dataset
) -> None:
    async with running(TesterService, settings, press) as tester:
        machine = Machine(tester)
        async with running(ThingCollectionService, settings, press) as service:
            # It asks for labels of an earlier process; the stream takes readings already.
            await eventually(lambda: "No service answers" in service.health().detail, 10)
            async with running(DATABASES[database], settings, press):
                await eventually(lambda: service.health().state == "ready", 20)
                await machine.thing("part_done", "one", BEGAN)
                await machine.records(1)
            await machine.thing("part_done", "two", BEGAN + 1)
            await eventually(lambda: service.health().state == "waiting", 20)
            state = await machine.state()
            assert "No service answers" in state.problem
            async with running(DATABASES[database], settings, press):
                assert set(await machine.records(2)) == {"one", "two"}


@pytest.mark.long
async def test_a_sensor_that_stops_is_silent(settings: Settings, database: str, press: Dataset) -> None:
    quick = Dataset.parse(DECLARATION.replace("over: 10s", "over: 1s"))
    async with (
        running(DATABASES[database], settings, quick),
        collecting(settings, quick),
        running(TesterService, settings, quick) as tester,
    ):
        machine = Machine(tester)

        async def silent(wanted: bool) -> bool:
            await asyncio.sleep(0.1)
            found = [each for each in (await machine.state()).sensors if each.name == "press-4.temperature"]
            return bool(found) and found[0].at is not None and found[0].silent is wanted

        async def heard() -> bool:
            await machine.thing("temperature", 100.0, time.time())  # again and again: on a busy machine one is soon too old
            return await silent(False)

        await eventually(heard, 20)
        await eventually(lambda: silent(True), 20)
        await eventually(heard, 20)


@pytest.mark.long
async def test_a_stream_that_is_deleted_is_created_again(settings: Settings, database: str, press: Dataset) -> None:
    async with (
        running(DATABASES[database], settings, press),
        collecting(settings, press) as service,
        running(TesterService, settings, press) as tester,
    ):
        machine = Machine(tester)
        await machine.thing("part_done", "one", BEGAN)
        await machine.records(1)
        await tester.broker.client.jetstream().delete_stream(STREAM)
        await eventually(lambda: service.health().state == "waiting", 20)
        await eventually(lambda: service.health().state == "ready", 20)
        await machine.thing("part_done", "two", BEGAN + 1)
        await machine.records(2)
        await machine.counted(records=2)


async def test_a_record_is_predicted_once_also_where_an_answer_is_lost_or_the_stream_is_read_again(
    settings: Settings, database: str, press: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, lost = DatabaseClient.save_raw, []

    async def save_and_lose_one_answer(self: DatabaseClient, records: list[Record]) -> Saved:
        saved = await save(self, records)
        if not lost:
            lost.append(True)
            raise ReplyTimeoutError("The answer is lost.")
        return saved

    async def not_kept(self: Collection) -> None:
        """As if the process were killed."""

    async with (
        running(DATABASES[database], settings, press),
        running(Predictor, settings, press) as predictor,
        running(TesterService, settings, press) as tester,
    ):
        machine = Machine(tester)
        with monkeypatch.context() as patched:
            patched.setattr(DatabaseClient, "save_raw", save_and_lose_one_answer)
            patched.setattr(Collection, "_keep_place", not_kept)
            async with collecting(settings, press):
                await machine.thing("part_done", "one", BEGAN)
                await machine.counted(predicted=1)
        for name, at in (("two", 1), ("three", 2)):  # while nobody reads
            await machine.thing("part_done", name, BEGAN + at)
        async with collecting(settings, press):
            await machine.counted(records=3, predicted=2)
        assert sorted(str(asked[ID]) for asked in predictor.asked) == ["one", "three", "two"]
    assert lost


@pytest.mark.long
async def test_a_fault_of_our_own_loses_nothing(
    settings: Settings, database: str, press: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, failed = Collector.add, []

    def fail_once(self: Collector, readings: Readings) -> None:
        add(self, readings)
        if "part_done" in readings.names and not failed:
            failed.append(True)
            raise ZeroDivisionError

    monkeypatch.setattr(Collector, "add", fail_once)
    async with (
        running(DATABASES[database], settings, press),
        collecting(settings, press),
        running(TesterService, settings, press) as tester,
    ):
        machine = Machine(tester)
        await machine.thing("temperature", 100.0, BEGAN)
        await machine.json("lab.results", {"id": "one", "strength": 7.0})
        await machine.thing("part_done", "one", BEGAN + 1)
        assert (await machine.records(1))["one"]["temp"] == 100.0
        await machine.labelled("one", 7.0)
        assert failed


@pytest.mark.long
@pytest.mark.parametrize(("durable", "mode"), [(True, None), (False, PersistMode.ASYNC)])
async def test_what_the_stream_drops_before_it_is_read_is_counted(
    settings: Settings, database: str, press: Dataset, durable: bool, mode: PersistMode | None
) -> None:
    settings = settings.copy(update={"collect_durable": durable})
    async with running(DATABASES[database], settings, press), running(TesterService, settings, press) as tester:
        machine = Machine(tester)
        async with collecting(settings, press):
            await machine.thing("part_done", "one", BEGAN)
            await machine.records(1)
        for part in range(20):
            await machine.thing("part_done", f"part-{part}", BEGAN + 1 + part)
        assert (await tester.broker.client.jetstream().stream_info(STREAM)).config.persist_mode == mode
        await tester.broker.client.jetstream().purge_stream(STREAM, keep=5)
        async with collecting(settings, press):
            await machine.records(6)
            await machine.counted(records=6, dropped=15)


async def test_without_a_declaration_it_says_what_is_missing(settings: Settings, dataset: Dataset) -> None:
    with pytest.raises(StartError, match="no 'collect'"):
        async with running(ThingCollectionService, settings, dataset):
            pass


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
async def test_a_label_becomes_the_true_value_of_the_prediction_that_was_made_at_part_done(
    settings: Settings, database: str, press: Dataset, mlflow_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlMonitoringService, "ask_interval", 1.0)
    for name, value in mlflow_server.environment().items():
        monkeypatch.setenv(name, value)
    fields = {
        "mlflow_tracking_uri": mlflow_server.url,
        "model_prefix": prefix,
        "serving_mlflow_port": 0,
        "monitoring_port": 0,
    }
    settings = settings.copy(update={**fields, "monitoring_interval": 1.0, "processing_interval": 0.2})
    await asyncio.to_thread(register_onnx, mlflow_server.url, press, linear_onnx(press, 5.0), prefix=prefix)
    async with AsyncExitStack() as services:
        start = services.enter_async_context
        await start(running(DATABASES[database], settings, press))
        await start(running(DataProcessingService, settings, press))
        monitoring = await start(running(MlMonitoringService, settings, press))
        serving = await start(running(MlServingMlflowService, settings, press))
        await eventually(lambda: serving.champion.current, 60)
        tester = await start(running(TesterService, settings, press))
        await start(collecting(settings, press))
        machine = Machine(tester)
        for part in range(20):
            at = BEGAN + 100 * part
            await machine.thing("temperature", 100.0 + part, at, "degC")
            await machine.thing("part_done", f"part-{part}", at + 1)
        await machine.counted(records=20, predicted=20)
        await eventually(lambda: monitoring.monitor.join.waiting == 20, 30)
        for part in range(20):  # the model says temperature plus 5
            await machine.json("lab.results", {"id": f"part-{part}", "strength": 102.0 + part})

        async def joined() -> Any:
            await asyncio.sleep(0.5)
            performance = (await tester.ask(GET_MONITORING, Empty())).performance
            return performance if performance.get("count") == 20 else None

        assert (await eventually(joined, 60))["rmse"] == pytest.approx(3.0, abs=1e-3)
        assert monitoring.monitor.flow.collection is not None
