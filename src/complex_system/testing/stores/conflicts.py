"""Records under keys that exist: what fills, what replaces, what is a conflict, in every order and by several replicas."""

from __future__ import annotations

import asyncio
import random

import pytest

from complex_system.domain.columns import ORDER
from complex_system.domain.dataset import ID
from complex_system.domain.pages import REVISION
from complex_system.domain.records import Record
from complex_system.storage.base import DataStore
from complex_system.testing.data import processed_table, with_revisions
from complex_system.testing.stores.base import R1, R2, R3, TARGET, Open, StoreHooks


async def process(store: DataStore, version: str = "v1") -> list[int]:
    """Process what waits, as the service does; return the revisions."""
    rows = (await store.unprocessed(version, None, 100)).table.to_pylist()
    for row in rows:
        result = processed_table(store.dataset, [row[ID]], row[TARGET])
        await store.upsert_processed(with_revisions(result, [row[REVISION]]), version)
    return [row[REVISION] for row in rows]


class ConflictCases(StoreHooks):
    """Cases of records that come under a key that exists (``storage.conflicts``, whose ``Merge`` decides)."""

    async def test_other_values_under_a_key_that_exists_are_kept_and_counted_as_conflicts(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """Values that lose are kept once for each key and content, with who sent them and who sent those that stay."""
        await store.save_raw(records[:3], "press-4")
        others = [{**records[0], R2: 1.0}, records[1], {**records[2], R2: 2.0}]
        for _ in range(2):  # a second delivery of the message changes nothing
            saved = await store.save_raw(others, "press-5")
            assert (saved.inserted, saved.existing, saved.conflicts) == (0, 3, 2)
            assert saved.differing == (records[0][ID], records[2][ID])
            assert await store.raw_records(5) == records[:3]
            assert (await store.counts()).conflicts == 2
        assert (await store.save_raw([{**records[0], R2: 3.0}], "press-6")).conflicts == 1
        found = await store.conflicts(None, 10)
        assert sorted((each.source, each.kept_source) for each in found) == [
            ("press-5", "press-4"), ("press-5", "press-4"), ("press-6", "press-4")
        ]  # fmt: skip
        lost = [(each.key, value.column, value.kept, value.lost) for each in found for value in each.values]
        assert sorted(lost) == [
            (records[0][ID], R2, 8.5, 1.0), (records[0][ID], R2, 8.5, 3.0), (records[2][ID], R2, 8.5, 2.0)
        ]  # fmt: skip

    @pytest.mark.parametrize("replaces", [False, True])
    async def test_a_label_that_comes_later_fills_the_record_and_is_processed(
        self, open_store: Open, record: Record, replaces: bool
    ) -> None:
        """A value for one that was missing fills it: the revision rises, and the record is processed again."""
        store = await open_store(replaces=replaces)
        without = {**record, TARGET: None}
        await store.save_raw([without], "lab", 10.0)
        assert await process(store) == [1]
        assert (await store.counts()).labelled == 0
        saved = await store.save_raw([record], "lims", 20.0)
        assert (saved.existing, saved.filled, saved.conflicts, saved.replaced) == (1, 1, 0, 0)
        assert await store.raw_records(2) == [record]
        assert await process(store) == [2]
        assert await store.targets([record[ID]]) == {record[ID]: record[TARGET]}
        # Again, and what has fewer values: known.
        for again, order in ((record, 20.0), (without, 30.0), (without, 10.0)):
            saved = await store.save_raw([again], "lims", order)
            assert (saved.existing, saved.filled, saved.conflicts) == (1, 0, 0)
        assert await store.raw_records(2) == [record]
        assert await process(store) == []
        assert (await store.counts()).conflicts == 0

    async def test_keep_takes_nothing_of_a_record_that_differs(self, store: DataStore, record: Record) -> None:
        """Values of two records are never mixed: of a record that differs, not even what was missing is taken."""
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
        self, open_store: Open, record: Record, newer_first: bool
    ) -> None:
        """Where newer values replace older ones, the result does not depend on the order of arrival."""
        store = await open_store(replaces=True)
        versions = [(record, 10.0), ({**record, R1: 1.25}, 20.0)]
        for values, order in reversed(versions) if newer_first else versions:
            await store.save_raw([values], f"at {order:g}", order)
            await process(store)
        for values, order in [*versions, versions[0]]:  # delivered again
            await store.save_raw([values], f"at {order:g}", order)
        assert await store.raw_records(2) == [versions[1][0]]
        assert await process(store) == []
        assert (await store.counts()).conflicts == 1

    async def test_a_replacement_is_processed_again_and_what_it_replaces_is_kept(
        self, open_store: Open, record: Record
    ) -> None:
        """A replaced record is processed again, what it had is kept, and a record's own order counts before that of its message."""
        store = await open_store(replaces=True)
        await store.save_raw([record], "press-4", 1.0)
        await process(store)
        saved = await store.save_raw([{**record, TARGET: 99.99, ORDER: 2.0}], "press-4", 0.5)
        assert (saved.conflicts, saved.replaced, saved.differing) == (1, 1, (record[ID],))
        assert await process(store) == [2]
        assert await store.targets([record[ID]]) == {record[ID]: 99.99}
        saved = await store.save_raw([{**record, TARGET: 1.0, ORDER: 1.5}], "press-5")
        assert (saved.conflicts, saved.replaced) == (1, 0)
        assert await store.targets([record[ID]]) == {record[ID]: 99.99}
        assert (await store.counts()).conflicts == 2

    @pytest.mark.parametrize("comes", ["before the result", "before the mark is compared"])
    async def test_the_result_of_an_older_revision_does_not_settle_the_mark(
        self, open_store: Open, record: Record, comes: str
    ) -> None:
        """A record that another replica changes while a result is written waits again."""
        store, other = await open_store(replaces=True), await open_store(replaces=True)
        await store.save_raw([record], "a", 1.0)
        [row] = (await store.unprocessed("v1", None, 10)).table.to_pylist()
        old = with_revisions(processed_table(store.dataset, [record[ID]], row[TARGET]), [row[REVISION]])
        change = other.save_raw([{**record, TARGET: 99.99}], "b", 2.0)
        if comes == "before the mark is compared":
            await asyncio.gather(store.upsert_processed(old, "v1"), change)
        else:
            await change
            await store.upsert_processed(old, "v1")
        assert await process(store) == [2]
        assert await store.targets([record[ID]]) == {record[ID]: 99.99}
        assert await process(store) == []

    async def test_the_result_of_an_older_revision_that_comes_last_is_dropped(
        self, open_store: Open, record: Record
    ) -> None:
        """The result of an older revision does not replace the result of a newer one."""
        store, other = await open_store(replaces=True), await open_store(replaces=True)
        await store.save_raw([record], "a", 1.0)
        [row] = (await store.unprocessed("v1", None, 10)).table.to_pylist()
        old = with_revisions(processed_table(store.dataset, [record[ID]], row[TARGET]), [row[REVISION]])
        await other.save_raw([{**record, TARGET: 99.99}], "b", 2.0)
        assert await process(other) == [2]
        await store.upsert_processed(old, "v1")
        assert await store.targets([record[ID]]) == {record[ID]: 99.99}
        assert await process(store) == []

    async def test_replicas_that_fill_and_replace_at_the_same_time_agree(self, open_store: Open, record: Record) -> None:
        """Replicas that write the same keys at the same time end with the newest value of each column."""
        stores = [await open_store(replaces=True) for _ in range(3)]
        keys = [f"k{i:02}" for i in range(12)]
        empty: Record = dict.fromkeys((R1, R2, R3, TARGET))
        versions: list[tuple[Record, float]] = [
            ({**empty}, 1.0), ({R1: 1.0}, 2.0), ({R2: 2.0, TARGET: 5.0}, 3.0), ({R1: 3.0, R2: 4.0}, 4.0), ({TARGET: 6.0, R3: 0.5}, 5.0)
        ]  # fmt: skip
        batches = [
            ([{**record, **empty, **values, ID: key} for key in keys], order) for values, order in versions for _ in range(2)
        ]
        random.Random(7).shuffle(batches)  # noqa: S311 - the same order each time
        await asyncio.gather(*(stores[i % 3].save_raw(batch, f"s{i}", order) for i, (batch, order) in enumerate(batches)))
        wanted = {**record, R1: 3.0, R2: 4.0, R3: 0.5, TARGET: 6.0}
        assert await stores[0].raw_records(20) == [{**wanted, ID: key} for key in keys]
        await process(stores[1])
        assert await stores[2].targets(keys) == dict.fromkeys(keys, 6.0)

    async def test_conflicts_are_listed_with_both_values_and_corrections_are_counted(
        self, open_store: Open, record: Record
    ) -> None:
        """Conflicts are listed by key and hash, in pages, with what was lost and what is there; replaced labels are corrections."""
        keeping, replacing = await open_store(), await open_store(replaces=True)
        unlabelled = {**record, ID: "B-0009", TARGET: None}
        began = await keeping.now()
        await keeping.save_raw([record, {**record, ID: "B-0008"}, unlabelled], "lab", 1.0)
        other = {**record, R1: 1.25, "laborant": "HANS" if record["laborant"] != "HANS" else "TK"}
        await keeping.save_raw([other], "press-4", 2.0)
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
