"""Puts into words what is worth a look in a file: what was seen, in which rows, and what to do; the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from complex_system.describe.figures import figure, lasting, percent, plural, signed, times
from complex_system.describe.quality import ColumnQuality, Quality
from complex_system.domain.outliers import OUTLIER, ROWS_NAMED

NEARLY = 0.99
"""Part of the values that are equal from which a column is nearly constant."""
CLOSE = 0.98
"""Correlation with the target from which a column is suspected."""
TOGETHER = 0.95
"""Part of the rows without a value that lack the target as well, from which a column is suspected."""
SHOWN = 5
"""Findings at the top."""
_MIN_RECORDS = 20


@dataclass(frozen=True)
class Finding:
    """Something worth a look.

    Attributes:
        weight: How much it matters, from 0 to 100.
        kind: In one or two words.
        column: Its column; empty for the whole file.
        title: A sentence.
        detail: What was seen, with figures.
        advice: What to do.
        rows: The first row numbers.
        count: How many rows there are; 0 where it concerns all rows.
    """

    weight: float
    kind: str
    column: str
    title: str
    detail: str
    advice: str
    rows: tuple[int, ...] = ()
    count: int = 0


def findings_of(quality: Quality) -> list[Finding]:
    """Return all that is worth a look, the worst first."""
    made = [*_copies(quality), *_faulty(quality), *_grouped(quality)]
    for column in quality.columns:
        of_column = (_leakage, _missing, _constant, _values, _gaps)
        made += [finding for find in of_column for finding in find(column, quality)]
    return sorted(made, key=lambda finding: -finding.weight)


def worth_a_look(findings: Iterable[Finding]) -> list[Finding]:
    """Return the five findings that matter most; of each kind at most two, unless there are no others."""
    chosen: list[Finding] = []
    later: list[Finding] = []
    for finding in findings:
        enough = sum(other.kind == finding.kind for other in chosen) >= 2
        (later if enough else chosen).append(finding)
    return sorted([*chosen, *later][:SHOWN], key=lambda finding: -finding.weight)


def _values(made: ColumnQuality, quality: Quality) -> list[Finding]:
    name, unit, found = made.column.name, made.column.unit, []
    for value, seen in made.sentinels.items():
        found.append(Finding(
            88 + min(8.0, 80 * seen.count / quality.records), "sentinel", name,
            f"{figure(value, unit)} in ‘{name}’ looks like a code, not a measurement",
            f"It occurs {times(seen.count)}, far from all other values ({_between(made)}).",
            f"If it means “missing”: missing_values: [{value:g}] in the line of ‘{name}’ in dataset.yaml.",
            tuple(seen.rows), seen.count,
        ))  # fmt: skip
    if made.slips:
        row, value, factor = made.slips[0]
        how = {10.0: "a tenth of", 0.1: "ten times", 1000.0: "a thousandth of", 0.001: "a thousand times"}[factor]
        found.append(Finding(
            86 + min(4.0, len(made.slips)), "decimal slip", name, f"The decimal sign may be misplaced in ‘{name}’",
            f"Row {row} has {figure(value, unit)}, {how} {figure(value * factor, unit)}; the others go from {_between(made)}.",
            "Correct the values at their source; a model learns from wrong numbers as from right ones.",
            tuple(sorted(slip.row for slip in made.slips)[:ROWS_NAMED]), len(made.slips),
        ))  # fmt: skip
    others = made.outliers.count - len(made.slips)
    if others > 0:
        slipped = {row for row, _, _ in made.slips}
        rows = tuple(row for row in made.outliers.rows if row not in slipped)
        found.append(Finding(
            50 + min(12.0, 4 * math.log10(1 + others)), "outliers", name,
            f"{plural(others, 'value')} of ‘{name}’ {'is' if others == 1 else 'are'} far from all others",
            f"They are more than {OUTLIER:g} robust standard deviations from the median"
            f"{f' {figure(made.summary.median, unit)}' if made.summary else ''}; the others go from {_between(made)}.",
            "Look whether they are real; if not, narrow the range in dataset.yaml and remove 'outside', so that they are refused.",
            rows, others,
        ))  # fmt: skip
    return found


def _missing(made: ColumnQuality, quality: Quality) -> list[Finding]:
    seen, name = made.profile.missing, made.column.name
    share = seen.count / max(1, quality.records)
    if name == quality.description.target:
        if not seen.count:
            return []
        return [Finding(
            40 + 40 * share, "missing", name, f"The target is missing in {percent(share)} of the records",
            f"{seen.count:,} of {quality.records:,} records have no ‘{name}’; they can be predicted, but not learned from.",
            "If the values arrive later, send the records again with them.", tuple(seen.rows), seen.count,
        )]  # fmt: skip
    if share < 0.05 or seen.count == quality.records:
        return []
    return [Finding(
        25 + 50 * share, "missing", name, f"‘{name}’ is missing in {percent(share)} of the records",
        f"{seen.count:,} of {quality.records:,} records have no value.",
        "Ask why it is missing: a fill in dataset.yaml stands in for it, and a reason that depends on the value biases the model.",
        tuple(seen.rows), seen.count,
    )]  # fmt: skip


def _constant(made: ColumnQuality, quality: Quality) -> list[Finding]:
    name = made.column.name
    if made.different == 0:
        return [Finding(
            45, "empty", name, f"‘{name}’ is empty", "No record has a value.", "Find out why, or leave it out of the file."
        )]  # fmt: skip
    value, share = made.most
    if quality.records < _MIN_RECORDS or share < NEARLY:
        return []
    if made.different == 1 and made.profile.runs == 1:
        return [Finding(
            44, "constant", name, f"‘{name}’ has the same value everywhere", f"All values are {value}.",
            "A model learns nothing from it; leave it in drop.",
        )]  # fmt: skip
    return [Finding(
        34, "nearly constant", name, f"‘{name}’ hardly changes", f"{percent(share)} of the values are {value}.",
        "A model learns little from so few other values; drop it unless they matter.", made.rare_rows,
        round((1 - share) * (quality.records - made.profile.missing.count)),
    )]  # fmt: skip


def _leakage(made: ColumnQuality, quality: Quality) -> list[Finding]:
    name, goal = made.column.name, quality.description.target
    advice = f"Is it known before ‘{goal}’? If not, put it into drop: the model would be good here and useless in the plant."
    if name == goal:
        return []
    if name in quality.description.leaking:
        what = f"It {quality.description.leaking[name]}."
        return [Finding(100, "leakage", name, f"‘{name}’ may give the target away", what, advice)]
    if made.relation is not None and abs(made.relation) >= CLOSE and made.different > 2:
        what = f"The correlation with ‘{goal}’ is {signed(made.relation)}."
        return [Finding(92, "leakage", name, f"‘{name}’ follows the target very closely", what, advice)]
    if made.missing_with_target >= TOGETHER:
        what = (
            f"In {percent(made.missing_with_target)} of the rows in which one is missing, the other is as well: it may be measured "
            f"together with ‘{goal}’."
        )
        seen = made.profile.missing
        return [Finding(
            78, "leakage", name, f"‘{name}’ is missing where the target is", what, advice, tuple(seen.rows), seen.count
        )]  # fmt: skip
    return []


# Rows, times and groups


def _copies(quality: Quality) -> list[Finding]:
    copies = quality.profile.copies
    if not copies.count:
        return []
    title = f"{plural(copies.count, 'row')} {'repeats' if copies.count == 1 else 'repeat'} an earlier one"
    groups = "; ".join(" = ".join(str(row) for row in group[:4]) for group in copies.groups[:4])
    share = copies.count / quality.profile.rows
    own = [
        column.name
        for column in quality.description.columns
        if column.numbers_rows or column.name == quality.description.key
    ]
    but = f" but {' and '.join(f'‘{name}’' for name in own)}" if own else ""
    return [Finding(
        62 + min(25.0, 100 * share), "copies", "", title,
            f"They are equal in every column{but}: rows {groups}.",
        "Were they measured once or several times? Copies count twice in training.",
        tuple(row for group in copies.groups for row in group[1:])[:ROWS_NAMED], copies.count,
    )]  # fmt: skip


def _faulty(quality: Quality) -> list[Finding]:
    if not quality.profile.faulty.count:
        return []
    return [Finding(
        97, "unreadable", "", f"{plural(quality.profile.faulty.count, 'row')} cannot be read", "They are not records of this table.",
        "Correct them in the file.", tuple(quality.profile.faulty.rows), quality.profile.faulty.count,
    )]  # fmt: skip


def _gaps(made: ColumnQuality, quality: Quality) -> list[Finding]:
    gaps, step, name, found = made.gaps, made.step, made.column.name, []
    if gaps:
        long, _, before, after = gaps[0]
        found.append(Finding(
            48 + min(14.0, 3 * math.log10(long / step)), "gap", name,
            f"{plural(len(gaps), 'gap')} in ‘{name}’; the longest lasts {lasting(long)}",
            f"It is between rows {before} and {after}; the usual step is {lasting(step)}.",
            "A model knows nothing of conditions in that time; check that no file is missing.",
            tuple(gap.after for gap in gaps[:ROWS_NAMED]), len(gaps),
        ))  # fmt: skip
    back = made.profile.backwards
    if 0 < back.count <= 0.05 * quality.records:
        found.append(Finding(
            46, "order", name, f"The time goes back {times(back.count)} in ‘{name}’", "All other rows are in order of time.",
            "A clock that was changed, or files that were joined in another order?", tuple(back.rows), back.count,
        ))  # fmt: skip
    return found


def _grouped(quality: Quality) -> list[Finding]:
    found = [group for group in quality.groups if group.is_contiguous or (group.relation or 0) > 0.5]
    if not found:
        return []
    best = max(found, key=lambda group: (group.is_contiguous, group.groups))
    together = " They stand together in the file." if best.is_contiguous else ""
    return [Finding(
        42, "groups", best.column, f"Records may belong together by ‘{best.column}’",
        f"{best.groups:,} groups of about {best.median_size:,.0f} records.{together}",
        "Records of one group resemble each other: an error measured on records of known groups is too good for a new one.",
        best.rows,
    )]  # fmt: skip


def _between(made: ColumnQuality) -> str:
    if made.summary is None:
        return ""
    return f"{figure(made.summary.low)} to {figure(made.summary.high, made.column.unit)}"
