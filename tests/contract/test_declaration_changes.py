"""What happens to kept records when the declaration changes, and several data sets in one database: alike on both databases."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import mariadb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import AsyncMongoClient

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.documents import Document
from complex_system.domain.pages import REVISION, processed_schema
from complex_system.errors import DeclarationError
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.settings import Settings
from complex_system.storage.base import PROCESSED, RAW, REJECTED, DataStore
from complex_system.storage.maria.schema import Kept, plan, written
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.store import MongoDataStore

LONG = "a name that is longer than any identifier may be in a table, " * 2
VERY_LONG = "Länge %" * 200
ODD = ["temp", "Temp", "TEMP", "select", "Größe [°C]", "grosse [°c]", "a = 1, ? %s :x 'y' \"z\" \\n", "😀", LONG, VERY_LONG]


def declared(*names: str, name: str = "ovens", kinds: dict[str, str] | None = None, target: str = "y") -> Dataset:
    """Numbers of these names, each kept as a feature, and a target; other types are not used by the pipeline."""
    columns: list[dict[str, Any]] = []
    for each in names:
        kind = (kinds or {}).get(each, "number")
        ranged = {"range": (0, 100), "fill": 1} if kind in ("number", "integer") else {}
        chosen = {"categories": ("a", "b")} if kind in ("category", "list of categories") else {}
        columns.append({"name": each, "type": kind, "optional": True, **ranged, **chosen})
    steps = [{"step": "keep", "column": each["name"]} for each in columns if each["type"] == "number"]
    always = {"name": "always", "type": "number", "range": (0, 1), "optional": True, "fill": 0}
    return Dataset.parse_obj(
        {
            "name": name,
            "target": target,
            "columns": [*columns, always, {"name": target, "type": "number", "optional": True}],
            "pipeline": [*steps, {"step": "keep", "column": "always"}],
        }
    )


def record(dataset: Dataset, key: str, **values: Any) -> dict[str, Any]:
    return {ID: key, **{name: values.get(name) for name in dataset.raw_names}}


def processed(dataset: Dataset, key: str) -> pa.Table:
    row = {ID: key, dataset.target: 2.0, **{name: place / 8 for place, name in enumerate(dataset.feature_names)}}
    return pa.Table.from_pylist([row], schema=processed_schema(dataset))


@pytest.fixture(params=["mongo", "maria"])
def settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    """Points to a database of the test's own."""
    name = f"t{uuid.uuid4().hex[:12]}"
    if request.param == "mongo":
        return make_settings(request.getfixturevalue("mongo_server"), mongo_name=name)
    return make_settings(request.getfixturevalue("maria_server"), maria_name=name, maria_connections=2)


@pytest.fixture
def is_maria(request: pytest.FixtureRequest) -> bool:
    return "maria" in request.node.callspec.id


@pytest.fixture
async def opened(settings: Settings, is_maria: bool) -> AsyncIterator[Callable[..., Any]]:
    """Opens a store of a data set, as a service does that starts with it; settings may be others."""
    stores: list[DataStore] = []

    async def open_store(dataset: Dataset, **other: Any) -> DataStore:
        own = settings.copy(update=other)
        store = MariaDataStore(dataset, own) if is_maria else MongoDataStore(dataset, own)
        stores.append(store)
        await store.open()
        return store

    yield open_store
    for store in stores:
        await store.close()
    if is_maria:
        connection = connected(settings)
        connection.cursor().execute(f"DROP DATABASE IF EXISTS `{settings.maria_name}`")
        connection.close()
    else:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client.drop_database(settings.mongo_name)


def connected(settings: Settings) -> Any:
    return mariadb.connect(
        host=settings.maria_host, port=settings.maria_port, user=settings.maria_user, password=settings.maria_password
    )


async def test_the_order_of_a_declaration_does_not_matter(opened: Callable[..., Any]) -> None:
    first, turned = declared(*ODD), declared(*reversed(ODD))
    values = {name: float(place) for place, name in enumerate(ODD)}
    store = await opened(first)
    await store.save_raw([record(first, "k1", **values)])
    await store.upsert_processed(processed(first, "k1"), "v1")
    other = await opened(turned)
    await other.save_raw([record(turned, "k2", **values)])
    assert await other.raw_records(5) == [record(turned, key, **values) for key in ("k1", "k2")]
    assert await store.raw_records(5) == [record(first, key, **values) for key in ("k1", "k2")]
    page = await other.processed_columns(list(first.processed_names), labelled=True, version="v1", after=None, limit=5)
    assert page.table == processed(first, "k1")


async def test_a_name_that_differs_by_case_only_is_a_column_of_its_own_wherever_it_stands(
    opened: Callable[..., Any],
) -> None:
    before, after = declared("temp"), declared("Temp", "temp")
    await (await opened(before)).save_raw([record(before, "k1", temp=7.0)])
    store = await opened(after)
    await store.save_raw([record(after, "k2", Temp=8.0, temp=9.0)])
    assert await store.raw_records(5) == [record(after, "k1", temp=7.0), record(after, "k2", Temp=8.0, temp=9.0)]


async def test_a_column_that_is_no_longer_declared_keeps_its_values(opened: Callable[..., Any]) -> None:
    both, one = declared("a", "Ä b"), declared("a")
    await (await opened(both)).save_raw([record(both, "k1", **{"a": 1.0, "Ä b": 2.0})])
    without = await opened(one)
    await without.save_raw([record(one, "k2", a=3.0)])
    assert await without.raw_records(5) == [record(one, "k1", a=1.0), record(one, "k2", a=3.0)]
    again = await opened(both)
    assert await again.raw_records(5) == [
        record(both, "k1", **{"a": 1.0, "Ä b": 2.0}),
        record(both, "k2", **{"a": 3.0, "Ä b": None}),
    ]


async def test_records_are_work_again_for_a_new_version(opened: Callable[..., Any]) -> None:
    before, after = declared("a"), declared("b", "a")
    store = await opened(before)
    await store.save_raw([record(before, key, a=1.0) for key in ("k1", "k2")])
    for key in ("k1", "k2"):
        await store.upsert_processed(processed(before, key), before.version)
    newer = await opened(after)
    page = await newer.unprocessed(after.version, None, 5)
    assert page.table.to_pylist() == [{**record(after, key, a=1.0), REVISION: 1} for key in ("k1", "k2")]
    await newer.upsert_processed(processed(after, "k1"), after.version)
    assert (await newer.unprocessed(after.version, None, 5)).table.column(ID).to_pylist() == ["k2"]
    page = await newer.processed_columns(
        list(after.processed_names), labelled=True, version=after.version, after=None, limit=5
    )
    assert page.table == processed(after, "k1")


@pytest.mark.parametrize(
    ("before", "after", "values"),
    [
        ("integer", "number", [3, 2**53]),
        ("category", "text", ["a", "b"]),
        ("text", "datetime", ["1.2.2025", "x"]),
        ("datetime", "category", ["a", None]),
    ],
)
async def test_a_type_may_become_one_that_holds_all_of_its_values(
    opened: Callable[..., Any], before: str, after: str, values: list[Any]
) -> None:
    old, new = declared("x", "a", kinds={"x": before}), declared("a", "x", kinds={"x": after})
    await (await opened(old)).save_raw([record(old, f"k{place}", x=value) for place, value in enumerate(values)])
    store = await opened(new)
    assert [each["x"] for each in await store.raw_records(5)] == values
    assert (await store.unprocessed("v", None, 5)).table.column("x").to_pylist() == values
    if after == "number":
        await store.save_raw([record(new, "k9", x=1.5)])
        assert (await store.raw_records(5))[-1]["x"] == 1.5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("number", "integer"),
        ("number", "text"),
        ("text", "number"),
        ("boolean", "integer"),
        ("category", "list of categories"),
        ("list of categories", "text"),
    ],
)
async def test_another_type_is_refused_and_nothing_is_changed(opened: Callable[..., Any], before: str, after: str) -> None:
    old, new = declared("Größe", kinds={"Größe": before}), declared("new", "Größe", kinds={"Größe": after})
    value = {"number": 1.5, "text": "x", "boolean": True, "category": "a", "list of categories": ["a"]}[before]
    store = await opened(old)
    await store.save_raw([record(old, "k1", Größe=value)])
    with pytest.raises(DeclarationError, match=rf"'Größe' was declared as an? {before} and is declared as an? {after} now"):
        await opened(new)
    again = await opened(old)
    assert await again.raw_records(5) == await store.raw_records(5) == [record(old, "k1", Größe=value)]


async def test_two_data_sets_live_side_by_side_in_one_database(opened: Callable[..., Any]) -> None:
    ovens, presses = declared("a"), declared("a", name="presses", kinds={"a": "text"})
    one, two = await opened(ovens), await opened(presses, table_prefix="presses_")
    await one.save_raw([record(ovens, "k1", a=1.0), record(ovens, "k2", a=2.0)])
    await two.save_raw([record(presses, "k1", a="x")])
    await one.upsert_processed(processed(ovens, "k1"), "v1")
    await one.reject([Rejection(id="k2", reason="odd")], "v1")
    await two.documents.save([Document("minute", "m", 1.0, {"of": "presses"})])
    assert await one.counts() == RecordCounts(raw=2, processed=1, labelled=1, rejected=1)
    assert await two.counts() == RecordCounts(raw=1, processed=0, labelled=0, rejected=0)
    assert await two.raw_records(5) == [record(presses, "k1", a="x")]
    assert await two.rejected(None, 5) == []
    assert (await two.unprocessed("v1", None, 5)).table.column(ID).to_pylist() == ["k1"]
    assert await one.documents.by_keys("minute", ["m"]) == []
    assert [each.body for each in await two.documents.by_keys("minute", ["m"])] == [{"of": "presses"}]


async def test_another_data_set_in_the_same_tables_is_refused(opened: Callable[..., Any]) -> None:
    await opened(declared("a"))
    with pytest.raises(
        DeclarationError, match=r"holds the records of the data set 'ovens', and 'presses' is declared.*PREFIX"
    ):
        await opened(declared("a", name="presses"))


async def test_a_new_target_is_counted(opened: Callable[..., Any]) -> None:
    old, new = declared("a"), declared("a", target="z")
    store = await opened(old)
    await store.upsert_processed(processed(old, "k1"), "v1")
    newer = await opened(new)
    assert (await newer.counts()).labelled == 0
    await newer.upsert_processed(processed(new, "k1"), "v2")
    assert (await newer.counts()).labelled == 1
    assert await newer.targets(["k1"]) == {"k1": 2.0}


# Of MariaDB alone

BEFORE = (
    "CREATE TABLE {db}.KIOptiPackRaw (_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL PRIMARY KEY, "
    "_pipeline VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT '', `Temp` DOUBLE NULL, "
    "`column_a6864eb339b0e1f6` DOUBLE NULL, `select` BIGINT NULL, "
    "`note` MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL, `theirs` VARCHAR(10) NULL COMMENT 'of somebody', "
    "`y` DOUBLE NULL, INDEX unprocessed (_pipeline, _id)) ENGINE = InnoDB",
    "CREATE TABLE {db}.KIOptiPackProcessed (_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL "
    "PRIMARY KEY, _pipeline VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, `y` DOUBLE NULL, "
    "`Temp` DOUBLE NULL, `column_a6864eb339b0e1f6` DOUBLE NULL, INDEX labelled (`y`)) ENGINE = InnoDB",
    "INSERT INTO {db}.KIOptiPackRaw (_id, Temp, column_a6864eb339b0e1f6, `select`, note, theirs, y) "
    "VALUES ('k1', 1.5, 2.5, 3, 'n', 't', 4)",
    "INSERT INTO {db}.KIOptiPackProcessed VALUES ('k1', 'v1', 4, 1.5, 2.5)",
)
"""What the release before comments made of a declaration of Temp, temp, select, note, theirs and y."""


@pytest.mark.parametrize("settings", ["maria"], indirect=True)
async def test_a_table_of_an_earlier_release_goes_on_as_it_was(
    opened: Callable[..., Any], settings: Settings, is_maria: bool
) -> None:
    connection = connected(settings)
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {settings.maria_name}")
    for statement in BEFORE:
        cursor.execute(statement.format(db=settings.maria_name))
    connection.commit()
    kinds = {"select": "integer", "note": "text", "theirs": "text"}
    dataset = declared("temp", "theirs", "note", "Temp", "NOTE", "select", kinds=kinds)  # in another order, and more
    expected = record(dataset, "k1", Temp=1.5, temp=2.5, select=3, note="n", theirs="t", y=4.0)
    for _ in range(2):  # found by names, then by comments
        store = await opened(dataset)
        assert await store.raw_records(5) == [expected]
        page = await store.processed_columns(["Temp", "temp", "y"], labelled=True, version="v1", after=None, limit=5)
        assert page.table.to_pylist() == [{"Temp": 1.5, "temp": 2.5, "y": 4.0}]
    comments = (
        "SELECT column_name, column_comment FROM information_schema.columns WHERE table_schema = ? AND table_name = ? "
        "AND column_name IN ('Temp', 'column_a6864eb339b0e1f6', 'theirs')"
    )
    cursor.execute(comments, (settings.maria_name, RAW))
    assert dict(cursor.fetchall()) == {
        "Temp": "declared as Temp = number",
        "column_a6864eb339b0e1f6": "declared as temp = number",
        "theirs": "of somebody",
    }
    connection.close()


@pytest.mark.parametrize("settings", ["maria"], indirect=True)
async def test_an_unchanged_declaration_changes_no_table(
    opened: Callable[..., Any], settings: Settings, is_maria: bool
) -> None:
    dataset = declared(*ODD, kinds={"select": "list of categories", LONG: "boolean", "TEMP": "integer"})
    await opened(dataset)

    def made() -> list[Any]:
        connection = connected(settings)
        cursor = connection.cursor()
        tables = []
        for table in (RAW, PROCESSED, REJECTED):
            cursor.execute(f"SHOW CREATE TABLE {settings.maria_name}.{table}")
            cursor_row = cursor.fetchone()
            cursor.execute(
                "SELECT create_time FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
                (settings.maria_name, table),
            )
            tables.append((cursor_row, cursor.fetchone()))
        connection.close()
        return tables

    before = made()
    await opened(dataset)
    assert made() == before


@given(st.lists(st.lists(st.sampled_from([*ODD, "a", "A", "ä", "_id2", "column_1"]), unique=True), max_size=5))
def test_a_name_keeps_its_column_however_declarations_follow_each_other(declarations: list[list[str]]) -> None:
    kept: list[Kept] = []
    known: dict[str, str] = {}
    for names in declarations:
        made = plan(dict.fromkeys(names, "number"), kept).columns
        assert len(set(made.values())) == len(made) == len(names) + 1
        assert {name: known[name] for name in names if name in known} == {n: made[n] for n in names if n in known}
        known |= {name: made[name] for name in names}
        there = {each.name for each in kept}
        kept += [
            Kept(made[name], "double", f"declared as {written(name)} = number") for name in names if made[name] not in there
        ]


def test_nothing_is_to_be_done_for_columns_that_are_there() -> None:
    kept = [Kept("a", "double", "declared as a = number"), Kept("column_1", "bigint", "declared as b=3A = integer")]
    made = plan({"b:": "integer", "a": "number"}, kept)
    assert (made.columns["b:"], made.columns["a"], made.changes) == ("column_1", "a", ())
    assert made.types == {"b:": "integer", "a": "number"}
    assert plan({"b:": "number"}, kept).changes == (
        "MODIFY COLUMN `column_1` DOUBLE NULL COMMENT 'declared as b=3A = number'",
    )
