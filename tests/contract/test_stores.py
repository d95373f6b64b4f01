"""What both stores promise. One suite of cases; a backend adds how to reach its database around the store."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import mariadb
import pyarrow as pa
import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import uuid7
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, Page, beside_schema, processed_schema, raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.errors import DeclarationError, InvalidRecordError, StoreUnavailableError
from complex_system.local.servers import Server, free_port
from complex_system.protocol.database import RecordCounts, Rejection, Saved
from complex_system.settings import Settings
from complex_system.storage import quarantine
from complex_system.storage.base import PROCESSED, RAW, REJECTED, DataStore
from complex_system.storage.conflicts import CONFLICTS
from complex_system.storage.envelope import Digest, content_hash
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo import connection as mongo_connection
from complex_system.storage.mongo import secantus
from complex_system.storage.mongo import store as mongo_store
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.storage.quarantine import RawWriter
from envelopes import age, change, envelopes
from everything import EVERYTHING
from given import DIRECT
from proxy import proxied
from support import eventually

CHANGED = "rohwert_2_labormessung"
EXACT = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3, 2**53 + 1.0, -1e-300]
# Python orders texts by code point, which is the order of their UTF-8 bytes.
ODD_KEYS = sorted(["a", "a ", "A", "ä", "b\t", "Z", "\U0001f600", "~", "a\u0301", "0" * 64, "\uffff", "a'b\"`\\"])

ODD_NAMES = """
name: odd
target: "back`tick"
columns:
  - {name: "back`tick", type: number, optional: true}
  - {name: "width in mm. (50 % of ?)", type: number, range: [0, 1]}
  - {name: "$price", type: category, categories: ["1.5", "a.b", "%s", "%(x)s", ":name", "x'y"]}
  - {name: Temp, type: number, range: [0, 1]}
  - {name: temp, type: number, range: [0, 1]}
  - {name: _pipeline, type: number, range: [0, 1]}
  - {name: "Größe ", type: number, range: [0, 1]}
  - {name: "a long name that goes on and on until it is longer than any identifier may be in a table", type: text, optional: true}
  - {name: "\\U0001F600", type: text, optional: true}
  - {name: order, type: text, optional: true}
pipeline:
  - {step: one_hot, column: "$price"}
  - {step: scale, column: "width in mm. (50 % of ?)"}
  - {step: scale, column: Temp}
  - {step: scale, column: temp}
  - {step: scale, column: _pipeline}
  - {step: scale, column: "Größe "}
"""


# MariaDB's codes. A full disk, memory, locks, read-only, a time limit, the operating system's errors:
WAITS = (28, 1021, 1026, 1030, 1037, 1041, 1114, 1206, 1290, 1317, 1836, 1969)
# NULL, out of range, of another type, too long, too large for a statement, a constraint:
REFUSES = (1048, 1153, 1264, 1292, 1366, 1406, 4025)


def processed_table(dataset: Dataset, keys: list[str], target: float | None = 1.5, base: float = 0.0) -> pa.Table:
    rows = [
        {ID: key, dataset.target: target, **{name: base + i / 7 for i, name in enumerate(dataset.feature_names)}}
        for key in keys
    ]
    return pa.Table.from_pylist(rows, schema=processed_schema(dataset))


def keys_of(page: Page) -> list[str]:
    return list(page.table.column(ID).to_pylist())


def counted(saved: Saved) -> dict[str, int]:
    return {"inserted": saved.inserted, "existing": saved.existing, "conflicts": saved.conflicts}


def raw_of(page: Page) -> pa.Table:
    """The raw records of a page, without their revisions."""
    return page.table.drop_columns([REVISION])


def wide(categories: int, name: str = "a column with a long name, number ") -> Dataset:
    """A data set of a few columns and hundreds of features, as tables full of categories have them."""
    names = [f"{name}{i}" for i in range(5)]
    values = [f"category {i}" for i in range(categories)]
    return Dataset.parse(json.dumps({
        "name": "wide", "target": "y",
        "columns": [*({"name": name, "type": "category", "categories": values} for name in names),
                    {"name": "y", "type": "number", "optional": True}],
        "pipeline": [{"step": "one_hot", "column": name} for name in names],
    }))  # fmt: skip


class Traffic(CommandListener):
    """What is under way in each collection, and how many values the messages hold."""

    def __init__(self) -> None:
        self.under_way: dict[int, tuple[str, str]] = {}
        self.met: set[tuple[str, frozenset[str]]] = set()
        self.most: dict[str, int] = {"write": 0, "read": 0}

    def started(self, event: CommandStartedEvent) -> None:
        kind = {"insert": "write", "find": "read", "getMore": "read"}.get(event.command_name)
        if kind is None:
            return
        where = str(event.command["collection" if event.command_name == "getMore" else event.command_name])
        self.met |= {(where, frozenset({kind, other})) for at, other in self.under_way.values() if at == where}
        self.under_way[event.request_id] = (where, kind)
        self._count(kind, event.command.get("documents", []))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.under_way.pop(event.request_id, None)
        cursor = event.reply.get("cursor", {})
        self._count("read", cursor.get("firstBatch", cursor.get("nextBatch", [])))

    def failed(self, event: CommandFailedEvent) -> None:
        self.under_way.pop(event.request_id, None)

    def _count(self, kind: str, documents: list[Any]) -> None:
        self.most[kind] = max(self.most[kind], sum(map(len, documents)))


class StoreCases(ABC):
    """The cases. ``Test...`` below run them."""

    database: ClassVar[str]

    @pytest.fixture
    @abstractmethod
    def settings(self) -> Settings:
        """Points to a database of its own name."""

    @abstractmethod
    def make(self, dataset: Dataset, settings: Settings) -> DataStore:
        """The store under test."""

    @abstractmethod
    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        """All that the database holds under that name, read without the store, by key."""

    @abstractmethod
    def at_port(self, settings: Settings, port: int) -> Settings:
        """The same settings with another port."""

    def behind(self, settings: Settings, port: int) -> Settings:
        """The same settings with the port of a proxy, which no connection may go round."""
        return self.at_port(settings, port)

    @abstractmethod
    def port(self, settings: Settings) -> int:
        """Where the server listens."""

    @abstractmethod
    async def drop(self, settings: Settings) -> None:
        """Removes the database."""

    @abstractmethod
    async def refuse(self, settings: Settings, laborant: str) -> None:
        """Has the database itself refuse raw records of one person, by a rule of the operator's."""

    @pytest.fixture
    async def store(self, dataset: Dataset, settings: Settings) -> AsyncIterator[DataStore]:
        store = self.make(dataset, settings)
        await store.open()
        yield store
        await store.close()
        await self.drop(settings)

    @pytest.fixture
    def records(self, laboratory: Laboratory) -> list[Record]:
        records = list(laboratory.records(30))
        # Other values of these two are conflicts, not values that were missing.
        for place in (0, 2):
            records[place][CHANGED] = 8.5
        return records

    async def test_raw_records_are_kept_to_the_last_bit(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        for record, value in zip(records, EXACT, strict=False):
            record["rohwert_1_labormessung"] = value
        assert counted(await store.save_raw(records)) == {"inserted": 30, "existing": 0, "conflicts": 0}
        kept = [{name: row[name] for name in records[0]} for row in await self.kept(settings, RAW)]
        assert kept == records
        # MariaDB keeps no sign of zero, so neither does.
        assert EXACT[3] == 0.0
        assert math.copysign(1, kept[3]["rohwert_1_labormessung"]) == 1
        assert await store.raw_records(100) == records
        assert await store.raw_records(7) == records[:7]
        assert list((await store.raw_records(1))[0]) == [ID, *store.dataset.raw_names]

    async def test_saving_again_changes_nothing(self, store: DataStore, settings: Settings, records: list[Record]) -> None:
        await store.save_raw(records[:20])
        before = await self.kept(settings, RAW)
        changed = [{**record, "datum": "29.02.2024, 00:00:00"} for record in records[:20]]
        assert counted(await store.save_raw(changed)) == {"inserted": 0, "existing": 20, "conflicts": 20}
        assert await self.kept(settings, RAW) == before
        assert counted(await store.save_raw(records)) == {"inserted": 10, "existing": 20, "conflicts": 0}
        assert counted(await store.save_raw([])) == {"inserted": 0, "existing": 0, "conflicts": 0}

    async def test_the_first_of_equal_keys_in_one_batch_is_kept(self, store: DataStore, records: list[Record]) -> None:
        twice = [records[1], records[0], {**records[0], CHANGED: 1.0}]
        assert counted(await store.save_raw(twice)) == {"inserted": 2, "existing": 1, "conflicts": 1}
        assert await store.raw_records(5) == records[:2]

    async def test_other_values_under_a_key_that_exists_are_kept_and_counted_as_conflicts(
        self, store: DataStore, settings: Settings, records: list[Record], caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.save_raw(records[:3], "press-4")
        others = [{**records[0], CHANGED: 1.0}, records[1], {**records[2], CHANGED: 2.0}]
        for _ in range(2):  # a second delivery of the message changes nothing
            assert counted(await store.save_raw(others, "press-5")) == {"inserted": 0, "existing": 3, "conflicts": 2}
            assert await store.raw_records(5) == records[:3]
            assert (await store.counts()).conflicts == 2
        third = {**records[0], CHANGED: 3.0}
        assert (await store.save_raw([third], "press-6")).conflicts == 1
        kept = await self.kept(settings, CONFLICTS)
        assert sorted((each["source"], each["kept_source"]) for each in kept) == [
            ("press-5", "press-4"), ("press-5", "press-4"), ("press-6", "press-4")
        ]  # fmt: skip
        values = sorted((json.loads(each["record"]) for each in kept), key=lambda record: float(record[CHANGED]))
        assert values == [others[0], others[2], third]
        assert f"First: {records[0][ID]!r} from 'press-5'; the stored one is from 'press-4'" in caplog.text

    async def test_replays_at_the_same_time_insert_each_record_once(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        batches = [records, records[::-1], records[:20], records[10:], records, records[5:25][::-1], records, records]
        replies = await asyncio.gather(*(store.save_raw([dict(r) for r in batch]) for batch in batches))
        assert sum(reply.inserted for reply in replies) == 30
        assert [reply.inserted + reply.existing for reply in replies] == [len(batch) for batch in batches]
        assert await store.raw_records(100) == records

    async def test_keys_are_told_apart_and_ordered_by_their_bytes(self, store: DataStore, records: list[Record]) -> None:
        odd = [{**records[0], ID: key} for key in ODD_KEYS[::-1]]
        assert (await store.save_raw(odd)).inserted == len(ODD_KEYS)
        assert [record[ID] for record in await store.raw_records(100)] == ODD_KEYS
        await store.upsert_processed(processed_table(store.dataset, ODD_KEYS[::-1][:-2]), "v1")
        assert keys_of(await store.unprocessed("v1", None, 100)) == ODD_KEYS[:2]
        walked: list[str] = []
        after = None
        while page := await store.processed_columns([ID], labelled=False, version=None, after=after, limit=3):
            walked += keys_of(page)
            after = page.next
            if after is None:
                break
        assert walked == ODD_KEYS[2:]

    async def test_unprocessed_pages_walk_all_raw_records_by_key(self, store: DataStore, records: list[Record]) -> None:
        await store.save_raw(records[::-1])
        first = await store.unprocessed("v1", None, 20)
        assert first.next == records[19][ID]
        second = await store.unprocessed("v1", first.next, 20)
        assert second.next is None
        assert first.table.schema == raw_schema(store.dataset).append(pa.field(REVISION, pa.int64(), nullable=False))
        assert pa.concat_tables([raw_of(first), raw_of(second)]).to_pylist() == records
        empty = await store.unprocessed("v1", records[-1][ID], 20)
        assert (empty.table.num_rows, empty.next) == (0, None)
        assert empty.table.schema == first.table.schema

    async def test_readers_at_the_same_time_see_each_unprocessed_record_once(
        self, store: DataStore, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v0")
        await store.upsert_processed(processed_table(store.dataset, keys[10:20]), "v1")
        pages = await asyncio.gather(*(store.unprocessed("v2", None, 1000) for _ in range(8)))
        assert [keys_of(page) for page in [*pages, await store.unprocessed("v2", None, 1000)]] == [keys] * 9

    async def test_what_is_processed_or_rejected_is_no_longer_unprocessed(
        self, store: DataStore, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v1")
        await store.reject([Rejection(id=keys[12], reason="odd")], "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[20:25]), "v0")
        assert keys_of(await store.unprocessed("v1", None, 100)) == [*keys[10:12], *keys[13:]]
        assert keys_of(await store.unprocessed("v0", None, 100)) == [*keys[:20], *keys[25:]]
        page = await store.unprocessed("v2", keys[4], 18)
        assert keys_of(page) == keys[5:23]
        assert page.next == keys[22]
        await store.save_raw(records)
        assert keys_of(await store.unprocessed("v1", None, 100)) == [*keys[10:12], *keys[13:]]

    async def test_a_record_that_changes_while_it_is_processed_waits_again(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        page = await store.unprocessed("v1", None, 30)
        assert page.table.column(REVISION).to_pylist() == [1] * 30
        change(self.database, settings, keys[3], CHANGED, 7.5)
        change(self.database, settings, keys[21], CHANGED, 7.5)
        revisions = page.table.column(REVISION).slice(0, 20)
        await store.upsert_processed(processed_table(store.dataset, keys[:20]).append_column(REVISION, revisions), "v1")
        await store.reject([Rejection(id=key, reason="odd", revision=1) for key in keys[20:25]], "v1")
        left = await store.unprocessed("v1", None, 30)
        assert keys_of(left) == [keys[3], keys[21], *keys[25:]]
        assert left.table.column(REVISION).to_pylist() == [2, 2, 1, 1, 1, 1, 1]
        assert left.table.column(CHANGED).to_pylist()[:2] == [7.5, 7.5]
        again = processed_table(store.dataset, keys_of(left)).append_column(REVISION, left.table.column(REVISION))
        await store.upsert_processed(again, "v1")
        assert keys_of(await store.unprocessed("v1", None, 30)) == []
        assert [each.id for each in await store.rejected(None, 30)] == [keys[20], *keys[22:25]]

    async def test_what_was_made_of_an_older_revision_comes_too_late_and_replaces_nothing(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records[:6]]
        await store.save_raw(records[:6])
        old = processed_table(store.dataset, keys).append_column(REVISION, pa.array([1] * 6, pa.int64()))
        for key in keys:
            change(self.database, settings, key, CHANGED, 7.5)
        results = processed_table(store.dataset, keys, base=5.0)
        new = results.append_column(REVISION, pa.array([2] * 6, pa.int64()))
        assert await store.upsert_processed(new, "v1") == {"upserted": 6}
        for _ in range(2):
            assert await store.upsert_processed(old.slice(0, 2), "v1") == {"upserted": 0}
            late = [Rejection(id=key, reason="odd", revision=1) for key in keys[2:4]]
            assert await store.reject(late, "v1") == {"rejected": 0}
            assert await store.upsert_processed(new, "v1") == {"upserted": 6}
        assert keys_of(await store.unprocessed("v1", None, 30)) == []
        assert await store.rejected(None, 30) == []
        page = await store.processed_columns(results.column_names, labelled=False, version="v1", after=None, limit=10)
        assert page.table.to_pylist() == results.to_pylist()

    async def test_a_walk_over_all_raw_records_misses_none_whose_mark_changes_meanwhile(
        self, store: DataStore, records: list[Record]
    ) -> None:
        other, keys = records[:5], [record[ID] for record in records]
        await store.save_raw([{**record, CHANGED: None} for record in records])
        ended = asyncio.Event()

        async def change_marks() -> None:
            for target in other:
                page = await store.unprocessed("v1", None, 100)
                revisions = page.table.column(REVISION)
                done = processed_table(store.dataset, keys_of(page)).append_column(REVISION, revisions)
                await store.upsert_processed(done, "v1")
                await store.save_raw([target])  # fills it, so that it waits again
            ended.set()

        async def walk() -> None:
            while not ended.is_set():
                assert keys_of(await store.unprocessed("none", None, 100)) == keys

        await asyncio.gather(change_marks(), *(walk() for _ in range(3)))
        assert keys_of(await store.unprocessed("v1", None, 100)) == [other[-1][ID]]

    async def test_results_without_a_revision_count_for_whatever_is_there(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records[:6]]
        await store.save_raw(records[:6])
        change(self.database, settings, keys[0], CHANGED, 7.5)
        await store.upsert_processed(processed_table(store.dataset, keys[:3]), "v1")
        await store.reject([Rejection(id=key, reason="odd") for key in keys[3:]], "v1")
        assert keys_of(await store.unprocessed("v1", None, 30)) == []

    async def test_an_envelope_is_kept_beside_each_raw_record(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        before = datetime.now(UTC) - timedelta(seconds=5)
        await store.save_raw(records[:10], "lab 1")
        sources = [f"machine {i}" for i in range(9)] + ["x" * 300]
        await store.save_raw(records[10:20], sources)
        await store.save_raw([{**records[0], CHANGED: 1.0}], "somebody else")
        kept = envelopes(self.database, settings)
        assert [(each.done, each.revision) for each in kept] == [("", 1)] * 20
        assert [each.source for each in kept] == ["lab 1"] * 10 + [source[:200] for source in sources]
        digest = content_hash(store.dataset)
        assert [each.hash for each in kept] == [digest(record) for record in records[:20]]
        assert all(before < each.received < datetime.now(UTC) + timedelta(seconds=5) for each in kept)
        await store.upsert_processed(processed_table(store.dataset, [record[ID] for record in records[:10]]), "v1")
        assert [each.done for each in envelopes(self.database, settings)] == ["v1"] * 10 + [""] * 10

    async def test_another_stores_work_is_seen(self, store: DataStore, settings: Settings, records: list[Record]) -> None:
        other = self.make(store.dataset, settings)
        await other.open()
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await other.upsert_processed(processed_table(store.dataset, keys[:20]), "v1")
        assert keys_of(await store.unprocessed("v1", None, 100)) == keys[20:]
        await other.close()

    async def test_a_raw_record_after_its_processed_twin_is_no_work(self, store: DataStore, records: list[Record]) -> None:
        keys = [record[ID] for record in records]
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v1")
        await store.save_raw(records)
        assert keys_of(await store.unprocessed("v1", None, 100)) == keys[10:]
        assert keys_of(await store.unprocessed("v2", None, 100)) == keys

    async def test_a_processed_record_is_replaced_and_its_rejection_taken_back(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.reject([Rejection(id=key, reason="odd") for key in keys[:3]], "v1")
        assert await store.upsert_processed(processed_table(store.dataset, keys[:2]), "v2") == {"upserted": 2}
        newer = pa.concat_tables(
            [processed_table(store.dataset, keys[:1], base=5.0), processed_table(store.dataset, keys[:3], None, base=9.0)]
        )
        await store.upsert_processed(newer, "v3")
        assert await self.kept(settings, REJECTED) == []
        page = await store.processed_columns(
            list(store.dataset.processed_names), labelled=False, version="v3", after=None, limit=10
        )
        assert page.table == processed_table(store.dataset, keys[:3], None, base=9.0)
        assert (await store.counts()).processed == 3
        assert await store.upsert_processed(processed_table(store.dataset, []), "v3") == {"upserted": 0}

    async def test_a_rejection_is_kept_with_its_reason_and_removes_the_twin(
        self, store: DataStore, records: list[Record]
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[:5]), "v1")
        reason = "unknown category 'Ω' " * 200
        assert await store.reject([Rejection(id=key, reason=reason) for key in keys[3:7][::-1]], "v2") == {"rejected": 4}
        await store.reject([Rejection(id=keys[4], reason="first"), Rejection(id=keys[4], reason="last")], "v3")
        assert await store.rejected(None, 2) == [
            Rejection(id=keys[3], reason=reason, version="v2"),
            Rejection(id=keys[4], reason="last", version="v3"),
        ]
        assert [r.id for r in await store.rejected(keys[4], 10)] == keys[5:7]
        assert await store.counts() == RecordCounts(raw=30, processed=3, labelled=3, rejected=4)
        assert await store.reject([], "v3") == {"rejected": 0}

    async def test_processed_columns_come_as_asked_for(self, store: DataStore, records: list[Record]) -> None:
        keys, names = [record[ID] for record in records], list(store.dataset.processed_names)
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[10:20], target=None), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[20:], target=0.0), "v2")
        page = await store.processed_columns(names, labelled=False, version=None, after=None, limit=30)
        assert page.table.schema == processed_schema(store.dataset)
        assert keys_of(page) == keys
        assert page.next == keys[-1]
        assert page.table.column(names[5]).to_pylist() == [3 / 7] * 30
        chosen = [names[4], store.dataset.target]
        page = await store.processed_columns(chosen, labelled=True, version=None, after=keys[4], limit=6)
        assert page.table.column_names == chosen
        assert page.table.column(1).to_pylist() == [1.5] * 5 + [0.0]
        assert page.next == keys[20]
        page = await store.processed_columns([ID], labelled=True, version="v2", after=None, limit=11)
        assert (keys_of(page), page.next) == (keys[20:], None)
        page = await store.processed_columns(chosen, labelled=True, version="none", after=None, limit=11)
        assert (page.table.num_rows, page.next, page.table.column_names) == (0, None, chosen)

    async def test_raw_columns_and_the_arrival_come_beside_processed_ones(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        keys, target = [record[ID] for record in records], store.dataset.target
        began = await store.now()
        await store.save_raw(records[:20])
        await store.upsert_processed(processed_table(store.dataset, keys), "v1")
        age(self.database, settings, {keys[3]: 2.0})
        raw = [CHANGED, "datum", target]
        page = await store.processed_columns([target], labelled=True, version="v1", after=keys[1], limit=20, raw=raw)
        assert page.table.schema == pa.schema([(target, pa.float64()), *beside_schema(store.dataset, raw)])
        assert page.table.column_names == [target, *map(raw_name, raw), ARRIVED]
        assert page.next == keys[21]
        assert page.table.column(target).to_pylist() == [1.5] * 20
        for name in raw:
            expected = [record[name] for record in records[2:20]] + [None] * 2
            assert page.table.column(raw_name(name)).to_pylist() == expected
        arrived = page.table.column(ARRIVED).to_pylist()
        assert arrived[18:] == [None, None]
        assert arrived[1] == pytest.approx(began - 2 * 86_400, abs=60)
        assert arrived[0] == pytest.approx(began, abs=60)
        assert len({*arrived[:1], *arrived[2:18]}) == 1  # those of one batch
        page = await store.processed_columns([ID], labelled=False, version=None, after=None, limit=50, raw=[])
        assert page.table.column_names == [ID, ARRIVED]
        assert page.table.column(ARRIVED).to_pylist()[2:20] == arrived[:18]

    @pytest.mark.parametrize("limit", [1, 7, 50])
    async def test_pages_by_arrival_walk_what_arrived_later_whatever_the_keys(
        self, store: DataStore, settings: Settings, records: list[Record], limit: int
    ) -> None:
        keys = [record[ID] for record in records]
        await store.save_raw(records[:27])
        await store.upsert_processed(processed_table(store.dataset, keys[:20]), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[20:23], target=None), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[23:25]), "another")
        await store.upsert_processed(
            processed_table(store.dataset, keys[28:]), "v1"
        )  # two are not processed, three have no raw record
        # Older the larger the key, but for those of one batch; the others of it are of no interest.
        age(self.database, settings, {key: 1.0 + place for place, key in enumerate(keys[:10])})
        now = await store.now()
        walked, after, start = list[tuple[float, str]](), None, now - 7.5 * 86_400
        while True:
            page = await store.processed_columns(
                [ID], labelled=True, version="v1", after=after, limit=limit, raw=["datum"], arrived_after=start
            )
            walked += zip(page.table.column(ARRIVED).to_pylist(), keys_of(page), strict=True)
            if page.next is None:
                break
            start, after = walked[-1][0], page.next
        assert [key for _, key in walked] == [*keys[6::-1], *keys[10:20]]
        assert sorted(walked) == walked
        page = await store.processed_columns(
            [ID], labelled=False, version=None, after=None, limit=50, raw=["datum"], arrived_after=walked[6][0]
        )
        assert keys_of(page) == keys[10:25]
        assert page.table.column(raw_name("datum")).to_pylist() == [record["datum"] for record in records[10:25]]
        for later in (now + 3600, 2.0**31 - 1):
            page = await store.processed_columns(
                [ID], labelled=False, version=None, after=None, limit=50, raw=[], arrived_after=later
            )
            assert (page.table.num_rows, page.next) == (0, None)
        page = await store.processed_columns(
            [ID], labelled=False, version=None, after=None, limit=50, raw=[], arrived_after=0.0
        )
        assert page.table.num_rows == 25

    async def test_processed_records_are_kept_to_the_last_bit(self, store: DataStore) -> None:
        table = processed_table(store.dataset, [f"k{i}" for i in range(len(EXACT))])
        exact = pa.array(EXACT, pa.float64())
        names = list(store.dataset.processed_names)
        for name in (names[1], names[7]):
            table = table.set_column(names.index(name), name, exact)
        await store.upsert_processed(table, "v1")
        page = await store.processed_columns(names, labelled=True, version=None, after=None, limit=100)
        assert page.table == table
        assert [math.copysign(1, value) for value in page.table.column(names[7]).to_pylist()] == [1, 1, 1, 1, 1, 1, -1]

    async def test_keys_of_processed_records_are_found_by_their_place(self, store: DataStore) -> None:
        keys = [f"k{i:02}" for i in range(10)]
        await store.upsert_processed(processed_table(store.dataset, keys[::-1]), "v1")
        assert [await store.processed_key(None, places) for places in (1, 4, 10, 11)] == ["k00", "k03", "k09", None]
        assert [await store.processed_key("k03", places) for places in (0, 1, 6, 7)] == ["k03", "k04", "k09", None]
        assert await store.processed_key(None, 10**18) is None

    async def test_arrival_is_told_by_the_databases_clock_and_not_by_the_keys(
        self, store: DataStore, laboratory: Laboratory
    ) -> None:
        began = await store.now()
        assert began == pytest.approx(time.time(), abs=60)
        assert await store.last_key(began + 1000) is None
        records = list(laboratory.records(6))
        # The source's clock is an hour ahead, then an hour behind.
        early = [{**each, "_id": uuid7(int(1000 * began) + 3_600_000, place)} for place, each in enumerate(records[:3])]
        late = [{**each, "_id": uuid7(int(1000 * began) - 3_600_000, place)} for place, each in enumerate(records[3:])]
        await store.save_raw(early)

        async def later() -> float | None:
            now = await store.now()
            return now if now > began and await store.last_key(now) == early[-1]["_id"] else None

        between = await eventually(later)
        await store.save_raw(late)
        assert await store.last_key(between) == early[-1]["_id"]
        assert await store.last_key(began - 1) is None

    async def test_counts_begin_at_nothing(self, store: DataStore) -> None:
        assert await store.counts() == RecordCounts(raw=0, processed=0, labelled=0, rejected=0)

    async def test_column_names_may_hold_any_character(self, settings: Settings) -> None:
        dataset = Dataset.parse(ODD_NAMES)
        store = self.make(dataset, settings)
        await store.open()
        try:
            record: Record = {ID: "k1"}
            for i, column in enumerate(dataset.columns):
                record[column.name] = i / 10 if column.type == "number" else f"text {i} ? %s"
            await store.save_raw([record])
            assert await store.raw_records(5) == [record]
            assert raw_of(await store.unprocessed("v1", None, 5)).to_pylist() == [record]
            table = processed_table(dataset, ["k1", "k2"])
            await store.upsert_processed(table, "v1")
            names = list(dataset.processed_names)
            page = await store.processed_columns(names, labelled=True, version="v1", after=None, limit=5)
            assert page.table == table
            assert (await store.counts()).labelled == 2
            assert (await store.unprocessed("v1", None, 5)).table.num_rows == 0
            beside = await store.processed_columns(
                names, labelled=True, version="v1", after=None, limit=1, raw=list(dataset.raw_names), arrived_after=0.0
            )
            assert beside.table.select(names) == table.slice(0, 1)
            assert beside.table.select([raw_name(name) for name in dataset.raw_names]).to_pylist() == [
                {raw_name(name): record[name] for name in dataset.raw_names}
            ]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_values_of_every_type_come_back_as_they_were(self, settings: Settings) -> None:
        store = self.make(EVERYTHING, settings)
        await store.open()
        try:
            full = {
                "Temp. [°C]": 1.5, "temp. [°c]": -0.25, "select": 2**53, "Größe": None, "an": False, "Sorte": "007", "Ort": "ä `x` '",
                "Zeit": "31.12.2025 23:59", "Stoffe": ["K1", 'K"2', "Ü"], "Anteile": [0.1, 0.7, 1 / 3],
                "Notiz": " ", "Prüfer": "", "quality": 0.0,
            }  # fmt: skip
            others = {**full, "an": True, "select": 0, "Stoffe": [], "Anteile": []}
            saved = [{ID: "k1", **full}, {ID: "k2", **dict.fromkeys(full)}, {ID: "k3", **others}]
            await store.save_raw(saved)
            read = await store.raw_records(5)
            page = raw_of(await store.unprocessed("v1", None, 5))
            assert read == saved
            await store.upsert_processed(processed_table(EVERYTHING, [each[ID] for each in saved]), "v1")
            names = EVERYTHING.raw_names
            for start in (None, 0.0):
                beside = await store.processed_columns(
                    [ID], labelled=False, version=None, after=None, limit=5, raw=list(names), arrived_after=start
                )
                assert beside.table.select([raw_name(name) for name in names]).to_pylist() == [
                    {raw_name(name): each[name] for name in names} for each in saved
                ]
            assert [[type(value) for value in record.values()] for record in read] == [
                [type(value) for value in record.values()] for record in saved
            ]
            assert page.schema == raw_schema(EVERYTHING)
            assert page.to_pylist() == saved
            by_key = (await store.raw_by_keys(["k1", "k2", "k3", "k4"])).table
            assert by_key == page
        finally:
            await store.close()
            await self.drop(settings)

    async def test_names_that_a_server_takes_for_one_are_different_columns(self, settings: Settings) -> None:
        names = [
            "a",
            "A",
            "ä",
            "Ä",
            "ß",
            "ss",
            "SS",
            "İ",
            "i",
            "ı",
            "I",
            "\u212a",
            "k",
            "é",
            "e\u0301",
            "º",
            "o",
            "_ID",
            "Select",
            "select",
        ]
        columns = "".join(f'  - {{name: "{name}", type: number, range: [0, 99]}}\n' for name in names)
        steps = "".join(f'  - {{step: keep, column: "{name}"}}\n' for name in names)
        dataset = Dataset.parse(
            f"name: alike\ntarget: y\ncolumns:\n{columns}  - {{name: y, type: number}}\npipeline:\n{steps}"
        )
        store = self.make(dataset, settings)
        await store.open()
        try:
            record = {ID: "k", **{name: float(place) for place, name in enumerate(names)}, "y": 1.0}
            await store.save_raw([record])
            assert await store.raw_records(5) == [record]
            table = processed_table(dataset, ["k"])
            await store.upsert_processed(table, "v1")
            page = await store.processed_columns(
                list(dataset.processed_names), labelled=True, version="v1", after=None, limit=5
            )
            assert page.table == table
        finally:
            await store.close()
            await self.drop(settings)

    async def test_a_declaration_may_grow(self, store: DataStore, settings: Settings, records: list[Record]) -> None:
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, [records[0][ID]]), "v1")
        grown = store.dataset.dict()
        grown["columns"] += ({"name": "feuchte", "type": "number", "range": (0.0, 1.0), "optional": True, "fill": 0.5},)
        grown["pipeline"] += ({"step": "scale", "column": "feuchte"},)
        newer = self.make(Dataset.parse_obj(grown), settings)
        await newer.open()
        try:
            assert await newer.raw_records(100) == [{**record, "feuchte": None} for record in records]
            await newer.upsert_processed(processed_table(newer.dataset, [records[1][ID]]), "v2")
            page = await newer.processed_columns(["feuchte"], labelled=False, version=None, after=None, limit=5)
            assert page.table.column(0).to_pylist()[0] is None
            assert page.table.column(0).to_pylist()[1] is not None
        finally:
            await newer.close()

    async def test_two_replicas_may_open_a_new_database_at_once(self, dataset: Dataset, settings: Settings) -> None:
        stores = [self.make(dataset, settings) for _ in range(3)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
            assert (await stores[2].counts()).raw == 0
        finally:
            await asyncio.gather(*(store.close() for store in stores))
            await self.drop(settings)

    async def test_a_database_that_is_not_there_is_named(self, dataset: Dataset, settings: Settings) -> None:
        port = free_port()
        store = self.make(dataset, self.at_port(settings, port))
        with pytest.raises(StoreUnavailableError, match=rf"{store.label} at 127.0.0.1:{port}"):
            await store.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailableError, match="not connected"):
            await store.counts()

    async def test_a_store_comes_back_with_its_database(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        async with proxied(self.port(settings)) as proxy:
            through = self.make(store.dataset, self.behind(settings, proxy.port))
            await through.open()
            await asyncio.gather(*(through.save_raw(records[i : i + 5]) for i in range(0, 20, 5)))
            await proxy.cut()
            for attempt in (through.save_raw(records), through.counts(), through.ping()):
                with pytest.raises(StoreUnavailableError, match=through.label):
                    await attempt
            await proxy.join()
            await through.ping()
            assert counted(await through.save_raw(records)) == {"inserted": 10, "existing": 20, "conflicts": 0}
            # The server restarted between two requests: the dead connections are nobody's concern.
            await proxy.cut()
            await proxy.join()
            assert (await through.counts()).raw == 30
            await through.close()

    async def test_a_probe_writes_and_leaves_nothing(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        await asyncio.gather(store.probe(), store.probe())
        assert await self.kept(settings, RAW) == []
        await store.save_raw(records)
        kept = await self.kept(settings, RAW)
        await store.probe()
        assert await self.kept(settings, RAW) == kept
        await self.refuse(settings, "")  # an example has no name
        await store.probe()

    async def test_an_example_of_every_type_is_a_record(self, settings: Settings) -> None:
        dataset = EVERYTHING
        store = self.make(dataset, settings)
        await store.open()
        try:
            [checked] = raw_check(dataset)([store.example("a")])
            assert checked == store.example("a")
            await store.probe()
            assert (await store.counts()).raw == 0
        finally:
            await store.close()
            await self.drop(settings)

    async def test_what_is_tried_out_leaves_nothing_and_changes_nothing(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        await store.save_raw(records[:10])
        kept = await self.kept(settings, RAW)
        await store.trial([{**record, "rohwert_1_labormessung": 29.0} for record in records])
        assert await self.kept(settings, RAW) == kept
        assert (await store.counts()).raw == 10

    async def test_records_that_the_database_refuses_are_named_and_nothing_of_the_batch_is_written(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        await self.refuse(settings, "POISON")
        await store.save_raw(records[:5])
        before = await self.kept(settings, RAW)
        poisoned = [{**r, "laborant": "POISON"} if place in (7, 20) else r for place, r in enumerate(records)]
        with pytest.raises(InvalidRecordError, match=f"{store.label} at .* refuses a record"):
            await store.save_raw(poisoned)
        assert await self.kept(settings, RAW) == before
        with pytest.raises(
            InvalidRecordError, match=rf"Record 7 \(id {records[7][ID]}\): cannot be stored: .* 1 more"
        ) as caught:
            await RawWriter(store).save(poisoned)
        assert [fault["record"] for fault in caught.value.faults] == [7, 20]
        assert await self.kept(settings, RAW) == before
        good = [record for record in poisoned if record["laborant"] != "POISON"]
        assert counted(await RawWriter(store).save(good)) == {"inserted": 23, "existing": 5, "conflicts": 0}

    async def test_a_record_at_which_our_own_code_fails_is_named_after_several_trials(
        self, store: DataStore, settings: Settings, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        fails = FailingDigest(store.dataset, records[12][ID])
        self.hash_with(store, fails)
        with pytest.raises(
            InvalidRecordError, match=r"Record 12 .*: the database service fails at it \(ZeroDivisionError\)"
        ):
            await RawWriter(store).save(records)
        assert fails.failed >= 3
        assert await self.kept(settings, RAW) == []
        assert (await RawWriter(store).save(records[:12] + records[13:])).inserted == 29

    async def test_a_fault_of_ours_that_no_record_causes_refuses_none(
        self, store: DataStore, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        fails = FailingDigest(store.dataset, None)
        self.hash_with(store, fails)
        with pytest.raises(StoreUnavailableError, match=f"wrote to {store.label} at .*ZeroDivisionError"):
            await RawWriter(store).save(records)
        # Nor one that spares the probe.
        fails.spared = "probe"
        for batch in (records, records[:1]):
            with pytest.raises(StoreUnavailableError):
                await RawWriter(store).save(batch)
        fails.spared = ""
        # And a moment that is over when the records are tried one by one.
        fails.key, fails.times = records[3][ID], 1
        with pytest.raises(StoreUnavailableError) as caught:
            await RawWriter(store).save(records)
        assert not caught.value.explained
        assert (await RawWriter(store).save(records)).inserted == 30

    @abstractmethod
    def hash_with(self, store: DataStore, digest: Digest) -> None:
        """Has the store hash records with another function."""


class FailingDigest:
    """A fault of ours: hashes the content of records, but for one at which it fails; None for all."""

    def __init__(self, dataset: Dataset, key: str | None) -> None:
        self.key, self.times, self.failed, self.spared = key, 1_000_000, 0, ""
        self._digest = content_hash(dataset)

    def __call__(self, record: Mapping[str, Any]) -> bytes:
        spared = self.spared and record[ID].startswith(self.spared)
        if self.key in (None, record[ID]) and self.times and not spared:
            self.times -= 1
            self.failed += 1
            raise ZeroDivisionError
        return self._digest(record)


class MongoCases(StoreCases):
    database = "mongo"
    stand_in: ClassVar[bool]
    """Whether the server is asked as ``secantusdb`` needs it, or as a MongoDB server."""

    @pytest.fixture(autouse=True)
    def _asked_as_this_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mongo_store, "is_secantus", lambda _: self.stand_in)

    @pytest.fixture
    def settings(self, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(mongo_server, mongo_name=f"t{uuid.uuid4().hex[:12]}")

    def make(self, dataset: Dataset, settings: Settings) -> DataStore:
        return MongoDataStore(dataset, settings)

    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            return await client[settings.mongo_name][table].find().sort("_id").to_list()

    def at_port(self, settings: Settings, port: int) -> Settings:
        return settings.copy(update={"mongo_port": port})

    def behind(self, settings: Settings, port: int) -> Settings:
        return settings.copy(update={"mongo_host": DIRECT, "mongo_port": port})

    def port(self, settings: Settings) -> int:
        return settings.mongo_port

    async def drop(self, settings: Settings) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client.drop_database(settings.mongo_name)

    async def refuse(self, settings: Settings, laborant: str) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name].command("collMod", RAW, validator={"laborant": {"$ne": laborant}})

    def hash_with(self, store: DataStore, digest: Digest) -> None:
        assert isinstance(store, MongoDataStore)
        store._collections.fields.digest = digest

    async def test_what_a_killed_service_has_tried_out_is_removed_at_the_next_start(
        self, settings: Settings, dataset: Dataset
    ) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            raw = client[settings.mongo_name][RAW]
            await raw.insert_many([{"_id": {mongo_connection.TRIED_OUT: "a"}}, {"_id": {"theirs": 1}}])
        store = self.make(dataset, settings)
        await store.open()
        try:
            assert [row["_id"] for row in await self.kept(settings, RAW)] == [{"theirs": 1}]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_a_record_that_another_unique_index_refuses_is_not_taken_for_one_that_is_there(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name][RAW].create_index([("datum", 1)], unique=True)
        await RawWriter(store).save(records[:3])
        double = {**records[5], "datum": records[1]["datum"]}
        with pytest.raises(InvalidRecordError, match="Record 1 .*code 11000"):
            await RawWriter(store).save([records[0], double, records[4]])
        assert await store.raw_records(100) == records[:3]

    async def test_records_of_another_program_are_adopted(self, settings: Settings, dataset: Dataset) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name][RAW].insert_one({"_id": "theirs", "rohwert_1_labormessung": 2})
        store = self.make(dataset, settings)
        await store.open()
        try:
            assert keys_of(await store.unprocessed("v1", None, 5)) == ["theirs"]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_keys_that_are_no_texts_are_warned_of(
        self, settings: Settings, dataset: Dataset, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = self.make(dataset, settings)
        try:
            async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
                raw = client[settings.mongo_name][RAW]
                await raw.insert_one({"_id": "a text", "rohwert_1_labormessung": 2})
                await store.open()
                assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
                await raw.insert_many([{"rohwert_1_labormessung": i} for i in range(3)])  # the driver gives ObjectIds
                await raw.insert_one({"_id": 7})
            await store.close()
            await store.open()
            assert "has 4 raw record(s) whose '_id' is not text" in caplog.text
            assert (await store.counts()).raw == 5
            assert keys_of(await store.unprocessed("v1", None, 10)) == ["a text"]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_versions_of_other_programs_are_found_wherever_they_sort(
        self,
        store: MongoDataStore,
        dataset: Dataset,
        settings: Settings,
        records: list[Record],
    ) -> None:
        other = MongoDataStore(dataset, settings)
        await other.open()
        try:
            await store.save_raw(records)
            keys = sorted(record[ID] for record in records)
            assert keys_of(await store.unprocessed("m", None, 100)) == keys
            for key, version in zip(keys, ("m", "c", "x", "a", "p"), strict=False):
                await other.upsert_processed(processed_table(dataset, [key]), version)
                assert keys_of(await store.unprocessed("m", None, 100)) == keys[1:]
        finally:
            await other.close()

    async def test_a_walk_meets_every_key_once_while_others_come_and_go(
        self,
        store: MongoDataStore,
        dataset: Dataset,
        laboratory: Laboratory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(secantus, "STEP", 3)
        keys = [f"k{i:03}" for i in range(100)]
        draw = random.Random(4)

        async def walk(limit: int, version: str = "v1") -> list[str]:
            found: list[str] = []
            after: str | None = None
            while True:
                page = await store.processed_columns([ID], labelled=True, version=version, after=after, limit=limit)
                found += keys_of(page)
                if page.next is None:
                    return found
                after = page.next

        labelled: set[str] = set()
        for part in range(10):
            fresh = [key for i, key in enumerate(keys) if i % 10 == part]
            known = set(draw.sample(fresh, 6))
            await store.upsert_processed(processed_table(dataset, sorted(known)), "v1")
            await store.upsert_processed(processed_table(dataset, sorted(set(fresh) - known), target=None), "v1")
            labelled |= known
            for limit in (1, 7, 30, 200):
                assert await walk(limit) == sorted(labelled)
        await store.upsert_processed(processed_table(dataset, keys[20:70]), "v2")  # their range becomes empty
        for _ in range(2):
            assert await walk(7) == sorted(labelled - set(keys[20:70]))
            assert await walk(7, "v2") == keys[20:70]
        await store.upsert_processed(processed_table(dataset, keys[30:40]), "v1")
        assert await walk(7) == sorted(labelled - set(keys[20:70]) | set(keys[30:40]))

        await store.save_raw([{**record, ID: key} for record, key in zip(laboratory.records(100), keys, strict=True)])
        left = [key for key in keys if key not in keys[20:30] + keys[40:70]]
        assert keys_of(await store.unprocessed("v2", None, 200)) == left
        while left:
            page = await store.unprocessed("v2", None, 17)
            assert keys_of(page) == left[:17]
            await store.upsert_processed(processed_table(dataset, left[:17]), "v2")
            left = left[17:]
        assert keys_of(await store.unprocessed("v2", None, 17)) == []


class TestMongoDataStore(MongoCases):
    stand_in = False


class TestMongoDataStoreOnSecantus(MongoCases):
    stand_in = True

    async def test_only_a_slow_count_of_many_is_given_again(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [f"k{i:05}" for i in range(1200)]

        async def labelled_after(more: list[str]) -> tuple[int, int]:
            await store.upsert_processed(processed_table(dataset, more), "v1")
            counts = await store.counts()
            return counts.labelled, counts.processed

        monkeypatch.setattr(secantus, "SLOW", 3600.0)
        assert await labelled_after(keys[:900]) == (900, 900)
        assert await labelled_after(keys[900:1100]) == (1100, 1100)
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 1e9)
        monkeypatch.setattr(secantus, "KEPT", 1e9)
        assert await labelled_after(keys[1100:1101]) == (1101, 1101)  # the last one was quick; this one is slow
        assert await labelled_after(keys[1101:1102]) == (1102, 1102)  # what is written here is known
        queries = store._collections.queries
        assert isinstance(queries, secantus.SecantusQueries)
        for count in queries._counts.values():
            count.forget()  # so old that it is counted anew
        monkeypatch.setattr(secantus, "OLD", 0)
        monkeypatch.setattr(secantus, "KEPT", 0)
        assert await labelled_after(keys[1102:1103]) == (1103, 1103)
        assert await labelled_after(keys[1103:]) == (1200, 1200)

    async def test_a_slow_count_is_not_repeated_while_records_are_new_and_soon_where_they_are_replaced(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [f"k{i:05}" for i in range(1200)]
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 0)  # what is in doubt is counted anew each time
        monkeypatch.setattr(secantus, "KEPT", 1e9)
        await store.upsert_processed(processed_table(dataset, keys[:1100]), "v1")
        assert (await store.counts()).labelled == 1100
        counted = 0
        for count in store._collections.queries._counts.values():  # type: ignore[attr-defined]

            async def again(known: Any = count._count) -> int:
                nonlocal counted
                counted += 1
                return int(await known())

            count._count = again
        for start in range(1100, 1150, 10):
            await store.upsert_processed(processed_table(dataset, keys[start : start + 5]), "v1")
            await store.upsert_processed(processed_table(dataset, keys[start + 5 : start + 10], target=None), "v1")
        counts = await store.counts()
        assert (counts.processed, counts.labelled) == (1150, 1125)
        monkeypatch.setattr(secantus, "FEW", 0)
        counted = 0
        assert await store.counts() == counts
        assert counted == 0
        await store.upsert_processed(processed_table(dataset, keys[:100], target=None), "v1")
        assert (await store.counts()).labelled == 1025
        assert counted == 1

    async def test_a_slow_count_of_few_is_never_given_again(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 1e9)
        for known in (1, 2):
            await store.upsert_processed(processed_table(dataset, [f"k{known}"]), "v1")
            assert (await store.counts()).labelled == known

    async def test_many_wide_records_are_written_and_read_in_small_parts_one_after_another(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server that stands in for MongoDB comes to a halt where a few megabytes are written and read side by side."""
        traffic = Traffic()
        monkeypatch.setattr(mongo_connection, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[traffic]))
        dataset = wide(60)
        store = MongoDataStore(dataset, settings)
        await store.open()
        keys = [f"k{i:04}" for i in range(600)]

        async def walk() -> list[str]:
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page = await store.processed_columns(
                    [ID, *dataset.feature_names], labelled=True, version="v1", after=after, limit=250
                )
                found += keys_of(page)
                after = page.next
            return found

        try:
            parts = [store.upsert_processed(processed_table(dataset, keys[i : i + 150]), "v1") for i in range(0, 600, 150)]
            await asyncio.gather(*parts, walk(), walk())
            assert await walk() == keys
        finally:
            await store.close()
            await self.drop(settings)
        assert not [both for where, both in traffic.met if where == PROCESSED and "write" in both]
        assert 0 < traffic.most["write"] <= 40_000
        assert 0 < traffic.most["read"] <= 40_000


class TestMariaDataStore(StoreCases):
    database = "maria"

    @pytest.fixture
    def settings(self, maria_server: Server, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(maria_server, maria_name=f"t{uuid.uuid4().hex[:12]}", maria_connections=4)

    def make(self, dataset: Dataset, settings: Settings) -> DataStore:
        return MariaDataStore(dataset, settings)

    def _connect(self, settings: Settings) -> Any:
        return mariadb.connect(
            host=settings.maria_host, port=settings.maria_port, user=settings.maria_user, password=settings.maria_password
        )

    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        connection = self._connect(settings)
        cursor = connection.cursor(dictionary=True, binary=True)
        cursor.execute(f"SELECT * FROM `{settings.maria_name}`.{table} ORDER BY _id")  # noqa: S608
        rows: list[dict[str, Any]] = cursor.fetchall()
        connection.close()
        return rows

    def at_port(self, settings: Settings, port: int) -> Settings:
        return settings.copy(update={"maria_port": port})

    def port(self, settings: Settings) -> int:
        return settings.maria_port

    async def drop(self, settings: Settings) -> None:
        connection = self._connect(settings)
        connection.cursor().execute(f"DROP DATABASE IF EXISTS `{settings.maria_name}`")
        connection.close()

    async def refuse(self, settings: Settings, laborant: str) -> None:
        connection = self._connect(settings)
        connection.cursor().execute(
            f"ALTER TABLE `{settings.maria_name}`.{RAW} ADD CONSTRAINT CHECK (laborant IS NULL OR laborant <> '{laborant}')"
        )
        connection.close()

    def hash_with(self, store: DataStore, digest: Digest) -> None:
        assert isinstance(store, MariaDataStore)
        store._digest = digest

    async def test_a_probe_meets_what_is_wrong_with_the_table_where_a_ping_does_not(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"ALTER TABLE `{settings.maria_name}`.{RAW} ADD COLUMN inspector INT NOT NULL")
        await store.ping()
        for attempt in (store.probe(), RawWriter(store).save(records)):
            with pytest.raises(StoreUnavailableError, match=r"inspector.*error 1364") as caught:
                await attempt
            assert caught.value.explained
        cursor.execute(f"ALTER TABLE `{settings.maria_name}`.{RAW} DROP COLUMN inspector")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_a_code_that_is_not_known_names_a_record_only_if_it_fails_alone_again_and_again(
        self, store: DataStore, settings: Settings, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"USE `{settings.maria_name}`")
        cursor.execute(
            f"CREATE TRIGGER inspect BEFORE INSERT ON {RAW} FOR EACH ROW "
            f"IF NEW._id = '{records[9][ID]}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
        )
        with pytest.raises(InvalidRecordError, match=r"Record 9 .*not this one.*error 1644"):
            await RawWriter(store).save(records)
        assert await self.kept(settings, RAW) == []
        cursor.execute("DROP TRIGGER inspect")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_only_codes_that_say_so_refuse_a_record(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"USE `{settings.maria_name}`")
        for code in (*WAITS, *REFUSES):
            cursor.execute(
                f"CREATE OR REPLACE TRIGGER inspect BEFORE INSERT ON {RAW} FOR EACH ROW IF NEW._id = '{records[9][ID]}' "
                f"THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'as the test wants it'; END IF"
            )
            error = InvalidRecordError if code in REFUSES else StoreUnavailableError
            with pytest.raises(error, match="as the test wants it") as caught:
                await RawWriter(store).save(records)
            assert getattr(caught.value, "explained", True), code
            assert await self.kept(settings, RAW) == []
        cursor.execute("DROP TRIGGER inspect")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_statements_fit_into_what_the_server_takes_and_a_record_that_does_not_is_named(
        self, store: DataStore, dataset: Dataset, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute("SELECT @@max_allowed_packet")
        [packet] = cursor.fetchone()
        cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
        small = self.make(dataset, settings)
        try:
            await small.open()
            long = [{**record, "laborant": "x" * 65_536} for record in records]  # 130,000 bytes each in a statement
            assert (await RawWriter(small).save(long)).inserted == 30
            longest = {**records[2], ID: "longest", "laborant": "x" * 500_000}
            with pytest.raises(InvalidRecordError, match=r"Record 1 \(id longest\).*1048576 bytes.*max_allowed_packet"):
                await RawWriter(small).save([records[0], longest, records[1]])
        finally:
            cursor.execute(f"SET GLOBAL max_allowed_packet = {packet}")
            connection.close()
            await small.close()

    async def test_more_features_than_a_table_takes_are_refused_with_the_limit(self, settings: Settings) -> None:
        for name, categories, fits in (("c", 150, True), ("c", 205, False), ("a name of many characters " * 2, 120, False)):
            dataset = wide(categories, name)
            store = self.make(dataset, settings)
            try:
                if fits:
                    await store.open()
                    await store.upsert_processed(processed_table(dataset, ["a"]), "v1")
                    assert (await store.counts()).processed == 1
                else:
                    says = f"6 columns and {5 * categories} features: a table takes 1,017 columns, 8,126 bytes"
                    with pytest.raises(DeclarationError, match=says):
                        await store.open()
            finally:
                await store.close()
                await self.drop(settings)

    async def test_numbers_are_double_precision(self, store: DataStore, settings: Settings) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(
            "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = ? AND table_name = ? "
            "AND column_name NOT LIKE '\\_%'",
            (settings.maria_name, PROCESSED),
        )
        assert cursor.fetchall() == [("double",)]
        connection.close()
