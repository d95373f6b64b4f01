"""Rows as SQL literals, made column by column.

The connector packs the parameters of a row one by one and holds the interpreter meanwhile: 30 µs for a processed record, more than the
server needs to write it. A statement with many rows as literals takes half of the time in all. No character of a value becomes part of
a statement: texts are written as hexadecimal digits, numbers in their shortest exact form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import REVISION, raw_schema
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.storage.arrow import packed, values_of
from complex_system.storage.conflicts import Change, packed_orders
from complex_system.storage.envelope import PIPELINE, Digest
from complex_system.storage.maria.sql import HASH, ORDER, ORDERS, SOURCE

_ROWS = 4000
_BYTES = 4_000_000
_ROOM = 100_000  # for what is around the rows in a statement: a thousand columns' names, twice
USUAL_PACKET = 16 * 2**20
"""Bytes that a server takes in one statement unless told otherwise."""


def raw_rows(
    records: Sequence[Record], sources: Sequence[str], orders: Sequence[float], dataset: Dataset, digest: Digest
) -> pa.Table:
    """Return checked raw records with their hashes, sources and orders, by rising key; of equal keys the first record.

    The order makes two replays of one batch take their locks in the same order.
    """
    rows = zip(reversed(records), reversed(sources), reversed(orders), strict=True)
    first = {record[ID]: (record, source, order) for record, source, order in rows}
    ordered = [first[key] for key in sorted(first)]
    schema = raw_schema(dataset)
    columns = [pa.array([record[field.name] for record, _, _ in ordered], field.type) for field in schema]
    columns.append(pa.array([digest(record) for record, _, _ in ordered], pa.binary()))
    columns.append(pa.array([source for _, source, _ in ordered], pa.string()))
    columns.append(pa.array([order for _, _, order in ordered], pa.float64()))
    return pa.table(columns, [*schema.names, HASH, SOURCE, ORDER])


def changed_rows(changes: Sequence[Change], dataset: Dataset) -> pa.Table:
    """Return changed raw records with their envelopes, in the order of the changes."""
    after = [change.after for change in changes]
    schema = raw_schema(dataset)
    columns = [pa.array([each.record[field.name] for each in after], field.type) for field in schema]
    columns.append(pa.array([each.hash for each in after], pa.binary()))
    columns.append(pa.array([each.source for each in after], pa.string()))
    columns.append(pa.array([each.order for each in after], pa.float64()))
    columns.append(pa.array([packed_orders(each) for each in after], pa.string()))
    columns.append(pa.array([each.revision for each in after], pa.int64()))
    columns.append(pa.array([""] * len(after), pa.string()))
    return pa.table(columns, [*schema.names, HASH, SOURCE, ORDER, ORDERS, REVISION, PIPELINE])


def processed_rows(table: pa.Table, names: Sequence[str], version: str) -> pa.Table:
    """Return processed records by rising key with their version as the last column; of equal keys the last record.

    Args:
        table: The records.
        names: Their columns in the order of the statement, the key first.
        version: The pipeline version that made them.
    """
    places = {key: place for place, key in enumerate(values_of(table.column(ID)))}
    ordered = table.select(list(names)).take(pa.array([places[key] for key in sorted(places)], pa.int64()))
    return ordered.append_column(PIPELINE, pa.array([version] * ordered.num_rows, pa.string()))


def texts_of(table: pa.Table, packet: int = USUAL_PACKET) -> Iterator[str]:
    """Yield what follows ``VALUES`` in the statements for all rows: ``(x, y), (x, y)``.

    Columns are texts, bytes, times, finite numbers, integers, booleans, which become 0 and 1, and lists, which become JSON.

    Args:
        table: The rows.
        packet: Bytes that the server takes in one statement; beyond it ends the connection without a reason.

    Raises:
        InvalidRecordError: A row alone is larger.
    """
    literals = [_literals(column.combine_chunks()) for column in table.columns]
    rows = pc.binary_join_element_wise(*literals, ",", null_handling="replace", null_replacement="NULL")
    for start in range(0, len(rows), _ROWS):
        for text in _within(values_of(rows.slice(start, _ROWS)), min(_BYTES, packet - _ROOM)):
            if len(text) > packet - _ROOM:
                raise InvalidRecordError(
                    f"MariaDB takes {packet} bytes in one statement, and a record needs {len(text) + _ROOM}: raise its "
                    "max_allowed_packet, or publish less in one record."
                )
            yield text


def keys_of(keys: Iterable[str]) -> Iterator[str]:
    """Yield what belongs between the brackets of ``IN (...)`` in the statements for all keys."""
    literals = [_text(key) for key in keys]
    for start in range(0, len(literals), _ROWS):
        yield ",".join(literals[start : start + _ROWS])


def _literals(column: Any) -> Any:
    if pa.types.is_list(column.type):
        return pa.array([None if each is None else _text(packed(each)) for each in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.string())
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()  # many columns repeat a few texts
        return pa.array([_text(text) for text in values_of(encoded.dictionary)], pa.string()).take(encoded.indices)
    if pa.types.is_binary(column.type):
        return pa.array([None if value is None else f"x'{value.hex()}'" for value in values_of(column)], pa.string())
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "1", "0")
    if pa.types.is_integer(column.type):
        return pc.cast(column, pa.string())
    # Plus zero: MariaDB does not keep the sign of zero. Only with an exponent a literal is a double at once, not a decimal first.
    written = pc.cast(pc.add(column, 0.0), pa.string())
    return pc.if_else(pc.match_substring(written, "e"), written, pc.binary_join_element_wise(written, "e0", ""))


def _text(value: str) -> str:
    return f"_utf8mb4 x'{value.encode().hex()}'"


def _within(rows: list[str], most: int) -> Iterator[str]:
    made = "),(".join(rows)
    if len(made) > most and len(rows) > 1:
        middle = len(rows) // 2
        yield from _within(rows[:middle], most)
        yield from _within(rows[middle:], most)
    else:
        yield f"({made})"
