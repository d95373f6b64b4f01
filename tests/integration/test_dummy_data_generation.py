"""The dummy source against a real broker and a real database service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import polars as pl
import pytest
import yaml
from msgspec import structs

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import InvalidRequestError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.ingest.streams import IngestStreams
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import GET_ALL_RAW, event_subject
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import GET_SCENARIO, SERVICE_HEARTBEAT, SET_SCENARIO, ScenarioRequest
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from support import TesterService, eventually, running


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    fields = {
        "mongo_name": f"test_{uuid4().hex[:12]}",
        "records": 450,
        "batch_size": 100,
        "seed": 3,
        "live_rate": 0,
        "source_interval": 0.1,
    }
    return make_settings(nats_server, mongo_server, **fields)


async def raw_records(tester: TesterService) -> list[Record]:
    records: list[Record] = await tester.ask(GET_ALL_RAW, {})
    return records


def is_done(service: DummyDataGenerationService) -> bool:
    return service.health().state == "ready"


def tasks_at_work(service: SystemService) -> list[Any]:
    return [task for task in service._tasks if not task.done()]


async def test_the_stock_is_the_seeds_and_a_restart_changes_nothing(tester: TesterService, settings: Settings) -> None:
    async with running(DatabaseMongoService, settings):
        for _ in range(2):
            async with running(DummyDataGenerationService, settings) as service:
                await eventually(lambda service=service: is_done(service))
                assert service.health().detail == "450 of 450 records saved"
            assert await raw_records(tester) == list(Laboratory(3).records(450))


async def test_it_says_how_far_it_is(tester: TesterService, settings: Settings) -> None:
    states: list[str] = []

    async def hear(thing: Any) -> None:
        if thing.value["service"] == "dummy_data_generation":
            states.append(f"{thing.value['state']}: {thing.value['detail']}")

    subscription = await tester.broker.subscribe(event_subject(SERVICE_HEARTBEAT), hear)
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings):
        await eventually(lambda: "ready: 450 of 450 records saved" in states)
    await subscription.unsubscribe()
    assert any(state.startswith("working: ") and state.endswith(" of 450 records saved") for state in states)


async def test_it_waits_for_the_database_and_loses_nothing(tester: TesterService, settings: Settings) -> None:
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health().state == "waiting")
        assert "save-many-raw-datapoints" in service.health().detail
        async with running(DatabaseMongoService, settings):
            await eventually(lambda: is_done(service))
            assert [record["_id"] for record in await raw_records(tester)] == [
                record["_id"] for record in Laboratory(3).records(450)
            ]


async def test_it_may_publish_and_then_needs_no_database(tester: TesterService, settings: Settings) -> None:
    settings = settings.copy(update={"source_sends": "messages"})
    await IngestStreams(tester.broker.client, settings).ensure()
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: is_done(service))
        assert service.health().detail == "450 of 450 records published"
    async with running(DatabaseMongoService, settings):

        async def saved() -> bool:
            return (await DatabaseClient(tester).counts()).raw == 450

        await eventually(saved, 60)
        assert await raw_records(tester) == list(Laboratory(3).records(450))


async def test_a_batch_that_the_broker_does_not_take_is_halved(default_nats_server: Server, settings: Settings) -> None:
    settings = settings.copy(update={"records": 6000, "batch_size": 20_000, "nats_port": default_nats_server.port})
    async with (
        running(TesterService, settings) as tester,
        running(DatabaseMongoService, settings),
        running(DummyDataGenerationService, settings) as service,
    ):
        assert len(msgspec.msgpack.encode(list(Laboratory(3).records(6000)))) > service.broker.max_payload
        await eventually(lambda: is_done(service))
        assert (await DatabaseClient(tester).counts()).raw == 6000


async def test_the_live_stream_makes_new_measurements_of_now(tester: TesterService, settings: Settings) -> None:
    settings = settings.copy(update={"records": 0, "live_rate": 20.0})
    database = DatabaseClient(tester)

    async def enough() -> bool:
        return (await database.counts()).raw >= 40

    started = datetime.now().replace(microsecond=0)
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings):
        await eventually(enough)
        records = await raw_records(tester)
    stock = {record["_id"] for record in Laboratory(3).records(100)}
    assert not stock & {record["_id"] for record in records}
    for record in records:
        assert started <= datetime.strptime(record["datum"], "%d.%m.%Y, %H:%M:%S") < started + timedelta(minutes=1)
    assert len({record["rohwert_2_labormessung"] for record in records}) > 20


async def test_it_makes_no_records_for_another_data_set(tester: TesterService, settings: Settings, dataset: Dataset) -> None:
    other = Dataset.parse(yaml.safe_dump({**yaml.safe_load(dataset.json()), "law": None}))
    async with running(DummyDataGenerationService, settings, other) as service:
        health = service.health()
        assert health.state == "ready"
        assert "makes lab records only" in health.detail
        assert "data set 'lab'" in health.detail
        assert len(tasks_at_work(service)) == len(tasks_at_work(tester)) + 1  # which watches its lease


@pytest.fixture
def replayed(settings: Settings, tmp_path: Path) -> Callable[..., Settings]:
    """Writes a file of records, by default without keys, into the config folder, and settings that have it replayed."""

    def write(records: list[Record], name: str = "measurements.csv", keys: bool = False) -> Settings:
        rows = [{name: value for name, value in record.items() if keys or name != "_id"} for record in records]
        pl.DataFrame(rows, infer_schema_length=None).write_csv(tmp_path / f"{name}.part")
        (tmp_path / f"{name}.part").replace(tmp_path / name)  # whole, whenever the source looks
        # The live rate shows that nothing is made beside the file.
        return settings.copy(update={"source_file": name, "config_dir": str(tmp_path), "live_rate": 50.0})

    return write


async def test_a_file_replayed_twice_changes_nothing(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    records = list(laboratory.records(500))
    settings = replayed(records)
    kept: list[list[Record]] = []
    async with running(DatabaseMongoService, settings):
        for _ in range(2):
            async with running(DummyDataGenerationService, settings) as service:
                await eventually(lambda service=service: is_done(service))
                assert service.health().detail == "500 of 500 records saved"
                # No live stream: only what every service has, the watch over the lease, and the look at the file.
                await eventually(lambda service=service: len(tasks_at_work(service)) == len(tasks_at_work(tester)) + 2)
            kept.append(await raw_records(tester))
    assert kept[0] == kept[1]
    assert [{**record, "_id": None} for record in kept[0]] == [{**record, "_id": None} for record in records]


async def test_rows_that_are_refused_cost_only_themselves(
    tester: TesterService,
    replayed: Callable[..., Settings],
    laboratory: Laboratory,
    dataset: Dataset,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reader refuses what the source's own declaration does not take, the database what its does not."""
    records = list(laboratory.records(300))
    for record in records[:200:4]:
        record["laborant"] = None  # 50 in two batches: more than one refusal names
    for record in records[1:200:4]:
        record["laborant"] = "TK"
    for record in records[200:]:
        record["laborant"] = "AN"
    for record in records[2:200:4] + records[3:200:4]:
        record["laborant"] = "SO"
    records[250]["material_id"] = None
    settings = replayed(records)
    content = yaml.safe_load(dataset.json())
    (column,) = [column for column in content["columns"] if column["name"] == "laborant"]
    column["optional"] = False
    stricter = Dataset.parse(yaml.safe_dump(content))
    async with (
        running(DatabaseMongoService, settings, stricter),
        running(DummyDataGenerationService, settings) as service,
    ):
        await eventually(lambda: is_done(service))
        assert service.health().detail == "249 of 300 records saved, 51 refused"
        saved = await raw_records(tester)
    good = [record for place, record in enumerate(records) if record["laborant"] is not None and place != 250]
    assert [record["datum"] for record in saved] == [record["datum"] for record in good]
    assert "measurements.csv, row 5 is refused: field 'laborant': must be a text, and is missing" in caplog.text
    assert "measurements.csv, row 251 is refused: field 'material_id': " in caplog.text


async def test_it_waits_for_a_file_and_replays_any_data_set(
    tester: TesterService, settings: Settings, dataset: Dataset, tmp_path: Path, laboratory: Laboratory
) -> None:
    other = Dataset.parse(yaml.safe_dump({**yaml.safe_load(dataset.json()), "name": "ovens"}))
    path = tmp_path / "records.jsonl"
    settings = settings.copy(update={"source_file": str(path)})
    records = list(laboratory.records(120))
    async with (
        running(DatabaseMongoService, settings, other),
        running(DummyDataGenerationService, settings, other) as service,
    ):
        await eventually(lambda: service.health().state == "waiting")
        assert service.health().detail == f"the file {path} does not exist"
        partial = tmp_path / "partial"
        partial.write_text("".join(json.dumps(record) + "\n" for record in records))
        partial.rename(path)
        await eventually(lambda: is_done(service))
        assert await raw_records(tester) == records


async def test_a_file_of_other_columns_stops_it_with_a_sentence(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    settings = replayed([{**record, "colour": "red"} for record in laboratory.records(3)])
    async with (
        running(DatabaseMongoService, settings),
        running(DummyDataGenerationService, settings) as service,
    ):
        await eventually(lambda: service.health().state == "failing")
        assert "unknown column(s) 'colour'" in service.health().detail
        assert (await DatabaseClient(tester).counts()).raw == 0


async def test_a_row_that_no_message_can_hold_is_refused_and_the_others_are_saved(
    default_nats_server: Server, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    records = list(laboratory.records(100))
    records[40]["datum"] = "x" * 1_100_000
    settings = replayed(records).copy(update={"nats_port": default_nats_server.port})
    async with (
        running(DatabaseMongoService, settings),
        running(DummyDataGenerationService, settings) as service,
    ):
        await eventually(lambda: is_done(service))
        assert service.health().detail == "99 of 100 records saved, 1 refused"


async def test_refused_records_stop_it_loudly(
    tester: TesterService, settings: Settings, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    content = {**yaml.safe_load(dataset.json()), "law": None}
    content["columns"] = [column for column in content["columns"] if column["name"] != "datum"]
    fewer = Dataset.parse(yaml.safe_dump(content))
    async with (
        running(DatabaseMongoService, settings, fewer),
        running(DummyDataGenerationService, settings) as service,  # its declaration is newer than the database's
    ):
        await eventually(lambda: service.health().state == "failing")
        assert "field 'datum': is not a declared field" in service.health().detail
        assert "no more records are made" in caplog.text
        assert (await DatabaseClient(tester).counts()).raw == 0


async def test_a_scenario_happens_to_the_live_records_only(tester: TesterService, settings: Settings) -> None:
    settings = settings.copy(update={"live_rate": 50.0, "scenario": "missing"})
    stock = {record["_id"]: record for record in Laboratory(3).records(450)}

    async def live() -> list[Record]:
        return [record for record in await raw_records(tester) if record["_id"] not in stock]

    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: "scenario missing" in service.health().detail)

        async def failing() -> bool:
            records = await live()
            return len(records) > 100 and sum(r["rohwert_2_labormessung"] is None for r in records) > 0.45 * len(records)

        await eventually(failing)
        present = await tester.ask(GET_SCENARIO, Empty())
        assert (present.scenario, present.ramp) == ("missing", settings.scenario_ramp)
        begun = await tester.ask(SET_SCENARIO, ScenarioRequest(scenario="new_category", ramp=7))
        assert (begun.scenario, begun.ramp) == ("new_category", 7)
        assert begun.began >= present.began

        async def renamed() -> bool:
            return any(record["material_id"] == "44444444" for record in await live())

        await eventually(renamed)
        for wrong in ({"scenario": "storm"}, {"scenario": "shift", "ramp": "long"}, {}, None, ["shift"]):
            with pytest.raises(InvalidRequestError):
                await tester.ask(SET_SCENARIO, wrong)  # type: ignore[arg-type]
        after = structs.replace(await tester.ask(GET_SCENARIO, Empty()), age=begun.age)
        assert after == begun, "a wrong request changes nothing"
        kept = {record["_id"]: record for record in await raw_records(tester)}
        assert all(kept[key] == record for key, record in stock.items())


async def test_a_source_that_makes_no_lab_records_has_no_scenarios(
    tester: TesterService, settings: Settings, dataset: Dataset
) -> None:
    other = Dataset.parse(yaml.safe_dump({**yaml.safe_load(dataset.json()), "law": None}))
    async with running(DummyDataGenerationService, settings, other):
        with pytest.raises(InvalidRequestError, match="lab records only"):
            await tester.ask(SET_SCENARIO, ScenarioRequest(scenario="shift"))


async def test_a_replay_keeps_its_order_and_rate_and_repeats_under_keys_of_its_own(
    tester: TesterService, settings: Settings, tmp_path: Path
) -> None:
    columns = [{"name": "made", "type": "datetime", "format": "%Y-%m-%d"}, {"name": "x", "type": "number", "range": [0, 99]}]
    declared = {
        "name": "ordered",
        "target": "x",
        "columns": columns,
        "pipeline": [{"step": "date_parts", "column": "made", "parts": ["day"]}],
    }
    dataset = Dataset.parse(json.dumps(declared))
    (tmp_path / "records.csv").write_text(
        "_id,made,x\n" + "".join(f"k{i:02d},2024-01-{30 - i:02d},{i}\n" for i in range(20))
    )
    sent: list[Any] = []

    async def hear(thing: Any) -> None:
        if thing.value["service"] == "dummy_data_generation":
            sent.append((thing.value["state"], thing.value["detail"]))

    subscription = await tester.broker.subscribe(event_subject(SERVICE_HEARTBEAT), hear)
    settings = settings.copy(update={
        "config_dir": str(tmp_path), "source_file": "records.csv", "source_order": "made", "source_rate": 10.0, "source_repeat": 2,
        "heartbeat_interval": 0.05,
    })  # fmt: skip
    async with running(DatabaseMongoService, settings, dataset):
        began = time.monotonic()
        async with running(DummyDataGenerationService, settings, dataset) as service:
            client = DatabaseClient(tester)

            async def some() -> bool:
                return 0 < (await client.counts()).raw < 40

            await eventually(some)
            first = {record["_id"] for record in await raw_records(tester)}
            assert "k19" in first  # of the first day
            await eventually(lambda: is_done(service), 60)
            # Four batches of ten a second: the last one begins three seconds after the first.
            assert time.monotonic() - began >= 2.9
            assert service.health().detail == "40 of 40 records saved, repetition 2"
        keys = [record["_id"] for record in await raw_records(tester)]
        assert sorted(keys) == sorted([f"k{i:02d}" for i in range(20)] + [f"k{i:02d}~2" for i in range(20)])
        # Without end it is a live stream: ready once the file is through.
        async with running(
            DummyDataGenerationService, settings.copy(update={"source_repeat": 0, "source_rate": 200.0}), dataset
        ):
            await eventually(lambda: any(state == "ready" and "repetition 3" in detail for state, detail in sent), 60)
        assert "k00~3" in {record["_id"] for record in await raw_records(tester)}
    await subscription.unsubscribe()


async def test_an_order_that_is_not_known_stops_the_source_with_a_sentence(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    settings = replayed(list(laboratory.records(3))).copy(update={"source_order": "size"})
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health().state == "failing")
        assert "cannot be ordered by 'size'; allowed are 'file', 'shuffled'" in service.health().detail


async def test_a_file_that_grows_and_changes_is_read_again_and_says_what_became_of_it(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    records = [{**laboratory.complete_record(), "_id": f"B-{i:04}", "aufbereiteter_wert": i + 0.5} for i in range(20)]
    late = [{**record, "aufbereiteter_wert": None} if place < 2 else record for place, record in enumerate(records)]
    settings = replayed(late[:18], keys=True)
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health().detail == "18 of 18 records saved")
        replayed([*records[:7], {**records[7], "aufbereiteter_wert": 99.99}, *records[8:]], keys=True)
        said = "20 of 20 records saved: 2 new, 15 known, 2 filled, 1 differs and is not taken: B-0007"
        await eventually(lambda: service.health().detail == said)
        assert await raw_records(tester) == records
        assert (await DatabaseClient(tester).counts()).conflicts == 1


@pytest.mark.parametrize("older", [False, True])
async def test_a_corrected_file_replaces_what_an_older_one_said(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory, tmp_path: Path, older: bool
) -> None:
    record = {**laboratory.complete_record(), "_id": "B-0007", "aufbereiteter_wert": 1.0}
    corrected = {**record, "aufbereiteter_wert": 99.99}
    settings = replayed([record], keys=True).copy(update={"on_conflict": "replace"})
    async with running(DatabaseMongoService, settings):
        async with running(DummyDataGenerationService, settings) as service:
            await eventually(lambda: is_done(service))
        replayed([corrected], keys=True)
        (path,) = tmp_path.glob("*.csv")
        moment = path.stat().st_mtime + (-60 if older else 60)
        os.utime(path, (moment, moment))
        async with running(DummyDataGenerationService, settings) as service:
            await eventually(lambda: is_done(service))
            end = "and is not taken" if older else "and replaces what was there"
            assert service.health().detail == f"1 of 1 records saved: 1 differs {end}: B-0007"
        assert await raw_records(tester) == [record if older else corrected]


async def test_a_changed_file_without_keys_is_not_read_again_and_it_says_so(
    tester: TesterService, replayed: Callable[..., Settings], laboratory: Laboratory
) -> None:
    records = [{name: value for name, value in each.items() if name != "_id"} for each in laboratory.records(5)]
    settings = replayed(records[:4])
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health().detail == "4 of 4 records saved")
        replayed(records)
        said = "4 of 4 records saved; the file has changed and is not read again, because its rows have no keys"
        await eventually(lambda: service.health().detail == said)
        assert len(await raw_records(tester)) == 4


@pytest.mark.parametrize("repeat", [0, 3])
async def test_a_file_that_is_repeated_and_changes_is_read_again_too(
    tester: TesterService,
    replayed: Callable[..., Settings],
    laboratory: Laboratory,
    repeat: int,
) -> None:
    """Also while it is repeated, which may have no end."""
    records = [{**laboratory.measured_record(), "_id": f"k{place}"} for place in range(5)]
    without = [{**record, "aufbereiteter_wert": None} for record in records[:2]]
    settings = replayed([*without, *records[2:4]], keys=True).copy(update={"source_repeat": repeat, "source_rate": 20.0})
    wanted = {f"{record['_id']}{end}": record for record in records for end in ("", "~2", "~3")}

    async def arrived() -> bool:
        found = {record["_id"]: record for record in await raw_records(tester)}
        return all(found.get(key) == {**record, "_id": key} for key, record in wanted.items())

    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service._delivery.progress.repetition >= 2)
        replayed(records, keys=True)
        await eventually(arrived)
        if repeat:
            await eventually(lambda: is_done(service))
            assert service.health().detail.startswith("15 of 15 records saved, repetition 3: ")


@pytest.mark.parametrize("repeat", [0, 3])
async def test_a_repeated_file_without_keys_that_changes_is_not_read_again_and_it_says_so(
    replayed: Callable[..., Settings], laboratory: Laboratory, repeat: int
) -> None:
    settings = replayed(list(laboratory.records(4))).copy(update={"source_repeat": repeat, "source_rate": 8.0})
    said = "the file has changed and is not read again, because its rows have no keys"
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service._delivery.progress.repetition >= 2)
        replayed(list(laboratory.records(4)))
        await eventually(lambda: said in service.health().detail and service._delivery.progress.repetition >= 3)
        if repeat:
            await eventually(lambda: is_done(service))
            assert service.health().detail == f"12 of 12 records saved, repetition 3; {said}"
