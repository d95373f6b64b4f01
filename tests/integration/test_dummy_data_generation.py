"""The dummy source against a real broker and a real database service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import yaml

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.subjects import DB_GET_ALL_RAW_DATA_SUBJECT, SERVICE_HEARTBEAT
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from support import TesterService, eventually, running


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    fields = {"mongo_name": f"test_{uuid4().hex[:12]}", "records": 450, "batch_size": 100, "seed": 3, "live_rate": 0}
    return make_settings(nats_server, mongo_server, **fields)


async def raw_records(tester: TesterService) -> list[Record]:
    records: list[Record] = await tester.ask(DB_GET_ALL_RAW_DATA_SUBJECT, {})
    return records


def is_done(service: DummyDataGenerationService) -> bool:
    return service.health()["state"] == "ready"


async def test_the_stock_is_the_seeds_and_a_restart_changes_nothing(tester: TesterService, settings: Settings) -> None:
    async with running(DatabaseMongoService, settings):
        for _ in range(2):
            async with running(DummyDataGenerationService, settings) as service:
                await eventually(lambda service=service: is_done(service))
                assert service.health()["detail"] == "450 of 450 records saved"
            assert await raw_records(tester) == list(Laboratory(3).records(450))


async def test_it_says_how_far_it_is(tester: TesterService, settings: Settings) -> None:
    states: list[str] = []

    async def hear(thing: Any) -> None:
        if thing.value["service"] == "dummy_data_generation":
            states.append(f"{thing.value['state']}: {thing.value['detail']}")

    subscription = await tester.broker.subscribe(SERVICE_HEARTBEAT, hear)
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings):
        await eventually(lambda: "ready: 450 of 450 records saved" in states)
    await subscription.unsubscribe()
    assert any(state.startswith("working: ") and state.endswith(" of 450 records saved") for state in states)


async def test_it_waits_for_the_database_and_loses_nothing(tester: TesterService, settings: Settings) -> None:
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health()["state"] == "waiting")
        assert "save-many-raw-datapoints" in service.health()["detail"]
        async with running(DatabaseMongoService, settings):
            await eventually(lambda: is_done(service))
            assert [record["_id"] for record in await raw_records(tester)] == [
                record["_id"] for record in Laboratory(3).records(450)
            ]


async def test_a_batch_that_the_broker_does_not_take_is_halved(default_nats_server: Server, settings: Settings) -> None:
    settings = settings.copy(update={"records": 6000, "batch_size": 20_000, "nats_port": default_nats_server.port})
    async with (
        running(TesterService, settings) as tester,
        running(DatabaseMongoService, settings),
        running(DummyDataGenerationService, settings) as service,
    ):
        assert len(msgspec.msgpack.encode(list(Laboratory(3).records(6000)))) > service.broker.max_payload
        await eventually(lambda: is_done(service))
        assert (await DatabaseClient(tester).counts())["raw"] == 6000


async def test_the_live_stream_makes_new_measurements_of_now(tester: TesterService, settings: Settings) -> None:
    settings = settings.copy(update={"records": 0, "live_rate": 20.0})
    database = DatabaseClient(tester)

    async def enough() -> bool:
        return (await database.counts())["raw"] >= 40

    started = datetime.now().replace(microsecond=0)
    async with running(DatabaseMongoService, settings), running(DummyDataGenerationService, settings):
        await eventually(enough)
        records = await raw_records(tester)
    stock = {record["_id"] for record in Laboratory(3).records(100)}
    assert not stock & {record["_id"] for record in records}
    for record in records:
        assert started <= datetime.strptime(record["datum"], "%d.%m.%Y, %H:%M:%S") < started + timedelta(minutes=1)
    assert len({record["rohwert_2_labormessung"] for record in records}) > 20


async def test_it_makes_no_records_for_another_data_set(settings: Settings, dataset: Dataset) -> None:
    other = Dataset.parse(yaml.safe_dump({**yaml.safe_load(dataset.json()), "name": "ovens"}))
    async with running(DummyDataGenerationService, settings, other) as service:
        health = service.health()
        assert health["state"] == "ready"
        assert "makes lab records only" in health["detail"]
        assert "'ovens'" in health["detail"]
        assert len(service._tasks) == 1  # the heartbeat alone


async def test_refused_records_stop_it_loudly(
    tester: TesterService, settings: Settings, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    content = yaml.safe_load(dataset.json())
    content["columns"] = [column for column in content["columns"] if column["name"] != "datum"]
    fewer = Dataset.parse(yaml.safe_dump(content))
    async with (
        running(DatabaseMongoService, settings, fewer),
        running(DummyDataGenerationService, settings, fewer) as service,
    ):
        await eventually(lambda: service.health()["state"] == "failing")
        assert "field 'datum': is not a declared field" in service.health()["detail"]
        assert "no more are made" in caplog.text
        assert (await DatabaseClient(tester).counts())["raw"] == 0
