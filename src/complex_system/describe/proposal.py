"""Proposes how each column is used: the key, a step for what can be a feature, and why other columns are left out."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile
from typing import Any

import polars as pl

from complex_system.describe.growth import COUNTER, NUMBER, ORDER, growth
from complex_system.describe.inspection import DIFFERENT_TEXTS, InspectedColumn
from complex_system.describe.recognition import KEY_NAME, nearly_numbers
from complex_system.describe.sampling import LookedAt
from complex_system.domain.columns import ID
from complex_system.domain.keys import MAX_KEY
from complex_system.errors import DescribeError
from complex_system.sources.base import Table

Step = dict[str, Any]
ALMOST_ONE = 0.9999
"""Correlation from which a column gives the target away."""
_MIN_PAIRS = 10
_MIN_RANKS = 20
_MIN_GROUPS = 3
_DIFFERENT = re.compile(r"\d+ different texts in \d+ records")


@dataclass
class Proposal:
    """A pipeline, and why some columns are not in it.

    Attributes:
        steps: As a declaration has them, in the order of the columns, and a comment for each.
        dropped: Columns that are left out, with the reason.
        used: Columns that have a step.
    """

    steps: list[tuple[Step, str]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def propose(columns: list[InspectedColumn], target: str, leaking: Mapping[str, str]) -> Proposal:
    """Propose a pipeline. Suspicious columns are left out unless nothing else is there."""
    made = Proposal()
    taken = {ID, target}
    second_best: list[InspectedColumn] = []
    usable = [column for column in columns if column.name != target]
    shares = [column for column in usable if column.type == "list of shares" and column.different > 0]
    for column in usable:
        if column.type == "list of shares":
            continue
        if reason := _why_not(column, leaking):
            made.dropped[column.name] = reason
            if _is_second_best(column):
                second_best.append(column)
        elif partner := next((each for each in shares if _belong(column, each)), None):
            _with_shares(made, column, partner, taken)
            shares.remove(partner)
        else:
            _use(made, column, taken)
    for column in shares:
        made.dropped[column.name] = "; ".join(column.notes) or "shares without a list of what they belong to"
    for column in usable:
        if column.type == "list of shares" and column.name not in made.used:
            made.dropped.setdefault(column.name, "always missing")
    if not made.steps:
        for column in second_best:
            _use(made, column, taken)
            del made.dropped[column.name]
    return made


def _why_not(column: InspectedColumn, leaking: Mapping[str, str]) -> str:
    """Return why a column is left out; empty where it is used."""
    if column.notes:
        return "; ".join(column.notes)
    if column.name in leaking:
        return f"{leaking[column.name]}: it may leak it"
    if column.growth:
        return column.growth.why
    return {"text": "text", "datetime": "a time; the commented step below makes features of its parts"}.get(column.type, "")


def _is_second_best(column: InspectedColumn) -> bool:
    """Return whether a column that is left out may be used where nothing else is there."""
    grows = column.growth and column.growth.kind != ORDER
    return column.type != "text" and column.different > 0 and not column.notes and not grows


def _belong(column: InspectedColumn, shares: InspectedColumn) -> bool:
    """Return whether each record has as many shares as entries, and they add up to 1."""
    if column.type != "list of categories":
        return False
    for entries, parts in zip(column.lists, shares.lists, strict=True):
        if parts is None:
            if len(entries or ()) > 1:
                return False
        elif len(parts) != len(entries or ()) or not all(0 <= part <= 1 for part in parts) or abs(sum(parts) - 1) > 5e-7:
            return False
    return True


def _with_shares(made: Proposal, column: InspectedColumn, shares: InspectedColumn, taken: set[str]) -> None:
    step: Step = {"step": "shares", "column": column.name, "shares": shares.name}
    _prefix(step, column.name, column.categories, taken)
    made.steps.append((step, "one feature an entry: its share"))
    made.used |= {column.name, shares.name}


def _use(made: Proposal, column: InspectedColumn, taken: set[str]) -> None:
    step, why = _step(column, taken)
    made.steps.append((step, why))
    made.used.add(column.name)


def _step(column: InspectedColumn, taken: set[str]) -> tuple[Step, str]:
    step: Step = {"step": "", "column": column.name}
    match column.type:
        case "category":
            step["step"] = "one_hot"
            _prefix(step, column.name, column.categories, taken)
        case "list of categories":
            step["step"] = "multi_hot"
            _prefix(step, column.name, column.categories, taken)
        case "datetime":
            step |= {"step": "date_parts", "parts": date_parts(column)}
            _prefix(step, column.name, tuple(step["parts"]), taken)
        case kind:
            step["step"] = "keep" if kind == "boolean" else "scale"
            if column.name in taken:
                step["as"] = next(name for name in _others(column.name) if name not in taken)
            taken.add(step.get("as", column.name))
    return step, ""


def date_parts(column: InspectedColumn) -> list[str]:
    """Return the parts of a time that recur, so that a model can learn from them."""
    return ["month", "weekday", *(["hour"] if "%H" in column.format else [])]


def _prefix(step: Step, name: str, endings: tuple[str, ...], taken: set[str]) -> None:
    for prefix in chain((name,), _others(name)):
        names = {f"{prefix}_{ending}" for ending in endings}
        if not names & taken:
            break
    if prefix != name:
        step["prefix"] = prefix
    taken |= names


def _others(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name} {number}"
        number += 1


def take_as_counts(columns: list[InspectedColumn]) -> None:
    """Make whole numbers integers where their neighbours say that they are counted: they add up to a count beside them."""
    for place, column in enumerate(columns):
        if column.type != "integer" or column.numbers is None or column.different < _MIN_GROUPS:
            continue
        for beside in (columns[:place][::-1], columns[place + 1 :]):
            parts = list(takewhile(lambda each: each.is_whole and each.numbers is not None and (each.low or 0) >= 0, beside))
            for count in range(2, len(parts) + 1):
                total = sum((each.numbers for each in parts[:count] if each.numbers is not None), 0 * column.numbers)
                if total.equals(column.numbers, check_names=False):
                    for each in parts[:count]:
                        each.type, each.median = "integer", float(math.floor(each.median or 0))


# The target and the key


def choose_target(columns: list[InspectedColumn], target: str, table: Table, looked_at: LookedAt) -> InspectedColumn:
    """Return the column to predict: the named one, or the last column of numbers.

    Raises:
        DescribeError: It is not a column of different numbers, or there is none.
    """
    numeric = [column for column in columns if column.type in ("number", "integer") and column.different > 1]
    if target:
        found = next((column for column in columns if column.name == target), None)
        if found is None:
            names = [column.name for column in columns]
            hint = "".join(f" Do you mean '{near}'?" for near in difflib.get_close_matches(target, names, 1, 0.5))
            listed = ", ".join(f"'{name}'" for name in names)
            raise DescribeError(f"The file {table.shown} has no column '{target}'; it has {listed}.{hint}")
        if found not in numeric:
            listed = ", ".join(f"'{column.name}'" for column in numeric) or "none"
            state = (
                "has the same value in all records"
                if found.type in ("number", "integer")
                else f"holds values of the type {found.type}" + _why_not_numbers(looked_at, target, table)
            )
            raise DescribeError(
                f"The target must be a column of different numbers, and '{target}' {state}; columns of numbers are {listed}."
            )
        return found
    names = looked_at.frame.columns
    if not numeric and len(names) == 1:
        raise DescribeError(
            f"The file {table.shown} has only the column '{names[0]}'; its first line has to name the columns, separated by "
            "commas, semicolons, tabs or bars, with nothing above it."
        )
    if not numeric:
        first = ", ".join(f"'{name}'" for name in names[:10])
        raise DescribeError(
            f"The file {table.shown} has no column of different numbers that could be the target. Its first line names the columns "
            f"{first}: is that the header?"
        )
    return numeric[-1]


def _why_not_numbers(looked_at: LookedAt, name: str, table: Table) -> str:
    series = looked_at.frame[name]
    why = nearly_numbers(series, table.notation(name), looked_at.row) if series.dtype == pl.String else ""
    return f": {why}" if why else ""


def note_repeated_keys(columns: list[InspectedColumn]) -> None:
    """Note on texts with the name of a key why they cannot be the key."""
    for column in columns:
        records = len(column.notes) == 1 and _DIFFERENT.match(column.notes[0])
        if column.type == "text" and records and KEY_NAME.search(column.name):
            column.notes.append("named like a key, but repeated: of records with the same key only the first is kept")


def note_repetitions(column: InspectedColumn, count: int) -> None:
    """Note on a column that was taken as the key that values of it repeat, though not in the rows looked at."""
    if column.growth:
        column.growth = replace(column.growth, is_unique=False)
    column.notes = [f"named like a key, but repeated: {count} record(s) have the value of an earlier one"]


def offered_key(columns: list[InspectedColumn]) -> InspectedColumn | None:
    """Return a column that may be the key, where a person knows that no number is used again; None for none.

    Numbers come first; a text that is different in every record may be the number of a batch.
    """
    numbered = [
        column
        for column in columns
        if column.growth and column.growth.is_unique and column.growth.kind in (COUNTER, NUMBER) and column.name != ID
    ]
    texts = (column for column in columns if column.type == "text" and DIFFERENT_TEXTS in column.notes)
    return next(chain((column for column in numbered if KEY_NAME.search(column.name)), numbered, texts), None)


def key_column(columns: list[InspectedColumn], looked_at: LookedAt) -> str:
    """Return the first column with the name of a key and a different value in every record; empty for none.

    A counter of the file's rows is none: the next file uses its numbers again, and its records would be taken for known ones.
    """
    for column in columns:
        if (
            not (column.type in ("text", "category") or column.is_whole)
            or not KEY_NAME.search(column.name)
            or column.name == ID
            or column.missing
        ):
            continue
        series = looked_at.frame[column.name]
        if (
            series.dtype.is_nested()
            or (column.growth and column.growth.kind == COUNTER)
            or _counts_as_text(series, looked_at)
        ):
            continue
        texts = (series.cast(pl.Int64) if series.dtype.is_float() and not series.is_null().any() else series).cast(pl.String)
        if (
            texts.null_count()
            or not texts.str.len_chars().is_between(1, MAX_KEY).all()
            or (texts.str.strip_chars() == "").any()
        ):
            continue
        if texts.n_unique() == len(texts):
            return column.name
    return ""


def _counts_as_text(series: pl.Series, looked_at: LookedAt) -> bool:
    """Return whether texts such as 0001 count the rows."""
    if series.dtype != pl.String:
        return False
    numbers = series.str.strip_chars().cast(pl.Int64, strict=False)
    if numbers.null_count():
        return False
    found = growth(series.name, numbers.cast(pl.Float64), whole=True, records=looked_at.in_file(len(numbers)))
    return found is not None and found.kind == COUNTER


# Leakage


def leak(column: InspectedColumn, frame: pl.DataFrame, target: InspectedColumn) -> str:
    """Return how a column gives the target away, so that one was probably made from the other; empty where it does not."""
    if target.numbers is None or column.name == target.name:
        return ""
    if column.numbers is not None and column.type != "boolean":
        pairs = pl.DataFrame({"a": column.numbers, "b": target.numbers}).drop_nulls()
        return "follows the target almost exactly" if _follows(pairs) or _is_rounded(pairs) else ""
    if column.type in ("category", "boolean"):
        pairs = pl.DataFrame({"a": frame[column.name].cast(pl.String), "b": target.numbers}).drop_nulls()
        if column.categories:
            pairs = pairs.filter(pl.col("a").is_in(column.categories))
        parts = _target_ranges(pairs, different=pl.col("b").n_unique())
        several = parts.height > 1 and bool(
            (parts["count"] >= _MIN_PAIRS).all() and (parts["different"] >= _MIN_GROUPS).all()
        )
        return "divides the target's values without overlap" if several and _apart(parts) else ""
    return ""


def _follows(pairs: pl.DataFrame) -> bool:
    different = pairs["a"].n_unique()
    if pairs.height < _MIN_PAIRS or different < 3 or pairs["b"].n_unique() < 3:
        return False
    found = [pairs.select(pl.corr("a", "b")).item()]
    if different >= _MIN_RANKS:  # the target's logarithm or square
        found.append(pairs.select(pl.corr("a", "b", method="spearman")).item())
    return any(each is not None and abs(each) >= ALMOST_ONE for each in found)


def _is_rounded(pairs: pl.DataFrame) -> bool:
    """Return whether each repeated number belongs to a part of the target's range of its own."""
    parts = _target_ranges(pairs)
    again = parts.filter((pl.col("count") > 1) & (pl.col("low") < pl.col("high")))
    return again.height >= _MIN_GROUPS and int(again["count"].sum()) >= _MIN_RANKS and _apart(parts)


def _target_ranges(pairs: pl.DataFrame, **also: pl.Expr) -> pl.DataFrame:
    """Return the target's range for each value, sorted by the smallest target."""
    target = pl.col("b")
    return pairs.group_by("a").agg(low=target.min(), high=target.max(), count=pl.len(), **also).sort("low", "high")


def _apart(parts: pl.DataFrame) -> bool:
    return bool((parts["high"].head(-1) < parts["low"].tail(-1)).all())
