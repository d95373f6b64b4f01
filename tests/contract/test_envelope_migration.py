"""A database of the release before the envelope: saved, processed, rejected and waiting records are the same afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import mariadb
import msgspec
import pytest
from pymongo import AsyncMongoClient, MongoClient

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.protocol.database import RecordCounts
from complex_system.settings import Settings
from complex_system.storage.base import DataStore
from complex_system.storage.envelope import content_hash
from complex_system.storage.maria import schema as maria_schema
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo import schema as mongo_schema
from complex_system.storage.mongo.connection import Queries
from complex_system.storage.mongo.store import MongoDataStore
from envelopes import envelopes

DATASET = Dataset.parse("""
name: ovens
target: quality
columns:
  - {name: "Temp. [°C]", type: number, range: [-40, 250]}
  - {name: select, type: integer, range: [0, 1000], optional: true, fill: 7}
  - {name: an, type: boolean, optional: true, fill: true}
  - {name: Sorte, type: category, categories: [A, B], optional: true, fill: A}
  - {name: Stoffe, type: list of categories, categories: [K1, "K\\"2"], optional: true}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: keep, column: an}
""")
VERSION = DATASET.version
KEYS = [f"k{i:02}" for i in range(40)]
RECORDS: list[Record] = [
    {
        ID: key,
        "Temp. [°C]": i / 3,
        "select": None if i % 5 == 0 else 2**53 - i,
        "an": None if i % 3 == 0 else i % 2 == 0,
        "Sorte": None if i % 4 == 0 else "Ä'`",
        "Stoffe": None if i % 7 == 0 else ["K1", 'K"2'][: i % 3],
        "quality": None if i % 2 else 0.1 * i,
    }
    for i, key in enumerate(KEYS)
]
PROCESSED = {**dict.fromkeys(KEYS[:12], VERSION), **dict.fromkeys(KEYS[12:16], "v0"), "alone": VERSION}
REJECTED = {**dict.fromkeys(KEYS[16:20], VERSION), **dict.fromkeys(KEYS[20:22], "v0")}
DONE = {**PROCESSED, **REJECTED}
COUNTS = RecordCounts(raw=40, processed=17, labelled=17, rejected=6)

TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
MARIA = (
    f"CREATE TABLE `KIOptiPackRaw` (`_id` varchar(64) {TEXT} NOT NULL, `_pipeline` varchar(64) {TEXT} NOT NULL DEFAULT '', "
    "`Temp. [°C]` double DEFAULT NULL COMMENT 'declared as Temp. [°C] = number', "
    "`select` bigint(20) DEFAULT NULL COMMENT 'declared as select = integer', "
    "`an` tinyint(1) DEFAULT NULL COMMENT 'declared as an = boolean', "
    f"`Sorte` mediumtext {TEXT} DEFAULT NULL COMMENT 'declared as Sorte = category', "
    f"`Stoffe` mediumtext {TEXT} DEFAULT NULL COMMENT 'declared as Stoffe = list of categories', "
    "`quality` double DEFAULT NULL COMMENT 'declared as quality = number', "
    "PRIMARY KEY (`_id`), KEY `unprocessed` (`_pipeline`,`_id`)) ENGINE=InnoDB COMMENT='data set ovens'",
    f"CREATE TABLE `KIOptiPackProcessed` (`_id` varchar(64) {TEXT} NOT NULL, `_pipeline` varchar(64) {TEXT} NOT NULL, "
    "`quality` double DEFAULT NULL COMMENT 'declared as quality = number', "
    "`an` double DEFAULT NULL COMMENT 'declared as an = number', "
    "PRIMARY KEY (`_id`), KEY `labelled` (`quality`)) ENGINE=InnoDB",
    f"CREATE TABLE `KIOptiPackRejected` (`_id` varchar(64) {TEXT} NOT NULL, `reason` mediumtext {TEXT} DEFAULT NULL, "
    f"`version` varchar(64) {TEXT} NOT NULL, PRIMARY KEY (`_id`)) ENGINE=InnoDB",
)
INSERT = (
    "INSERT INTO KIOptiPackRaw (_id, _pipeline, `Temp. [°C]`, `select`, an, Sorte, Stoffe, quality) VALUES (?,?,?,?,?,?,?,?)"
)


class KilledError(Exception):
    """The end of the process."""


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    database: str, request: pytest.FixtureRequest, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A database as the release before left it, and batches so small that the migration needs several."""
    name = f"t{uuid.uuid4().hex[:12]}"
    server: Server = request.getfixturevalue(f"{database}_server")
    settings = make_settings(server, mongo_name=name, maria_name=name, maria_connections=2)
    monkeypatch.setattr(mongo_schema, "_RECORDS_AT_ONCE", 7)
    monkeypatch.setattr(mongo_schema, "_KEYS_AT_ONCE", 25)
    monkeypatch.setattr(maria_schema, "_HASHED_AT_ONCE", 7)
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            _write_mongo(client[name])
            yield settings
            client.drop_database(name)
    else:
        with closing(
            mariadb.connect(
                host=settings.maria_host,
                port=settings.maria_port,
                user=settings.maria_user,
                password=settings.maria_password,
            )
        ) as connection:
            _write_maria(connection, name)
            yield settings
            connection.cursor().execute(f"DROP DATABASE {name}")


def _write_mongo(database: Any) -> None:
    raw, processed, rejected = (database[f"KIOptiPack{name}"] for name in ("Raw", "Processed", "Rejected"))
    for record in RECORDS:
        fields = {name.replace(".", "%2E"): value for name, value in record.items()}
        # A release before that one marked what was done; what counts are the results.
        raw.insert_one({**fields, "_pipeline": "v9" if record[ID] in KEYS[10:18:3] else ""})
    processed.insert_many([{ID: key, "quality": 1.0, "an": 0.5, "_pipeline": version} for key, version in PROCESSED.items()])
    rejected.insert_many([{ID: key, "reason": "odd", "version": version} for key, version in REJECTED.items()])
    raw.create_index([("_pipeline", 1), ("_id", 1)], name="unprocessed")
    processed.create_index([("_pipeline", 1), ("_id", 1)], name="by_version")
    rejected.create_index([("version", 1), ("_id", 1)], name="by_version")
    lists = database["KIOptiPackBacklog"]
    lists.create_index([("first", 1)], name="by_first")
    lists.insert_one({"_id": "state", "run": uuid.uuid4().hex, "version": VERSION, "walked": None})
    waiting = [key for key in KEYS if DONE.get(key) != VERSION]
    lists.insert_one({"first": waiting[0], "last": waiting[-1], "count": len(waiting), "keys": msgspec.msgpack.encode(waiting),
                      "together": True, "at": 1795903375.6, "version": "", "done": []})  # fmt: skip
    types = [[column.name, column.type] for column in DATASET.columns]
    database["KIOptiPackColumns"].insert_one({"_id": "declaration", "data_set": "ovens", "types": types})


def _write_maria(connection: Any, name: str) -> None:
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    cursor.execute(f"USE {name}")
    for statement in MARIA:
        cursor.execute(statement)
    for record in RECORDS:
        stoffe = None if record["Stoffe"] is None else json.dumps(record["Stoffe"], ensure_ascii=False)
        values = {**record, "Stoffe": stoffe}
        cursor.execute(INSERT, (record[ID], DONE.get(record[ID], ""), *list(values.values())[1:]))
    for key, version in PROCESSED.items():
        cursor.execute("INSERT INTO KIOptiPackProcessed VALUES (?, ?, 1.0, 0.5)", (key, version))
    for key, version in REJECTED.items():
        cursor.execute("INSERT INTO KIOptiPackRejected VALUES (?, 'odd', ?)", (key, version))
    connection.commit()


def make(database: str, settings: Settings) -> DataStore:
    return MongoDataStore(DATASET, settings) if database == "mongo" else MariaDataStore(DATASET, settings)


@pytest.fixture
async def opened(database: str, settings: Settings) -> AsyncIterator[Callable[[], Any]]:
    stores: list[DataStore] = []

    async def open_store() -> DataStore:
        store = make(database, settings)
        stores.append(store)
        await store.open()
        return store

    yield open_store
    for store in stores:
        await store.close()


async def waiting(store: DataStore, version: str) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await store.unprocessed(version, after, 9)
        found += page.table.column(ID).to_pylist()
        after = page.next
        if after is None:
            return found


async def everything_is_there(store: DataStore, database: str, settings: Settings) -> None:
    assert await store.raw_records(100) == RECORDS
    assert await store.counts() == COUNTS
    for version in (VERSION, "v0", "none"):
        assert await waiting(store, version) == [key for key in KEYS if DONE.get(key) != version]
    kept = envelopes(database, settings)
    digest = content_hash(DATASET)
    assert [each.key for each in kept] == KEYS
    assert [each.hash for each in kept] == [digest(record) for record in RECORDS]
    assert [each.done for each in kept] == [DONE.get(key, "") for key in KEYS]
    assert {(each.revision, each.source) for each in kept} == {(1, "")}


async def test_a_database_of_the_release_before_keeps_everything(
    opened: Callable[[], Any], database: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        store = await opened()
    assert "raw records" in caplog.text
    await everything_is_there(store, database, settings)
    before = envelopes(database, settings)
    caplog.clear()
    await opened()
    assert envelopes(database, settings) == before
    assert "raw records" not in caplog.text


async def test_a_migration_that_is_killed_is_continued(
    opened: Callable[[], Any], database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 0
    left = 0
    update_each, change_each = Queries.update_each, maria_schema.change_each

    def one_more() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError

    async def update_or_die(self: Any, *arguments: Any) -> None:
        one_more()
        await update_each(self, *arguments)

    def change_or_die(*arguments: Any) -> None:
        one_more()
        change_each(*arguments)

    monkeypatch.setattr(Queries, "update_each", update_or_die)
    monkeypatch.setattr(maria_schema, "change_each", change_or_die)
    while True:
        left = 2
        try:
            store = await opened()
        except KilledError:
            deaths += 1
            continue
        break
    assert deaths == 2  # of six batches, or seven
    left = 100
    await everything_is_there(store, database, settings)


async def test_replicas_that_start_at_the_same_time_migrate_once(
    opened: Callable[[], Any], database: str, settings: Settings
) -> None:
    stores = await asyncio.gather(*(opened() for _ in range(3)))
    await everything_is_there(stores[1], database, settings)


async def test_what_a_replica_of_the_release_before_writes_meanwhile_is_not_lost(
    opened: Callable[[], Any], database: str, settings: Settings
) -> None:
    store = await opened()
    late = {**RECORDS[1], ID: "late"}
    if database == "mongo":
        async with AsyncMongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            raw = client[settings.mongo_name]["KIOptiPackRaw"]
            await raw.insert_one({**{name.replace(".", "%2E"): value for name, value in late.items()}, "_pipeline": ""})
    else:
        with closing(
            mariadb.connect(
                host=settings.maria_host,
                port=settings.maria_port,
                user=settings.maria_user,
                password=settings.maria_password,
                database=settings.maria_name,
            )
        ) as connection:
            values = {**late, "Stoffe": json.dumps(late["Stoffe"])}
            connection.cursor().execute(INSERT, ("late", "", *list(values.values())[1:]))
            connection.commit()
    assert "late" in await waiting(store, VERSION)
    assert "late" in await waiting(await opened(), VERSION)
    await store.recount()  # as the service does when it starts, beside its work
    assert envelopes(database, settings)[-1].hash == content_hash(DATASET)(late)
    assert (await store.counts()).raw == len(RECORDS) + 1


def test_the_hash_depends_on_the_declared_values_alone() -> None:
    digest, record = content_hash(DATASET), RECORDS[1]
    assert digest(record) == digest({**dict(reversed(record.items())), ID: "other", "not declared": 1})
    assert digest({"select": 3, "quality": 0.0}) == digest({"select": 3.0, "quality": -0.0, "an": None})
    assert len({digest(record) for record in RECORDS}) == 40
    assert digest({"select": 2**53}) != digest({"select": 2**53 + 1})
    # It is kept, so it must never change.
    assert digest({"Temp. [°C]": 21.5, "Sorte": "A", "Stoffe": ["K1"]}).hex() == "a438dbd544525e0a5eba651d817e55e0"
