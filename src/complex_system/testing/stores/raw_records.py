"""Raw records: saved once, read back as they were, found by key, deleted when they are old."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import uuid7
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.storage.base import DataStore
from complex_system.testing.data import keys_of, processed_table
from complex_system.testing.stores.base import EXACT, R1, R2, StoreHooks, counted, moment

# Python orders texts by code point, which is the order of their UTF-8 bytes.
ODD_KEYS = sorted(["a", "a ", "A", "ä", "b\t", "Z", "\U0001f600", "~", "a\u0301", "0" * 64, "\uffff", "a'b\"`\\"])


class RawRecordCases(StoreHooks):
    """Cases of raw records."""

    async def test_raw_records_are_kept_to_the_last_bit(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """Every number comes back to its last bit, also from another replica, except that a negative zero is a zero."""
        for record, value in zip(records, EXACT, strict=False):
            record[R1] = value
        assert counted(await store.save_raw(records)) == {"inserted": 30, "existing": 0, "conflicts": 0}
        assert await store.raw_records(100) == records
        assert await store.raw_records(7) == records[:7]
        assert list((await store.raw_records(1))[0]) == [ID, *store.dataset.raw_names]
        async with self.opened(dataset, database) as other:
            kept = await other.raw_records(100)
        assert kept == records
        assert math.copysign(1, kept[3][R1]) == 1

    async def test_saving_again_changes_nothing(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """A record whose key exists is not written again, whatever its values; a sender may repeat a batch."""
        await store.save_raw(records[:20])
        before = await self.content(dataset, database)
        changed = [{**record, "datum": "29.02.2024, 00:00:00"} for record in records[:20]]
        assert counted(await store.save_raw(changed)) == {"inserted": 0, "existing": 20, "conflicts": 20}
        assert await self.content(dataset, database) == before
        assert counted(await store.save_raw(records)) == {"inserted": 10, "existing": 20, "conflicts": 0}
        assert counted(await store.save_raw([])) == {"inserted": 0, "existing": 0, "conflicts": 0}

    async def test_the_first_of_equal_keys_in_one_batch_is_kept(self, store: DataStore, records: list[Record]) -> None:
        """Of records with one key in one batch the first is inserted, and the others come under a key that exists."""
        twice = [records[0], records[1], {**records[0], R1: 1.0 if records[0][R1] != 1.0 else 2.0}]
        assert counted(await store.save_raw(twice)) == {"inserted": 2, "existing": 1, "conflicts": 1}
        assert await store.raw_records(5) == records[:2]

    async def test_replays_at_the_same_time_insert_each_record_once(self, store: DataStore, records: list[Record]) -> None:
        """Batches that come at the same time, in any order, insert each record once, and each reply counts its batch."""
        batches = [records, records[::-1], records[:20], records[10:], records, records[5:25][::-1], records, records]
        replies = await asyncio.gather(*(store.save_raw([dict(r) for r in batch]) for batch in batches))
        assert sum(reply.inserted for reply in replies) == 30
        assert [reply.inserted + reply.existing for reply in replies] == [len(batch) for batch in batches]
        assert await store.raw_records(100) == records

    async def test_keys_are_told_apart_and_ordered_by_their_bytes(self, store: DataStore, records: list[Record]) -> None:
        """Keys are texts compared by their UTF-8 bytes: no case, accent or blank is overlooked, and all pages go by this order."""
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

    async def test_raw_records_are_found_by_their_keys(self, store: DataStore, records: list[Record]) -> None:
        """Raw records are returned for any keys, in the order of the keys; a key that is not there is left out."""
        await store.save_raw(records)
        page = await store.raw_by_keys([records[9][ID], "missing", records[4][ID]])
        assert page.table.schema == raw_schema(store.dataset)
        assert page.table.to_pylist() == [records[4], records[9]]
        assert (await store.raw_by_keys([])).table.num_rows == 0

    async def test_arrival_is_told_by_the_databases_clock_and_not_by_the_keys(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """What arrived before a time is found by the database's clock, whatever time the keys were made at."""
        began = await store.now()
        assert abs(began - time.time()) < 60
        assert await store.last_key(began + 1000) is None
        # The source's clock is an hour ahead, then an hour behind.
        early = [{**each, ID: uuid7(int(1000 * began) + 3_600_000, place)} for place, each in enumerate(records[:3])]
        late = [{**each, ID: uuid7(int(1000 * began) - 3_600_000, place)} for place, each in enumerate(records[3:6])]
        await store.save_raw(early)
        between = await moment(store)
        await store.save_raw(late)
        assert await store.last_key(between) == early[-1][ID]
        assert await store.last_key(began - 1) is None

    async def test_old_records_that_are_done_are_deleted_the_oldest_first(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """Retention deletes raw records that are done with the present pipeline version, the oldest first, and nothing else."""
        version, keys = store.dataset.version, [record[ID] for record in records]
        done = keys[:3][::-1]  # older the larger the key
        for record in records[:3][::-1]:
            await store.save_raw([record])
            await moment(store)
        await store.save_raw(records[3:7])
        await store.upsert_processed(processed_table(store.dataset, [*done, keys[3]]), version)
        await store.reject([Rejection(id=keys[4], reason="odd")], version)
        await store.upsert_processed(processed_table(store.dataset, [keys[5]]), "another")
        await moment(store)
        assert await store.delete_raw(36_500.0, 100) == 0
        assert await store.delete_raw(0.0, 2) == 2
        assert [record[ID] for record in await store.raw_records(10)] == [done[2], *keys[3:7]]
        assert await store.delete_raw(0.0, 100) == 3
        assert await store.delete_raw(0.0, 100) == 0
        assert [record[ID] for record in await store.raw_records(10)] == keys[5:7]
        assert await store.counts() == RecordCounts(raw=2, processed=5, labelled=5, rejected=1)
        assert keys_of(await store.unprocessed(version, None, 100)) == keys[5:7]

    async def test_a_deleted_record_that_comes_again_is_inserted_again_and_does_not_wait(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A record that retention has deleted is inserted when it comes again, and is done if its result is still there."""
        version = store.dataset.version
        await store.save_raw(records[:2])
        await store.upsert_processed(processed_table(store.dataset, [records[0][ID]]), version)
        await moment(store)
        assert await store.delete_raw(0.0, 100) == 1
        assert counted(await store.save_raw(records[:2])) == {"inserted": 1, "existing": 1, "conflicts": 0}
        assert keys_of(await store.unprocessed(version, None, 100)) == [records[1][ID]]

    async def test_counts_begin_at_nothing(self, store: DataStore) -> None:
        """A new database has no records."""
        assert await store.counts() == RecordCounts(raw=0, processed=0, labelled=0, rejected=0)

    async def test_targets_are_those_of_processed_records_that_have_one(self, store: DataStore) -> None:
        """Targets are returned by key; what is not there, or has no target, is left out."""
        await store.upsert_processed(processed_table(store.dataset, ["a", "b"], target=2.5), "v1")
        await store.upsert_processed(processed_table(store.dataset, ["c"], target=None), "v1")
        await store.upsert_processed(processed_table(store.dataset, ["d"], target=0.0), "v2")
        assert await store.targets(["d", "c", "b", "missing", "a"]) == {"a": 2.5, "b": 2.5, "d": 0.0}
        assert await store.targets([]) == {}

    async def test_a_declaration_may_grow(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """A store whose declaration has one column more opens the database: the column is missing in earlier records."""
        await store.save_raw(records)
        await store.upsert_processed(processed_table(dataset, [records[0][ID]]), "v1")
        grown = dataset.dict()
        grown["columns"] += ({"name": "feuchte", "type": "number", "range": (0.0, 1.0), "optional": True, "fill": 0.5},)
        grown["pipeline"] += ({"step": "scale", "column": "feuchte"},)
        async with self.opened(Dataset.parse_obj(grown), database) as newer:
            assert await newer.raw_records(100) == [{**record, "feuchte": None} for record in records]
            await newer.upsert_processed(processed_table(newer.dataset, [records[1][ID]]), "v2")
            page = await newer.processed_columns(["feuchte"], labelled=False, version=None, after=None, limit=5)
            assert page.table.column(0).to_pylist()[0] is None
            assert page.table.column(0).to_pylist()[1] is not None

    async def test_counts_are_those_of_what_is_there(self, store: DataStore, records: list[Record]) -> None:
        """The numbers of records are those of what is there, after every kind of write."""
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[:6]), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[4:9], target=None), "v1")
        await store.reject([Rejection(id=key, reason="odd") for key in keys[:2]], "v1")
        await store.save_raw([{**records[0], R2: 1.0}])
        assert await store.counts() == RecordCounts(raw=30, processed=7, labelled=2, rejected=2, conflicts=1)
        before = await store.counts()
        await store.recount()
        assert await store.counts() == before
