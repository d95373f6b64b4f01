"""Tables that programs write, with types of their own: JSON lines, JSON and Parquet.

Nested objects become columns with dots in their names. A column has one type in the whole file, so that ``describe-data`` and the
replay see the same values: where a file mixes types, all values of the column are texts, and are read as texts of a CSV file are.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import polars as pl
from typing_extensions import override

from complex_system.domain.columns import LARGEST_INTEGER
from complex_system.domain.types import MAX_ENTRIES, column_type
from complex_system.errors import SourceFileError
from complex_system.sources.base import CHUNK_ROWS, Columns, FrameTable, Part, Value
from complex_system.sources.json_objects import JsonArray, flattened, object_of, text_of

_NUMBERS = pl.List(pl.Float64)
_TEXTS = pl.List(pl.String)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class ParquetTable(FrameTable):
    """Parquet. Structures are flattened, dictionaries are texts, durations are seconds."""

    @override
    def _scan(self) -> pl.LazyFrame:
        frame = self._file
        columns = [
            each
            for name, dtype in frame.collect_schema().items()
            for each in _flat(pl.col(name), name, dtype, self.declared)
        ]
        names = [name for name, _ in columns]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise SourceFileError(
                f"The file {self.shown} has the column '{twice}' more than once: in a structure, and by itself; rename one."
            )
        return frame.select([column.alias(name) for name, column in columns])

    @property
    def _file(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False)

    @property
    @override
    def nested(self) -> frozenset[str]:
        plain = {name for name, dtype in self._file.collect_schema().items() if not dtype.is_nested()}
        return frozenset(self._scan().collect_schema().names()) - plain


def _flat(column: pl.Expr, name: str, dtype: pl.DataType, whole: Container[str]) -> Iterator[tuple[str, pl.Expr]]:
    if isinstance(dtype, pl.Struct) and name not in whole:
        for field in dtype.fields:
            inside = column.struct.field(field.name)
            yield from _flat(inside, f"{name}.{field.name}", field.dtype, whole)  # type: ignore[arg-type]
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
    return pl.Series(series.name, [None if value is None else text_of(value) for value in series.to_list()], pl.String)


class LinesTable(FrameTable):
    """JSON lines. Empty lines are not rows, but they count in the row numbers, which are line numbers."""

    @override
    def outline(self) -> tuple[list[str], int]:
        types, rows = self._outline
        return list(types), rows

    @property
    @override
    def nested(self) -> frozenset[str]:
        _ = self._outline
        return self._nested

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
        return super().frame()

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
        self._whole: frozenset[str] = self.declared
        kinds, rows = self._kinds()
        # A field that is an object in some rows and a value in others: its objects are texts, which cost their rows only.
        mixed = {name for name in _outer(kinds) if not kinds.get(name, {None}) <= {None}} - self._whole
        if mixed:
            self._whole |= mixed
            kinds, rows = self._kinds()
        empty = {name for name in _outer(kinds) if kinds.get(name) == {None}} - self._whole  # a missing or empty object
        types = {name: _common(each - {None}) for name, each in kinds.items() if name not in empty}
        lists = {name for name, each in kinds.items() if each <= {*_LISTS, None} and each != {None}}
        self._nested: frozenset[str] = frozenset(lists.union(types) - (self._outermost - lists))
        return types, rows

    def _kinds(self) -> tuple[dict[str, set[Any]], int]:
        """Read the file; return what kinds of values each column has, and the number of rows."""
        rows, kinds = 0, dict[str, set[Any]]()
        self._outermost = set[str]()
        for _, value in self._objects():
            rows += 1
            if not isinstance(value, dict):
                continue
            self._outermost.update(value)
            flat = flattened(value, self._whole)
            if isinstance(flat, dict):
                for name, field in flat.items():
                    kinds.setdefault(name, set()).add(_kind(field))
        return kinds, rows

    def _rows_read(self) -> Iterator[tuple[int, Value]]:
        """Yield row numbers with flattened objects, or with the reason why there is none."""
        _ = self._outline
        for number, value in self._objects():
            yield number, flattened(value, self._whole) if isinstance(value, dict) else value

    def _objects(self) -> Iterator[tuple[int, Value]]:
        for number, line in enumerate(self._lines(), 1):
            content = line.strip() if number > 1 else line.removeprefix(b"\xef\xbb\xbf").strip()
            if content:
                yield number, object_of(content)

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            is_utf_16 = file.read(2) in _UTF_16
            file.seek(0)
            if not is_utf_16:
                yield from file
                return
        with self.path.open(encoding="utf-16", errors="replace", newline="\n") as text:
            for line in text:
                yield line.encode()


class JsonTable(LinesTable):
    """A JSON array of objects, read piece by piece; a file that does not begin with ``[`` is read as JSON lines."""

    @override
    def _objects(self) -> Iterator[tuple[int, Value]]:
        with self.path.open("rb") as file:
            encoding, errors = ("utf-16", "replace") if file.read(2) in _UTF_16 else ("utf-8-sig", "surrogateescape")
        number = 0
        try:
            with self.path.open(encoding=encoding, errors=errors, newline="") as text:
                array = JsonArray(text)
                for number, element in enumerate(array, 1):
                    yield number, object_of(element.encode(errors="surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise SourceFileError(
                f"The file {self.shown} cannot be read as json: behind element {number}, {error}."
            ) from error
        if not array.is_array:
            yield from super()._objects()


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
    return "others" if value else "empty"


_LISTS = frozenset({"numbers", "texts", "others", "empty"})
"""Kinds of values that are lists."""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _outer(names: Iterable[str]) -> set[str]:
    """Return what the names with dots are inside of: ``a`` and ``a.b`` for ``a.b.c``."""
    return {name[:place] for name in names for place, sign in enumerate(name) if sign == "."}


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
        found = [value if value is None or isinstance(value, str) else text_of(value) for value in found]
    return pl.Series(name, found, dtype, strict=False)
