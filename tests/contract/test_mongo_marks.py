"""Marks in MongoDB: whenever a writer dies and whoever writes at the same time, every record that is not done waits."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import MongoServer, Server
from complex_system.protocol.database import Rejection
from complex_system.settings import Settings
from complex_system.storage.base import PROCESSED, RAW, REJECTED
from complex_system.storage.mongo import store as mongo_store
from complex_system.storage.mongo import work as mongo_work
from complex_system.storage.mongo.store import MongoDataStore
from support import eventually, server_fixture

WRITES = ("insert_many", "bulk_write", "update_one", "update_many", "delete_many", "find_one_and_update")
VERSIONS = ("v1", "v2")


def processed_table(dataset: Dataset, keys: list[str], revisions: list[int] | None = None) -> pa.Table:
    rows = [{ID: key, dataset.target: 1.5, **dict.fromkeys(dataset.feature_names, 0.5)} for key in keys]
    table = pa.Table.from_pylist(rows, schema=processed_schema(dataset))
    return table if revisions is None else table.append_column(REVISION, pa.array(revisions, pa.int64()))


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


@pytest.fixture
async def base(dataset: Dataset, mongo_server: Server, make_settings: Callable[..., Settings]) -> AsyncIterator[Base]:
    made = Base(dataset, make_settings(mongo_server, mongo_name=f"t{uuid.uuid4().hex[:12]}"))
    yield made
    await made.close()


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
    count, after = 0, None
    while True:
        page = await store.unprocessed(version, after, 7)
        keys, revisions = (page.table.column(name).to_pylist() for name in (ID, REVISION))
        await store.upsert_processed(processed_table(store.dataset, keys, revisions), version)
        count, after = count + len(keys), page.next
        if after is None:
            return count


def records_of(keys: list[str], laboratory: Laboratory) -> list[Record]:
    return [{**record, ID: key} for record, key in zip(laboratory.records(len(keys)), keys, strict=True)]


@pytest.mark.parametrize("stand_in", [pytest.param(True, marks=pytest.mark.long), False])
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
async def test_a_writer_that_dies_between_any_two_commands_loses_nothing(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, stand_in: bool, every: int
) -> None:
    monkeypatch.setattr(mongo_store, "is_secantus", lambda _: stand_in)
    keys = [f"k{i:02}" for i in range(18)]
    records = records_of(keys, laboratory)
    steps: list[Callable[[MongoDataStore], Awaitable[Any]]] = [
        lambda s: s.save_raw(records[4:15]),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[5:12]), "v1"),
        lambda s: s.reject([Rejection(id=key, reason="odd") for key in keys[12:14]], "v1"),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[:2]), "v1"),  # their raw records come later
        lambda s: s.save_raw(records),
        lambda s: s.reject([Rejection(id=key, reason="odd", revision=1) for key in keys[6:8]], "v2"),
        lambda s: s.upsert_processed(processed_table(s.dataset, keys[8:14], [1] * 6), "v2"),
        lambda s: sweep(s, "v2"),
        lambda s: sweep(s, "v1"),
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
    deaths = 0
    while True:
        left = 0
        for name in (RAW, PROCESSED, REJECTED):
            await base.content[name].delete_many({})
        acknowledged: set[str] = set()
        left = deaths + 1
        try:
            for step in steps:
                await step(store)
                acknowledged = await base.raw()
        except DiedError:
            deaths += every
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
    assert deaths > 30
    assert await base.done("v2") >= set(keys)
    assert await walked(after, "v2") == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
async def test_replicas_with_different_versions_at_the_same_time_lose_nothing(
    base: Base, laboratory: Laboratory, seed: int
) -> None:
    draw = random.Random(seed)
    stores = [await base.store() for _ in range(3)]
    keys = sorted({f"{draw.randrange(36**4):06}" for _ in range(60)})
    records = records_of(keys, laboratory)

    async def saves(store: MongoDataStore) -> None:
        for _ in range(6):
            await store.save_raw(draw.sample(records, 20))

    async def works(store: MongoDataStore, version: str) -> None:
        for _ in range(3):
            page = await store.unprocessed(version, None, 25)
            chosen = page.table.column(ID).to_pylist()
            if draw.random() < 0.3:
                await store.reject([Rejection(id=key, reason="odd", revision=1) for key in chosen], version)
            elif chosen:
                await store.upsert_processed(processed_table(store.dataset, chosen, [1] * len(chosen)), version)

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


async def test_a_result_that_a_rejection_of_another_version_deletes_meanwhile_is_made_again(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has inserted results of v2, another one rejects the records for v1, and the first one goes on."""
    late, store = await base.store(), await base.store()
    keys = [f"k{i:02}" for i in range(6)]
    await store.save_raw(records_of(keys, laboratory))
    queries = late._collections.queries
    insert = queries.insert

    async def insert_and_wait(collection: Any, documents: Any) -> list[int]:
        existing = await insert(collection, documents)
        await store.reject([Rejection(id=key, reason="odd", revision=1) for key in keys], "v1")
        return existing

    monkeypatch.setattr(queries, "insert", insert_and_wait)
    await late.upsert_processed(processed_table(base.dataset, keys, [1] * len(keys)), "v2")
    monkeypatch.undo()
    for version in VERSIONS:
        assert set(keys) - await base.done(version) <= set(await walked(store, version))
    while await sweep(store, "v2"):
        pass
    assert await base.done("v2") >= set(keys)
    assert await walked(store, "v2") == []


async def test_a_mark_that_comes_late_does_not_hide_the_result_of_another_version(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writes results of v2 and is slow to mark them; another one replaces them by results of v1 meanwhile."""
    late, store = await base.store(), await base.store()
    keys = [f"k{i:02}" for i in range(12)]
    await store.save_raw(records_of(keys, laboratory))
    arrived, goes_on = asyncio.Event(), asyncio.Event()
    mark_done = late._work.mark_done

    async def hang(*args: Any, **options: Any) -> None:
        arrived.set()
        await goes_on.wait()
        await mark_done(*args, **options)

    monkeypatch.setattr(late._work, "mark_done", hang)
    hanging = asyncio.create_task(late.upsert_processed(processed_table(base.dataset, keys[:8], [1] * 8), "v2"))
    await arrived.wait()
    await store.upsert_processed(processed_table(base.dataset, keys[2:4], [1] * 2), "v1")
    await store.reject([Rejection(id=key, reason="odd", revision=1) for key in keys[4:6]], "v1")
    goes_on.set()
    await hanging
    for version in VERSIONS:
        assert set(keys) - await base.done(version) <= set(await walked(store, version))
    assert await sweep(store, "v2") == 8
    assert await base.done("v2") >= set(keys)
    assert await walked(store, "v2") == []


async def test_a_mark_within_another_writers_window_is_taken_off_again(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has replaced results by those of v1 and not marked them yet; the mark of v2, which is late, comes first."""
    late, store = await base.store(), await base.store()
    keys = [f"k{i:02}" for i in range(12)]
    await store.save_raw(records_of(keys, laboratory))
    arrived, goes_on = asyncio.Event(), asyncio.Event()
    mark_late, mark = late._work.mark_done, store._work.mark_done

    async def hang(*args: Any, **options: Any) -> None:
        arrived.set()
        await goes_on.wait()
        await mark_late(*args, **options)

    async def let_the_other_go_first(*args: Any, **options: Any) -> None:
        goes_on.set()
        await hanging
        await mark(*args, **options)

    monkeypatch.setattr(late._work, "mark_done", hang)
    monkeypatch.setattr(store._work, "mark_done", let_the_other_go_first)
    hanging = asyncio.create_task(late.upsert_processed(processed_table(base.dataset, keys[:8], [1] * 8), "v2"))
    await arrived.wait()
    await store.upsert_processed(processed_table(base.dataset, keys[2:4], [1] * 2), "v1")
    monkeypatch.undo()
    for version in VERSIONS:
        assert set(keys) - await base.done(version) <= set(await walked(store, version))


async def test_a_callers_own_results_are_not_processed_over_while_they_are_written(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without revisions results replace those of the same version; data processing asks for its next page in between."""
    writing, processing = await base.store(), await base.store()
    keys = [f"k{i:02}" for i in range(6)]
    await processing.save_raw(records_of(keys, laboratory))
    await sweep(processing, "v1")
    queries = writing._collections.queries
    replace, waited = queries.replace, list[str]()

    async def look_first(collection: Any, documents: Any) -> None:
        waited.extend(await walked(processing, "v1"))
        await replace(collection, documents)

    monkeypatch.setattr(queries, "replace", look_first)
    own = processed_table(base.dataset, keys[:3]).to_pylist()
    changed = [{**row, base.dataset.feature_names[0]: 0.25} for row in own]
    table = pa.Table.from_pylist(changed, schema=processed_schema(base.dataset))
    await writing.upsert_processed(table, "v1")
    assert waited == []
    assert await walked(processing, "v1") == []
    page = await processing.processed_columns(
        [base.dataset.feature_names[0]], labelled=False, version="v1", after=None, limit=9
    )
    assert page.table.column(0).to_pylist() == [0.25] * 3 + [0.5] * 3


async def test_records_of_another_program_are_found_without_a_restart_beside_those_that_are_done(
    base: Base, laboratory: Laboratory
) -> None:
    store = await base.store()
    version = base.dataset.version
    keys = [f"k{i:02}" for i in range(16)]
    records = records_of(keys, laboratory)
    await store.save_raw(records[::2])
    assert await sweep(store, version) == 8
    await base.content[RAW].insert_many([*records[1::2], {"rohwert_1_labormessung": 1.0}])  # the driver gives an ObjectId
    assert await walked(store, version) == keys[1::2]
    assert await walked(await base.store(), version) == keys[1::2]
    assert await sweep(store, version) == 8
    assert await walked(await base.store(), version) == []


own_server = server_fixture(MongoServer, "function")
"""A server that may be killed."""


async def test_a_server_that_is_killed_after_marks_were_taken_off_forgets_none_of_that(
    own_server: MongoServer, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = MongoDataStore(Dataset.load(), Settings.of(own_server.environment()))
    await store.open()
    keys = [f"k{i}" for i in range(9)]
    await store.save_raw(records_of(keys, laboratory))
    await store.upsert_processed(processed_table(store.dataset, keys, [1] * 9), "v1")
    replace = store._queries.replace

    async def die_first(*args: Any) -> None:
        child = own_server.child
        assert child is not None
        child.signal_group(signal.SIGKILL)
        await eventually(lambda: not child.alive)
        own_server.start_process()
        await asyncio.to_thread(own_server.wait_ready)
        await replace(*args)

    monkeypatch.setattr(store._queries, "replace", die_first)
    monkeypatch.setattr(store._work, "mark_done", lambda *_, **__: asyncio.sleep(0))  # the writer dies, too
    try:
        await store.upsert_processed(processed_table(store.dataset, keys, [1] * 9), "v2")
        assert await walked(store, "v1") == await walked(store, "v2") == keys
    finally:
        await store.close()


async def test_a_record_that_another_program_writes_while_a_page_is_read_is_in_it_and_keeps_its_result(
    base: Base, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await base.store()
    key = "of another program"
    record = {**next(iter(laboratory.records(1))), ID: key}
    await base.content[RAW].insert_one(dict(record))
    with monkeypatch.context() as patched:

        async def too_early(_: Any) -> None:
            """Gives no envelope: the record is written just after it has looked."""

        patched.setattr(mongo_work, "add_envelopes", too_early)
        assert await walked(store, "v1") == [key]
        await store.upsert_processed(processed_table(base.dataset, [key], [1]), "v1")
    assert await walked(store, "v1") == []
    assert await walked(store, "v2") == [key]
