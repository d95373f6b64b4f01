"""Checks a file's records by a declaration: how many can be used, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from complex_system.describe.inspection import InspectedColumn
from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import DescribeError, InvalidRecordError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.replay import ReplayFile
from complex_system.training.split import NO_COPIES, Copies, CopyCount, Part, groups_of, parts_of

_BATCH = 5000
_SHOWN = 3


@dataclass(frozen=True)
class FileCheck:
    """The result.

    Attributes:
        records: How many the file has.
        refused: How many of them cannot be processed.
        labelled: How many can be, and have the target.
        reasons: The first reason in each column that has one, with its row and how many rows have one there.
        same_key: Records whose key an earlier one has; they are not kept.
        example: One of those keys.
        without_key: Records without a key, whose key was made.
        absent: Declared columns that the file does not have.
        copies: Records of a key of their own that are equal to an earlier one but for the key.
        parts: Labelled records in the train, validation and hold-out part of the split.
        refusing: Columns whose values cost a record, with the first reason.
        notes: What of the file is not a record, or read in a way of its own.
        alike: Labelled records with the same features and target.
    """

    records: int
    refused: int
    labelled: int
    reasons: tuple[str, ...]
    same_key: int = 0
    example: str = ""
    without_key: int = 0
    absent: tuple[str, ...] = ()
    parts: tuple[int, ...] = (0, 0, 0)
    copies: int = 0
    refusing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alike: Copies = NO_COPIES

    @property
    def why(self) -> str:
        """The reasons of the first columns."""
        more = f"; and {len(self.reasons) - _SHOWN} more columns" if len(self.reasons) > _SHOWN else ""
        return "; ".join(self.reasons[:_SHOWN]) + more

    @property
    def first(self) -> str:
        """The first reason; empty where no record is refused."""
        return self.reasons[0] if self.reasons else ""

    @property
    def alike_by_chance(self) -> str:
        """Why records that look like copies are taken for measurements of their own; empty where they are copies, or few."""
        alike = self.alike
        if alike.are_few or not (alike.by_chance and alike.together):
            return ""
        return (
            f"{alike.count} of {alike.records} records have the features and the target of an earlier one, and most records with the "
            "same features have another target: so they are taken for measurements of their own. If they are copies, remove this line."
        )


def check_file(path: Path, dataset: Dataset) -> FileCheck:
    """Process all records of a file by a declaration, without keeping them.

    Raises:
        SourceFileError: The file cannot be read, or its columns are not the declared ones.
    """
    pipeline = Pipeline(dataset)
    file = ReplayFile(path, dataset)
    records = refused = same_key = without_key = 0
    parts = np.zeros(len(Part), dtype=int)
    example = ""
    found: dict[str, tuple[int, str, int]] = {}
    keys: set[str] = set()
    contents: set[int] = set()
    copies, alike = 0, CopyCount(dataset)
    for rows in file.batches(_BATCH):
        records += len(rows)
        without_key += sum(row.key_made for row in rows)
        good = [row for row in rows if not row.fault]
        faulty = [(row.number, row.fault) for row in rows if row.fault]
        try:
            pipeline.process([row.record for row in good])
        except InvalidRecordError:
            kept = []
            for row in good:
                if faults := pipeline.faults_of(row.record, row.number):
                    faulty.append((row.number, f"field '{faults[0]['field']}': {faults[0]['problem']}"))
                else:
                    kept.append(row)
            good = kept
        refused += len(faulty)
        labelled: list[Record] = []
        for number, fault in sorted(faulty):
            column = fault.partition("': ")[0] + "'" if fault.startswith("field '") else fault.partition(": ")[0]
            first = found.get(column, (number, fault, 0))
            found[column] = (first[0], first[1], first[2] + 1)
        for row in good:
            if row.record[ID] in keys:
                same_key, example = same_key + 1, example or row.record[ID]
                continue
            keys.add(row.record[ID])
            copies += (content := _content(row.record)) in contents
            contents.add(content)
            if row.record.get(dataset.target) is not None:
                labelled.append(row.record)
        if labelled:
            table = pipeline.process(labelled).to_arrow()
            alike.add(table)
            parts += np.bincount(parts_of(groups_of(dataset, table)), minlength=len(Part))
    reasons = [
        f"row {row}, {fault}" + (f" ({count} rows)" if count > 1 else "") for row, fault, count in sorted(found.values())
    ]
    each = tuple(int(part) for part in parts)
    refusing = {name: found[column][1] for name in dataset.by_name if (column := f"field '{name}'") in found}
    return FileCheck(
        records,
        refused,
        sum(each),
        tuple(reasons),
        same_key,
        example,
        without_key,
        file.absent,
        each,
        copies,
        refusing,
        file.notes,
        alike.found(),
    )


def corrected(path: Path, columns: list[InspectedColumn], checked: FileCheck, target: str) -> list[InspectedColumn] | None:
    """Return columns that accept more of their file; None where the proposal refuses no value but such of the target.

    A column whose values the proposal would refuse becomes a text that is not used, and says why.

    Raises:
        DescribeError: A value is refused even as a text.
    """
    wrong = {name: why for name, why in checked.refusing.items() if name != target}
    if not wrong:
        return None
    if any(column.name in wrong and column.type == "text" for column in columns):
        raise DescribeError(
            f"The file {path} cannot be described: {checked.why}. Correct the values, or leave the column out."
        )
    return [
        InspectedColumn(each.name, "text", each.unit, each.missing, each.different, notes=[*each.notes, wrong[each.name]])
        if each.name in wrong
        else each
        for each in columns
    ]


def _content(record: Record) -> int:
    """Return a hash of the values without the key; 64 bits are enough to count."""
    return hash(tuple(tuple(value) if isinstance(value, list) else value for name, value in record.items() if name != ID))
