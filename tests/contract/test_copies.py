"""Copies of what a database keeps: the same in another database, whatever happened while they were made."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import mariadb
import pyarrow as pa
import pytest
from bson import ObjectId
from pymongo import MongoClient

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.documents import Document
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import processed_schema
from complex_system.domain.records import Record
from complex_system.errors import BackupError
from complex_system.local.servers import Server
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import Rejection
from complex_system.settings import Settings
from complex_system.storage import copies
from complex_system.storage.copies import StoreCopy
from complex_system.storage.maria.copy import MariaCopy
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.copy import MongoCopy
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.storage.naming import COUNTS
from envelopes import envelopes

OVENS = """
name: ovens
target: quality
columns:
  - {name: "Temp. [°C]", type: number, range: [-40, 250]}
  - {name: select, type: integer, range: [0, 1000], optional: true, fill: 7}
  - {name: an, type: boolean, optional: true, fill: true}
  - {name: Sorte, type: category, categories: [A, B], optional: true, fill: A}
  - {name: Stoffe, type: list of categories, categories: [K1, "K\\"2"], optional: true}
  - {name: quality, type: number, optional: true}
  - {name: former, type: text, optional: true}
pipeline:
  - {step: keep, column: an}
"""
EARLIER, PRESENT = Dataset.parse(OVENS), Dataset.parse(OVENS.replace("  - {name: former, type: text, optional: true}\n", ""))
RECORDS: list[Record] = [
    {
        ID: f"k{i:03}",
        "Temp. [°C]": 0.1 + i / 3,
        "select": None if i % 5 == 0 else 2**53 - i,
        "an": None if i % 3 == 0 else i % 2 == 0,
        "Sorte": None if i % 4 == 0 else "Ä'`\\\n",
        "Stoffe": None if i % 7 == 0 else ["K1", 'K"2'][: i % 3],
        "quality": None if i % 2 else 0.1 * i,
        "former": f"was declared {i}",
    }
    for i in range(40)
]
DOCUMENTS = [Document("rollup", f"r{i}", 1_800_000_000.5 + i, {"Größe": [i, None, {"a.b": "$x"}]}) for i in range(7)]


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(
    database: str, request: pytest.FixtureRequest, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Settings, Settings]]:
    """The settings of two databases, the second of which is not there yet."""
    server: Server = request.getfixturevalue(f"{database}_server")
    names = [f"t{uuid.uuid4().hex[:12]}" for _ in range(2)]
    first, second = (make_settings(server, mongo_name=n, maria_name=n, maria_connections=2) for n in names)
    for module in ("mongo", "maria"):
        monkeypatch.setattr(f"complex_system.storage.{module}.copy.COPY_ROWS", 7)
    yield first, second
    if database == "mongo":
        with MongoClient[Any](first.mongo_host, first.mongo_port) as client:
            for name in names:
                client.drop_database(name)
    else:
        with closing(_connected(first)) as connection:
            for name in names:
                connection.cursor().execute(f"DROP DATABASE IF EXISTS {name}")


def _connected(settings: Settings, **options: Any) -> Any:
    account = {"user": settings.maria_user, "password": settings.maria_password}
    return mariadb.connect(host=settings.maria_host, port=settings.maria_port, **account, **options)


@asynccontextmanager
async def opened(database: str, dataset: Dataset, settings: Settings) -> AsyncIterator[MongoDataStore | MariaDataStore]:
    store = MongoDataStore(dataset, settings) if database == "mongo" else MariaDataStore(dataset, settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def copying(database: str, settings: Settings) -> AsyncIterator[StoreCopy]:
    copy = MongoCopy(settings) if database == "mongo" else MariaCopy(settings)
    await copy.open()
    try:
        yield copy
    finally:
        await copy.close()


def content(database: str, settings: Settings) -> dict[str, Any]:
    """Everything that a database holds, read without our code."""
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            found = client[settings.mongo_name]
            everything = {name: found[name].find().sort("_id").to_list() for name in found.list_collection_names()}
            return {name: kept for name, kept in everything.items() if kept}
    with closing(_connected(settings, database=settings.maria_name)) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW TABLES")
        kept: dict[str, Any] = {}
        for (table,) in cursor.fetchall():
            if table == COUNTS:
                continue  # not copied: the next start counts
            cursor.execute(f"SHOW CREATE TABLE {table}")
            [(_, definition)] = cursor.fetchall()
            cursor.execute(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608
            kept[table] = (definition, cursor.fetchall())
        return kept


class Kept:
    """A copy in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)

    def add(self, name: str, table: pa.Table) -> None:
        assert 0 < table.num_rows <= 7
        self.tables[name].append(table)

    def rows(self, name: str) -> Iterator[pa.Table]:
        yield from self.tables.get(name, [])


async def test_a_copy_is_the_same_to_the_last_bit(database: str, pair: tuple[Settings, Settings]) -> None:
    async with opened(database, EARLIER, pair[0]) as store:
        await store.save_raw(RECORDS[:30], "press-4")
    async with opened(database, PRESENT, pair[0]) as store:
        later = [{name: value for name, value in record.items() if name != "former"} for record in RECORDS[30:]]
        await store.save_raw(later, ["", *["ingest ä"] * 9])
        table = pa.table({ID: [r[ID] for r in RECORDS], "quality": [r["quality"] for r in RECORDS], "an": [0.1 + 0.2] * 40},
                         schema=processed_schema(PRESENT))  # fmt: skip
        await store.upsert_processed(table.slice(0, 12), PRESENT.version)
        await store.upsert_processed(table.slice(12, 5), "v0")
        await store.reject([Rejection(id=record[ID], reason="ö" * 100) for record in RECORDS[17:20]], PRESENT.version)
        await store.documents.save(DOCUMENTS)
    if database == "mongo":
        with MongoClient[Any](pair[0].mongo_host, pair[0].mongo_port) as client:
            client[pair[0].mongo_name]["KIOptiPackRaw"].insert_one({"_id": ObjectId(), "of": {"another": "program"}})
    kept = Kept()
    async with copying(database, pair[0]) as copy:
        counts = await copy.counts()
        definitions = await copy.read(kept.add)
    assert {name: sum(part.num_rows for part in parts) for name, parts in kept.tables.items()} == counts
    assert counts["raw"] == 40 + (database == "mongo")
    assert counts["processed"] == 17
    assert counts["rejected"] == 3
    assert counts["documents"] == 7
    async with copying(database, pair[1]) as copy:
        assert await copy.counts() == {}
        assert await copy.write(definitions, kept.rows) == 0
        assert await copy.counts() == counts
    assert content(database, pair[1]) == content(database, pair[0])
    assert len(content(database, pair[1])) >= 4
    async with opened(database, EARLIER, pair[0]) as before, opened(database, EARLIER, pair[1]) as after:
        assert await after.raw_records(100) == await before.raw_records(100)
        assert await after.counts() == await before.counts()
        page = await after.unprocessed(PRESENT.version, None, 100)
        assert page.table.equals((await before.unprocessed(PRESENT.version, None, 100)).table)
        assert page.table.num_rows == 25
        assert await after.documents.between("rollup", 0, 2e9) == DOCUMENTS
    async with copying(database, pair[1]) as copy:
        await copy.discard()
        assert await copy.counts() == {}


async def test_a_copy_that_is_made_while_records_flow_fits_together(database: str, pair: tuple[Settings, Settings]) -> None:
    """Between results and raw records, a service saves, processes and rejects: what is marked in the copy has its result there."""
    dataset = Dataset.load()
    records = list(Laboratory(3).records(60))
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    keys, kept, loop = [record[ID] for record in records], Kept(), asyncio.get_running_loop()
    async with opened(database, dataset, pair[0]) as store:
        await store.save_raw(records[:40])
        await store.upsert_processed(table.slice(0, 20), dataset.version)
        await store.reject([Rejection(id=keys[20], reason="odd")], dataset.version)

        async def go_on() -> None:
            await store.save_raw(records[40:])
            await store.upsert_processed(table.slice(25, 20), dataset.version)
            await store.reject([Rejection(id=keys[21], reason="odd"), Rejection(id=keys[3], reason="odd")], dataset.version)

        happened = False

        def sink(name: str, part: pa.Table) -> None:
            nonlocal happened
            kept.add(name, part)
            if name == "rejected" and not happened:
                happened = True
                asyncio.run_coroutine_threadsafe(go_on(), loop).result(20)

        async with copying(database, pair[0]) as copy:
            definitions = await copy.read(sink)
        assert happened
    async with copying(database, pair[1]) as copy:
        taken_off = await copy.write(definitions, kept.rows)
    # MariaDB reads everything as it was when it began. MongoDB reads later marks, and the results that they belong to are not there.
    assert taken_off == (21 if database == "mongo" else 0)
    async with opened(database, dataset, pair[1]) as store:
        raw = await store.raw_records(100)
        assert raw[:40] == records[:40]
        done = {each.key for each in envelopes(database, pair[1]) if each.done}
        page = await store.unprocessed(dataset.version, None, 100)
        waiting = set(page.table.column(ID).to_pylist())
        assert done | waiting == {record[ID] for record in raw}
        processed = await store.processed_columns([ID], labelled=False, version=None, after=None, limit=100)
        results = {*processed.table.column(ID).to_pylist(), *(each.id for each in await store.rejected(None, 100))}
        assert results == set(keys[:21])
        assert done == results
        # Whatever waits is processed, as at any other time.
        await store.upsert_processed(table, dataset.version)
        assert (await store.unprocessed(dataset.version, None, 100)).table.num_rows == 0


async def test_an_exception_of_the_sink_ends_the_copy(database: str, pair: tuple[Settings, Settings]) -> None:
    async with opened(database, PRESENT, pair[0]) as store:
        await store.documents.save(DOCUMENTS)

    def full(name: str, part: pa.Table) -> None:
        raise BackupError("full")

    async with copying(database, pair[0]) as copy:
        with pytest.raises(BackupError, match="full"):
            await copy.read(full)


def test_results_are_copied_before_raw_records() -> None:
    names = copies.copied_tables(copies.TableNames.of("p_"))
    assert list(names)[-1] == "raw"
    assert "backlog" not in names
    assert {name: names[name] for name in ("raw", "processed", "rejected", "documents")} == {
        "raw": "p_KIOptiPackRaw", "processed": "p_KIOptiPackProcessed", "rejected": "p_KIOptiPackRejected",
        "documents": "p_KIOptiPackMonitoring",
    }  # fmt: skip
