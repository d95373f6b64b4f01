"""Processed and rejected records: replaced, read by columns, by key, by arrival and by number."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import ID
from complex_system.domain.pages import beside_schema, processed_schema
from complex_system.domain.records import Record
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.storage.base import DataStore
from complex_system.testing.data import keys_of, processed_table
from complex_system.testing.stores.base import EXACT, R2, StoreHooks, moment


class ProcessedCases(StoreHooks):
    """Cases of processed and rejected records."""

    async def test_a_processed_record_is_replaced_and_its_rejection_taken_back(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A processed record replaces the earlier one of its key and removes a rejection; of equal keys the last counts."""
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.reject([Rejection(id=key, reason="odd") for key in keys[:3]], "v1")
        assert await store.upsert_processed(processed_table(store.dataset, keys[:2]), "v2") == {"upserted": 2}
        newer = pa.concat_tables(
            [processed_table(store.dataset, keys[:1], base=5.0), processed_table(store.dataset, keys[:3], None, base=9.0)]
        )
        await store.upsert_processed(newer, "v3")
        assert await store.rejected(None, 10) == []
        names = list(store.dataset.processed_names)
        page = await store.processed_columns(names, labelled=False, version="v3", after=None, limit=10)
        assert page.table == processed_table(store.dataset, keys[:3], None, base=9.0)
        assert (await store.counts()).processed == 3
        assert await store.upsert_processed(processed_table(store.dataset, []), "v3") == {"upserted": 0}

    async def test_a_rejection_is_kept_with_its_reason_and_removes_the_processed_record(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """A rejection is listed by key with its reason and version, and its processed record goes."""
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
        assert [each.id for each in await store.rejected(keys[4], 10)] == keys[5:7]
        assert await store.counts() == RecordCounts(raw=30, processed=3, labelled=3, rejected=4)
        assert await store.reject([], "v3") == {"rejected": 0}

    async def test_processed_columns_come_as_asked_for(self, store: DataStore, records: list[Record]) -> None:
        """A page has the asked columns in the asked order, of labelled records only and of one version where that is asked."""
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

    @pytest.mark.parametrize("version", [None, "v1"])
    async def test_processed_records_up_to_a_key_are_those_of_its_range(
        self, store: DataStore, records: list[Record], version: str | None
    ) -> None:
        """With a last key, pages by key and by arrival end with it, whatever follows."""
        keys = [record[ID] for record in records]
        await store.save_raw(records)
        await store.upsert_processed(processed_table(store.dataset, keys[::3]), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[1::3], target=None), "v1")

        async def walk(after: str | None, until: str, limit: int, arrived_after: float | None = None) -> list[str]:
            found: list[str] = []
            while True:
                page = await store.processed_columns(
                    [ID], labelled=True, version=version, after=after, limit=limit, arrived_after=arrived_after, until=until
                )
                found += keys_of(page)
                if page.next is None or arrived_after is not None:
                    return found
                after = page.next

        for limit in (1, 2, 50):
            assert await walk(None, keys[9], limit) == keys[:10:3]
            assert await walk(keys[3], keys[9], limit) == keys[6:10:3]
            assert await walk(keys[9], keys[11], limit) == []
            assert await walk(keys[9], keys[9], limit) == []
            assert await walk(keys[20], "~", limit) == keys[21::3]
        assert sorted(await walk(None, keys[9], 50, 0.0)) == keys[:10:3]

    async def test_raw_columns_and_the_arrival_come_beside_processed_ones(
        self, store: DataStore, records: list[Record]
    ) -> None:
        """Beside processed columns come raw ones and the time of arrival, the same for one batch, null without a raw record."""
        keys, target = [record[ID] for record in records], store.dataset.target
        await store.save_raw([records[3]])
        between = await moment(store)
        await store.save_raw(records[:3] + records[4:20])
        await store.upsert_processed(processed_table(store.dataset, keys), "v1")
        raw = [R2, "datum", target]
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
        assert between - 60 < arrived[1] < between < arrived[0] < between + 60
        assert len({*arrived[:1], *arrived[2:18]}) == 1
        page = await store.processed_columns([ID], labelled=False, version=None, after=None, limit=50, raw=[])
        assert page.table.column_names == [ID, ARRIVED]
        assert page.table.column(ARRIVED).to_pylist()[2:20] == arrived[:18]

    @pytest.mark.parametrize("limit", [1, 7, 50])
    async def test_pages_by_arrival_walk_what_arrived_later_whatever_the_keys(
        self, store: DataStore, records: list[Record], limit: int
    ) -> None:
        """Pages by arrival hold what arrived after a time, in the order of arrival and then of the keys, each record once."""
        keys = [record[ID] for record in records]
        # Older the larger the key, but for those of one batch.
        for place in (9, 8, 7):
            await store.save_raw([records[place]])
        begin = await moment(store)
        for place in range(6, -1, -1):
            await store.save_raw([records[place]])
            between = await moment(store)
        await store.save_raw(records[10:27])
        await store.upsert_processed(processed_table(store.dataset, keys[:20]), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[20:23], target=None), "v1")
        await store.upsert_processed(processed_table(store.dataset, keys[23:25]), "another")
        # Two are not processed, three have no raw record.
        await store.upsert_processed(processed_table(store.dataset, keys[28:]), "v1")
        now = await store.now()
        walked, after, start = list[tuple[float, str]](), None, begin
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

        async def arrived(later: float, raw: list[str]) -> list[Record]:
            page = await store.processed_columns(
                [ID], labelled=False, version=None, after=None, limit=50, raw=raw, arrived_after=later
            )
            assert page.next is None
            found: list[Record] = page.table.to_pylist()
            return found

        found = await arrived(between, ["datum"])
        assert [each[ID] for each in found] == keys[10:25]
        assert [each[raw_name("datum")] for each in found] == [record["datum"] for record in records[10:25]]
        for later in (now + 3600, 2.0**31 - 1):
            assert await arrived(later, []) == []
        assert len(await arrived(0.0, [])) == 25

    async def test_processed_records_are_kept_to_the_last_bit(self, store: DataStore) -> None:
        """Every number comes back to its last bit, except that a negative zero is a zero."""
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
        """The key so many places behind another one is found; there is none past the end."""
        keys = [f"k{i:02}" for i in range(10)]
        await store.upsert_processed(processed_table(store.dataset, keys[::-1]), "v1")
        assert [await store.processed_key(None, places) for places in (1, 4, 10, 11)] == ["k00", "k03", "k09", None]
        assert [await store.processed_key("k03", places) for places in (0, 1, 6, 7)] == ["k03", "k04", "k09", None]
        assert await store.processed_key(None, 10**18) is None
