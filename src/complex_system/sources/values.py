"""Converts values of files to those of a declared column: numbers, true and false, lists, missing values.

A value that cannot be converted stays as it is, so that the check of the records refuses and names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import polars as pl

from complex_system.domain.columns import Column
from complex_system.domain.types import column_type

TRUE = frozenset({"true", "ja", "yes", "wahr", "on", "ein", "j", "y", "t"})
FALSE = frozenset({"false", "nein", "no", "falsch", "off", "aus", "n", "f"})

_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_POINT_NUMBER = re.compile(r"[+-]?\d+\.\d+(?:[eE][+-]?\d+)?")
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1.234: thousands or decimals
_GROUPED_BY_POINT = r"^[+-]?\d{1,3}(\.\d{3})+(,\d+)?$"
_GROUPED_BY_COMMA = r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$"
_ENTRIES = re.compile(r"\s*[;|,]\s*")
_SHARES = re.compile(r"\s*[;|]\s*|\s+")


def has_decimal_commas(texts: Iterable[str], separator: str = ",") -> bool:
    """Return whether numbers in these texts are written 1,5 rather than 1.5."""
    commas = points = unsure = 0
    for text in map(str.strip, texts):
        if _EITHER.fullmatch(text):
            unsure += 1
        elif _COMMA_NUMBER.fullmatch(text):
            commas += 1
        elif _POINT_NUMBER.fullmatch(text):
            points += 1
    return commas > points or (not commas and not points and unsure > 0 and separator == ";")


def is_missing(text: str, column: Column | None) -> bool:
    """Return whether a text stands for a missing value."""
    if column is None or column.type == "text":
        return not text.strip() or (column is not None and column.is_missing(text))
    return column.is_missing(text)


def numbers(texts: pl.Series, *, decimal_commas: bool) -> pl.Series:
    """Return texts as float64, null where a text is not a number. Points or commas that group thousands are removed."""
    values = texts.str.strip_chars()
    if decimal_commas:
        grouped = pl.when(pl.col("v").str.contains(_GROUPED_BY_POINT)).then(
            pl.col("v").str.replace_all(".", "", literal=True)
        )
        plain = grouped.otherwise(pl.col("v")).str.replace(",", ".", literal=True)
    else:
        grouped = pl.when(pl.col("v").str.contains(_GROUPED_BY_COMMA)).then(
            pl.col("v").str.replace_all(",", "", literal=True)
        )
        plain = grouped.otherwise(pl.col("v"))
    made = values.alias("v").to_frame().select(plain.cast(pl.Float64, strict=False))
    return made.to_series()


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


def values(series: pl.Series, column: Column | None, *, decimal_commas: bool = False) -> list[Any]:
    """Return the values of one column of a file as the declared column has them; None where one is missing.

    Args:
        series: Texts, or values of the file's own type.
        column: The declared column; None for a text that stays as it is.
        decimal_commas: Whether numbers in texts are written 1,5.
    """
    type_ = column.type if column else "text"
    if series.dtype != pl.String:
        return _of_typed(series, column)
    found = [None if text is None or is_missing(text, column) else text for text in series.to_list()]
    if type_ in ("number", "integer"):
        read = numbers(pl.Series(found, dtype=pl.String), decimal_commas=decimal_commas).fill_nan(None).to_list()
        # A text that is not a number stays, and its row is refused.
        return [
            text.strip() if number is None and text is not None else number for text, number in zip(found, read, strict=True)
        ]
    if type_ == "boolean":
        return [text if text is None else _flag(text) for text in found]
    if column and column_type(column).is_list:
        shares = type_ == "list of shares"
        return [text if text is None else entries(text, shares=shares, decimal_commas=decimal_commas) for text in found]
    return found


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
    if column and column.format and series.dtype in (pl.Datetime, pl.Date, pl.Time):
        series = series.dt.strftime(column.format)
    found = series.cast(pl.String).to_list()
    return [None if text is None or is_missing(text, column) else text for text in found]
