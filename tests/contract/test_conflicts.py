"""Records under keys that exist, where an operator's rules, other programs or retention meet them; the rest is in the suite."""

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


@pytest.mark.parametrize("newer_first", [False, True])
async def test_the_envelope_names_the_content_and_whose_it_is(
    opened: Open, database: str, settings: Settings, record: Record, newer_first: bool
) -> None:
    store = await opened("replace")
    versions = [({**record, TARGET: None}, 5.0), (record, 10.0), ({**record, R1: 1.25}, 20.0)]
    for values, order in reversed(versions) if newer_first else versions:
        await store.save_raw([values], f"at {order:g}", order)
    [envelope] = envelopes(database, settings)
    assert (envelope.revision, envelope.source) == (1 if newer_first else 3, "at 20")
    assert envelope.hash == content_hash(store.dataset)(versions[2][0])


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
