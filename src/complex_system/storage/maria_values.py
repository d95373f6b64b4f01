"""Rows as the text of SQL values, made column by column.

The connector packs the parameters of a row one value after another and holds the interpreter meanwhile: 30 µs for a processed
record, more than the server needs to write it. A statement that carries many rows as literals takes a tenth of that here and
half of the time in all. No character of a value becomes part of a statement: texts are written as hexadecimal digits, numbers by
their shortest exact representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record

_ROWS = 4000
_BYTES = 4_000_000  # a server takes 16 MB in one statement unless told otherwise


KEY = "0"
"""The key's column in the frames of this module: columns are called by their position, for a data set may have any names."""


def raw_frame(records: Sequence[Record], dataset: Dataset) -> pl.DataFrame:
    """Checked raw records by rising key, so that two replays of one batch lock alike; equal keys stay in their order."""
    kinds = {ID: pl.String()} | {c.name: pl.Float64() if c.type == "number" else pl.String() for c in dataset.columns}
    columns = [
        pl.Series(str(place), [record[name] for record in records], kind) for place, (name, kind) in enumerate(kinds.items())
    ]
    return pl.DataFrame(columns).sort(KEY, maintain_order=True)


def processed_frame(table: pa.Table, names: Sequence[str], version: str) -> pl.DataFrame:
    """Processed records by rising key with their version as the last column; of equal keys the last record.

    Args:
        table: The records.
        names: Their columns in the order of the statement, the key first.
        version: The pipeline version that made them.
    """
    frame = pl.DataFrame(pl.from_arrow(table.select(list(names)).rename_columns([str(i) for i in range(len(names))])))
    ordered = frame.unique(KEY, keep="last", maintain_order=True).sort(KEY)
    return ordered.with_columns(pl.lit(version).alias(str(len(names))))


def texts_of(frame: pl.DataFrame) -> Iterator[str]:
    """What follows ``VALUES`` in statements that hold all rows: ``(x, y), (x, y)``. Columns are texts and finite numbers."""
    written = frame.select(_literal(name, kind) for name, kind in frame.schema.items())
    for start in range(0, written.height, _ROWS):
        yield from _within(written.slice(start, _ROWS))


def keys_of(keys: Iterable[str]) -> Iterator[str]:
    """What belongs between the brackets of ``IN (...)`` in statements for all keys."""
    literals = pl.DataFrame([pl.Series(KEY, list(keys), pl.String)]).select(_literal(KEY, pl.String())).to_series()
    for start in range(0, len(literals), _ROWS):
        yield ",".join(literals.slice(start, _ROWS))


def _literal(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if kind == pl.String:
        return pl.concat_str(pl.lit("_utf8mb4 x'"), column.cast(pl.Binary).bin.encode("hex"), pl.lit("'")).alias(name)
    return column + 0.0  # MariaDB does not keep the sign of zero


def _within(rows: pl.DataFrame) -> Iterator[str]:
    # With an exponent a literal is a double; without one the server takes it for a decimal first.
    made = rows.write_csv(
        include_header=False, quote_style="never", null_value="NULL", float_scientific=True, line_terminator="),("
    )
    if len(made) > _BYTES and rows.height > 1:
        middle = rows.height // 2
        yield from _within(rows[:middle])
        yield from _within(rows[middle:])
    else:
        yield "(" + made[:-2]
