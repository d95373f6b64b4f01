"""Reads a file once, in chunks, and keeps of each column what its report needs, in memory that does not grow with the rows.

Counts, extremes and breaks in time are exact. What depends on all values at once (medians, histograms, correlations) comes from a
random sample of the rows (``sampling``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.repetitions import HashedRows
from complex_system.describe.sampling import PART_ROWS, RowSample
from complex_system.domain.columns import Column
from complex_system.domain.outliers import DISTINCT, ROWS_NAMED, Extremes, Floats, Numbers, Seen
from complex_system.sources.base import ROW, Columns, Table
from complex_system.sources.replay import readable
from complex_system.sources.values import Values

_NAMES = 2_000
"""Different texts of a column whose names are kept."""
_NAME_LENGTH = 120

Hashes = npt.NDArray[np.uint64]
_EMPTY = np.uint64(0)


class Step(NamedTuple):
    """A step forward in time: its length and beginning in seconds, the row before and the row after."""

    seconds: float
    start: float
    before: int
    after: int


@dataclass
class ColumnProfile:
    """What is kept of one column.

    Attributes:
        name: As in the file.
        kind: ``number`` for all that is a number, true and false included; ``time`` in seconds since 1970; ``text`` for the rest.
        missing: Rows without a value.
        unread: Rows whose value is not of the kind.
        extremes: The lowest and the highest values, with their rows.
        runs: Times that the value differs from the one in the row before, plus one.
        backwards: Rows with an earlier time than the row before.
        jumps: The largest steps forward in time, in the order of the file.
        names: Texts by hash.
        sample: Values of the sampled rows: float64 with NaN for missing ones, or hashes with 0 for these.
    """

    name: str
    kind: Literal["number", "time", "text"]
    format: str = ""
    missing: Seen = field(default_factory=Seen)
    unread: Seen = field(default_factory=Seen)
    extremes: Extremes = field(default_factory=Extremes)
    runs: int = 0
    backwards: Seen = field(default_factory=Seen)
    jumps: list[Step] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    sample: Any = field(default_factory=lambda: np.empty(0))
    _before: tuple[Any, int] | None = None

    def take(self, values: Values, rows: Numbers) -> Any:
        """Add the values of some rows; return them as they are sampled."""
        made: Any
        if self.kind == "text":
            made = self._texts(values)
            gone = made == _EMPTY
        else:
            made = self._numbers(values, rows)
            gone = np.isnan(made)
        if gone.any():
            self.missing.add(rows[gone])
        there, at = made[~gone], rows[~gone]
        if len(there):
            self._consecutive(there, at)
            if self.kind == "number":
                self.extremes.take(there, at)
        return made

    def _texts(self, values: Values) -> Hashes:
        texts = values.series.cast(pl.String)
        if values.others:
            others = {place: None if each is None else str(each) for place, each in values.others.items()}
            texts = texts.scatter(list(others), list(others.values()))
        found = texts.hash(seed=1).to_numpy().copy()
        found[texts.is_null().to_numpy()] = _EMPTY
        if len(self.names) < _NAMES:
            for text, key in zip(different := texts.drop_nulls().unique(), different.hash(seed=1).to_list(), strict=True):
                if key not in self.names and len(self.names) < _NAMES:
                    self.names[key] = text[:_NAME_LENGTH]
        return found

    def _numbers(self, values: Values, rows: Numbers) -> Floats:
        series = values.series
        if self.kind == "time":
            texts = series.cast(pl.String)
            pattern = self.format.replace(".%f", "%.f")
            # The time of day is added where the format has none: polars reads a full time only.
            full = texts if "%H" in pattern else texts + " 00:00"
            read = full.str.to_datetime(pattern if "%H" in pattern else f"{pattern} %H:%M", strict=False, time_unit="us")
            unread = (read.is_null() & texts.is_not_null()).to_numpy()
            series = read.dt.epoch("us") / 1e6
        else:
            unread = np.zeros(len(series), dtype=bool)
            unread[[place for place, value in values.others.items() if isinstance(value, str)]] = True
        made = series.cast(pl.Float64).to_numpy().copy()
        made[~np.isfinite(made)] = np.nan
        self.unread.add(rows[unread])
        return made

    def _consecutive(self, values: Any, rows: Numbers) -> None:
        if self._before is None:
            self.runs = 1
        else:
            values, rows = np.append(self._before[0], values), np.append(self._before[1], rows)
        self._before = values[-1], int(rows[-1])
        self.runs += int((values[1:] != values[:-1]).sum())
        if self.kind != "time" or len(values) < 2:
            return
        steps = np.diff(values)
        self.backwards.add(rows[1:][steps < 0])
        largest = np.argsort(-steps, kind="stable")[:DISTINCT]
        jumps = [Step(float(steps[i]), float(values[i]), int(rows[i]), int(rows[i + 1])) for i in largest if steps[i] > 0]
        self.jumps = sorted([*self.jumps, *jumps], key=lambda jump: (-jump.seconds, jump.before))[:DISTINCT]


@dataclass(frozen=True)
class Copies:
    """Rows that are equal in all columns but the key and row numbers.

    Attributes:
        count: Rows that an earlier row equals.
        groups: The first groups of equal rows, as row numbers.
    """

    count: int
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class FileProfile:
    """What is kept of a file.

    Attributes:
        rows: How many it has.
        faulty: Rows that are not records at all.
        columns: Its columns, in the file's order.
        at: Row numbers of the sample.
        copies: Equal rows.
    """

    rows: int
    faulty: Seen
    columns: tuple[ColumnProfile, ...]
    at: Numbers
    copies: Copies

    @property
    def is_whole(self) -> bool:
        """Whether the sample is the whole file."""
        return len(self.at) == self.rows - self.faulty.count


def profile(table: Table, columns: Sequence[InspectedColumn], key: str = "") -> FileProfile:
    """Read a file and keep what its report needs.

    Args:
        table: The table in the file.
        columns: What its columns hold, without the key.
        key: The key's column; it is not compared when equal rows are looked for.

    Raises:
        SourceFileError: The file cannot be read.
    """
    made = [ColumnProfile(column.name, _kind(column), column.format) for column in columns if column.name != key]
    declared: Columns = {
        column.name: Column(
            name=column.name,
            type=column.type,
            categories=column.categories,
            format=column.format,
            **({"censored": column.censored} if column.censored and column.type == "number" else {}),
            optional=True,
        )
        for column in columns
        if column.name != key
    }
    counters = {column.name for column in columns if column.numbers_rows}
    sample, copies, faulty, rows = RowSample(), HashedRows(), Seen(), 0
    with readable(table.shown):
        for part in table.parts(declared, PART_ROWS):
            rows += len(part.numbers)
            at = np.array(part.numbers, dtype=np.int64)
            good = np.ones(len(at), dtype=bool)
            good[list(part.faults)] = False
            faulty.add(at[~good])
            # Faulty rows have no valid values.
            values = part.columns if good.all() else {name: each.without(part.faults) for name, each in part.columns.items()}
            found = [column.take(values[column.name], at[good]) for column in made]
            sample.add(pl.DataFrame([pl.Series(ROW, at[good]), *(pl.Series(str(i), each) for i, each in enumerate(found))]))
            compared = [each for each, column in zip(found, made, strict=True) if column.name not in counters]
            copies.add(hash=_hashes(compared, int(good.sum())), number=at[good])
    kept = sample.found()
    for column, sampled in zip(made, kept.drop(ROW).iter_columns(), strict=True):
        column.sample = sampled.to_numpy()
    return FileProfile(rows, faulty, tuple(made), kept[ROW].to_numpy(), _copies(copies))


def _kind(column: InspectedColumn) -> Literal["number", "time", "text"]:
    if column.type in ("number", "integer", "boolean"):
        return "number"
    return "time" if column.type == "datetime" else "text"


def _hashes(columns: list[Any], rows: int) -> Hashes:
    """Return a hash of every row of some columns, as they are sampled."""
    hashes = np.zeros(rows, dtype=np.uint64)
    for place, column in enumerate(columns):
        bits = column if column.dtype == np.uint64 else (np.where(np.isnan(column), np.nan, column) + 0.0).view(np.uint64)
        hashes = _mixed(hashes ^ _mixed(bits + np.uint64(place)))
    return hashes


def _copies(hashed: HashedRows) -> Copies:
    count, groups = 0, list[tuple[int, ...]]()
    for rows, repeats in hashed.parts():
        count += int(repeats.sum())
        starts = np.flatnonzero(~repeats)
        sizes = np.diff(np.append(starts, len(rows)))
        several = starts[sizes > 1], sizes[sizes > 1]
        groups += [tuple(rows["number"][i : i + min(size, ROWS_NAMED)].tolist()) for i, size in zip(*several, strict=True)]
        groups = sorted(groups)[:ROWS_NAMED]
    return Copies(count, tuple(groups))


def _mixed(bits: Hashes) -> Hashes:
    """Spread the bits of numbers: the finalizer of SplitMix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
