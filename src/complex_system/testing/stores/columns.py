"""Data sets of any declaration: odd names, names that are alike, values of every type."""

from __future__ import annotations

from typing import Any

from complex_system.domain.columns import raw_name
from complex_system.domain.dataset import ID
from complex_system.domain.pages import REVISION, raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.storage.base import DataStore
from complex_system.testing.data import ALIKE_NAMES, EVERYTHING, processed_table
from complex_system.testing.stores.base import StoreHooks, raw_of


class ColumnCases(StoreHooks):
    """Cases of names and types of columns."""

    async def test_column_names_may_hold_any_character(self, odd: DataStore) -> None:
        """A column's name may have quotes, dots, blanks, signs of any language and any length, and any word of the database's."""
        dataset = odd.dataset
        record: Record = {ID: "k1"}
        for i, column in enumerate(dataset.columns):
            record[column.name] = i / 10 if column.type == "number" else f"text {i} ? %s"
        await odd.save_raw([record])
        assert await odd.raw_records(5) == [record]
        assert raw_of(await odd.unprocessed("v1", None, 5)) == [record]
        table = processed_table(dataset, ["k1", "k2"])
        await odd.upsert_processed(table, "v1")
        names = list(dataset.processed_names)
        page = await odd.processed_columns(names, labelled=True, version="v1", after=None, limit=5)
        assert page.table == table
        assert (await odd.counts()).labelled == 2
        assert (await odd.unprocessed("v1", None, 5)).table.num_rows == 0
        beside = await odd.processed_columns(
            names, labelled=True, version="v1", after=None, limit=1, raw=list(dataset.raw_names), arrived_after=0.0
        )
        assert beside.table.select(names) == table.slice(0, 1)
        assert beside.table.select([raw_name(name) for name in dataset.raw_names]).to_pylist() == [
            {raw_name(name): record[name] for name in dataset.raw_names}
        ]

    async def test_values_of_every_type_come_back_as_they_were(self, database: Any) -> None:
        """Numbers, integers, booleans, texts and lists come back with value and type; an empty text or list is not a missing one."""
        full: Record = {
            "Temp. [°C]": 1.5, "temp. [°c]": -0.25, "select": 2**53, "Größe": None, "an": False, "Sorte": "007", "Ort": "ä `x` '",
            "Zeit": "31.12.2025 23:59", "Stoffe": ["K1", 'K"2', "Ü"], "Anteile": [0.1, 0.7, 1 / 3],
            "Notiz": " ", "Prüfer": "", "quality": 0.0,
        }  # fmt: skip
        others = {**full, "an": True, "select": 0, "Stoffe": [], "Anteile": []}
        saved = [{ID: "k1", **full}, {ID: "k2", **dict.fromkeys(full)}, {ID: "k3", **others}]
        async with self.opened(EVERYTHING, database) as store:
            await store.save_raw(saved)
            read = await store.raw_records(5)
            assert read == saved
            assert [[type(value) for value in record.values()] for record in read] == [
                [type(value) for value in record.values()] for record in saved
            ]
            table = (await store.unprocessed("v1", None, 5)).table.drop_columns([REVISION])
            assert table.schema == raw_schema(EVERYTHING)
            assert table.to_pylist() == saved
            assert (await store.raw_by_keys(["k1", "k2", "k3", "k4"])).table == table
            await store.upsert_processed(processed_table(EVERYTHING, [each[ID] for each in saved]), "v1")
            names = EVERYTHING.raw_names
            for start in (None, 0.0):
                beside = await store.processed_columns(
                    [ID], labelled=False, version=None, after=None, limit=5, raw=list(names), arrived_after=start
                )
                assert beside.table.select([raw_name(name) for name in names]).to_pylist() == [
                    {raw_name(name): each[name] for name in names} for each in saved
                ]

    async def test_names_that_a_server_takes_for_one_are_different_columns(self, database: Any) -> None:
        """Names are compared by their characters: no case, accent or compatible sign makes two columns one."""
        names = ALIKE_NAMES.raw_names
        async with self.opened(ALIKE_NAMES, database) as store:
            record = {ID: "k", **{name: float(place) for place, name in enumerate(names)}}
            await store.save_raw([record])
            assert await store.raw_records(5) == [record]
            table = processed_table(ALIKE_NAMES, ["k"])
            await store.upsert_processed(table, "v1")
            page = await store.processed_columns(
                list(ALIKE_NAMES.processed_names), labelled=True, version="v1", after=None, limit=5
            )
            assert page.table == table

    async def test_an_example_of_every_type_is_a_record(self, database: Any) -> None:
        """The example that a probe writes is a valid record of any data set."""
        async with self.opened(EVERYTHING, database) as store:
            [checked] = raw_check(EVERYTHING)([store.example("a")])
            assert checked == store.example("a")
            await store.probe()
            assert (await store.counts()).raw == 0
