"""Which raw records wait to be processed, whatever changes at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import REVISION, raw_schema
from complex_system.domain.records import Record
from complex_system.protocol.database import Rejection
from complex_system.storage.base import DataStore
from complex_system.testing.data import keys_of, processed_table, with_revisions
from complex_system.testing.stores.base import NEVER, R2, StoreHooks, raw_of


class UnprocessedCases(StoreHooks):
    """Cases of what waits, of marks and of revisions."""

    async def test_unprocessed_pages_walk_all_raw_records_by_key(self, store: DataStore, records: list[Record]) -> None:
        """Pages go by key, continue after a key, have the declared types and say where the next one begins."""
        await store.save_raw(records[::-1])
        first = await store.unprocessed("v1", None, 20)
        assert first.next == records[19][ID]
        second = await store.unprocessed("v1", first.next, 20)
        assert second.next is None
        assert first.table.schema == raw_schema(store.dataset).append(pa.field(REVISION, pa.int64(), nullable=False))
        assert raw_of(first) + raw_of(second) == records
        empty = await store.unprocessed("v1", records[-1][ID], 20)
        assert (empty.table.num_rows, empty.next) == (0, None)
        assert empty.table.schema == first.table.schema

    async def test_readers_at_the_same_time_see_each_unprocessed_record_once(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """Looking does not change what waits, also where several look at the same time."""
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v0")
        await store.upsert_processed(processed_table(store.dataset, keys[10:20]), "v1")
        pages = await asyncio.gather(*(store.unprocessed("v2", None, 1000) for _ in range(8)))
        assert [keys_of(page) for page in [*pages, await store.unprocessed("v2", None, 1000)]] == [keys] * 9

    async def test_what_is_processed_or_rejected_is_no_longer_unprocessed(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A record is done with the version that processed or rejected it, and waits for every other one."""
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
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A change raises the revision; a result or a rejection of the earlier revision does not mark the record as done."""
        keys = [record[ID] for record in records]
        early = [{**record, R2: None} if place in (3, 21) else record for place, record in enumerate(records)]
        await store.save_raw(early)
        page = await store.unprocessed("v1", None, 30)
        revisions = page.table.column(REVISION).to_pylist()
        assert revisions == [1] * 30
        assert (await store.save_raw([{**records[place], R2: 7.5} for place in (3, 21)])).filled == 2
        await store.upsert_processed(with_revisions(processed_table(store.dataset, keys[:20]), revisions[:20]), "v1")
        await store.reject([Rejection(id=key, reason="odd", revision=1) for key in keys[20:25]], "v1")
        left = await store.unprocessed("v1", None, 30)
        assert keys_of(left) == [keys[3], keys[21], *keys[25:]]
        revisions = left.table.column(REVISION).to_pylist()
        assert revisions == [2, 2, 1, 1, 1, 1, 1]
        assert left.table.column(R2).to_pylist()[:2] == [7.5, 7.5]
        await store.upsert_processed(with_revisions(processed_table(store.dataset, keys_of(left)), revisions), "v1")
        assert keys_of(await store.unprocessed("v1", None, 30)) == []
        assert [each.id for each in await store.rejected(None, 30)] == [keys[20], *keys[22:25]]

    async def test_what_was_made_of_an_older_revision_comes_too_late_and_replaces_nothing(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A result or rejection of an older revision neither replaces the newer result nor counts as written."""
        keys = [record[ID] for record in records[:6]]
        await store.save_raw([{**record, R2: None} for record in records[:6]])
        old = with_revisions(processed_table(store.dataset, keys), [1] * 6)
        await store.save_raw([{**record, R2: 7.5} for record in records[:6]])
        results = processed_table(store.dataset, keys, base=5.0)
        new = with_revisions(results, [2] * 6)
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
        """A page holds every record that waits, also one whose mark is set or taken off while the page is read."""
        other, keys = [{**record, R2: 8.5} for record in records[:5]], [record[ID] for record in records]
        await store.save_raw([{**record, R2: None} for record in records])
        ended = asyncio.Event()

        async def change_marks() -> None:
            try:
                for target in other:
                    page = await store.unprocessed("v1", None, 100)
                    revisions = page.table.column(REVISION).to_pylist()
                    done = with_revisions(processed_table(store.dataset, keys_of(page)), revisions)
                    await store.upsert_processed(done, "v1")
                    await store.save_raw([target])  # fills it, so that it waits again
                    await asyncio.sleep(0)
            finally:
                ended.set()

        async def walk() -> None:
            while not ended.is_set():
                assert keys_of(await store.unprocessed(NEVER, None, 100)) == keys
                await asyncio.sleep(0)

        await asyncio.gather(change_marks(), *(walk() for _ in range(3)))
        assert keys_of(await store.unprocessed("v1", None, 100)) == [other[-1][ID]]

    async def test_results_without_a_revision_count_for_whatever_is_there(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A result or a rejection that names no revision marks the record in whatever revision it has."""
        keys = [record[ID] for record in records[:6]]
        await store.save_raw([{**records[0], R2: None}, *records[1:6]])
        assert (await store.save_raw([{**records[0], R2: 7.5}])).filled == 1
        await store.upsert_processed(processed_table(store.dataset, keys[:3]), "v1")
        await store.reject([Rejection(id=key, reason="odd") for key in keys[3:]], "v1")
        assert keys_of(await store.unprocessed("v1", None, 30)) == []

    async def test_another_stores_work_is_seen(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """What a replica has processed is done for the others, too: nothing is kept in the memory of one of them."""
        keys = [record[ID] for record in records]
        async with self.opened(dataset, database) as other:
            await store.save_raw(records)
            await other.upsert_processed(processed_table(dataset, keys[:20]), "v1")
            assert keys_of(await store.unprocessed("v1", None, 100)) == keys[20:]

    async def test_a_raw_record_after_its_processed_record_is_no_work(self, store: DataStore, records: list[Record]) -> None:
        """A raw record whose processed record is there before it comes is done with that version."""
        keys = [record[ID] for record in records]
        await store.upsert_processed(processed_table(store.dataset, keys[:10]), "v1")
        await store.save_raw(records)
        assert keys_of(await store.unprocessed("v1", None, 100)) == keys[10:]
        assert keys_of(await store.unprocessed("v2", None, 100)) == keys
