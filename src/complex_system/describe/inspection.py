"""Finds out what a column of a file holds: its type, range, categories, time format, unit, and what looks wrong."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from complex_system.describe.growth import Growth, growth
from complex_system.describe.hints import (
    count_markers,
    hint_of_markers,
    hint_of_sentinels,
    hint_of_spellings,
    is_a_count,
    may_be_names,
    note_beyond_floats,
    sentinels_of,
)
from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.records import shown
from complex_system.domain.types import MAX_ENTRIES
from complex_system.sources.notation import Notation
from complex_system.sources.values import FALSE, TRUE, below_limit, entries, times, truth, unwritten_times

MARGIN = 0.1
"""How far a proposed range goes beyond what the file holds, in parts of the values' width, on each side."""
TARGET_MARGIN = 0.5
"""The same for the target."""
MAX_CATEGORIES = 60
RECORDS_PER_CATEGORY = 3
"""Records that a category needs on average; with fewer, nothing can be learned about it."""
_MAX_SPELLINGS = 100  # different texts up to which they may all be words for true and false
MAX_NUMBER = 1e30  # larger numbers are kept as texts: models take float32

_FORMATS = tuple(
    date + time
    for date in ("%d.%m.%Y", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%d.%m.%y")
    for time in (
        "", " %H:%M", " %H:%M:%S", ", %H:%M:%S", ", %H:%M", "T%H:%M:%S", "T%H:%M", " %H:%M:%S.%f",
        "T%H:%M:%S.%f", "T%H:%M:%SZ", "T%H:%M:%S.%fZ",
    )
)  # fmt: skip
_LEADING_ZERO = r"^[+-]?0\d"
_UNIT_AT_THE_END = re.compile(r"^(.*\S)\s*(?:\[([^\[\]]{1,15})\]|\(([^()]{1,15})\))\s*$")
_UNIT_AFTER = re.compile(r"[+-]?\d[\d.,]*\s*([^\W\d_]\S{0,7}|[%‰°]\S{0,7})")
_UNIT_AFTER_IN = re.compile(r"^(.*\S) in (\S{1,8})$")
_UNIT_BARE = re.compile(
    r"^(.*[^\W_].*)[ _]((?:%|‰|ppm|ppb|°C|°F|m?bar|[kM]?Pa|GPa|kN|Nm|[µu]m|[mcnk]m|kg|mg|[µu]g|ms|min|rpm|1/min|U/min|mV|kV|mA|kW|MW|"
    r"kWh|[kM]?Hz|ml|m/s|mm/s|m/min|l/min|l/h|m³/h|m3/h|kg/h|t/h|g/l|mg/l|mg/kg|kJ|MJ/kg|W/m²|g/cm³|kg/m³|m²|m³)(?:/h)?)$"
)
"""Units that need no brackets, because they are nothing else."""
NUMBER = Column(name="x", type="number")
_OTHER_LISTS = f"lists of more than {MAX_ENTRIES:,} entries, or of others than texts or numbers"
_NO_UNIT = re.compile(r"^\d*$|.*\s.*\s.*")


@dataclass
class InspectedColumn:
    """What one column of a file holds.

    Attributes:
        name: As in the file.
        type: A declared type.
        unit: From the column's name.
        missing: Records without a value.
        different: Different values.
        low: Smallest number; None where the values are not numbers.
        high: Largest number.
        median: Middle of the numbers.
        categories: All values of a category or of the entries of lists.
        format: How times are written.
        first: The first time.
        below_limit: Values below a detection limit, written as <0.01.
        notes: What is suspicious, a sentence each; a column with one is not used.
        hints: What a person may want to change, a sentence each; the column is used as it is.
        is_whole: Whether all numbers are whole.
        growth: How the numbers only grow; None where they do not.
        sentinels: Numbers that probably stand for a missing value.
        numbers: The values as float64, for numeric columns.
        lists: The values, for lists.
    """

    name: str
    type: str
    unit: str = ""
    missing: int = 0
    different: int = 0
    low: float | None = None
    high: float | None = None
    median: float | None = None
    categories: tuple[str, ...] = ()
    format: str = ""
    first: str = ""
    below_limit: int = 0
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    is_whole: bool = False
    growth: Growth | None = None
    sentinels: tuple[float, ...] = ()
    numbers: pl.Series | None = None
    lists: list[Any] = field(default_factory=list)

    @property
    def range(self) -> tuple[float, float] | None:
        """The range with its margin, in round numbers; None where all values are equal or not numbers."""
        return self._range(MARGIN)

    @property
    def target_range(self) -> tuple[float, float] | None:
        """The range of a target, with a wider margin: its extremes are what is looked for, and decimal slips are far outside."""
        return self._range(TARGET_MARGIN)

    def without_sentinels(self) -> InspectedColumn:
        """Return the column as it is where its sentinels are missing values."""
        assert self.numbers is not None
        made = InspectedColumn(self.name, self.type, self.unit)
        numbers = self.numbers
        _inspect_numbers(made, numbers.set(numbers.is_in(self.sentinels).fill_null(value=False), None), len(numbers))
        return made

    def _range(self, margin: float) -> tuple[float, float] | None:
        if self.low is None or self.high is None or not self.low < self.high:
            return None
        low, high = with_margin(self.low, self.high, margin)
        return (float(math.floor(low)), float(math.ceil(high))) if self.is_whole else (low, high)


def with_margin(low: float, high: float, margin: float = MARGIN) -> tuple[float, float]:
    """Return ``low`` and ``high`` moved apart by a part of their distance on each side, as round numbers, and not beyond 0."""
    width = high - low
    digits = 1 - math.floor(math.log10(width))
    step = 10.0**-digits if -300 < digits < 300 else width / 100
    begin, end = math.floor((low - margin * width) / step) * step, math.ceil((high + margin * width) / step) * step
    begin, end = (round(each, digits) if -300 < digits < 300 else each for each in (begin, end))
    begin = 0.0 if low >= 0 > begin else min(begin, low)
    end = 0.0 if high <= 0 < end else max(end, high)
    return float(begin), float(end)


def unit_of(name: str) -> str:
    """Return the unit in the name: ``Temp. [°C]``, ``Druck (bar)``, ``Dicke in µm``, ``Feuchte %``; empty for none."""
    for pattern in (_UNIT_AT_THE_END, _UNIT_AFTER_IN, _UNIT_BARE):
        if match := pattern.match(name):
            unit = next(group for group in match.groups()[1:] if group is not None).strip()
            return "" if _NO_UNIT.match(unit) else unit
    return ""


def inspect_column(series: pl.Series, notation: Notation) -> InspectedColumn:
    """Find out what a column holds.

    Args:
        series: As the file has it.
        notation: How its numbers are written, where they are texts.

    Raises:
        TypeError: The column holds neither numbers nor texts nor lists of these.
    """
    found = InspectedColumn(series.name, "text", unit_of(series.name))
    if isinstance(series.dtype, pl.List | pl.Array):
        if not _inspect_lists(found, series.to_list()):
            found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
            found.notes.append(_OTHER_LISTS)
    elif series.dtype.is_integer() and (note := note_beyond_floats([str(series.min()), str(series.max())])):
        found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
        found.notes.append(note)
    elif series.dtype.is_numeric() and series.dtype != pl.Boolean:
        _inspect_numbers(found, series.cast(pl.Float64).fill_nan(None), len(series))
    elif series.dtype in (pl.Datetime, pl.Date):
        _inspect_typed_times(found, series)
    elif series.dtype == pl.Boolean:
        found.type, found.missing, found.different = "boolean", series.null_count(), series.drop_nulls().n_unique()
        _set_flags(found, series.cast(pl.Float64))
    elif series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object, pl.Duration):
        raise TypeError(f"the column '{series.name}' is of type {series.dtype}, which holds no numbers, texts or lists")
    else:
        _inspect_texts(found, series.cast(pl.String), notation)
    if found.different == 0:
        found.notes.append("always missing")
    elif found.different == 1:
        found.notes.append("constant: the same value in all records" + (" that have one" if found.missing else ""))
    return found


def _inspect_texts(found: InspectedColumn, series: pl.Series, notation: Notation) -> None:
    kept = _without_markers(series)
    _inspect_kept(found, kept, notation)
    if hint := hint_of_markers(count_markers(series.filter(kept.is_null())), is_category=found.type == "category"):
        found.hints.append(hint)


def _without_markers(series: pl.Series) -> pl.Series:
    """Return texts with null for a missing value: a number has all markers, and what is left decides whether it is one."""
    is_missing = series.str.strip_chars().is_in(list(NUMBER.markers)).fill_null(value=True)
    return series.set(is_missing, None)


def _inspect_kept(found: InspectedColumn, kept: pl.Series, notation: Notation) -> None:
    texts = kept.drop_nulls()
    distinct = texts.unique(maintain_order=True)
    found.missing, found.different = kept.null_count(), len(distinct)
    if texts.is_empty():
        return
    flags = set(distinct.str.strip_chars().str.to_lowercase()) if len(distinct) <= _MAX_SPELLINGS else set()
    if flags and flags <= TRUE | FALSE and len({truth(flag) for flag in flags}) == len(flags):
        found.type = "boolean"
        _set_flags(
            found, pl.Series(found.name, [None if text is None else float(bool(truth(text))) for text in kept], pl.Float64)
        )
        return
    if note := note_beyond_floats(texts):
        found.notes.append(note)
        return
    if notation.percent:
        found.unit = found.unit or "%"
    read = notation.numbers(kept)
    below = below_limit(kept, notation)
    if below.null_count() < len(below) and read.drop_nulls().n_unique() > 1:
        found.below_limit = len(below) - below.null_count()
        read = read.fill_null(below * Column(name="x", type="number", censored="left").limit_share)
    if read.null_count() == found.missing and not distinct.str.strip_chars().str.contains(_LEADING_ZERO).any():
        _inspect_numbers(found, read.alias(found.name), len(kept))
        return
    if time_format := _format_of(distinct.to_list()):
        found.type, found.format, found.first = "datetime", time_format, texts[0]
        return
    if distinct.str.strip_chars().str.starts_with("[").all():
        lists = [None if text is None else entries(text) for text in kept]
        if any(lists) and all(each is None or isinstance(each, list) for each in lists):
            if not _inspect_lists(found, lists):
                found.notes.append(_OTHER_LISTS)
            return
    _inspect_categories(found, distinct.to_list(), len(texts), len(kept))
    if found.type == "text" and (why := nearly_numbers(kept, notation)):
        found.notes = [why]


def nearly_numbers(column: pl.Series, notation: Notation) -> str:
    """Return what keeps texts that are mostly numbers from being a column of numbers, and what to do; empty for other texts."""
    texts = _without_markers(column)
    present = len(texts) - texts.null_count()
    others = (texts.is_not_null() & notation.numbers(texts).is_null()).arg_true().to_list()
    if not others:  # such as 0012, which is kept as a text
        return ""
    first = texts[others[0]]
    if doubtful := next((doubt for text in texts.gather(others) if (doubt := notation.doubt(text))), ""):
        return f"{len(others)} of its {present} values are not read as numbers: row {others[0] + 1}, " + (
            notation.doubt(first) or doubtful
        )
    if 2 * len(others) <= present:
        which = f"row {others[0] + 1} has {shown(first)}"
        return f"{present - len(others)} of its {present} values are numbers, and {which}; correct it or leave it empty"
    if not _UNIT_AFTER.fullmatch(first.strip()):
        return ""
    units = {match[1] for text in texts if text is not None and (match := _UNIT_AFTER.fullmatch(text.strip()))}
    behind = sum(text is not None and bool(_UNIT_AFTER.fullmatch(text.strip())) for text in texts)
    if len(units) == 1 and behind == present:
        return f"numbers with '{units.pop()}' after each; move the unit to the column's name, in brackets, and keep the numbers only"
    return ""


def _inspect_categories(found: InspectedColumn, distinct: list[str], present: int, records: int) -> None:
    categories = sorted(distinct)
    fitting = len(categories) <= MAX_CATEGORIES and len(categories) * RECORDS_PER_CATEGORY <= max(
        present, 2 * RECORDS_PER_CATEGORY
    )
    if fitting:
        found.type, found.categories = "category", tuple(categories)
        if hint := hint_of_spellings(categories):
            found.hints.append(hint)
        return
    found.type = "text"
    if len(categories) == present == records:
        found.notes.append("different in every record: a key or a remark")
    else:
        found.notes.append(f"{len(categories)} different texts in {present} records: too many for categories")


def _inspect_numbers(found: InspectedColumn, read: pl.Series, records: int) -> None:
    present = read.drop_nulls()
    found.missing, found.different = records - len(present), present.n_unique()
    if present.is_empty():
        found.type = "number"
        return
    largest = float(present.abs().max())  # type: ignore[arg-type]
    if not math.isfinite(largest) or largest > MAX_NUMBER:
        found.type = "text"
        found.notes.append(f"has numbers beyond {MAX_NUMBER:g}, which models cannot take")
        return
    whole = bool((present == present.round()).all()) and largest <= LARGEST_INTEGER
    # A measurement may be whole by chance: as an integer, tomorrow's 21.5 would be refused.
    is_integer = whole and not found.below_limit and is_a_count(found.name, found.unit)
    found.type, found.is_whole = "integer" if is_integer else "number", whole
    found.low, found.high = float(present.min()), float(present.max())  # type: ignore[arg-type]
    found.median = float(present.median())  # type: ignore[arg-type]
    if found.type == "integer":
        found.median = float(math.floor(found.median))
    found.numbers = read
    width = found.high - found.low
    if 0 < width < 1e-30:
        found.different = 1
    found.growth = growth(found.name, read, whole=whole)
    if found.growth:
        return
    found.sentinels = sentinels_of(present)
    if hint := hint_of_sentinels(found.sentinels, present):
        found.hints.append(hint)
    if whole and may_be_names(found.name, found.unit, present):
        found.hints.append("a name? Then 3 is not more than 1: declare the type category, and take the step one_hot")


def _set_flags(found: InspectedColumn, flags: pl.Series) -> None:
    found.numbers = flags
    found.median = float(flags.drop_nulls().mean() or 0.0) >= 0.5  # type: ignore[arg-type]


def _inspect_typed_times(found: InspectedColumn, series: pl.Series) -> None:
    found.type = "datetime"
    found.format = next(
        declared
        for declared in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f")
        if series.dtype == pl.Date
        or (cut := unwritten_times(pl.col(series.name), declared)) is None
        or not series.to_frame().select(cut.any()).item()
    )
    found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
    texts = times(series.drop_nulls(), found.format)
    time_format = TimeFormat(found.format)
    if any(time_format.parts(text) is None for text in texts):
        found.type, found.format = "text", ""
        return
    found.first = texts[0] if texts else ""


def _format_of(texts: list[str]) -> str:
    for declared in _FORMATS:
        time_format = TimeFormat(declared)
        if all(time_format.parts(text) is not None for text in texts):
            return declared
    return ""


def _inspect_lists(found: InspectedColumn, lists: list[Any]) -> bool:
    """Take lists of texts or of numbers; return False for other lists."""
    present = [each for each in lists if each is not None]
    inside = [each for some in present for each in some]
    if any(len(some) > MAX_ENTRIES for some in present):
        return False
    declared = ""
    if all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in inside):
        declared = "list of shares"
    elif all(isinstance(each, str) for each in inside) and len(set(inside)) <= MAX_CATEGORIES:
        declared, found.categories = "list of categories", tuple(sorted(set(inside)))
        if any(len(set(some)) < len(some) for some in present):
            found.notes.append("has lists with an entry twice")
    if not declared:
        return False
    found.type, found.lists = declared, lists
    found.missing, found.different = len(lists) - len(present), len({tuple(some) for some in present})
    if present and not inside:
        found.notes.append("always empty")
    return True
