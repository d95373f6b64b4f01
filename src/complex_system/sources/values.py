"""Converts values of files to those of a declared column: numbers, true and false, lists, missing values.

A value that cannot be converted stays as it is, so that the check of the records refuses and names it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import polars as pl

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type
from complex_system.sources.notation import Notation

TRUE = frozenset({"true", "ja", "yes", "wahr", "on", "ein", "j", "y", "t"})
FALSE = frozenset({"false", "nein", "no", "falsch", "off", "aus", "n", "f"})

_ENTRIES = re.compile(r"\s*[;|,]\s*")
_SHARES = re.compile(r"\s*[;|]\s*|\s+")


def is_missing(text: str, column: Column | None) -> bool:
    """Return whether a text stands for a missing value."""
    if column is None or column.type == "text":
        return not text.strip() or (column is not None and column.is_missing(text))
    return column.is_missing(text)


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


def values(series: pl.Series, column: Column | None, notation: Notation) -> list[Any]:
    """Return the values of one column of a file as the declared column has them; None where one is missing.

    Args:
        series: Texts, or values of the file's own type.
        column: The declared column; None for a text that stays as it is.
        notation: How its numbers are written, where they are texts.
    """
    type_ = column.type if column else "text"
    if series.dtype != pl.String:
        return _of_typed(series, column)
    found = [None if text is None or is_missing(text, column) else text for text in series.to_list()]
    if column and type_ in ("number", "integer"):
        texts = pl.Series(found, dtype=pl.String)
        read = notation.numbers(texts)
        if column.censored:
            read = read.fill_null(below_limit(texts, notation) * column.limit_share)
        # A text that is not a number stays, and its row is refused.
        return [
            text.strip() if number is None and text is not None else number
            for text, number in zip(found, read.fill_nan(None).to_list(), strict=True)
        ]
    if type_ == "boolean":
        return [text if text is None else _flag(text) for text in found]
    if column and column_type(column).is_list:
        shares, commas = type_ == "list of shares", notation.decimal == ","
        return [text if text is None else entries(text, shares=shares, decimal_commas=commas) for text in found]
    return found


def below_limit(texts: pl.Series, notation: Notation) -> pl.Series:
    """Return the detection limits of values below one, written as ``<0,01``; null for every other text."""
    return notation.numbers(texts.str.extract(r"^\s*<\s*(\S.*)$"))


def times(series: pl.Series, declared: str) -> list[str | None]:
    """Return times as texts of a declared format; fractions of a second have six digits, or nine where they need them."""
    if "%f" in declared:
        finer = series.dtype == pl.Datetime("ns") and bool((series.dt.nanosecond() % 1000 > 0).any())
        declared = declared.replace("%f", "%9f" if finer else "%6f")
    written: list[str | None] = (
        series.cast(pl.Datetime if series.dtype == pl.Date else series.dtype).dt.strftime(declared).to_list()
    )
    return written


def unwritten_times(column: pl.Expr, declared: str) -> pl.Expr | None:
    """Return whether a time has parts that a declared format does not write, such as fractions of a second; None for no format."""
    units = (("%f", ""), ("%S", "1s"), ("%M", "1m"), ("%H", "1h"), ("%d", "1d"))
    unit = next((unit for code, unit in units if code in declared), "")
    return column.dt.truncate(unit) != column if unit else None


def _flag(text: str) -> bool | str:
    known = {"1": True, "0": False, "1.0": True, "0.0": False}.get(text.strip(), truth(text))
    return text if known is None else known


def _of_typed(series: pl.Series, column: Column | None) -> list[Any]:
    type_ = column.type if column else "text"
    if type_ in ("number", "integer") and (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        return series.cast(pl.Float64).fill_nan(None).to_list()
    if type_ == "boolean" and series.dtype.is_numeric():
        flags: list[Any] = series.to_list()
        return [bool(flag) if flag in (0, 1) else flag for flag in flags]
    if type_ == "boolean" and series.dtype == pl.Boolean:
        return series.to_list()
    if series.dtype.is_nested():
        return series.to_list()
    if column and column.format and series.dtype in (pl.Datetime, pl.Date):
        return times(series, column.format)
    found = series.cast(pl.String).to_list()
    return [None if text is None or is_missing(text, column) else text for text in found]
