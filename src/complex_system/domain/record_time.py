"""The time of a record: what its declared column says, else when it arrived. Order goes by it, and never by what keys look like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from complex_system.domain.columns import ARRIVED, Column, Declared, raw_name
from complex_system.domain.datetimes import FIRST_OF_1900, TimeFormat
from complex_system.domain.validation import suggestion
from complex_system.domain.yaml_reader import Fault
from complex_system.errors import InvalidRequestError

if TYPE_CHECKING:
    from complex_system.domain.dataset import Dataset

Seconds = npt.NDArray[np.float64]

NUMBERS = {"unix": 1.0, "unix_ms": 0.001, "excel": 86_400.0}
"""Formats of numbers, with the seconds of their unit: since 1970 in UTC, or Excel's days since 1899-12-30 in the declared zone."""
BEFORE_ALL = -np.inf
"""Time of a record of which nothing is known: its raw record was deleted, so it is old."""
_EXCEL_1970 = 25_569
_QUARTER = 900.0  # no offset of a zone has changed within a quarter of an hour since 1972
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_800.0  # the years 1 to 9999


class Time(Declared):
    """Which column says when a record was made."""

    column: str = Field(min_length=1, description="Name of the column: a datetime, a text, or a number")
    format: str = Field(
        "",
        description="How the time is written: Python's codes, such as %d.%m.%Y %H:%M, by default those of the column; for numbers "
        "unix (seconds since 1970), unix_ms (milliseconds) or excel (Excel's days)",
    )
    zone: str = Field("UTC", description="Time zone of the values, as the IANA database names it, such as Europe/Berlin")


def faults_of_time(time: Time | None, columns: Mapping[str, Column], broken: Collection[str] = ()) -> list[Fault]:
    """Return what is wrong with a declared time beside the columns, with places.

    Args:
        time: The declaration.
        columns: The columns by name.
        broken: Names of columns that have faults of their own.
    """
    if time is None:
        return []
    found: list[Fault] = []
    try:
        ZoneInfo(time.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = suggestion(time.zone, available_timezones())
        problem = f"'{time.zone}' is not a time zone{near}; names are the IANA database's, such as UTC or Europe/Berlin"
        found.append((("time", "zone"), problem))
    column = columns.get(time.column)
    if column is not None:
        found += _faults_of_format(time, column)
    elif time.column not in broken:
        usable = [name for name, each in columns.items() if each.type in ("datetime", "text", "number", "integer")]
        problem = f"'{time.column}' is not one of the columns whose records are kept; such columns are {', '.join(usable)}"
        found.append((("time", "column"), problem))
    return found


def _faults_of_format(time: Time, column: Column) -> list[Fault]:
    if column.is_numeric and column.type != "boolean":
        numbers = ", ".join(NUMBERS)
        if time.format not in NUMBERS:
            given = f", not '{time.format}'" if time.format else ""
            return [
                (("time", "format"), f"column '{column.name}' is a {column.type}: the format is one of {numbers}{given}")
            ]
        if time.format != "excel" and time.zone != "UTC":
            return [
                (("time", "zone"), f"the format {time.format} counts from 1970 in UTC whatever the zone; leave the zone out")
            ]
        return []
    if column.type not in ("datetime", "text"):
        problem = f"column '{column.name}' is a {column.type}; a time is a datetime, a text, a number or an integer"
        return [(("time", "column"), problem)]
    try:
        TimeFormat(time.format or column.format)
    except ValueError as error:
        return [(("time", "format"), str(error))]
    return []


class RecordTimes:
    """Reads the times of records.

    Attributes:
        raw: Raw columns that the pages of processed records must have beside them.
        records: Records that were read.
        unreadable: Those of them whose declared time is missing or cannot be read: their time is that of their arrival.
    """

    def __init__(self, dataset: Dataset) -> None:
        """Prepare the reader of a data set's declaration."""
        self._time = dataset.time
        self.raw = [] if dataset.time is None else [dataset.time.column]
        self.records = 0
        self.unreadable = 0
        if dataset.time is not None:
            column = dataset.column(dataset.time.column)
            self._format = dataset.time.format or column.format
            self._zone = None if dataset.time.zone == "UTC" else ZoneInfo(dataset.time.zone)
            self._texts = None if column.is_numeric else TimeFormat(self._format)

    def of(self, page: pa.Table) -> Seconds:
        """Return the time of every record of a page, seconds since 1970 (UTC).

        Args:
            page: Processed records with :attr:`raw` and the arrival beside them (``DataStore.processed_columns``).

        Raises:
            InvalidRequestError: The page has no times of arrival.
        """
        if ARRIVED not in page.column_names:
            raise InvalidRequestError(
                "The pages have no times of arrival: the database service is of an earlier release; update it."
            )
        arrived = page.column(ARRIVED).to_numpy()
        times = arrived if self._time is None else self.declared(page.column(raw_name(self._time.column)))
        known = np.isfinite(times)
        self.records += len(times)
        self.unreadable += 0 if self._time is None else int(len(times) - known.sum())
        return np.where(known, times, np.where(np.isfinite(arrived), arrived, BEFORE_ALL))

    def newer(self, page: pa.Table, since: float | None) -> pa.Table:
        """Return the records of a page whose time is later than ``since``; all where it is None."""
        return page if since is None else page.filter(pa.array(self.of(page) > since))

    def declared(self, values: pa.ChunkedArray) -> Seconds:
        """Return what the declared column says, seconds since 1970 (UTC); NaN where it is missing or cannot be read.

        Of an hour that comes twice when summer time ends, the first is meant.

        Args:
            values: Of the column, as raw records have them.
        """
        if self._texts is None:
            numbers = values.cast(pa.float64()).to_numpy()
            local = (numbers - (_EXCEL_1970 if self._format == "excel" else 0)) * NUMBERS[self._format]
        else:
            local = wall_clock(values, self._texts)
        local = np.where((local >= _FIRST) & (local < _LAST), local, np.nan)
        return local if self._zone is None else local - _offsets(local, self._zone)

    @property
    def message(self) -> str:
        """What people must know of unreadable times, as a sentence; empty where there are none."""
        if self._time is None or not self.unreadable:
            return ""
        return (
            f"{self.unreadable} of {self.records} records have no time in '{self._time.column}' that can be read as {self._format}: "
            "the time of their arrival is used."
        )


def time_writer(dataset: Dataset) -> Callable[[int], str | float | int]:
    """Return what writes a time, microseconds since 1970 (UTC), as the declared column has it.

    Raises:
        ValueError: The data set declares no time.
    """
    declared = dataset.time
    if declared is None:
        raise ValueError("the data set declares no time")
    column, zone = dataset.column(declared.column), ZoneInfo(declared.zone)
    written = declared.format or column.format

    def write(microseconds: int) -> str | float | int:
        local = datetime.fromtimestamp(microseconds // 1_000_000, UTC).astimezone(zone)
        if not column.is_numeric:
            return local.replace(microsecond=microseconds % 1_000_000).strftime(written)
        offset = local.utcoffset() if written == "excel" else None
        seconds = microseconds / 1e6 + (offset.total_seconds() if offset else 0.0)
        number = seconds / NUMBERS[written] + (_EXCEL_1970 if written == "excel" else 0)
        return round(number) if column.type == "integer" else number

    return write


def wall_clock(texts: pa.ChunkedArray | pa.Array, declared: TimeFormat) -> Seconds:
    """Return the seconds from 1970 to the times that texts name, as a clock on the wall shows them; NaN for other texts."""
    plain = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    matched = pc.extract_regex(plain.cast(pa.string()), declared.pattern)
    found = {name: pc.struct_field(matched, name) for name in declared.groups}

    def number(name: str, default: int = 0) -> npt.NDArray[Any]:
        if name not in found:
            return np.full(len(matched), default)
        read: npt.NDArray[Any] = pc.fill_null(pc.cast(found[name], pa.int64()), -1).to_numpy(zero_copy_only=False)
        return read

    year, month, day = number("year"), number("month"), number("day")
    if declared.two_digits:
        year = np.where(year < 0, year, year + np.where(year >= FIRST_OF_1900, 1900, 2000))
    hour, minute, second = number("hour"), number("minute"), number("second")
    good = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    months = (np.where(good, year, 1970) - 1970) * 12 + np.where(good, month, 1) - 1
    first = months.astype("datetime64[M]")
    lasts = ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
    seconds = first.astype("datetime64[s]").astype(np.int64) + (day - 1) * 86_400 + hour * 3600 + minute * 60 + second
    fraction = 0.0
    if "fraction" in found:
        fraction = pc.fill_null(
            pc.cast(pc.binary_join_element_wise("0", found["fraction"], "."), pa.float64()), 0.0
        ).to_numpy()
    return np.where(good & (day <= lasts), seconds + fraction, np.nan)


def _offsets(local: Seconds, zone: ZoneInfo) -> Seconds:
    """Return the seconds by which a zone is ahead of UTC at wall-clock times; NaN for NaN."""
    quarters, places = np.unique(np.floor(local / _QUARTER), return_inverse=True)
    start = datetime(1970, 1, 1, tzinfo=zone)
    offsets = [
        (start + timedelta(seconds=float(quarter) * _QUARTER)).utcoffset() if np.isfinite(quarter) else None
        for quarter in quarters
    ]
    return np.array([np.nan if each is None else each.total_seconds() for each in offsets])[places]
