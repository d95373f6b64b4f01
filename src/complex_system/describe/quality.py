"""Finds in what is kept of a file: sentinels, outliers, decimal slips, constants, relations to the target, gaps, groups."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from complex_system.describe.description import Description
from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.profile import ColumnProfile, FileProfile, Step, profile
from complex_system.domain.outliers import MIN_VALUES, ROWS_NAMED, Floats, RobustScale, Seen, Slip, outliers_of

GAP = 10.0
"""Times the usual step in time from which a step is a gap."""
TOP = 8
"""Most frequent texts of a column."""
_MAX_PAIRS = 20_000
_MIN_GONE = 10
_GROUP_NAME = re.compile(
    r"batch|charge|\blot\b|\blos\b|ofen|oven|furnace|line\b|linie|anlage|plant|werk|masch|machine|campaign|kampagne|coil|reactor|"
    r"reaktor|station|tool\b|werkzeug|operator|bediener|laborant|schicht|shift|material|recipe|rezept|sample|probe|patient|subject",
    re.IGNORECASE,
)


@dataclass
class NumberSummary:
    """A column of numbers without its sentinels.

    Attributes:
        median: The middle.
        low_quarter: The lower quartile.
        high_quarter: The upper quartile.
        low: The smallest value that is not an outlier.
        high: The largest one.
        edges: Of the histogram's bins.
        counts: Values in each bin, as parts of all.
        below: The part of the values left of the first edge.
        above: The part right of the last edge.
    """

    median: float
    low_quarter: float
    high_quarter: float
    low: float
    high: float
    edges: list[float]
    counts: list[float]
    below: float = 0.0
    above: float = 0.0


@dataclass
class ColumnQuality:
    """What the report says of one column.

    Attributes:
        column: As it was inspected.
        profile: What was kept of it.
        summary: Of its numbers or times; None for texts.
        top: Its most frequent texts with their parts.
        different: Different values; at least so many where only a sample was kept.
        sentinels: Values that probably stand for a missing one.
        outliers: How many values are far from the others, and the rows.
        slips: Outliers that fit after moving the decimal sign.
        most: The most frequent value as text, and its part of all values.
        rare_rows: The first rows with another value than the most frequent one.
        relation: With the target, from -1 to 1: the rank correlation of numbers, the correlation ratio of texts; None for neither.
        missing_with_target: Of the rows in which it or the target is missing, the part in which both are.
        gaps: In times, the longest first.
        step: The usual one in time, in seconds.
    """

    column: InspectedColumn
    profile: ColumnProfile
    summary: NumberSummary | None = None
    top: list[tuple[str, float]] = field(default_factory=list)
    different: int = 0
    sentinels: dict[float, Seen] = field(default_factory=dict)
    outliers: Seen = field(default_factory=Seen)
    slips: list[Slip] = field(default_factory=list)
    most: tuple[str, float] = ("", 0.0)
    rare_rows: tuple[int, ...] = ()
    relation: float | None = None
    missing_with_target: float = 0.0
    gaps: list[Step] = field(default_factory=list)
    step: float = 0.0


@dataclass(frozen=True)
class Group:
    """A column whose values may name groups of records that belong together.

    Attributes:
        column: Its name.
        groups: How many there are.
        median_size: Records in a group.
        largest: Records in the largest group.
        is_contiguous: Whether records of a group follow each other in the file.
        relation: With the target.
        rows: Where the first groups begin.
    """

    column: str
    groups: int
    median_size: float
    largest: float
    is_contiguous: bool
    relation: float | None
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Quality:
    """What the report says of a file."""

    description: Description
    profile: FileProfile
    columns: tuple[ColumnQuality, ...]
    groups: tuple[Group, ...]

    @property
    def records(self) -> int:
        """Rows that can be read."""
        return self.profile.rows - self.profile.faulty.count


def assess(description: Description) -> Quality:
    """Read the file that a description was made from, and judge its data.

    Raises:
        SourceFileError: The file cannot be read.
    """
    found = profile(description.table, description.columns, description.key)
    inspected = {column.name: column for column in description.columns}
    target = next(column for column in found.columns if column.name == description.target)
    columns = tuple(_column(inspected[each.name], each, target, found) for each in found.columns)
    groups = tuple(group for column in columns if (group := _group(column, description.target, found)))
    return Quality(description, found, columns, groups)


def _column(column: InspectedColumn, kept: ColumnProfile, target: ColumnProfile, whole: FileProfile) -> ColumnQuality:
    made = ColumnQuality(column, kept)
    _frequencies(made, whole)
    if kept.kind != "text":
        values = kept.sample[~np.isnan(kept.sample)]
        if kept.kind == "number" and len(values):
            _numbers(made, values)
        elif len(values):
            made.summary = _summary(values, float(values.min()), float(values.max()))
            made.gaps, made.step = _time_gaps(kept, whole)
    if kept is not target:
        made.relation = _relation(kept, target)
        both, either = _gone(kept) & _gone(target), _gone(kept) | _gone(target)
        if both.sum() >= _MIN_GONE and both.sum() < len(both):
            made.missing_with_target = float(both.sum() / either.sum())
    return made


def _frequencies(made: ColumnQuality, whole: FileProfile) -> None:
    kept, there = made.profile, ~_gone(made.profile)
    different, counts = np.unique(kept.sample[there], return_counts=True)
    made.different = len(different)
    if not len(different):
        return
    order = np.argsort(-counts, kind="stable")[:TOP]
    most = different[order[0]]
    made.rare_rows = tuple(whole.at[there & (kept.sample != most)][:ROWS_NAMED].tolist())
    if kept.kind == "text":
        made.top = [(kept.names.get(int(different[i]), "…"), float(counts[i] / counts.sum())) for i in order]
    text = made.top[0][0] if made.top else f"{most:g}"
    made.most = text, float(counts.max() / counts.sum())


# Numbers


def _numbers(made: ColumnQuality, values: Floats) -> None:
    extremes = made.profile.extremes
    made.sentinels = {value: extremes[value] for value in made.column.sentinels if value in extremes}
    kept = values[~np.isin(values, list(made.sentinels))]
    low, high = float(kept.min()), float(kept.max())
    if made.different > MIN_VALUES and made.column.type != "boolean" and (scale := RobustScale.of(kept)):
        made.outliers, made.slips = outliers_of(made.profile.extremes, kept, made.sentinels, scale)
        if made.outliers.count:
            inside = scale.inner(kept)
            low, high = float(inside.min()), float(inside.max())
    made.summary = _summary(kept, low, high)


def _summary(values: Floats, low: float, high: float) -> NumberSummary:
    quarter, median, three = (float(each) for each in np.quantile(values, (0.25, 0.5, 0.75)))
    different = np.unique(values[:2000])
    bins = 32 if len(values) > 400 else 20 if len(values) > 60 else 12
    if len(different) <= bins and (different == np.round(different)).all() and 0 < high - low < bins:
        edges = np.arange(round(low), round(high) + 2) - 0.5
    else:
        edges = np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts, _ = np.histogram(values, edges)
    total = len(values)
    below, above = float((values < low).sum() / total), float((values > high).sum() / total)
    shares = (counts / total).tolist()
    return NumberSummary(median, quarter, three, low, high, edges.tolist(), shares, below, above)


def _gone(kept: ColumnProfile) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    gone: np.ndarray[tuple[int], np.dtype[np.bool_]] = kept.sample == 0 if kept.kind == "text" else np.isnan(kept.sample)
    return gone


def _relation(kept: ColumnProfile, target: ColumnProfile) -> float | None:
    there = np.flatnonzero(~_gone(kept) & ~np.isnan(target.sample))
    there = there[:: max(1, len(there) // _MAX_PAIRS)]
    if len(there) < 10:
        return None
    values, aims = kept.sample[there], target.sample[there]
    if kept.kind != "text":
        found = pl.DataFrame({"a": values, "b": aims}).select(pl.corr("a", "b", method="spearman")).item()
        return None if found is None or np.isnan(found) else float(found)
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if not 2 <= len(counts) <= len(there) / 3:
        return None
    means = np.bincount(codes, aims) / counts
    whole, between = float(((aims - aims.mean()) ** 2).sum()), float((counts * (means - aims.mean()) ** 2).sum())
    if not whole:
        return None
    # Without the part that groups of this number explain by chance (epsilon squared).
    free = (len(counts) - 1) * (whole - between) / (len(there) - len(counts))
    return float(np.sqrt(max(0.0, (between - free) / whole)))


def _time_gaps(kept: ColumnProfile, whole: FileProfile) -> tuple[list[Step], float]:
    """Return the gaps in a column of times, the longest first, with the rows around them, and the usual step in seconds."""
    there = ~_gone(kept)
    order = np.argsort(kept.sample[there], kind="stable")
    moments, rows = kept.sample[there][order], whole.at[there][order]
    steps = np.diff(moments)
    if whole.is_whole and (steps > 0).sum() >= MIN_VALUES:
        usual = float(np.median(steps[steps > 0]))
        # In a file with irregular times long steps are usual, too.
        limit = max(GAP * usual, 3 * float(np.quantile(steps[steps > 0], 0.99)))
        places = [int(i) for i in np.argsort(-steps, kind="stable")[:64] if steps[i] > limit]
        return [Step(float(steps[i]), float(moments[i]), int(rows[i]), int(rows[i + 1])) for i in places], usual
    if whole.is_whole or kept.backwards.count > 0.05 * whole.rows or not len(kept.jumps):
        return [], 0.0
    usual = float(moments[-1] - moments[0]) / max(1, whole.rows - 1)
    return [jump for jump in kept.jumps if jump.seconds > 10 * GAP * usual], usual


def _group(made: ColumnQuality, target: str, whole: FileProfile) -> Group | None:
    kept = made.profile
    if kept.kind == "time" or made.column.type in ("number", "boolean") or made.column.name == target:
        return None
    sample = kept.sample[~_gone(kept)]
    if len(sample) < 20 or made.column.type.startswith("list"):
        return None
    _, first, counts = np.unique(sample, return_index=True, return_counts=True)
    if not 2 <= len(counts) <= len(sample) / 3:
        return None
    present = whole.rows - whole.faulty.count - kept.missing.count
    by_chance = 1 + (present - 1) * (1 - float(((counts / counts.sum()) ** 2).sum()))
    contiguous = len(counts) >= 3 and kept.runs <= 0.5 * by_chance
    named = bool(_GROUP_NAME.search(made.column.name))
    if not named and not (contiguous and kept.kind == "text"):
        return None
    each = present / len(sample)
    return Group(
        made.column.name, len(counts), float(np.median(counts)) * each, float(counts.max()) * each, contiguous, made.relation,
        tuple(sorted(whole.at[~_gone(kept)][first].tolist())[:ROWS_NAMED]),
    )  # fmt: skip
