"""Tables that programs write, with types of their own: JSON lines, JSON and Parquet.

Nested objects become columns with dots in their names. A column has one type in the whole file, so that ``describe-data`` and the
replay see the same values: where a file mixes types, all values of the column are texts, and are read as texts of a CSV file are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
import polars as pl
from typing_extensions import override

from complex_system.domain.columns import LARGEST_INTEGER
from complex_system.domain.types import MAX_ENTRIES, column_type
from complex_system.errors import SourceFileError
from complex_system.sources.base import CHUNK_ROWS, Columns, FrameTable, Part, Value

_NUMBERS = pl.List(pl.Float64)
_TEXTS = pl.List(pl.String)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NESTED = 100
"""Levels of objects in each other that are flattened."""


class ParquetTable(FrameTable):
    """Parquet. Structures are flattened, dictionaries are texts, durations are seconds."""

    @override
    def _scan(self) -> pl.LazyFrame:
        frame = pl.scan_parquet(self.path, glob=False)
        columns = [each for name, dtype in frame.collect_schema().items() for each in _flat(pl.col(name), name, dtype)]
        names = [name for name, _ in columns]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise SourceFileError(
                f"The file {self.shown} has the column '{twice}' more than once: in a structure, and by itself; rename one."
            )
        return frame.select([column.alias(name) for name, column in columns])


def _flat(column: pl.Expr, name: str, dtype: pl.DataType) -> Iterator[tuple[str, pl.Expr]]:
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _flat(column.struct.field(field.name), f"{name}.{field.name}", field.dtype)  # type: ignore[arg-type]
        return
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Null):
        column = column.cast(pl.String)
    elif isinstance(dtype, pl.Duration):
        column = column.dt.total_nanoseconds() / 1e9
    elif isinstance(dtype, pl.List | pl.Array):
        inner: Any = dtype.inner
        if inner.is_numeric():
            column = column.cast(_NUMBERS)
        elif inner in (pl.Categorical, pl.Enum):
            column = column.cast(_TEXTS)
        elif inner != pl.String:
            column = column.map_batches(_as_texts, return_dtype=pl.String)
    yield name, column


def _as_texts(series: pl.Series) -> pl.Series:
    return pl.Series(series.name, [None if value is None else _text(value) for value in series.to_list()], pl.String)


class LinesTable(FrameTable):
    """JSON lines. Empty lines are not rows, but they count in the row numbers, which are line numbers."""

    _mixed: frozenset[str] = frozenset()
    """Fields that are an object in some rows and a value in others: their objects are texts, which cost their rows only."""

    @override
    def outline(self) -> tuple[list[str], int]:
        types, rows = self._outline
        return list(types), rows

    @override
    def parts(self, columns: Columns, size: int) -> Iterator[Part]:
        types, _ = self._outline
        # A list in a column that declares none is passed on as a text, and costs its row only.
        wanted = {
            name: pl.String()
            if dtype.is_nested() and not ((column := columns[name]) and column_type(column).is_list)
            else dtype
            for name, dtype in types.items()
            if name in columns
        }
        rows = self._rows_read()
        while chunk := list(islice(rows, size)):
            objects = [value if isinstance(value, dict) else {} for _, value in chunk]
            part = self._part([number for number, _ in chunk], _frame(objects, wanted), columns)
            faults = {place: value for place, (_, value) in enumerate(chunk) if not isinstance(value, dict)}
            yield replace(part, faults={**part.faults, **faults})

    @override
    def frame(self) -> pl.DataFrame:
        types, _ = self._outline
        if "" in types:
            raise SourceFileError(f"The file {self.shown} has a column without a name; give it one.")
        return _frame([value for _, value in self._rows_read() if isinstance(value, dict)], types)

    @override
    def _scan(self) -> pl.LazyFrame:
        from polars.io.plugins import register_io_source

        types, _ = self._outline

        def parts(
            columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, size: int | None
        ) -> Iterator[pl.DataFrame]:
            good = (value for _, value in self._rows_read() if isinstance(value, dict))
            wanted = {name: dtype for name, dtype in types.items() if columns is None or name in columns}
            kept = islice(good, limit)
            while chunk := list(islice(kept, size or CHUNK_ROWS)):
                frame = _frame(chunk, wanted)
                yield frame if predicate is None else frame.filter(predicate)

        return register_io_source(parts, schema=types)

    @cached_property
    def _outline(self) -> tuple[dict[str, pl.DataType], int]:
        """The columns with their types, from all rows, and the number of rows."""
        rows = 0
        plain: set[str] = set()
        objects: set[str] = set()
        for _, value in self._objects():
            rows += 1
            if isinstance(value, dict):
                for name, field in value.items():
                    if field is not None and name not in (found := objects if type(field) is dict else plain):
                        found.add(name)
        self._mixed = frozenset(plain & objects)
        kinds: dict[str, set[Any]] = {}
        for _, value in self._rows_read():
            if isinstance(value, dict):
                for name, field in value.items():
                    kinds.setdefault(name, set()).add(_kind(field))
        return {name: _common(each - {None}) for name, each in kinds.items()}, rows

    def _rows_read(self) -> Iterator[tuple[int, Value]]:
        """Yield row numbers with flattened objects, or with the reason why there is none."""
        for number, value in self._objects():
            yield number, _flattened(value, self._mixed) if isinstance(value, dict) else value

    def _objects(self) -> Iterator[tuple[int, Value]]:
        with self.path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            lines: Iterator[bytes] = file
            if start in _UTF_16:
                text = self.path.open(encoding="utf-16", errors="replace", newline="\n")
                lines = (line.encode() for line in text)
            for number, line in enumerate(lines, 1):
                content = line.strip() if number > 1 else line.removeprefix(b"\xef\xbb\xbf").strip()
                if content:
                    yield number, _object(content)


class JsonTable(LinesTable):
    """A JSON array of objects, held in memory as a whole; a file that does not begin with ``[`` is read as JSON lines."""

    @override
    def _objects(self) -> Iterator[tuple[int, Value]]:
        with self.path.open("rb") as file:
            start = file.read(1000)
        if not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") and start[:2] not in _UTF_16:
            yield from super()._objects()
            return
        content = self.path.read_bytes()
        if start[:2] in _UTF_16:
            content = content.decode("utf-16", errors="replace").encode()
            if not content.lstrip().startswith(b"["):
                yield from super()._objects()
                return
        try:
            values = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=list[msgspec.Raw])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            try:
                values = [value if isinstance(value, dict) else None for value in json.loads(content.decode("utf-8-sig"))]  # type: ignore[misc]
            except (ValueError, RecursionError):
                raise SourceFileError(f"The file {self.shown} cannot be read as json: {error}.") from error
        for number, value in enumerate(values, 1):
            yield number, _object(bytes(value)) if isinstance(value, msgspec.Raw) else value or _NO_OBJECT


_NO_OBJECT = "is not a JSON object"
_decode = msgspec.json.Decoder().decode


def _object(text: bytes) -> Value:
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        try:
            value = json.loads(text)  # Python and others write NaN and Infinity, which are not JSON
        except (ValueError, RecursionError):
            return f"is not JSON: {error}"
    return value if isinstance(value, dict) else _NO_OBJECT


def _flattened(value: dict[str, Any], mixed: frozenset[str]) -> Value:
    """Return an object without objects in it: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``, and MongoDB's ``$oid`` and others as values."""
    if not any(type(field) is dict for field in value.values()):
        return value
    value = {name: _text(field) if name in mixed and type(field) is dict else field for name, field in value.items()}
    made: dict[str, Any] = {}
    for _ in range(_NESTED):
        made, nested = {}, False
        for name, field in value.items():
            if type(field) is not dict:
                fields = {name: field}
            elif len(field) == 1 and (read := _EXTENDED.get(next(iter(field)))):
                try:
                    fields = {name: read(next(iter(field.values())))}
                except (ValueError, TypeError, OverflowError):
                    return f"field '{name}' is not a value of MongoDB's extended JSON: {_text(field)[:60]}"
            else:
                fields = {f"{name}.{inner}": each for inner, each in field.items()} or {name: None}
            if twice := next((each for each in fields if each in made), None):
                return f"has the field '{twice}' more than once: in an object, and with dots in its name"
            made |= fields
            nested = nested or any(type(each) is dict for each in fields.values())
        if not nested:
            return made
        value = made
    return f"has more than {_NESTED} objects in each other"


def _date(value: Any) -> str:
    if isinstance(value, str):
        return value
    milliseconds = int(value["$numberLong"] if isinstance(value, dict) else value)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


_EXTENDED: dict[str, Callable[[Any], Any]] = {
    "$oid": str, "$date": _date, "$numberInt": int, "$numberLong": int, "$numberDouble": float, "$numberDecimal": float,
    "$uuid": str, "$symbol": str,
}  # fmt: skip
"""MongoDB's extended JSON, as ``mongoexport`` writes it."""


def _kind(value: Any) -> Any:
    """Return what decides the type of a column; None for a missing value."""
    if value is None or type(value) is bool or isinstance(value, str):
        return None if value is None else type(value)
    if isinstance(value, int):
        return int if -LARGEST_INTEGER <= value <= LARGEST_INTEGER else "large"
    if isinstance(value, float):
        return float
    if 0 < len(value) <= MAX_ENTRIES:
        if all(isinstance(each, int | float) and not isinstance(each, bool) and _is_finite(each) for each in value):
            return "numbers"
        if all(isinstance(each, str) for each in value):
            return "texts"
    return str if value else "empty"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _common(kinds: set[Any]) -> pl.DataType:
    """Return the type of a column with values of some kinds. Whole numbers that a float cannot hold are texts."""
    if kinds == {bool}:
        return pl.Boolean()
    if kinds == {int}:
        return pl.Int64()
    if kinds and kinds <= {int, float}:
        return pl.Float64()
    if kinds and kinds <= {"numbers", "empty"}:
        return _NUMBERS if "numbers" in kinds else _TEXTS
    if kinds and kinds <= {"texts", "empty"}:
        return _TEXTS
    return pl.String()


def _frame(rows: list[dict[str, Any]], types: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([_series(name, [row.get(name) for row in rows], dtype) for name, dtype in types.items()])


def _series(name: str, found: list[Any], dtype: pl.DataType) -> pl.Series:
    if dtype == pl.String:
        found = [value if value is None or isinstance(value, str) else _text(value) for value in found]
    return pl.Series(name, found, dtype, strict=False)


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, OverflowError, ValueError):
        return json.dumps(value, default=str, ensure_ascii=False)
