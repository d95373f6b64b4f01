"""Converts values of files to those of a declared column: numbers, true and false, lists, missing values.

A value that cannot be converted stays as it is, so that the check of the records refuses and names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from complex_system.domain.columns import LARGEST_INTEGER, MARKERS, Column, Limit
from complex_system.domain.types import MAX_TEXT, column_type
from complex_system.sources.notation import BEYOND_LIMIT, Notation

TRUE = frozenset({"true", "ja", "yes", "wahr", "on", "ein", "j", "y", "t"})
FALSE = frozenset({"false", "nein", "no", "falsch", "off", "aus", "n", "f"})
_FLAGS = {**dict.fromkeys(TRUE | {"1", "1.0"}, True), **dict.fromkeys(FALSE | {"0", "0.0"}, False)}

_ENTRIES = re.compile(r"\s*[;|,]\s*")
_SHARES = re.compile(r"\s*[;|]\s*|\s+")
_USUAL_MARKERS = frozenset({"", *MARKERS})
_BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""What ``str.strip`` removes; polars knows fewer."""


@dataclass(frozen=True)
class Values:
    """Values of one column in a part of a file, as the declared column has them.

    Attributes:
        series: Those of the column's type; null where one is missing, or among the others.
        others: By place, those that have no type in a series: lists, and what could not be converted, which stays as it is.
    """

    series: pl.Series
    others: Mapping[int, Any] = field(default_factory=dict)

    def at(self, places: Sequence[int]) -> list[Any]:
        """Return those of some places; None where one is missing."""
        found = self.series.gather(list(places)).to_list()
        return [self.others.get(place, value) for place, value in zip(places, found, strict=True)] if self.others else found

    def without(self, places: Container[int]) -> Values:
        """Return the values but for some places."""
        kept = [place for place in range(len(self.series)) if place not in places]
        others = {at: self.others[place] for at, place in enumerate(kept) if place in self.others}
        return Values(self.series.gather(kept), others)


def _without_missing(texts: pl.Series, column: Column | None) -> pl.Series:
    """Return texts with null where one stands for a missing value, as ``Column.is_missing`` has it; a blank text always does."""
    markers = column.markers if column else frozenset()
    if column is None or column.type == "text":
        markers |= {""}
    missing = texts.str.strip_chars(_BLANKS).is_in(sorted(markers))
    if column and column.categories:
        missing &= ~texts.is_in([*column.categories, *column.spelled])
    return pl.select(pl.when(~missing).then(texts)).to_series().alias(texts.name) if missing.any() else texts


def truth(text: str) -> bool | None:
    """Return a word as true or false, None where it is neither."""
    word = text.strip().lower()
    return True if word in TRUE else False if word in FALSE else None


def entries(text: str, *, shares: bool = False, decimal_commas: bool = False) -> list[Any] | str:
    """Return a list written as JSON or as entries between ``;``, ``|`` or ``,``; the text itself where it is not a list."""
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            made = json.loads(stripped)
        except ValueError:
            return text
        return made if isinstance(made, list) else text
    if not shares:
        return _ENTRIES.split(stripped)
    parts = _SHARES.split(stripped) if decimal_commas else _ENTRIES.split(stripped)
    try:
        return [float(part.replace(",", ".")) for part in parts]
    except ValueError:
        return text


def values(series: pl.Series, column: Column | None, notation: Notation) -> Values:
    """Return the values of one column of a file as the declared column has them.

    Args:
        series: Texts, or values of the file's own type.
        column: The declared column; None for a text that stays as it is.
        notation: How its numbers are written, where they are texts.
    """
    if series.dtype != pl.String:
        return _of_typed(series, column)
    if column and column.type in ("number", "integer"):
        return _numbers(series, column, notation)
    texts = _without_missing(series, column)
    if column is None:
        return Values(texts)
    if column.type == "boolean":
        read = (
            texts.str.strip_chars(_BLANKS).str.to_lowercase().replace_strict(_FLAGS, default=None, return_dtype=pl.Boolean)
        )
        return _read(read, texts)
    if column_type(column).is_list:
        shares, commas = column.type == "list of shares", notation.decimal == ","
        lists = {
            place: entries(text, shares=shares, decimal_commas=commas)
            for place, text in enumerate(texts.to_list())
            if text is not None
        }
        return Values(pl.Series(texts.name, [None] * len(texts), pl.String), lists)
    return Values(texts)


def are_good(found: Values, column: Column) -> pl.Series:
    """Return which values of a column are those of a record as they are; of the others, the check of the records has to say so.

    Args:
        found: The values, from :func:`values`, so that none is a text that stands for a missing one.
        column: The declared column.
    """
    series = found.series
    if series.dtype == pl.Float64 and column.type == "number":
        good = series.is_finite()
    elif series.dtype == pl.Float64 and column.type == "integer":
        good = (series == series.floor()) & (series.abs() <= LARGEST_INTEGER)
    elif series.dtype == pl.Boolean and column.type == "boolean":
        good = series.is_not_null()
    elif series.dtype == pl.String and column.type == "category":
        good = series.is_in(column.categories)
    elif series.dtype == pl.String and column.type in ("text", "datetime"):
        good = series.str.len_bytes() <= MAX_TEXT
    else:
        good = series.is_null()
    if column.missing_values and series.dtype == pl.Float64:
        good &= ~series.is_in(column.missing_values)
    good = pl.select(pl.when(series.is_null()).then(column.optional).otherwise(good)).to_series()
    return good.scatter(list(found.others), values=False) if found.others else good


def _numbers(series: pl.Series, column: Column, notation: Notation) -> Values:
    if column.markers <= _USUAL_MARKERS and (plain := notation.plain(series)) is not None:
        return Values(plain)  # none of the usual markers is a number
    texts = _without_missing(series, column)
    read = notation.numbers(texts)
    if column.censored:
        read = read.fill_null(beyond_limits(texts, column, notation))
    # A text that is not a number stays, and its row is refused.
    return _read(read.fill_nan(None), texts, strip=True)


def _read(read: pl.Series, given: pl.Series, *, strip: bool = False) -> Values:
    """Return what was read of the given values, with those that were not, without blanks around them where these are stripped."""
    if read.null_count() == given.null_count():
        return Values(read)
    places = (read.is_null() & given.is_not_null()).arg_true()
    kept = given.gather(places)
    return Values(read, dict(zip(places, kept.str.strip_chars(_BLANKS) if strip else kept, strict=True)))


def times(series: pl.Series, declared: str) -> pl.Series:
    """Return times as texts of a declared format; fractions of a second have six digits, or nine where they need them."""
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime)
    if "%f" in declared:
        finer = series.dtype == pl.Datetime("ns") and bool((series.dt.nanosecond() % 1000 > 0).any())
        declared = declared.replace("%f", "%9f" if finer else "%6f")
    return series.dt.strftime(declared)


def full_format(series: pl.Series) -> str:
    """Return the shortest format that writes all of a column's times in full."""
    if series.dtype == pl.Date:
        return "%Y-%m-%d"
    for declared in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S"):
        cut = unwritten_times(pl.col(series.name), declared)
        if cut is None or not series.to_frame().select(cut.any()).item():
            return declared
    return "%Y-%m-%d %H:%M:%S.%f"


def unwritten_times(column: pl.Expr, declared: str) -> pl.Expr | None:
    """Return whether a time has parts that a declared format does not write, such as fractions of a second; None for no format."""
    units = (("%f", ""), ("%S", "1s"), ("%M", "1m"), ("%H", "1h"), ("%d", "1d"))
    unit = next((unit for code, unit in units if code in declared), "")
    return column.dt.truncate(unit) != column if unit else None


def beyond_limits(texts: pl.Series, column: Column, notation: Notation) -> pl.Series:
    """Return what stands in for values beyond a limit, written as ``<0,01``, by the declared column; null for every other text.

    The limit is written as the column's numbers are, or as it can only be read: a person writes ``<0,01`` into a sheet whose other
    cells are numbers.
    """
    found = texts.filter(texts.str.contains(BEYOND_LIMIT)).unique()
    if found.is_empty():
        return pl.Series(texts.name, [None], pl.Float64).new_from_index(0, len(texts))
    limits = [Limit.of(text) for text in found]
    limits = [None if notation.percent and limit and limit.unit != "%" else limit for limit in limits]
    numbers = replace(notation, percent=False).numbers(
        pl.Series([limit and limit.number for limit in limits], dtype=pl.String)
    )
    made = [
        limit and column.stand_in(limit, limit.value(points=False) if number is None else number)
        for limit, number in zip(limits, numbers, strict=True)
    ]
    return texts.replace_strict(found, pl.Series(made, dtype=pl.Float64), default=None, return_dtype=pl.Float64)


def _of_typed(series: pl.Series, column: Column | None) -> Values:
    type_ = column.type if column else "text"
    if type_ in ("number", "integer") and (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        return Values(series.cast(pl.Float64).fill_nan(None))
    if type_ == "boolean" and series.dtype.is_numeric():
        return _read(pl.select(pl.when((series == 0) | (series == 1)).then(series == 1)).to_series(), series)
    if type_ == "boolean" and series.dtype == pl.Boolean:
        return Values(series)
    if series.dtype.is_nested():
        return Values(pl.Series(series.name, [None] * len(series), pl.String), dict(enumerate(series.to_list())))
    if column and column.format and series.dtype in (pl.Datetime, pl.Date):
        series = times(series, column.format)
    return Values(_without_missing(series.cast(pl.String), column))
