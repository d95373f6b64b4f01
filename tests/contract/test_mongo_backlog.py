"""What waits for processing in MongoDB: whenever a writer dies and whoever writes at the same time, nothing is lost."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import MongoServer, Server
from complex_system.settings import Settings
from complex_system.storage.base import PROCESSED, RAW, REJECTED
from complex_system.storage.mongo import backlog as mongo_backlog
from complex_system.storage.mongo import collections as mongo_collections
from complex_system.storage.mongo import lists as mongo_lists
from complex_system.storage.mongo import unprocessed as mongo_unprocessed
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.storage.names import BACKLOG
from support import eventually, started

WRITES = ("insert_many", "bulk_write", "update_one", "update_many", "delete_many", "find_one_and_update")
VERSIONS = ("v1", "v2")


def processed_table(dataset: Dataset, keys: list[str]) -> pa.Table:
    rows = [{ID: key, dataset.target: 1.5, **dict.fromkeys(dataset.feature_names, 0.5)} for key in keys]
    return pa.Table.from_pylist(rows, schema=processed_schema(dataset))


class DiedError(Exception):
    """The end of a process, between two of its commands."""


class Base:
    """One database, and what it holds, read without the store."""

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self.dataset = dataset
        self.settings = settings
        self._stores: list[MongoDataStore] = []
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(settings.mongo_host, settings.mongo_port)
        self.content = self._client[settings.mongo_name]

    async def store(self) -> MongoDataStore:
        """One more replica."""
        store = MongoDataStore(self.dataset, self.settings)
        self._stores.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        await self._client.drop_database(self.settings.mongo_name)
        await self._client.close()

    async def raw(self) -> set[str]:
        return {document[ID] async for document in self.content[RAW].find()}

    async def done(self, version: str) -> set[str]:
        processed = {document[ID] async for document in self.content[PROCESSED].find({"_pipeline": version})}
        return processed | {document[ID] async for document in self.content[REJECTED].find({"version": version})}

    async def lists(self) -> int:
        return await self.content[BACKLOG].count_documents({"first": {"$gte": ""}})


@pytest.fixture
async def base(dataset: Dataset, mongo_server: Server, make_settings: Callable[..., Settings]) -> AsyncIterator[Base]:
    made = Base(dataset, make_settings(mongo_server, mongo_name=f"t{uuid.uuid4().hex[:12]}"))
    yield made
    await made.close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, chunks and pages so small that some dozens of records need several."""
    monkeypatch.setattr(mongo_lists, "LIST", 4)
    monkeypatch.setattr(mongo_lists, "LISTS_AT_ONCE", 2)
    monkeypatch.setattr(mongo_backlog, "LISTS_AT_ONCE", 2)
    monkeypatch.setattr(mongo_unprocessed, "_CHUNK", 5)
    monkeypatch.setattr(mongo_unprocessed, "_MOST", 12)


async def walked(store: MongoDataStore, version: str, limit: int = 7) -> list[str]:
    """All pages of one walk."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await store.unprocessed(version, after, limit)
        assert page.table.num_rows <= limit
        found += page.table.column(ID).to_pylist()
        if page.next is None:
            return found
        assert after is None or page.next > after
        after = page.next


async def sweep(store: MongoDataStore, version: str) -> int:
    """Does what waits, as data processing does."""
    keys = await walked(store, version)
    for start in range(0, len(keys), 7):
        await store.upsert_processed(processed_table(store.dataset, keys[start : start + 7]), version)
    return len(keys)


def records_of(keys: list[str], laboratory: Laboratory) -> list[Record]:
    return [{**record, ID: key} for record, key in zip(laboratory.records(len(keys)), keys, strict=True)]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("in_ranges", [True, False])
async def test_a_writer_that_dies_between_any_two_commands_loses_nothing(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, in_ranges: bool
) -> None:
    keys = [f"k{i:02}" for i in range(18)]
    records = records_of(keys, laboratory)
    steps: list[Callable[[MongoDataStore], Awaitable[Any]]] = [
        lambda s: s.save_raw(records[4:15]),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[5:12]), "v1"),
        lambda s: s.reject([{ID: key, "reason": "odd"} for key in keys[12:14]], "v1"),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[:2]), "v1"),  # their raw twins come later
        lambda s: s.save_raw(records),
        lambda s: s.reject([{ID: key, "reason": "odd"} for key in keys[6:8]], "v2"),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[8:14]), "v2"),
        lambda s: sweep(s, "v2"),
    ]
    left = 0
    for name in WRITES:
        write = getattr(AsyncCollection, name)

        async def or_die(self: Any, *args: Any, _write: Any = write, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise DiedError
            return await _write(self, *args, **kwargs)

        monkeypatch.setattr(AsyncCollection, name, or_die)

    store, after = await base.store(), await base.store()
    for each in (store, after):
        monkeypatch.setattr(each._connection, "in_ranges", in_ranges)
    deaths = 0
    while True:
        left = 0
        for name in (RAW, PROCESSED, REJECTED, BACKLOG):
            await base.content[name].delete_many({})
        await store._backlog.open(empty=True)
        acknowledged: set[str] = set()
        left = deaths + 1
        try:
            for step in steps:
                await step(store)
                acknowledged = await base.raw()
        except DiedError:
            deaths += 1 if in_ranges else 3
            left = 0
        else:
            break
        raw = await base.raw()
        assert raw >= acknowledged
        for version in VERSIONS:
            waiting = await walked(after, version)
            assert waiting == sorted(set(waiting))
            assert raw - await base.done(version) <= set(waiting) <= raw, f"death {deaths}"
        await after.save_raw(records)
        await sweep(after, "v2")
        assert await base.done("v2") >= set(keys)
        assert await walked(after, "v2") == []
    assert deaths > 20
    assert await base.done("v2") >= set(keys)
    assert await base.lists() == 0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("seed", range(4))
async def test_replicas_with_different_versions_at_the_same_time_lose_nothing(
    base: Base, laboratory: Laboratory, seed: int
) -> None:
    draw = random.Random(seed)
    stores = [await base.store() for _ in range(3)]
    keys = [f"{draw.randrange(36**4):06}" for _ in range(60)]
    keys = sorted(set(keys))
    records = records_of(keys, laboratory)

    async def saves(store: MongoDataStore) -> None:
        for _ in range(6):
            await store.save_raw(draw.sample(records, 20))

    async def works(store: MongoDataStore, version: str) -> None:
        for _ in range(3):
            page = await store.unprocessed(version, None, 25)
            chosen = page.table.column(ID).to_pylist()
            if draw.random() < 0.3:
                await store.reject([{ID: key, "reason": "odd"} for key in chosen], version)
            elif chosen:
                await store.upsert_processed(processed_table(store.dataset, chosen), version)

    work = [saves(store) for store in stores[:2]]
    work += [works(store, version) for store in stores for version in VERSIONS]
    await asyncio.gather(*work)
    await stores[0].save_raw(records)
    for version in ("v1", "v2", "v1"):
        raw, done = await base.raw(), await base.done(version)
        assert raw == set(keys)
        assert raw - done <= set(await walked(stores[2], version))
        while await sweep(stores[1], version):
            pass
        assert await base.done(version) >= raw
        assert await walked(stores[0], version) == []
    assert await base.lists() == 0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("in_ranges", [True, False])
async def test_marks_of_an_earlier_release_count_by_the_records_that_they_stand_for(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, in_ranges: bool
) -> None:
    version = base.dataset.version
    keys = [f"k{i:02}" for i in range(30)]
    marks = {key: "" if i % 3 == 0 else version if i % 3 == 1 else "v0" for i, key in enumerate(keys)}
    await base.content[RAW].insert_many([{**r, "_pipeline": marks[r[ID]]} for r in records_of(keys, laboratory)])
    twins = [{ID: key, "_pipeline": mark} for key, mark in marks.items() if mark]
    await base.content[PROCESSED].insert_many(twins[4:])
    await base.content[REJECTED].insert_many([{ID: t[ID], "reason": "odd", "version": t["_pipeline"]} for t in twins[:4]])
    store = await base.store()
    monkeypatch.setattr(store._connection, "in_ranges", in_ranges)
    for asked in (version, "v0", "none", version):
        assert await walked(store, asked) == [key for key in keys if marks[key] != asked]
    assert await sweep(store, version) == 20
    assert await walked(store, version) == []
    assert await walked(await base.store(), "none") == keys


async def test_records_of_another_program_are_adopted_beside_those_that_were_done(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_collections, "_ADOPTED_AT_ONCE", 3)
    store = await base.store()
    version = base.dataset.version
    keys = [f"k{i:02}" for i in range(16)]
    records = records_of(keys, laboratory)
    await store.save_raw(records[::2])
    assert await sweep(store, version) == 8
    await base.content[RAW].insert_many([*records[1::2], {"rohwert_1_labormessung": 1.0}])  # the driver gives an ObjectId
    again = await base.store()
    assert await walked(again, version) == keys[1::2]
    assert await sweep(again, version) == 8
    assert await walked(await base.store(), version) == []


async def test_a_listed_record_that_never_came_is_forgotten_after_an_hour(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await base.store()
    version = base.dataset.version
    await store._backlog.note(["a", "b", "c"])  # the writer died before it wrote the records
    await store.save_raw(records_of(["b"], laboratory))
    assert await walked(store, version) == ["b"]
    assert await sweep(store, version) == 1
    assert await base.lists() == 1
    monkeypatch.setattr(mongo_backlog, "FORGOTTEN", -1.0)
    assert await walked(store, version) == []
    assert await base.lists() == 0
    await store.save_raw(records_of(["a"], laboratory))
    assert await walked(store, version) == ["a"]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[MongoServer]:
    with started(MongoServer(tmp_path / "mongo", port=0)) as server:
        yield server


async def test_a_server_that_is_killed_between_a_list_and_its_records_forgets_no_list(
    own_server: MongoServer, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MongoDataStore(Dataset.load(), Settings.of(own_server.environment()))
    await store.open()
    note = store._backlog.note

    async def note_and_die(*args: Any, **options: Any) -> list[Any]:
        noted = await note(*args, **options)
        child = own_server.child
        assert child is not None
        child.signal_group(signal.SIGKILL)
        await eventually(lambda: not child.alive)
        own_server.start_process()
        await asyncio.to_thread(own_server.wait_ready)
        return noted

    monkeypatch.setattr(store._backlog, "note", note_and_die)
    try:
        keys = [f"k{i}" for i in range(9)]
        await store.save_raw(records_of(keys, laboratory))
        assert await walked(store, store.dataset.version) == keys
    finally:
        await store.close()


@pytest.mark.usefixtures("few")
async def test_an_old_version_that_comes_late_leaves_the_lists_of_the_new_one(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, store = await base.store(), await base.store()
    keys = [f"k{i:02}" for i in range(12)]
    await store.save_raw(records_of(keys, laboratory))
    arrived, goes_on = asyncio.Event(), asyncio.Event()
    settle = late._backlog.settle

    async def hang(*args: Any) -> None:
        arrived.set()
        await goes_on.wait()
        await settle(*args)

    monkeypatch.setattr(late._backlog, "settle", hang)
    hanging = asyncio.create_task(late.upsert_processed(processed_table(base.dataset, keys[:8]), "v1"))
    await arrived.wait()
    await store.upsert_processed(
        processed_table(base.dataset, keys[9:10]), "v2"
    )  # what follows lists all that v2 has not done
    left = [key for key in keys if key != keys[9]]
    assert await walked(store, "v2") == left
    goes_on.set()
    await hanging
    assert await walked(store, "v2") == left
    assert await sweep(store, "v2") == len(left)
    assert await base.lists() == 0


async def test_a_writer_whose_machine_slept_lists_its_records_again(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, store = await base.store(), await base.store()
    version = base.dataset.version
    slept = 0.0
    now, insert = time.time, AsyncCollection.insert_many
    monkeypatch.setattr(time, "time", lambda: now() + slept)

    async def insert_late(self: Any, documents: Any, **kwargs: Any) -> Any:
        nonlocal slept
        if self.name == RAW:
            slept = 7200.0
            assert await walked(store, version) == []  # the lists are forgotten
        return await insert(self, documents, **kwargs)

    monkeypatch.setattr(AsyncCollection, "insert_many", insert_late)
    await sleeper.save_raw(records_of(["a", "b"], laboratory))
    assert await walked(store, version) == ["a", "b"]
    assert await sweep(store, version) == 2
    assert await base.lists() == 0


@pytest.mark.usefixtures("few")
async def test_lists_of_single_records_are_joined(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_lists, "_SMALL", 4)
    monkeypatch.setattr(mongo_lists, "_MANY_SMALL", 10)
    store = await base.store()
    keys = [f"k{i:02}" for i in range(30)]
    for record in records_of(keys, laboratory):
        await store.save_raw([record])
    assert await base.lists() == 30
    assert await walked(store, base.dataset.version) == keys
    assert await base.lists() == 8
    assert await sweep(store, base.dataset.version) == 30
    assert await base.lists() == 0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("seed", range(4))
async def test_lists_that_lie_over_each_other_are_laid_side_by_side(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(mongo_lists, "_JOINED", 8)
    monkeypatch.setattr(mongo_lists, "_TANGLED", 2)
    read = [0]
    store = await base.store()
    lists = store._backlog._lists.read

    def counted(query: dict[str, Any]) -> Any:
        read[-1] += len(query[ID]["$in"]) if ID in query else 0
        return lists(query)

    monkeypatch.setattr(store._backlog._lists, "read", counted)
    keys = [f"k{i:03}" for i in range(200)]
    drawn = list(keys)
    random.Random(seed).shuffle(drawn)
    for start in range(0, 200, 4):  # every list spans nearly all keys
        await store.save_raw(records_of(drawn[start : start + 4], laboratory))
    await store.upsert_processed(processed_table(base.dataset, keys[::3]), "v1")
    left = [key for place, key in enumerate(keys) if place % 3]
    for _ in range(3):
        read.append(0)
        page = await store.unprocessed("v1", None, 40)
        assert page.table.column(ID).to_pylist() == left[:40]
    assert read[1] > 50  # most of them, and once more to lay them side by side
    assert read[-1] < 30
    assert await walked(store, "v1") == left
    assert await walked(store, "v2") == keys
    read.append(0)
    assert await sweep(store, "v1") == len(left)
    assert await base.done("v1") == set(keys)
    assert await base.lists() == 0
