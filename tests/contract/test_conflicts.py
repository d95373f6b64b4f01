"""Records under keys that exist: what fills, what replaces, and what is a conflict, on both databases and in every order."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from pymongo import AsyncMongoClient

from complex_system.domain.columns import ORDER
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, processed_schema
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.settings import Settings
from complex_system.storage.base import PROCESSED, RAW, DataStore
from complex_system.storage.conflicts import Incoming, Merge, Stored
from complex_system.storage.envelope import content_hash
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.connection import Queries
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.storage.quarantine import RawWriter
from envelopes import connected, envelopes, make_unique

TARGET, R1, R2, R3 = "aufbereiteter_wert", "rohwert_1_labormessung", "rohwert_2_labormessung", "rohwert_3_labormessung"
Open = Callable[[str], Awaitable[DataStore]]


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(database: str, request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    name = f"t{uuid.uuid4().hex[:12]}"
    return make_settings(
        request.getfixturevalue(f"{database}_server"), mongo_name=name, maria_name=name, maria_connections=4
    )


@pytest.fixture
async def opened(database: str, settings: Settings, dataset: Dataset) -> AsyncIterator[Open]:
    """Opens one more replica, which keeps or replaces."""
    stores: list[DataStore] = []

    async def open_(on_conflict: str) -> DataStore:
        made = {"mongo": MongoDataStore, "maria": MariaDataStore}[database]
        store = made(dataset, settings.copy(update={"on_conflict": on_conflict}))
        await store.open()
        stores.append(store)
        return store

    yield open_
    for store in stores:
        await store.close()
    if database == "mongo":
        async with AsyncMongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            await client.drop_database(settings.mongo_name)
    else:
        connection = connected(settings)
        connection.cursor().execute(f"DROP DATABASE {settings.maria_name}")
        connection.close()


@pytest.fixture
def record(laboratory: Laboratory) -> Record:
    return {**laboratory.complete_record(), ID: "B-0007", TARGET: 42.5, R1: 7.5, R2: 8.5, R3: 0.25}


def processed(dataset: Dataset, key: str, revision: int, target: float | None) -> pa.Table:
    row = {ID: key, dataset.target: target, **dict.fromkeys(dataset.feature_names, 0.5)}
    return pa.Table.from_pylist([row], schema=processed_schema(dataset)).append_column(
        REVISION, pa.array([revision], pa.int64())
    )


async def process(store: DataStore, version: str = "v1") -> list[int]:
    """Processes what waits, as the service does; returns the revisions."""
    page = await store.unprocessed(version, None, 100)
    revisions = []
    for row in page.table.to_pylist():
        revisions.append(row[REVISION])
        await store.upsert_processed(processed(store.dataset, row[ID], row[REVISION], row[TARGET]), version)
    return revisions


@pytest.mark.parametrize("on_conflict", ["keep", "replace"])
async def test_a_label_that_comes_later_fills_the_record_and_is_processed(
    opened: Open, settings: Settings, database: str, record: Record, on_conflict: str
) -> None:
    store = await opened(on_conflict)
    without = {**record, TARGET: None}
    await store.save_raw([without], "lab", 10.0)
    assert await process(store) == [1]
    assert (await store.counts()).labelled == 0
    saved = await store.save_raw([record], "lims", 20.0)
    assert (saved.existing, saved.filled, saved.conflicts, saved.replaced) == (1, 1, 0, 0)
    assert await store.raw_records(2) == [record]
    assert await process(store) == [2]
    assert await store.targets([record[ID]]) == {record[ID]: record[TARGET]}
    [envelope] = envelopes(database, settings)
    assert (envelope.done, envelope.revision, envelope.source) == ("v1", 2, "lab")
    assert envelope.hash == content_hash(store.dataset)(record)
    # Again, and what has fewer values: known.
    for again, order in ((record, 20.0), (without, 30.0), (without, 10.0)):
        saved = await store.save_raw([again], "lims", order)
        assert (saved.existing, saved.filled, saved.conflicts) == (1, 0, 0)
    assert await store.raw_records(2) == [record]
    assert await process(store) == []
    assert (await store.counts()).conflicts == 0


async def test_keep_takes_nothing_of_a_record_that_differs(opened: Open, record: Record) -> None:
    store = await opened("keep")
    first, other = {**record, TARGET: None}, {**record, R1: 1.25}
    await store.save_raw([first], "monday", 10.0)
    await process(store)
    for _ in range(2):
        saved = await store.save_raw([other], "tuesday", 20.0)
        assert (saved.conflicts, saved.filled, saved.replaced, saved.differing) == (1, 0, 0, (record[ID],))
        assert (await store.counts()).conflicts == 1
    assert await store.raw_records(2) == [first]
    assert await process(store) == []


@pytest.mark.parametrize("newer_first", [False, True])
async def test_an_older_record_never_replaces_a_newer_one(
    opened: Open, database: str, settings: Settings, record: Record, newer_first: bool
) -> None:
    store = await opened("replace")
    versions = [(record, 10.0), ({**record, R1: 1.25}, 20.0)]
    for values, order in reversed(versions) if newer_first else versions:
        await store.save_raw([values], f"at {order:g}", order)
        await process(store)
    for values, order in [*versions, versions[0]]:  # delivered again
        await store.save_raw([values], f"at {order:g}", order)
    assert await store.raw_records(2) == [versions[1][0]]
    assert await process(store) == []
    assert (await store.counts()).conflicts == 1
    [envelope] = envelopes(database, settings)
    assert (envelope.done, envelope.revision, envelope.source) == ("v1", 1 if newer_first else 2, "at 20")


async def test_a_replacement_is_processed_again_and_what_it_replaces_is_kept(opened: Open, record: Record) -> None:
    store = await opened("replace")
    await store.save_raw([record], "press-4", 1.0)
    await process(store)
    saved = await store.save_raw([{**record, TARGET: 99.99, ORDER: 2.0}], "press-4", 0.5)  # its own order counts
    assert (saved.conflicts, saved.replaced, saved.differing) == (1, 1, (record[ID],))
    assert await process(store) == [2]
    assert await store.targets([record[ID]]) == {record[ID]: 99.99}
    saved = await store.save_raw([{**record, TARGET: 1.0, ORDER: 1.5}], "press-5")
    assert (saved.conflicts, saved.replaced) == (1, 0)
    assert await store.targets([record[ID]]) == {record[ID]: 99.99}
    assert (await store.counts()).conflicts == 2


@pytest.mark.parametrize("comes", ["before the result", "before the mark is compared"])
async def test_the_result_of_an_older_revision_does_not_settle_the_mark(opened: Open, record: Record, comes: str) -> None:
    store = await opened("replace")
    other = await opened("replace")
    await store.save_raw([record], "a", 1.0)
    [row] = (await store.unprocessed("v1", None, 10)).table.to_pylist()
    old = processed(store.dataset, record[ID], row[REVISION], row[TARGET])
    change = other.save_raw([{**record, TARGET: 99.99}], "b", 2.0)
    if comes == "before the mark is compared":
        await asyncio.gather(store.upsert_processed(old, "v1"), change)
    else:
        await change
        await store.upsert_processed(old, "v1")
    assert await process(store) == [2]
    assert await store.targets([record[ID]]) == {record[ID]: 99.99}
    assert await process(store) == []


async def test_the_result_of_an_older_revision_that_comes_last_is_dropped(opened: Open, record: Record) -> None:
    store, other = await opened("replace"), await opened("replace")
    await store.save_raw([record], "a", 1.0)
    [row] = (await store.unprocessed("v1", None, 10)).table.to_pylist()
    old = processed(store.dataset, record[ID], row[REVISION], row[TARGET])
    await other.save_raw([{**record, TARGET: 99.99}], "b", 2.0)
    assert await process(other) == [2]
    await store.upsert_processed(old, "v1")
    assert await store.targets([record[ID]]) == {record[ID]: 99.99}
    assert await process(store) == []


async def test_replicas_that_fill_and_replace_at_the_same_time_agree(opened: Open, record: Record) -> None:
    stores = [await opened("replace") for _ in range(3)]
    keys = [f"k{i:02}" for i in range(12)]
    empty = dict.fromkeys((R1, R2, R3, TARGET))
    versions = [
        ({**empty}, 1.0), ({R1: 1.0}, 2.0), ({R2: 2.0, TARGET: 5.0}, 3.0), ({R1: 3.0, R2: 4.0}, 4.0), ({TARGET: 6.0, R3: 0.5}, 5.0)
    ]  # fmt: skip
    batches = [
        ([{**record, **empty, **values, ID: key} for key in keys], order) for values, order in versions for _ in range(2)
    ]
    random.Random(7).shuffle(batches)
    await asyncio.gather(*(stores[i % 3].save_raw(batch, f"s{i}", order) for i, (batch, order) in enumerate(batches)))
    wanted = {**record, R1: 3.0, R2: 4.0, R3: 0.5, TARGET: 6.0}
    assert await stores[0].raw_records(20) == [{**wanted, ID: key} for key in keys]
    await process(stores[1])
    assert await stores[2].targets(keys) == dict.fromkeys(keys, 6.0)


async def test_a_value_that_the_database_refuses_is_named_and_nothing_new_is_written(
    opened: Open, database: str, settings: Settings, record: Record
) -> None:
    store = await opened("keep")
    await store.save_raw([{**record, "laborant": None}])
    if database == "mongo":
        async with AsyncMongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            validator = {"laborant": {"$ne": "HANS"}}
            await client[settings.mongo_name].command("collMod", "KIOptiPackRaw", validator=validator)
    else:
        connection = connected(settings)
        connection.cursor().execute(
            "ALTER TABLE KIOptiPackRaw ADD CONSTRAINT CHECK (laborant IS NULL OR laborant <> 'HANS')"
        )
        connection.close()
    batch = [{**record, ID: "new", "laborant": "TK"}, {**record, "laborant": "HANS"}]
    with pytest.raises(InvalidRecordError, match="Record 1 .*B-0007"):
        await RawWriter(store).save(batch)
    assert await store.raw_records(5) == [{**record, "laborant": None}]
    assert (await RawWriter(store).save([batch[0], {**record, "laborant": "SO"}])).filled == 1


@pytest.fixture
def unique(database: str, settings: Settings) -> Callable[..., None]:
    """Makes a unique index, as an operator does."""
    return lambda column=R1, table=RAW: make_unique(database, settings, column, table)


@pytest.mark.parametrize("on_conflict", ["keep", "replace"])
async def test_a_new_record_with_a_value_that_an_operators_index_has_is_refused_and_named(
    opened: Open, unique: Callable[..., None], record: Record, on_conflict: str
) -> None:
    store = await opened(on_conflict)
    await store.save_raw([record])
    unique()
    writer = RawWriter(store)
    new, other = {**record, ID: "B-0008"}, {**record, ID: "B-0009", R1: 1.25}
    with pytest.raises(InvalidRecordError, match="Record 0 .*B-0008.*operators_own"):
        await writer.save([new, other])
    assert await store.raw_records(5) == [record]
    # Of two new ones that have the value, the second one is named; neither was written.
    with pytest.raises(InvalidRecordError, match="Record 1 .*B-0010.*operators_own"):
        await writer.save([other, {**other, ID: "B-0010"}, {**record, ID: "B-0011", R1: 2.5}])
    assert await store.raw_records(5) == [record]
    assert (await writer.save([record, other])).inserted == 1


@pytest.mark.parametrize("on_conflict", ["keep", "replace"])
async def test_a_value_never_comes_into_another_record(
    opened: Open, unique: Callable[..., None], record: Record, on_conflict: str
) -> None:
    store = await opened(on_conflict)
    filled, replaced = {**record, ID: "B-0008", R1: None}, {**record, ID: "B-0009", R1: 1.25, TARGET: None}
    await store.save_raw([record, filled, replaced], "a", 1.0)
    unique()
    writer = RawWriter(store)
    label = {**replaced, TARGET: 5.0}
    with pytest.raises(InvalidRecordError, match="Record 0 .*B-0008.*operators_own"):
        await writer.save([{**filled, R1: record[R1]}, label], "b", 2.0)
    if on_conflict == "replace":
        with pytest.raises(InvalidRecordError, match="Record 0 .*B-0009.*operators_own"):
            await writer.save([{**replaced, R1: record[R1]}], "b", 3.0)
    assert (await store.raw_records(5))[:2] == [record, filled]
    await writer.save([label, {**filled, R1: 3.5}], "b", 2.0)
    assert await store.raw_records(5) == [record, {**filled, R1: 3.5}, label]


@pytest.mark.parametrize("taken", [False, True])
async def test_a_record_that_is_deleted_while_a_value_comes_for_it_is_written_anew_and_no_other_one(
    opened: Open, unique: Callable[..., None], settings: Settings, database: str, record: Record, taken: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As retention does; with ``taken``, another record has the value in an operator's index."""
    store = await opened("keep")
    before = {**record, ID: "B-0008", R1: None}
    after = {**before, R1: record[R1] if taken else 1.25}
    await store.save_raw([record, before])
    unique()
    if database == "mongo":
        update = Queries.update_each

        async def after_a_delete(self: Queries, collection: Any, *arguments: Any, **others: Any) -> int:
            await collection.delete_one({ID: before[ID]})
            return await update(self, collection, *arguments, **others)

        monkeypatch.setattr(Queries, "update_each", after_a_delete)
        saving = asyncio.create_task(RawWriter(store).save([after]))
    else:
        with closing(connected(settings)) as connection:
            connection.cursor().execute(f"DELETE FROM {RAW} WHERE _id = ?", (before[ID],))  # noqa: S608
            saving = asyncio.create_task(RawWriter(store).save([after]))
            done, _ = await asyncio.wait({saving}, timeout=0.5)
            assert not done  # it waits for the row
            connection.commit()
    if taken:
        with pytest.raises(InvalidRecordError, match="Record 0 .*B-0008.*operators_own"):
            await saving
        assert await store.raw_records(5) == [record]
    else:
        saved = await saving
        assert (saved.inserted, saved.filled) == (1, 0)
        assert await store.raw_records(5) == [record, after]


async def test_results_never_come_into_another_record(
    opened: Open, unique: Callable[..., None], dataset: Dataset, record: Record
) -> None:
    store = await opened("keep")
    await store.save_raw([record, {**record, ID: "B-0008"}])
    await store.upsert_processed(processed(dataset, record[ID], 1, 42.5), "v1")
    unique(TARGET, PROCESSED)
    with pytest.raises(InvalidRecordError):
        await store.upsert_processed(processed(dataset, "B-0008", 1, 42.5), "v1")
    await store.upsert_processed(processed(dataset, record[ID], 1, 43.5), "v1")
    assert await store.targets([record[ID], "B-0008"]) == {record[ID]: 43.5}


async def test_conflicts_are_listed_with_both_values_and_corrections_are_counted(opened: Open, record: Record) -> None:
    keeping, replacing = await opened("keep"), await opened("replace")
    unlabelled = {**record, ID: "B-0009", TARGET: None}
    began = await keeping.now()
    await keeping.save_raw([record, {**record, ID: "B-0008"}, unlabelled], "lab", 1.0)
    await keeping.save_raw(
        [{**record, R1: 1.25, "laborant": "HANS" if record["laborant"] != "HANS" else "TK"}], "press-4", 2.0
    )
    assert (await keeping.counts()).corrected == 0
    await replacing.save_raw([{**record, TARGET: 99.99}], "lims", 3.0)
    await replacing.save_raw([{**record, TARGET: 1.0}], "late", 0.5)
    await replacing.save_raw([{**unlabelled, R1: 1.25}], "lims", 3.0)
    counts = await keeping.counts()
    assert (counts.conflicts, counts.corrected) == (4, 1)
    found = await keeping.conflicts(None, 10)
    assert [each.key for each in found] == ["B-0007"] * 3 + ["B-0009"]
    assert [each.hash for each in found[:3]] == sorted(each.hash for each in found[:3])
    by_source = {each.source: each for each in found[:3]}
    kept, corrected, late = by_source["press-4"], by_source["lab"], by_source["late"]
    assert [(each.column, each.kept, each.lost) for each in corrected.values] == [(TARGET, 99.99, 42.5)]
    assert (corrected.corrected, corrected.kept_source) == (True, "lims")
    assert [(each.column, each.kept, each.lost) for each in late.values] == [(TARGET, 99.99, 1.0)]
    assert {each.column for each in kept.values} == {"laborant", R1, TARGET}
    assert (kept.corrected, kept.kept_source) == (False, "lab")
    assert began - 1 <= kept.at <= await keeping.now() + 1
    # Page by page; what an earlier correction has lost comes again and replaces, and what it replaces is another correction.
    assert [await replacing.conflicts((each.key, each.hash), 1) for each in found[:3]] == [[each] for each in found[1:]]
    assert await replacing.conflicts((found[-1].key, found[-1].hash), 1) == []
    await replacing.save_raw([{**record, TARGET: 1.0}], "lims", 4.0)
    await replacing.save_raw([{**record, TARGET: 2.0}], "lims", 5.0)
    counts = await keeping.counts()
    assert (counts.conflicts, counts.corrected) == (5, 3)


async def test_records_of_an_earlier_release_are_as_old_as_their_arrival(
    opened: Open, database: str, settings: Settings, record: Record
) -> None:
    store = await opened("replace")
    await store.save_raw([record], "before")
    if database == "mongo":
        async with AsyncMongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name]["KIOptiPackRaw"].update_one({}, {"$unset": {"_envelope.order": ""}})
    else:
        connection = connected(settings)
        connection.cursor().execute("UPDATE KIOptiPackRaw SET _envelope_order = NULL")
        connection.commit()
        connection.close()
    [before] = envelopes(database, settings)
    arrived = before.received.timestamp()
    assert (await store.save_raw([{**record, R1: 1.0}], "old", arrived - 60)).replaced == 0
    assert (await store.save_raw([{**record, R1: 2.0}], "new", arrived + 60)).replaced == 1
    assert (await store.raw_records(2))[0][R1] == 2.0


def test_the_order_of_arrival_does_not_matter(dataset: Dataset, record: Record) -> None:
    digest, draw = content_hash(dataset), random.Random(3)
    for _ in range(60):
        columns = [R1, R2, R3]
        versions = [
            ({**record, **{name: draw.choice([None, 1.0, 2.0, 3.0]) for name in columns}}, float(order))
            for order in range(1, 5)
        ]
        ends = set()
        for arrival in itertools.permutations(versions):
            delivered = [*arrival, *draw.sample(versions, 2)]
            first, order = delivered[0]
            stored = Stored(first, "", 1, digest(first), order)
            for values, at in delivered[1:]:
                merge = Merge(dataset, digest, replaces=True)
                for change in merge.merge({0: Incoming(values, "", at, digest(values))}, [stored]):
                    assert change.after.revision == stored.revision + 1
                    assert change.after.hash == digest(change.after.record)
                    stored = change.after
            ends.add(json.dumps([stored.record[name] for name in columns]))
        assert len(ends) == 1
