"""Reads a file and proposes a declaration of it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from complex_system.describe.checking import check_file
from complex_system.describe.columns import MARGIN, Found, look_at, nearly_numbers
from complex_system.describe.data_quality import key_of, leak, note_repeated_keys
from complex_system.describe.proposal import Proposal, date_parts, propose
from complex_system.describe.writing import comment, flow, scalar
from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.json_schema import EDITOR_LINE
from complex_system.errors import DescribeError
from complex_system.sources.replay import readable
from complex_system.sources.tables import Table, table_at

_MOST_REASONS = 5
_LETTERS = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss"}


@dataclass(frozen=True)
class Description:
    """What was found in a file.

    Attributes:
        path: The file.
        records: How many it has.
        columns: What each column seems to hold, in the file's order.
        key: The column that names the records; '' for none.
        target: The column to predict.
        target_was_named: Whether a person named it.
        proposal: The pipeline.
        leaking: Columns that tell the target almost exactly, and how.
    """

    path: Path
    records: int
    columns: tuple[Found, ...]
    key: str
    target: str
    target_was_named: bool
    proposal: Proposal
    leaking: Mapping[str, str]

    @property
    def name(self) -> str:
        """A name for the data set, made of the file's."""
        plain = self.path.stem.lower().translate(_LETTERS)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:40].strip("_")
        return plain if plain[:1].isalpha() else f"data_{plain}".rstrip("_")

    def text(self) -> str:
        """The declaration: YAML with comments."""
        made = f"{EDITOR_LINE}\n"
        made += comment(
            f"Proposed by `fiot extras describe-data` for {self.path.name} ({self.records} records). "
            "Read it and change what you know better."
        )
        made += comment(
            f"Ranges go {MARGIN:.0%} of the values' width beyond what the file holds, on each side: a record outside is refused. "
            "A fill stands in for a missing number: it is the middle of the file's values."
        )
        made += f"name: {self.name}\n"
        if self.key:
            made += (
                comment(f"'{self.key}' is there in every record and each time another, so it is the records' key.")
                + f"id: {scalar(self.key)}\n"
            )
        if not self.target_was_named:
            made += comment("CHECK: no target was named, so the last column of numbers is taken.")
        made += f"target: {scalar(self.target)}\n\ncolumns:\n"
        made += "".join(self._column(column) for column in self.columns if column.name != self.key)
        return made + "\npipeline:\n" + self._pipeline()

    def dataset(self) -> Dataset:
        """The declaration, read again."""
        return Dataset.parse(self.text(), f"the declaration of {self.path.name}")

    def _column(self, column: Found) -> str:
        is_target = column.name == self.target
        declared: dict[str, Any] = {"name": column.name, "type": "number" if is_target else column.type}
        if column.categories:
            declared["categories"] = column.categories
        if column.format:
            declared["format"] = column.format
        limits = None if is_target else column.range
        if limits:
            declared["range"] = limits
        # What no step takes is not asked of who wants a prediction: a grade or a remark that comes later.
        if column.missing or is_target or column.name in self.proposal.dropped:
            declared["optional"] = True
        if column.missing and not is_target and column.name in self.proposal.used:
            if column.type == "boolean":
                declared["fill"] = bool(column.median)
            elif column.type in ("number", "integer"):
                declared["fill"] = column.median
            elif column.type == "datetime":
                declared["fill"] = column.first
        if column.unit:
            declared["unit"] = column.unit
        notes = list(column.notes)
        if column.name in self.leaking:
            notes.append(f"{self.leaking[column.name]}: known before '{self.target}' is, or made of it?")
        if column.missing:
            notes.append(f"missing in {column.missing} of {self.records} records")
        return (comment("; ".join(notes), "  ") if notes else "") + f"  - {flow(declared)}\n"

    def _pipeline(self) -> str:
        made = ""
        if self.proposal.dropped:
            for name, reason in self.proposal.dropped.items():
                made += comment(f"{name}: {reason}", "  ")
            made += f"  - {flow({'step': 'drop', 'columns': list(self.proposal.dropped)})}\n"
        for column in self.columns:
            if column.type == "datetime" and column.name in self.proposal.dropped and not column.notes:
                step = {"step": "date_parts", "column": column.name, "parts": date_parts(column)}
                also = "give the column a fill" if column.missing else "take 'optional: true' out of its line"
                made += comment(f"To use '{column.name}', take it out of drop, {also}, and take the '#' away:", "  ")
                made += f"  # - {flow(step)}\n"
        for step, why in self.proposal.steps:
            made += (comment(why, "  ") if why else "") + f"  - {flow(step)}\n"
        return made


def describe(path: Path, target: str = "") -> Description:
    """Reads a file and proposes a declaration.

    Args:
        path: A file that ``sources.tables`` reads.
        target: The column to predict; the last column of numbers by default, which the declaration says.

    Raises:
        SourceFileError: The file cannot be read.
        DescribeError: It holds nothing to learn from, or the target is no column of numbers.
    """
    with readable(path):
        table = table_at(path)
        frame = table.frame()
    if frame.is_empty():
        raise DescribeError(f"The file {path} has no records.")
    columns = _look(path, table, frame)
    key = key_of([column for column in columns if column.name != target], frame)
    columns = [column for column in columns if column.name != ID]
    chosen = _target(path, [column for column in columns if column.name != key], target, table, frame)
    note_repeated_keys([column for column in columns if column.name != key])
    leaking = {column.name: how for column in columns if (how := leak(column, frame, chosen))}
    proposal = propose([column for column in columns if column.name != key], chosen.name, leaking)
    if not proposal.steps:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in list(proposal.dropped.items())[:_MOST_REASONS])
        raise DescribeError(
            f"The file {path} has no column from which the target '{chosen.name}' could be predicted"
            + (f" ({reasons})." if reasons else ".")
        )
    return Description(path, frame.height, tuple(columns), key, chosen.name, bool(target), proposal, leaking)


def refused(description: Description) -> tuple[int, str]:
    """Processes the file by its own declaration: how many records are refused, and why the first one is."""
    checked = check_file(description.path, description.dataset())
    return checked.refused, checked.first


def _look(path: Path, table: Table, frame: pl.DataFrame) -> list[Found]:
    try:
        return [look_at(series, decimal_commas=table.decimal_commas) for series in frame.iter_columns()]
    except TypeError as error:
        raise DescribeError(f"The file {path} cannot be described: {error}.") from error


def _target(path: Path, columns: list[Found], target: str, table: Table, frame: pl.DataFrame) -> Found:
    numeric = [column for column in columns if column.type in ("number", "integer") and column.different > 1]
    if target:
        found = next((column for column in columns if column.name == target), None)
        if found is None:
            names = ", ".join(f"'{column.name}'" for column in columns)
            near = difflib.get_close_matches(target, [column.name for column in columns], 1, 0.5)
            hint = f" Do you mean '{near[0]}'?" if near else ""
            raise DescribeError(f"The file {path} has no column '{target}'; it has {names}.{hint}")
        if found not in numeric:
            names = ", ".join(f"'{column.name}'" for column in numeric) or "none"
            state = (
                "has the same value in all records"
                if found.type in ("number", "integer")
                else f"holds values of the type {found.type}" + _no_number(frame[target], table)
            )
            raise DescribeError(
                f"The target must be a column of different numbers, and '{target}' {state}; columns of numbers are {names}."
            )
        return found
    if not numeric and frame.width == 1:
        raise DescribeError(
            f"The file {path} has only the column '{frame.columns[0]}'; its first line has to name the columns, with a comma, a "
            "semicolon, a tab or a bar between them, and nothing may stand above it."
        )
    if not numeric:
        names = ", ".join(f"'{name}'" for name in frame.columns[:10])
        raise DescribeError(
            f"The file {path} has no column of different numbers that could be the target. Its first line names the columns {names}: "
            "is that the header?"
        )
    return numeric[-1]


def _no_number(series: pl.Series, table: Table) -> str:
    if series.dtype != pl.String:
        return ""
    why = nearly_numbers(series.to_list(), decimal_commas=table.decimal_commas)
    return f": {why}" if why else ""
