"""Finds out what a column of a file holds: its type, range, categories, time format, unit, and what looks wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from complex_system.describe.growth import COUNTER, NUMBER, Growth, growth
from complex_system.describe.recognition import (
    MARGIN,
    REMARK_NAME,
    count_markers,
    hint_of_markers,
    hint_of_months,
    hint_of_sentinels,
    hint_of_spellings,
    is_a_count,
    may_be_names,
    nearly_numbers,
    note_beyond_floats,
    spellings_of,
    unit_of,
    with_margin,
    without_markers,
)
from complex_system.describe.sampling import LookedAt
from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.datetimes import TimeFormat, formats_of
from complex_system.domain.outliers import sentinels_of
from complex_system.domain.types import MAX_ENTRIES
from complex_system.pipeline.expressions import date_parts
from complex_system.sources.notation import Notation
from complex_system.sources.values import FALSE, TRUE, beyond_limits, entries, full_format, times, truth

TARGET_MARGIN = 0.5
"""The same for the target."""
MAX_CONTRADICTING = 0.1
"""Part of a column's values that may be written in another way than the others and are refused; with more, the column is a text."""
MAX_CATEGORIES = 60
RECORDS_PER_CATEGORY = 3
"""Records that a category needs on average; with fewer, nothing can be learned about it."""
_MAX_SPELLINGS = 100  # different texts up to which they may all be words for true and false
_FIRST_TEXTS = 1000  # that choose the formats in which all texts are tried
MAX_NUMBER = 1e30  # larger numbers are kept as texts: models take float32

DIFFERENT_TEXTS = "different in every record: a key or a remark"

_LEADING_ZERO = r"^[+-]?0\d"
_OTHER_LISTS = f"lists of more than {MAX_ENTRIES:,} entries, or of others than texts or numbers"


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
        censored: Where values are beyond a limit, written as <0.01: left, right or both; empty for none.
        contradicting: Values that are written in another way than the others; their records are refused.
        spellings: Categories that differ only in case or blanks, by the one that they may all mean.
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
    censored: str = ""
    contradicting: int = 0
    spellings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    is_whole: bool = False
    growth: Growth | None = None
    sentinels: tuple[float, ...] = ()
    numbers: pl.Series | None = None
    lists: list[Any] = field(default_factory=list)

    @property
    def numbers_rows(self) -> bool:
        """Whether it numbers the rows or samples: copies may differ in it."""
        return self.growth is not None and self.growth.kind in (COUNTER, NUMBER)

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


def inspect_column(looked_at: LookedAt, name: str, notation: Notation, unit: str = "") -> InspectedColumn:
    """Find out what a column holds.

    Args:
        looked_at: The rows, as the file has them.
        name: Of the column.
        notation: How its numbers are written, where they are texts.
        unit: Of the column, where its name has none.

    Raises:
        TypeError: The column holds neither numbers nor texts nor lists of these.
    """
    series = looked_at.frame[name]
    found = InspectedColumn(name, "text", unit_of(name) or unit)
    if isinstance(series.dtype, pl.List | pl.Array):
        if not _inspect_lists(found, series.to_list()):
            found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
            found.notes.append(_OTHER_LISTS)
    elif series.dtype.is_integer() and (note := note_beyond_floats(pl.Series([str(series.min()), str(series.max())]))):
        found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
        found.notes.append(note)
    elif series.dtype.is_numeric() and series.dtype != pl.Boolean:
        _inspect_numbers(found, series.cast(pl.Float64).fill_nan(None), len(series), looked_at)
    elif series.dtype in (pl.Datetime, pl.Date):
        _inspect_typed_times(found, series)
    elif series.dtype == pl.Boolean:
        found.type, found.missing, found.different = "boolean", series.null_count(), series.drop_nulls().n_unique()
        _set_flags(found, series.cast(pl.Float64))
    elif series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object, pl.Duration):
        raise TypeError(f"the column '{series.name}' is of type {series.dtype}, which holds no numbers, texts or lists")
    else:
        _inspect_texts(found, series.cast(pl.String), notation, looked_at)
    found.missing = looked_at.missing.get(name, found.missing)
    if found.different == 0:
        found.notes.append("always missing")
    elif found.different == 1:
        found.notes.append("constant: the same value in all records" + (" that have one" if found.missing else ""))
    return found


def _inspect_texts(found: InspectedColumn, series: pl.Series, notation: Notation, looked_at: LookedAt) -> None:
    kept = without_markers(series)
    _inspect_kept(found, kept, notation, looked_at)
    if hint := hint_of_markers(count_markers(series.filter(kept.is_null())), is_category=found.type == "category"):
        found.hints.append(hint)


def _inspect_kept(found: InspectedColumn, kept: pl.Series, notation: Notation, looked_at: LookedAt) -> None:
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
    read = _with_limits(found, kept, notation.numbers(kept), notation)
    if not distinct.str.strip_chars().str.contains(_LEADING_ZERO).any() and _agree(found, kept, read, notation, looked_at):
        _inspect_numbers(found, read.alias(found.name), len(kept) - found.contradicting, looked_at)
        return
    if time_format := _time_format(distinct):
        found.type, found.format, found.first = "datetime", time_format, texts[0]
        if hint := hint_of_months(time_format, distinct):
            found.hints.append(hint)
        return
    if distinct.str.strip_chars().str.starts_with("[").all():
        lists = [None if text is None else entries(text) for text in kept]
        if any(lists) and all(each is None or isinstance(each, list) for each in lists):
            if not _inspect_lists(found, lists):
                found.notes.append(_OTHER_LISTS)
            return
    _inspect_categories(found, texts, len(kept))
    if found.type == "text" and (why := nearly_numbers(kept, notation, looked_at.row)):
        found.notes = [why]


def _time_format(distinct: pl.Series) -> str:
    """Return the first usual format that all texts are times of; empty for none."""
    for declared in formats_of(distinct.head(_FIRST_TEXTS).to_list()):
        valid = date_parts(Column(name=distinct.name, type="datetime", format=declared))["valid"]
        if distinct.to_frame().select(valid.fill_null(value=False).all()).item():
            return declared
    return ""


def _with_limits(found: InspectedColumn, kept: pl.Series, read: pl.Series, notation: Notation) -> pl.Series:
    """Return the numbers with what stands in for values beyond a limit."""
    limits = beyond_limits(kept, Column(name="x", type="number", censored="both", unit=found.unit), notation)
    count = len(limits) - limits.null_count()
    if not count or read.drop_nulls().n_unique() < 2:
        return read
    below = int((limits.is_not_null() & kept.str.contains(r"^\s*[<≤]")).sum())
    found.censored = "left" if below == count else "both" if below else "right"
    of = f"of {len(kept) - kept.null_count()} values are"
    if below:
        found.hints.append(f"{below} {of} below the detection limit (as <0.01); half the limit is used for each")
    if above := count - below:
        found.hints.append(f"{above} {of} above a limit (as >100); the limit itself is used for each")
    return read.fill_null(limits)


def _agree(found: InspectedColumn, kept: pl.Series, read: pl.Series, notation: Notation, looked_at: LookedAt) -> bool:
    """Return whether all texts are numbers, but for a few that contradict how the others are written and that are refused."""
    unread = (kept.is_not_null() & read.is_null()).arg_true().to_list()
    present = len(kept) - found.missing
    if not unread or len(unread) > MAX_CONTRADICTING * present or not notation.decided:
        return not unread
    doubts = [notation.doubt(kept[place]) for place in unread]
    if not all(doubts):
        return False
    found.contradicting = len(unread)
    row = looked_at.row(unread[0])
    found.hints.append(f"{len(unread)} of {present} values are refused with their records: row {row}, {doubts[0]}")
    return True


def _inspect_categories(found: InspectedColumn, texts: pl.Series, records: int) -> None:
    categories, present = sorted(texts.unique().to_list()), len(texts)
    if REMARK_NAME.search(found.name) and len(categories) < present:
        found.notes.append("a remark by its name: as a category, tomorrow's other text would cost its record")
        return
    if len(categories) <= min(MAX_CATEGORIES, max(present // RECORDS_PER_CATEGORY, 2)):
        found.type, found.categories = "category", tuple(categories)
        found.spellings = spellings_of(texts)
        if hint := hint_of_spellings(found.spellings):
            found.hints.append(hint)
        return
    if len(categories) == present == records:
        found.notes.append(DIFFERENT_TEXTS)
    else:
        found.notes.append(f"{len(categories)} different texts in {present} records: too many for categories")


def _inspect_numbers(found: InspectedColumn, read: pl.Series, records: int, looked_at: LookedAt | None = None) -> None:
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
    is_integer = whole and not found.censored and is_a_count(found.name, found.unit)
    found.type, found.is_whole = "integer" if is_integer else "number", whole
    found.low, found.high = float(present.min()), float(present.max())  # type: ignore[arg-type]
    found.median = float(present.median())  # type: ignore[arg-type]
    if found.type == "integer":
        found.median = float(math.floor(found.median))
    found.numbers = read
    width = found.high - found.low
    if 0 < width < 1e-30:
        found.different = 1
    found.growth = growth(
        found.name, read, whole=whole, unit=found.unit, records=looked_at.in_file(len(present)) if looked_at else 0
    )
    if found.growth:
        return
    found.sentinels = sentinels_of(present.to_numpy())
    if hint := hint_of_sentinels(found.sentinels, present):
        found.hints.append(hint)
    if whole and may_be_names(found.name, found.unit, present):
        found.hints.append("a name? Then 3 is not more than 1: declare the type category, and take the step one_hot")


def _set_flags(found: InspectedColumn, flags: pl.Series) -> None:
    found.numbers = flags
    found.median = float(flags.drop_nulls().mean() or 0.0) >= 0.5  # type: ignore[arg-type]


def _inspect_typed_times(found: InspectedColumn, series: pl.Series) -> None:
    found.type = "datetime"
    found.format = full_format(series)
    found.missing, found.different = series.null_count(), series.drop_nulls().n_unique()
    texts = times(series.drop_nulls(), found.format).to_list()
    time_format = TimeFormat(found.format)
    if any(time_format.parts(text) is None for text in texts):
        found.type, found.format = "text", ""
        return
    found.first = texts[0] if texts else ""


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
