"""Rows as the text of SQL values, made column by column.

The connector packs the parameters of a row one value after another and holds the interpreter meanwhile: 30 µs for a processed
record, more than the server needs to write it. A statement that carries many rows as literals takes a fraction of that here and
half of the time in all. No character of a value becomes part of a statement: texts are written as hexadecimal digits, numbers by
their shortest exact representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.storage.arrow import PIPELINE, packed

_ROWS = 4000
_BYTES = 4_000_000  # a server takes 16 MB in one statement unless told otherwise


def raw_rows(records: Sequence[Record], dataset: Dataset) -> pa.Table:
    """Checked raw records by rising key, so that two replays of one batch lock alike; of equal keys the first record."""
    first = {record[ID]: record for record in reversed(records)}
    ordered = [first[key] for key in sorted(first)]
    schema = raw_schema(dataset)
    return pa.table([pa.array([record[field.name] for record in ordered], field.type) for field in schema], schema=schema)


def processed_rows(table: pa.Table, names: Sequence[str], version: str) -> pa.Table:
    """Processed records by rising key with their version as the last column; of equal keys the last record.

    Args:
        table: The records.
        names: Their columns in the order of the statement, the key first.
        version: The pipeline version that made them.
    """
    places = {key: place for place, key in enumerate(table.column(ID).to_pylist())}
    ordered = table.select(list(names)).take(pa.array([places[key] for key in sorted(places)], pa.int64()))
    return ordered.append_column(PIPELINE, pa.array([version] * ordered.num_rows, pa.string()))


def texts_of(table: pa.Table) -> Iterator[str]:
    """What follows ``VALUES`` in statements that hold all rows: ``(x, y), (x, y)``.

    Columns are texts, finite numbers, integers, booleans, which become 0 and 1, and lists, which become JSON.
    """
    literals = [_literals(column.combine_chunks()) for column in table.columns]
    rows = pc.binary_join_element_wise(*literals, ",", null_handling="replace", null_replacement="NULL")
    for start in range(0, len(rows), _ROWS):
        yield from _within(rows.slice(start, _ROWS).to_pylist())


def keys_of(keys: Iterable[str]) -> Iterator[str]:
    """What belongs between the brackets of ``IN (...)`` in statements for all keys."""
    literals = [_text(key) for key in keys]
    for start in range(0, len(literals), _ROWS):
        yield ",".join(literals[start : start + _ROWS])


def _literals(column: Any) -> Any:
    if pa.types.is_list(column.type):
        return pa.array([None if each is None else _text(packed(each)) for each in column.to_pylist()], pa.string())
    if pa.types.is_string(column.type):
        return pa.array([None if text is None else _text(text) for text in column.to_pylist()], pa.string())
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "1", "0")
    if pa.types.is_integer(column.type):
        return pc.cast(column, pa.string())
    # Plus zero, because MariaDB does not keep the sign of zero. With an exponent a literal is a double; without one the server
    # takes it for a decimal first.
    written = pc.cast(pc.add(column, 0.0), pa.string())
    return pc.if_else(pc.match_substring(written, "e"), written, pc.binary_join_element_wise(written, "e0", ""))


def _text(value: str) -> str:
    return f"_utf8mb4 x'{value.encode().hex()}'"


def _within(rows: list[str]) -> Iterator[str]:
    made = "),(".join(rows)
    if len(made) > _BYTES and len(rows) > 1:
        middle = len(rows) // 2
        yield from _within(rows[:middle])
        yield from _within(rows[middle:])
    else:
        yield f"({made})"
