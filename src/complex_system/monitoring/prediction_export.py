"""The kept predictions beside the true values as CSV or Parquet, page by page, so that memory does not grow with their number."""

from __future__ import annotations

import asyncio
import io
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv, parquet
from typing_extensions import override

from complex_system.monitoring.history import Documents
from complex_system.monitoring.prediction_log import Block, PredictionLog

Format = Literal["csv", "parquet"]
MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("time", pa.timestamp("ms", "UTC")),
        ("prediction", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("truth", pa.float64()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("warnings", pa.string()),
        ("service", pa.string()),
        ("origin", pa.string()),
    ]
)
"""The columns; ``docs/handing-over.md`` says what they hold."""
ROW_GROUP = 50_000
"""Rows of a row group of Parquet, about."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Encoder(ABC):
    """Makes bytes of tables, one after the other."""

    @abstractmethod
    def encode(self, table: pa.Table) -> bytes:
        """Return what follows with this table; perhaps nothing yet."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the rest."""


class _Csv(_Encoder):
    """CSV; texts that a spreadsheet takes for a formula begin with an apostrophe, numbers stay."""

    def __init__(self) -> None:
        self._header = True

    @override
    def encode(self, table: pa.Table) -> bytes:
        sink = io.BytesIO()
        harmless = {
            name: [_harmless(each) for each in table.column(name).to_pylist()] for name in ("key", "model", "version")
        }
        for name, values in harmless.items():
            table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), pa.array(values, pa.string()))
        csv.write_csv(table, sink, csv.WriteOptions(include_header=self._header))
        self._header = False
        return sink.getvalue()

    @override
    def end(self) -> bytes:
        return b""


class _Parquet(_Encoder):
    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer = parquet.ParquetWriter(pa.PythonFile(_Forward(self._sink), "w"), SCHEMA)
        self._waiting: list[pa.Table] = []

    @override
    def encode(self, table: pa.Table) -> bytes:
        self._waiting.append(table)
        return self._written() if sum(each.num_rows for each in self._waiting) >= ROW_GROUP else b""

    @override
    def end(self) -> bytes:
        last = self._written()
        self._writer.close()
        return last + self._taken()

    def _written(self) -> bytes:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []
        return self._taken()

    def _taken(self) -> bytes:
        content = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return content


class _Forward:
    """A file that is only written to: its position goes on while what was written is taken away."""

    closed = False

    def __init__(self, sink: io.BytesIO) -> None:
        self._sink = sink
        self._position = 0

    def write(self, data: Any) -> int:
        count = self._sink.write(data)
        self._position += count
        return count

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


async def exported(
    log: PredictionLog,
    documents: Documents,
    form: Format,
    start: float,
    end: float,
    *,
    model: str = "",
    version: str = "",
) -> AsyncGenerator[bytes]:
    """Yield the predictions with ``start <= time < end`` and the truths of their records, as the database has them now.

    The first part comes after the first page was read, so that a database that is away is an error before anything was sent.

    Raises:
        ComplexSystemError: The database is away.
    """
    encoder = _Csv() if form == "csv" else _Parquet()
    async for blocks in log.blocks(documents, start, end, model, version):
        keys = sorted({key for block in blocks for key in block.keys if key})
        truths = await documents.targets(keys) if keys else {}
        table = await asyncio.to_thread(_table, blocks, truths, start, end)
        if content := await asyncio.to_thread(encoder.encode, table):
            yield content
    if content := await asyncio.to_thread(encoder.end):
        yield content


def _table(blocks: Sequence[Block], truths: Mapping[str, float], start: float, end: float) -> pa.Table:
    tables = [_block_table(block, truths) for block in blocks]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    inside = pa.compute.and_(
        pa.compute.greater_equal(table.column("time"), _moment(start)), pa.compute.less(table.column("time"), _moment(end))
    )
    return table.filter(inside)


def _moment(at: float) -> pa.Scalar:
    return pa.scalar(math.ceil(at * 1000), pa.int64()).cast(SCHEMA.field("time").type)


def _block_table(block: Block, truths: Mapping[str, float]) -> pa.Table:
    count, begin, half = len(block.keys), round(block.at * 1000), block.half_width
    columns: dict[str, Iterable[Any]] = {
        "key": [key or None for key in block.keys],
        "time": [begin + each for each in block.milliseconds],
        "prediction": block.predictions,
        "lower": [None if half is None else each - half for each in block.predictions],
        "upper": [None if half is None else each + half for each in block.predictions],
        "truth": [truths.get(key) for key in block.keys],
        "model": [block.model] * count,
        "version": [block.version] * count,
        "warnings": [each or None for each in block.warnings] or [None] * count,
        "service": [block.service] * count,
        "origin": [block.origin] * count,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _harmless(text: str | None) -> str | None:
    if text is None or not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
