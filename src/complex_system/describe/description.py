"""Reads a file of records and proposes a declaration of it, as commented YAML: one line per column and step."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from complex_system.describe.checking import FileCheck, check_file, corrected
from complex_system.describe.growth import COUNTER
from complex_system.describe.inspection import TARGET_MARGIN, InspectedColumn, inspect_column
from complex_system.describe.order import ProposedTime, proposed_time
from complex_system.describe.proposal import (
    Proposal,
    choose_target,
    date_parts,
    key_column,
    leak,
    note_repeated_keys,
    note_repetitions,
    offered_key,
    propose,
    take_as_counts,
)
from complex_system.describe.recognition import MARGIN
from complex_system.describe.sampling import LookedAt
from complex_system.describe.splitting import ProposedSplit, propose_split, split_lines
from complex_system.describe.yaml_writer import comment, flow, other_line, scalar
from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.json_schema import EDITOR_LINE
from complex_system.errors import DescribeError
from complex_system.sources.base import Table
from complex_system.sources.replay import readable
from complex_system.sources.tables import table_at
from complex_system.training.data import MIN_SAMPLES

_MAX_REASONS = 5
_LETTERS = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss"}


@dataclass(frozen=True)
class Description:
    """What was found in a file.

    Attributes:
        path: The file.
        table: The table in it.
        records: How many it has.
        columns: What each column holds, in the file's order.
        key: The column that is the records' key; empty for none.
        target: The column to predict.
        target_was_named: Whether a person named it.
        proposal: The pipeline.
        leaking: Columns that give the target away, and how.
        copies: Records that are equal to an earlier one, but for the key and row numbers.
        notes: What of the file is not a record, a sentence each.
        checked: What the declaration says of all records of the file.
        time: The column that says when a record was made; None where there is no such column.
        split: What the split goes by, and why.
    """

    path: Path
    table: Table
    records: int
    columns: tuple[InspectedColumn, ...]
    key: str
    target: str
    target_was_named: bool
    proposal: Proposal
    leaking: Mapping[str, str]
    copies: int = 0
    notes: tuple[str, ...] = ()
    checked: FileCheck | None = None
    time: ProposedTime | None = None
    split: ProposedSplit = field(default_factory=ProposedSplit)

    @property
    def name(self) -> str:
        """A name for the data set, made from the file's."""
        plain = unicodedata.normalize("NFKD", self.path.stem.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:40].strip("_")
        return plain if plain[:1].isalpha() else f"data_{plain}".rstrip("_")

    def text(self) -> str:
        """Return the declaration: YAML with comments."""
        made = f"{EDITOR_LINE}\n"
        made += comment(
            f"Proposed by `fiot extras describe-data` for {self.path.name} ({self.records} records). "
            "Read it and correct what is wrong."
        )
        made += comment(
            f"Ranges go {MARGIN:.0%} of the values' width beyond what the file holds, on each side, and {TARGET_MARGIN:.0%} for the "
            "target. A measurement outside is taken as it is, and counted ('outside: warn'), because it is usually real and only new "
            "to this file. Without that, as for counts and the target, its record is refused; 'outside: clip' uses the nearer end of "
            "the range instead. A fill stands in for a missing number: it is the median of the file's values."
        )
        made += "".join(comment(f"NOTE: {note}.") for note in self.notes)
        made += f"name: {scalar(self.name)}\n"
        if self.copies:
            made += comment(f"CHECK: {self.copies_found}.")
        made += self._id()
        if not self.target_was_named:
            made += comment("CHECK: no target was named, so the last column of numbers is used.")
        made += f"target: {scalar(self.target)}\n"
        if self.time:
            made += comment(self.time.why) + f"{'' if self.time.way else '# '}time: {flow(self.time.declared)}\n"
        made += split_lines(self.split, self.checked.alike_by_chance if self.checked else "") + "\ncolumns:\n"
        made += "".join(self._column(column) for column in self.columns if column.name != self.key)
        return made + "\npipeline:\n" + self._pipeline()

    @property
    def copies_found(self) -> str:
        """How many records are copies, and what to do; empty where none are."""
        if not self.copies:
            return ""
        verb = "is" if self.copies == 1 else "are"
        return (
            f"{self.copies} of {self.records} records {verb} equal to an earlier one: copies from a join or a file appended twice "
            "say nothing new, so remove them; measurements that came out alike may stay"
        )

    @property
    def offered_key(self) -> InspectedColumn | None:
        """A column that may be the key where a person knows that its numbers are never used again."""
        return offered_key([column for column in self.columns if column.name != self.target])

    def _id(self) -> str:
        """Return the key's line, or the line that a person may want, as a comment."""
        if self.key:
            return (
                comment(
                    f"'{self.key}' is different in every record, so it is the records' key. It needs no line in columns."
                )
                + f"id: {scalar(self.key)}\n"
            )
        offered = self.offered_key
        if offered and not offered.growth:
            return (
                comment(
                    f"'{offered.name}' is different in every record. Where it names the record, as a batch number does, remove "
                    "the '#' of the next line. Later lab values and corrections then find it. The column's lines below may stay:"
                )
                + f"# id: {scalar(offered.name)}\n"
            )
        if offered is None or offered.growth is None:
            return (
                comment(
                    "No column is the records' key, so keys are made of file and row: rows of a changed file are new records. Where a "
                    "column names the record, such as a batch number, name it here; its lines below may stay:"
                )
                + "# id: NAME OF THE COLUMN\n"
            )
        why = "counts the rows of this file" if offered.growth.kind == COUNTER else "is different in every record"
        return (
            comment(
                f"'{offered.name}' {why}. It is not taken as the key: where the next file uses its numbers again, other "
                "measurements would pass for known ones. Where a number is never used again, remove the '#' of the next line; "
                "the column's lines below may stay:"
            )
            + f"# id: {scalar(offered.name)}\n"
        )

    def dataset(self) -> Dataset:
        """Return the declaration as a data set."""
        return Dataset.parse(self.text(), f"the declaration of {self.path.name}")

    def _column(self, column: InspectedColumn) -> str:
        is_target = column.name == self.target
        declared: dict[str, Any] = {"name": column.name, "type": "number" if is_target else column.type}
        if column.categories:
            declared["categories"] = column.categories
        if column.format:
            declared["format"] = column.format
        grows = column.growth is not None and column.name in self.proposal.dropped  # tomorrow's value is beyond every range
        limits = column.target_range if is_target else None if grows else column.range
        if limits:
            declared["range"] = limits
            declared |= {"outside": "warn"} if declared["type"] == "number" and column.name in self.proposal.used else {}
        # A column that no step takes, such as a later grade or remark, is not required in a request for a prediction.
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
        if column.censored and declared["type"] == "number":
            declared["censored"] = column.censored
        notes = self._notes(column)
        made = (comment("; ".join(notes), "  ") if notes else "") + f"  - {flow(declared)}\n"
        if column.spellings:
            others = {name for names in column.spellings.values() for name in names}
            kept = tuple(name for name in column.categories if name not in others)
            merged = {**declared, "categories": kept, "spellings": column.spellings}
            made += other_line("Where these are one category each", merged)
        return made + (self._without_sentinels(column, declared) if column.sentinels else "")

    def _notes(self, column: InspectedColumn) -> list[str]:
        notes = [*column.notes, *column.hints]
        if column.growth:
            notes.append(column.growth.why)
        if column.name in self.leaking:
            notes.append(f"{self.leaking[column.name]}: is it known before '{self.target}', or made from it?")
        if column.missing:
            notes.append(f"missing in {column.missing} of {self.records} records")
        return notes

    def _without_sentinels(self, column: InspectedColumn, declared: Mapping[str, Any]) -> str:
        """Return the line of a column whose sentinels are missing values, as a comment."""
        is_target, rest = column.name == self.target, column.without_sentinels()
        changed = {**declared, "optional": True, "missing_values": column.sentinels}
        limits = rest.target_range if is_target else rest.range
        if limits:
            changed["range"] = limits
        if not is_target and column.name in self.proposal.used:
            changed["fill"] = rest.median
        listed = ", ".join(f"{value:g}" for value in column.sentinels)
        made = comment(f"Where {listed} stands for 'no value', put this line in place of the one above, without '#':", "  ")
        return made + f"  # - {flow(changed)}\n"

    def _pipeline(self) -> str:
        made = ""
        if self.proposal.dropped:
            for name, reason in self.proposal.dropped.items():
                made += comment(f"{name}: {reason}", "  ")
            made += f"  - {flow({'step': 'drop', 'columns': list(self.proposal.dropped)})}\n"
        for column in self.columns:
            if column.type == "datetime" and column.name in self.proposal.dropped and not column.notes:
                step = {"step": "date_parts", "column": column.name, "parts": date_parts(column)}
                also = "give the column a fill" if column.missing else "remove 'optional: true' from its line"
                made += comment(f"To use '{column.name}', remove it from drop, {also}, and remove the '#':", "  ")
                made += f"  # - {flow(step)}\n"
        for step, why in self.proposal.steps:
            made += (comment(why, "  ") if why else "") + f"  - {flow(step)}\n"
        return made


def describe(path: Path, target: str = "") -> Description:
    """Read a file and propose a declaration.

    Args:
        path: A file that ``sources.tables`` reads.
        target: The column to predict; the last column of numbers by default, which the declaration says.

    Raises:
        SourceFileError: The file cannot be read.
        DescribeError: It holds nothing to learn from, or the target is not a column of numbers.
    """
    with readable(path):
        table = table_at(path)
        looked_at = LookedAt.of(table)
    if not looked_at.records:
        raise DescribeError(f"The file {path} has no records.")
    columns = _look(path, table, looked_at)
    keys = [column for column in columns if column.name != target]
    columns = [column for column in columns if column.name != ID]
    counters = {column.name for column in columns if column.numbers_rows}
    divided = True
    while True:
        key = key_column(keys, looked_at)
        chosen = choose_target([column for column in columns if column.name != key], target, table, looked_at)
        note_repeated_keys([column for column in columns if column.name != key])
        leaking = {column.name: how for column in columns if (how := leak(column, looked_at.frame, chosen))}
        proposal = propose([column for column in columns if column.name != key], chosen.name, leaking)
        if not proposal.steps:
            reasons = "; ".join(f"'{name}': {reason}" for name, reason in list(proposal.dropped.items())[:_MAX_REASONS])
            raise DescribeError(
                f"The file {path} has no column from which the target '{chosen.name}' could be predicted"
                + (f" ({reasons})." if reasons else ".")
            )
        others = [column for column in columns if column.name not in (key, chosen.name)]
        time = proposed_time(others, looked_at.frame)
        split = ProposedSplit()
        if divided:
            split = propose_split(columns, looked_at.frame, key, chosen.name, proposal.used, time)
        made = Description(
            path, table, looked_at.records, tuple(columns), key, chosen.name, bool(target), proposal, leaking,
            time=time, split=split,
        )  # fmt: skip
        checked = check_file(path, made.dataset(), table, counters)
        if key and checked.same_key:  # outside of the sample
            note_repetitions(next(column for column in keys if column.name == key), checked.same_key)
            keys = [column for column in keys if column.name != key]
            continue
        too_few = min(checked.parts) < MIN_SAMPLES and not checked.alike_by_chance
        if split.why and split.is_sure and too_few:
            divided = False
            continue
        changed = corrected(path, columns, checked, chosen.name, table.nested)
        if changed is None:
            return replace(made, checked=checked, notes=(*looked_at.notes, *checked.notes), copies=checked.copies)
        columns = changed


def refused(description: Description) -> tuple[int, str]:
    """Return how many records the declaration of a file refuses, and why the first one is."""
    checked = description.checked or check_file(description.path, description.dataset())
    return checked.refused, checked.first


def _look(path: Path, table: Table, looked_at: LookedAt) -> list[InspectedColumn]:
    try:
        columns = [
            inspect_column(looked_at, name, table.notation(name), table.units.get(name, ""))
            for name in looked_at.frame.columns
        ]
    except TypeError as error:
        raise DescribeError(f"The file {path} cannot be described: {error}.") from error
    take_as_counts(columns)
    return columns
