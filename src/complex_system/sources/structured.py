"""Tables that programs write, with types of their own: JSON lines and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import polars as pl
from typing_extensions import override

from complex_system.errors import SourceFileError
from complex_system.sources.base import Columns, FrameTable, Table, Value
from complex_system.sources.values import is_missing


class ParquetTable(FrameTable):
    """Parquet."""

    @override
    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False)


class LinesTable(Table):
    """JSON lines. Empty lines are not rows, but they count in the row numbers, which are line numbers."""

    @override
    def outline(self) -> tuple[list[str], int]:
        names: dict[str, None] = {}
        rows = 0
        for _, value in self._lines():
            rows += 1
            if isinstance(value, dict):
                names.update(dict.fromkeys(value))
        return list(names), rows

    @override
    def chunks(self, columns: Columns, size: int) -> Iterator[tuple[list[int], list[Value]]]:
        lines = self._lines()
        while chunk := list(islice(lines, size)):
            yield [number for number, _ in chunk], [_without_empty(value, columns) for _, value in chunk]

    @override
    def frame(self) -> pl.DataFrame:
        names, _ = self.outline()
        if "" in names:
            raise SourceFileError(f"The file {self.shown} has a column without a name; give it one.")
        rows = [value if isinstance(value, dict) else {} for _, value in self._lines()]
        return pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in names])

    def _lines(self) -> Iterator[tuple[int, Value]]:
        decode = msgspec.json.Decoder().decode
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.strip() if number > 1 else line.removeprefix(b"\xef\xbb\xbf").strip()
                if not text:
                    continue
                try:
                    value = decode(text)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    yield number, f"is not JSON: {error}"
                    continue
                yield number, value if isinstance(value, dict) else "is not a JSON object"


def _series(name: str, found: list[Any]) -> pl.Series:
    """Return a column of JSON values in their common type, else as texts."""
    kinds = {type(value) for value in found if value is not None}
    if kinds <= {int, float} and kinds:
        return pl.Series(name, [None if value is None else float(value) for value in found], pl.Float64)
    if kinds == {bool}:
        return pl.Series(name, found, pl.Boolean)
    if kinds == {list}:
        inside = {type(each) for value in found for each in value or ()}
        kind = pl.Float64 if inside and inside <= {int, float} else pl.String
        return pl.Series(name, found, pl.List(kind), strict=False)
    texts = [value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode() for value in found]
    return pl.Series(name, texts, pl.String)


def _without_empty(value: Value, columns: Columns) -> Value:
    if isinstance(value, str):
        return value
    return {
        name: None if isinstance(field, str) and name in columns and is_missing(field, columns[name]) else field
        for name, field in value.items()
    }
