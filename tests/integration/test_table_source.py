"""The source of an SQL table, on a real MariaDB and on SQLite files, with the real broker and database service."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import sqlalchemy as sa

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.subjects import GET_ALL_RAW
from complex_system.settings import Settings
from complex_system.testing.proxy import proxied
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from support import BROKER_PASSWORD, TesterService, eventually, running

DECLARED: dict[str, Any] = {
    "name": "parts", "target": "strength",
    "columns": [
        {"name": "made", "type": "datetime", "format": "%Y-%m-%d %H:%M:%S.%f"},
        {"name": "temp", "type": "number", "range": [0, 1000]},
        {"name": "good", "type": "boolean"},
        {"name": "mould", "type": "category", "categories": ["7", "8"]},
        {"name": "strength", "type": "number", "range": [0, 100_000]},
    ],
    "pipeline": [{"step": "drop", "columns": ["made", "mould"]}, {"step": "scale", "column": "temp"}],
}  # fmt: skip
MOMENT = datetime(2026, 3, 1, 6, 30, 0, 250_000)


class Plant:
    """A database of a plant with the table ``parts``; its rows are made by number."""

    def __init__(self, url: str, changed: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        self.dialect = self.engine.dialect.name
        self.run(
            "CREATE TABLE parts (id INTEGER PRIMARY KEY, made DATETIME(6) NOT NULL, temp DECIMAL(8, 2), good BOOLEAN NOT NULL, "
            f"mould INTEGER NOT NULL, strength DOUBLE, remark VARCHAR(20), changed_at {changed})"
        )

    def run(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)

    def row(self, number: int, **fields: Any) -> dict[str, Any]:
        made = (MOMENT + timedelta(seconds=number)).isoformat(" ")
        row = {"id": number, "made": made, "temp": number / 4, "good": number % 2, "mould": 7 + number % 2, "strength": None,
               "remark": "a", "changed_at": made}  # fmt: skip
        return {**row, **fields}

    def insert(self, *rows: dict[str, Any]) -> None:
        self.run(self.statement, *rows)

    statement = "INSERT INTO parts VALUES (:id, :made, :temp, :good, :mould, :strength, :remark, :changed_at)"


def record(number: int, **fields: Any) -> Record:
    """What the system shall have of ``Plant.row``, without its key."""
    made = (MOMENT + timedelta(seconds=number)).strftime("%Y-%m-%d %H:%M:%S.%f")
    return {
        "made": made,
        "temp": number / 4,
        "good": number % 2 == 1,
        "mould": str(7 + number % 2),
        "strength": None,
        **fields,
    }


@pytest.fixture(params=["sqlite", "maria"])
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    if request.param == "sqlite":
        plant = Plant(f"sqlite:///{tmp_path / 'plant.db'}", "TEXT")
        yield plant
        plant.engine.dispose()
        assert not [each.path for each in psutil.Process().open_files() if each.path.startswith(str(tmp_path))]
        return
    server: Server = request.getfixturevalue("maria_server")
    address = f"mariadb+mariadbconnector://root:@127.0.0.1:{server.port}"
    name = f"plant_{uuid4().hex[:8]}"
    administrator = sa.create_engine(address)
    with administrator.begin() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    plant = Plant(f"{address}/{name}", "TIMESTAMP(6) NULL")
    yield plant
    plant.engine.dispose()
    administrator.dispose()


@pytest.fixture
def dataset() -> Dataset:
    columns = [{**column, "optional": column["name"] == "strength"} for column in DECLARED["columns"]]
    return Dataset.parse(json.dumps({**DECLARED, "columns": columns}))


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings], plant: Plant) -> Settings:
    return make_settings(
        nats_server, mongo_server, mongo_name=f"test_{uuid4().hex[:12]}", source_table="parts", source_table_url=plant.url,
        source_table_cursor="id", batch_size=10, source_interval=0.05, source_table_overlap=5,
    )  # fmt: skip


@pytest.fixture
async def database(settings: Settings, dataset: Dataset) -> AsyncIterator[None]:
    async with running(DatabaseMongoService, settings, dataset):
        yield


async def saved(tester: TesterService) -> list[Record]:
    """All raw records without their keys, by time."""
    records: list[Record] = await tester.ask(GET_ALL_RAW, {})
    assert len({each["_id"] for each in records}) == len(records)
    return sorted(({k: v for k, v in each.items() if k != "_id"} for each in records), key=lambda each: str(each["made"]))


async def has(tester: TesterService, *numbers: int) -> bool:
    return await saved(tester) == [record(number) for number in numbers]


async def test_new_rows_come_once_and_a_restart_goes_on_where_it_was(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None
) -> None:
    plant.insert(*map(plant.row, range(1, 26)))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: (source.health().state, source.health().detail) == ("ready", "25 of 25 records saved"))
        plant.insert(*map(plant.row, range(26, 30)))
        await eventually(lambda: source.health().detail == "29 of 29 records saved")
    assert await has(tester, *range(1, 30))
    plant.insert(*map(plant.row, range(30, 33)))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        # From 29 - 5 on: the rows of the overlap are sent again after a restart, and are known.
        await eventually(lambda: source.health().detail == "9 of 9 records saved")
    assert await has(tester, *range(1, 33))
    assert (await DatabaseClient(tester).counts()).conflicts == 0


async def test_rows_of_one_time_over_several_batches_and_a_smaller_key_later(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None
) -> None:
    moment = "2026-03-01 06:00:00"
    settings = settings.copy(update={"source_table_cursor": "changed_at", "source_table_overlap": 0})
    plant.insert(*(plant.row(number, changed_at=moment) for number in range(2, 37)))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail == "35 of 35 records saved")
        plant.insert(plant.row(1, changed_at=moment), plant.row(37, changed_at=moment))
        await eventually(lambda: source.health().detail == "37 of 37 records saved")
    assert await has(tester, *range(1, 38))


async def test_a_transaction_that_commits_late_with_an_older_number(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None
) -> None:
    if plant.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time, so numbers are committed in order")
    plant.insert(*map(plant.row, range(1, 11)))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        with plant.engine.connect() as late:
            late.execute(sa.text(Plant.statement), plant.row(11))
            plant.insert(plant.row(12), plant.row(13))
            await eventually(lambda: source.health().detail == "12 of 12 records saved")
            late.commit()
        await eventually(lambda: source.health().detail == "13 of 13 records saved")
    assert await has(tester, *range(1, 14))


async def test_a_label_that_is_filled_in_later_needs_a_cursor_that_changes_with_it(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None
) -> None:
    plant.insert(*map(plant.row, range(1, 6)))
    label = "UPDATE parts SET strength = 44.5, changed_at = :now WHERE id = 2"
    by_time = settings.copy(update={"source_table_cursor": "changed_at", "source_table_overlap": 60})
    async with running(DummyDataGenerationService, by_time, dataset) as source:
        await eventually(lambda: source.health().detail == "5 of 5 records saved")
        plant.run(label, {"now": str(MOMENT + timedelta(minutes=5))})
        await eventually(lambda: source.health().detail == "6 of 6 records saved: 5 new, 1 filled")
    labelled = [record(1), record(2, strength=44.5), *map(record, range(3, 6))]
    assert await saved(tester) == labelled
    plant.run("UPDATE parts SET strength = 50.5 WHERE id = 3")
    async with running(DummyDataGenerationService, by_time, dataset) as source:
        await eventually(lambda: source.health().state == "ready")
        assert await saved(tester) == labelled, "row 3 keeps its time, so nobody sees its label"


async def test_a_view_and_keys_of_the_plant(
    tester: TesterService, settings: Settings, plant: Plant, database: None, dataset: Dataset
) -> None:
    content = json.loads(dataset.json())
    keyed = Dataset.parse(json.dumps({**{name: content[name] for name in DECLARED}, "id": "part"}))
    plant.run("CREATE VIEW finished AS SELECT id AS part, made, temp, good, mould, strength FROM parts WHERE temp >= 1")
    plant.insert(*map(plant.row, range(1, 8)))
    settings = settings.copy(update={"source_table": "finished", "source_table_cursor": "part"})
    async with running(DummyDataGenerationService, settings, keyed) as source:
        await eventually(lambda: source.health().detail == "4 of 4 records saved")
    assert {each["_id"] for each in await tester.ask(GET_ALL_RAW, {})} == {"4", "5", "6", "7"}


async def test_a_time_in_the_far_future_does_not_hide_what_comes_after_it(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None
) -> None:
    settings = settings.copy(update={"source_table_cursor": "changed_at"})
    plant.insert(plant.row(1), plant.row(2, changed_at="2037-01-01 00:00:00"))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        said = "2 of 2 records saved; the time of the row with id 2 is more than a day ahead: 2037-01-01 00:00:00"
        await eventually(lambda: source.health().detail == said)
        plant.insert(plant.row(3))
        await eventually(lambda: "3 of 3 records saved" in source.health().detail)
    assert await has(tester, 1, 2, 3)


async def test_rows_that_are_refused_are_named_and_cost_only_themselves(
    tester: TesterService,
    settings: Settings,
    dataset: Dataset,
    plant: Plant,
    database: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plant.insert(plant.row(1), plant.row(2, temp=None), plant.row(3))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail == "2 of 3 records saved, 1 refused")
    assert await has(tester, 1, 3)
    assert "parts, the row with id 2 is refused: field 'temp': must be a number, and is missing" in caplog.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source_table_cursor": "number"}, "names 'number', which 'parts' does not have; it has 'id', 'made', 'temp'"),
        ({"source_table": "part"}, "no table or view 'part'"),
        ({"source_table_unique": "mould"}, "'mould' of 'parts' is empty or the same in several rows"),
        (
            {"source_table_cursor": "remark"},
            "The cursor column has 'a'; it has to be a number, a time, or a text in ISO 8601",
        ),
        ({"source_table_cursor": ""}, "COMPLEX_SYSTEM_SOURCE_TABLE_CURSOR is not"),
        ({"source_table_url": "oracle+nothing://u:pw@h/db"}, "is not a URL of SQLAlchemy"),
        ({"source_table_url": "postgresql+psycopg://u:pw@h/db"}, "The driver 'psycopg'"),
    ],
)
async def test_wrong_settings_stop_it_with_a_sentence(
    settings: Settings, dataset: Dataset, plant: Plant, database: None, fields: dict[str, str], said: str
) -> None:
    plant.insert(*map(plant.row, range(1, 6)))
    async with running(DummyDataGenerationService, settings.copy(update=fields), dataset) as source:
        await eventually(lambda: source.health().state == "failing")
        assert said in source.health().detail


async def test_a_table_without_declared_columns_stops_it(settings: Settings, plant: Plant, database: None) -> None:
    content = {**DECLARED, "columns": [*DECLARED["columns"], {"name": "pressure", "type": "number", "range": [0, 1]}]}
    async with running(DummyDataGenerationService, settings, Dataset.parse(json.dumps(content))) as source:
        await eventually(lambda: source.health().state == "failing")
        assert "lacks the column(s) 'pressure'; it has 'id', 'made'" in source.health().detail


async def test_it_waits_for_a_database_that_goes_away_and_never_names_the_password(
    tester: TesterService,
    settings: Settings,
    dataset: Dataset,
    plant: Plant,
    maria_server: Server,
    database: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if plant.dialect == "sqlite":
        pytest.skip("a file has no password")
    plant.run("CREATE OR REPLACE USER reader@'%' IDENTIFIED BY 'S3cretWord'")
    plant.run("GRANT SELECT ON *.* TO reader@'%'")
    plant.insert(*map(plant.row, range(1, 6)))
    assert maria_server.port
    async with proxied(maria_server.port) as proxy:
        url = plant.url.replace("root:@", "reader:S3cretWord@").replace(str(maria_server.port), str(proxy.port))
        wrong = url.replace("S3cretWord", "S3cretWordX")
        async with running(DummyDataGenerationService, settings.copy(update={"source_table_url": wrong}), dataset) as source:
            await eventually(lambda: source.health().state == "waiting")
            assert (
                "The database of the table 'parts' does not answer: Access denied for user 'reader'"
                in source.health().detail
            )
        async with running(DummyDataGenerationService, settings.copy(update={"source_table_url": url}), dataset) as source:
            await eventually(lambda: source.health().detail == "5 of 5 records saved")
            await proxy.cut()
            await eventually(lambda: source.health().state == "waiting")
            plant.insert(plant.row(6))
            await proxy.join()
            await eventually(lambda: source.health().detail == "6 of 6 records saved")
    assert await has(tester, *range(1, 7))
    assert "S3cretWord" not in caplog.text
    assert f"127.0.0.1:{proxy.port}/" in caplog.text, "the name of the source is in the log"


@pytest.mark.long
async def test_kills_in_the_middle_lose_nothing_and_double_nothing(
    tester: TesterService, settings: Settings, dataset: Dataset, plant: Plant, database: None, tmp_path: Path
) -> None:
    """4,000 rows come while the source is killed again and again; half of them get their label later."""
    settings = settings.copy(update={"source_table_cursor": "changed_at", "source_table_overlap": 30})
    (tmp_path / "dataset.yaml").write_text(json.dumps({name: json.loads(dataset.json())[name] for name in DECLARED}))
    environment = {
        **os.environ,
        "FASTIOT_CONFIG_DIR": str(tmp_path), "FASTIOT_NATS_USER": "dummy_data_generation", "FASTIOT_NATS_PASSWORD": BROKER_PASSWORD,
        **{f"COMPLEX_SYSTEM_{name.upper()}": str(getattr(settings, name)) for name in (
            "source_table", "source_table_url", "source_table_cursor", "source_table_overlap", "source_interval", "batch_size")},
    }  # fmt: skip
    command = [sys.executable, "-m", "complex_system_services.dummy_data_generation.run"]
    source = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    numbers, kills = iter(range(1, 4001)), 0
    rng = random.Random(5)

    def now() -> str:
        return datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")

    async def grew(by: int) -> None:
        client, before = DatabaseClient(tester), (await DatabaseClient(tester).counts()).raw

        async def more() -> bool:
            return (await client.counts()).raw >= min(before + by, 4000)

        await eventually(more, 60)

    try:
        while part := [number for _, number in zip(range(400), numbers, strict=False)]:
            plant.insert(*(plant.row(number, changed_at=now()) for number in part))
            await grew(rng.randrange(1, 300))
            plant.run(
                "UPDATE parts SET strength = :s, changed_at = :c WHERE id = :id",
                *({"s": number / 8, "c": now(), "id": number} for number in part if number % 2),
            )
            source.send_signal(signal.SIGKILL)
            source.wait()
            kills += 1
            source = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = [record(number, strength=number / 8 if number % 2 else None) for number in range(1, 4001)]

        async def complete() -> bool:
            return await saved(tester) == wanted

        await eventually(complete, 120)
    finally:
        source.kill()
        source.wait()
    assert kills == 10
    assert (await DatabaseClient(tester).counts()).conflicts == 0
