"""Recognises numbers that only grow: times written as numbers, counters of rows, numbers of samples, meters.

A range made of them would refuse the next day's records, and a model of them learns the file's order. So they are left out of the
features and get no range; a counter of rows begins again in the next file, so it cannot be the records' key either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from complex_system.describe.recognition import KEY_NAME

COUNTER: Final = "counter"
TIME: Final = "time"
YEAR: Final = "year"
NUMBER: Final = "number"
ORDER: Final = "order"
Kind = Literal["counter", "time", "year", "number", "order"]

_BATCH_NAME = re.compile(r"(charge|batch|lot|los|auftrag|order|probe|sample|coil|serie)$", re.IGNORECASE)
_METER_NAME = re.compile(
    r"(betriebs|lauf)stunden|zähler|zaehler|(operating|running|run)[ _.-]?hours|odometer|meter[ _.-]?reading", re.IGNORECASE
)
_TIME_NAME = re.compile(
    r"zeit|time|datum|date|stamp|epoch|unix|(^|[^a-zäöü])(ts|tag|day|uhr|start|beginn|ende|end)([^a-zäöü]|$)", re.IGNORECASE
)
_DATE_NAME = re.compile(r"datum|(^|[^a-z])date|stamp|zeitpunkt|(^|[^a-zäöü])(tag|day)([^a-zäöü]|$)|[a-z]Date", re.IGNORECASE)
_YEAR_NAME = re.compile(r"jahr(?!eszeit)|year|ann[ée]e|(^|[^a-z])(anno|año)([^a-z]|$)", re.IGNORECASE)
_EPOCH = (946_684_800.0, 2_208_988_800.0)  # the years 2000 to 2039
_EPOCH_UNITS = {"seconds": 1e0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_SERIAL = (32_874.0, 54_789.0)  # the years 1990 to 2049, as Excel counts days
_DAYS = (40_179.0, 51_502.0)  # the years 2010 to 2040
_YEARS = (1950.0, 2100.0)
_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_NARROW = 0.1
"""Width of numbers over their size, below which numbers as large as seconds since 1970 are such, whatever they are called."""
_EXCEL = "only grows: a time, as Excel's number of days; format the cells as a date to use its month or weekday"
_MIN_VALUES = 10
_MIN_STEPS = 20
"""Different values from which a column with repeated values is seen as sorted: a plan of experiments has fewer levels."""
_MOSTLY = 0.9

Found = tuple[Kind, str]
"""What a column of numbers is, and why it is left out."""


@dataclass(frozen=True)
class Growth:
    """How a column grows.

    Attributes:
        kind: What it probably is; ``order`` where it may be a feature that the file happens to be sorted by.
        why: The reason, as text.
        is_unique: Whether every record has a value of its own.
    """

    kind: Kind
    why: str
    is_unique: bool


def growth(name: str, numbers: pl.Series, *, whole: bool, unit: str = "", records: int = 0) -> Growth | None:
    """Return how a column of numbers grows; None where it does not.

    Args:
        name: Of the column, as in the file.
        numbers: Its values in the file's order, as float64; null where one is missing.
        whole: Whether all of them are whole numbers.
        unit: Of the column; what has one is measured.
        records: Values in the file, where these are a sample.
    """
    values = numbers.drop_nulls()
    different = values.n_unique()
    if different < 2:
        return None
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    steps = values.diff().drop_nulls()
    rises, falls = bool((steps >= 0).all()), bool((steps <= 0).all())
    is_steady = (rises or falls) and len(values) >= _MIN_VALUES
    counted = (
        whole and different == len(values) >= _MIN_VALUES and _counts(low, high, records or different, is_steady=is_steady)
    )
    found: Found | None = (
        (COUNTER, f"counts the records from {low:.0f} to {high:.0f}: a row number, which the next file uses again")
        if counted
        else _time(name, low, high, whole=whole, is_steady=is_steady, is_exact=_is_exact(values, different))
        or (_date(values) if whole and len(values) >= _MIN_VALUES else None)
        or _sequence(name, different, len(values), whole=whole, is_steady=is_steady, rises=rises)
        or ((TIME, _EXCEL) if not unit and _are_days(values, low, high, whole=whole) else None)
    )
    return Growth(*found, is_unique=different == len(numbers)) if found else None


def _time(name: str, low: float, high: float, *, whole: bool, is_steady: bool, is_exact: bool) -> Found | None:
    """Return which time the numbers are."""
    for unit, factor in _EPOCH_UNITS.items():
        named = _TIME_NAME.search(name) or (is_exact and high - low < _NARROW * low)
        if _EPOCH[0] * factor <= low and high <= _EPOCH[1] * factor and (is_steady or named):
            return TIME, f"only grows: a time, in {unit} since 1970; write it as a date to use its month, weekday or hour"
    if _SERIAL[0] <= low and high <= _SERIAL[1] and _DATE_NAME.search(name):
        return TIME, _EXCEL
    if whole and _YEARS[0] <= low and high <= _YEARS[1] and (is_steady or _YEAR_NAME.search(name)):
        return YEAR, "only grows: a year, and next year's is not in the file"
    return None


def time_format_of(name: str, low: float, high: float) -> str:
    """Return the format in which numbers of this range are times (``domain.record_time``); empty where they are none."""
    for written, unit in (("unix", "seconds"), ("unix_ms", "milliseconds")):
        if _EPOCH[0] * _EPOCH_UNITS[unit] <= low and high <= _EPOCH[1] * _EPOCH_UNITS[unit]:
            return written
    return "excel" if _SERIAL[0] <= low and high <= _SERIAL[1] and _DATE_NAME.search(name) else ""


def _is_exact(values: pl.Series, different: int) -> bool:
    """Return whether large numbers are hardly ever the same, and not rounded as measured ones are."""
    return different >= _MOSTLY * len(values) and 2 * int((values % 1000 != 0).sum()) > len(values)


def _are_days(values: pl.Series, low: float, high: float, *, whole: bool) -> bool:
    """Return whether numbers of any name are Excel's number of days: moments to the second, workdays, or most days of a time."""
    if len(values) < _MIN_VALUES or not (_DAYS[0] <= low and high <= _DAYS[1]):
        return False
    if not whole:
        seconds, decimals = values * 86_400, values * 200  # numbers with two decimals are whole seconds, too
        is_moment, is_rounded = ((seconds - seconds.round()).abs() < 0.05, (decimals - decimals.round()).abs() < 1e-6)
        return bool(is_moment.all()) and 2 * int(is_rounded.sum()) < len(values)
    different = values.n_unique()
    on_workdays = not (values % 7 < 2).any()  # Saturday is 0
    return different >= _MIN_STEPS and (on_workdays or 2 * different > high - low)


def _date(values: pl.Series) -> Found | None:
    """Return that whole numbers are dates such as 20240131 where each of them is one, in any order."""
    texts = values.cast(pl.Int64, strict=False).cast(pl.String)
    form = _DATES.get(len(str(texts[0])))
    if form is None or not texts.str.slice(0, 4).is_between(f"{_YEARS[0]:.0f}", f"{_YEARS[1]:.0f}").all():
        return None
    if texts.str.to_datetime(form, strict=False).null_count():
        return None
    return TIME, f"only grows: a date, written as {texts[0]}; write it as a date to use its month or weekday"


def _sequence(name: str, different: int, present: int, *, whole: bool, is_steady: bool, rises: bool) -> Found | None:
    """Return which other sequence the numbers are."""
    if present >= _MIN_VALUES and _METER_NAME.search(name) and different >= _MOSTLY * present:
        return TIME, "only grows: what a meter counts, and tomorrow's value is not in the file"
    named = KEY_NAME.search(name) or _BATCH_NAME.search(name)
    if whole and named and present >= _MIN_VALUES and different >= _MOSTLY * present:
        return NUMBER, "only grows: a number of the record or sample, which says nothing about it"
    if is_steady and (different == present or different >= _MIN_STEPS):
        moves = "rises" if rises else "falls"
        what = "a time or a number of the sample" if whole else "a time or a counter"
        return ORDER, f"only {moves} from record to record: {what}, or what the file is sorted by"
    return None


def _counts(low: float, high: float, present: int, *, is_steady: bool) -> bool:
    """Return whether whole and different numbers count the rows: from about 1, perhaps with gaps where rows were removed."""
    if low in (0, 1) and high - low == present - 1:
        return True  # in any order
    return is_steady and 0 <= low <= 1 + present / 10 and high <= 2 * present
