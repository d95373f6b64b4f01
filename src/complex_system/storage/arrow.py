"""Rows, as drivers have them, to Arrow tables, as the system moves them, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import LISTS, Column
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import REVISION, Page, beside_schema, processed_schema, raw_schema
from complex_system.domain.records import Record


def table_of(columns: Iterable[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return columns of Python values, one for each field of ``schema``, as a table."""
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def page_of(table: pa.Table, limit: int) -> Page:
    """Return a page of rows with their key; ``next`` is set when it has all ``limit`` rows that were asked for."""
    full = table.num_rows and table.num_rows == limit
    return Page(table, table.column(ID)[-1].as_py() if full else None)


def values_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return a column as Python's values: as ``to_pylist``, which makes a scalar of every value first and takes ten times as long."""
    kind = column.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or (is_number and not column.null_count):
        values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return values
    return list(column.to_pylist())


def without_key(page: Page, columns: list[str]) -> Page:
    """Return the page without a key that is not among ``columns``; its cursor stays."""
    return page if ID in columns else Page(page.table.drop_columns([ID]), page.next, page.notes)


def with_key(columns: list[str]) -> list[str]:
    """Return ``columns`` with the key, which a page needs for its cursor."""
    return columns if ID in columns else [ID, *columns]


def chosen_schema(dataset: Dataset, columns: Iterable[str], raw: Iterable[str] | None = None) -> pa.Schema:
    """Return the Arrow types of some of the processed columns and, unless ``raw`` is None, of what is asked for beside them."""
    schema = processed_schema(dataset)
    return pa.schema([*(schema.field(name) for name in columns), *(() if raw is None else beside_schema(dataset, raw))])


def records_of(table: pa.Table) -> list[Record]:
    """Return the rows as dicts; several times faster than ``Table.to_pylist`` on wide tables."""
    names = table.column_names
    columns = [values_of(column) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def rows_of(table: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the rows as tuples in the order of ``names``, by rising key; of equal keys the last one.

    So two writers of the same keys take their locks in the same order. The sign of zero is removed: MariaDB does not keep it.
    """
    numbers = {field.name for field in table.schema if pa.types.is_floating(field.type)}
    columns = [values_of(pc.add(table[name], 0.0) if name in numbers else table[name]) for name in names]
    place = list(names).index(ID)
    by_key = {row[place]: row for row in zip(*columns, strict=True)}
    return [by_key[key] for key in sorted(by_key)]


def packed(entries: list[Any]) -> str:
    """Return a list as the text that an SQL column keeps: JSON."""
    return json.dumps(entries, ensure_ascii=False)


def unpacked(dataset: Dataset, names: Iterable[str] = (), first: int = 1) -> dict[int, Callable[[Any], Any]]:
    """Return converters by place in a row: an SQL column's 0 or 1 to a boolean, its JSON to a list.

    Args:
        dataset: Declares the columns.
        names: Those in the row; none for all, as declared.
        first: Place of the first of them; the key comes before by default.
    """
    chosen = [dataset.column(name) for name in names] or dataset.columns
    return _by_place(chosen, {"boolean": bool, **dict.fromkeys(LISTS, json.loads)}, first)


def plain(dataset: Dataset) -> dict[int, Callable[[Any], Any]]:
    """Return converters by place in ``(key, column, ...)``: a driver's own types of numbers to Python's."""
    return _by_place(dataset.columns, {"integer": int})


def _by_place(
    columns: Sequence[Column], by_type: dict[str, Callable[[Any], Any]], first: int = 1
) -> dict[int, Callable[[Any], Any]]:
    return {place: by_type[column.type] for place, column in enumerate(columns, first) if column.type in by_type}


def converted(rows: Iterable[Sequence[Any]], by_place: dict[int, Callable[[Any], Any]]) -> list[tuple[Any, ...]]:
    """Return rows with the values at some places converted; None stays None."""
    if not by_place:
        return [tuple(row) for row in rows]
    made = []
    for row in rows:
        values = list(row)
        for place, convert in by_place.items():
            if values[place] is not None:
                values[place] = convert(values[place])
        made.append(tuple(values))
    return made


def raw_page(dataset: Dataset, rows: Sequence[Sequence[Any]], limit: int, *, revisions: bool = False) -> Page:
    """Return a page of raw records from rows ``(key, column, ...)``; with ``revisions`` the last value is the revision."""
    schema = raw_schema(dataset)
    if revisions:
        schema = schema.append(pa.field(REVISION, pa.int64(), nullable=False))
    return page_of(table_of(zip(*rows, strict=True), schema) if rows else schema.empty_table(), limit)
