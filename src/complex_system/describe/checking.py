"""Checks a file's records by a declaration: how many can be used, and why the others cannot."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.repetitions import HashedRows
from complex_system.domain.columns import ARRIVED, ID, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.outliers import Numbers
from complex_system.domain.pages import plain_columns
from complex_system.errors import DescribeError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.base import ROW, Table
from complex_system.sources.replay import RecordFrame, ReplayFile
from complex_system.training.grouping import NO_PART, OriginCollector, divide
from complex_system.training.split import NO_COPIES, Copies, CopyCount, Part, groups_of, parts_of

_BATCH = 10_000
_SHOWN = 3
_UNLABELLED = -1


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
        copies: Records of a key of their own that are equal to an earlier one but for the key and row numbers.
        parts: Labelled records in the train, validation and hold-out part of the split; with one by time some may be in none.
        refusing: Columns whose values cost a record, with the first reason.
        notes: What of the file is not a record, or read in a way of its own.
        alike: Labelled records with the same features and target.
        limits: How many values are beyond a limit, and what stands in for them.
        outside: Values outside of their range whose records are processed all the same, by column.
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
    limits: tuple[str, ...] = ()
    outside: Mapping[str, int] = field(default_factory=dict)

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


def check_file(path: Path, dataset: Dataset, table: Table | None = None, counters: Collection[str] = ()) -> FileCheck:
    """Process all records of a file by a declaration, without keeping them.

    Args:
        path: The file.
        dataset: The declaration.
        table: The table in the file, where it is open already.
        counters: Columns that number the rows, in which copies may differ.

    Raises:
        SourceFileError: The file cannot be read, or its columns are not the declared ones.
    """
    file = ReplayFile(path, dataset, table)
    counts = _Counts(dataset, counters)
    for rows in file.frames(_BATCH):
        counts.add(rows)
    return counts.found(file)


class _Counts:
    """What is counted in the records of a file: read as the source reads them, and processed in bulk as ``data_processing`` does."""

    def __init__(self, dataset: Dataset, counters: Collection[str]) -> None:
        self._dataset = dataset
        self._own = [ID, *(name for name in dataset.by_name if name in counters)]
        self._pipeline = Pipeline(dataset)
        self._records = self._refused = self._without_key = 0
        self._reasons: dict[str, tuple[int, str, int]] = {}
        self._accepted = HashedRows(content="u8", part="i1")
        self._alike = CopyCount(dataset)
        self._origins = OriginCollector(dataset)
        self._rows: list[Numbers] = []
        self._outside: Counter[str] = Counter()

    def add(self, rows: RecordFrame) -> None:
        """Take the next rows of the file."""
        frame, numbers = rows.records.drop(ROW), rows.records[ROW].to_numpy()
        self._records += frame.height + len(rows.faults)
        self._without_key += rows.keys_made
        faults = list(rows.faults.items())
        places = pl.Series(ID, map(str, range(frame.height)), pl.String)
        processed, rejections = self._pipeline.split(frame.with_columns(places))
        refused = [int(rejection[ID]) for rejection in rejections]
        for place in refused:
            number = int(numbers[place])
            fault, *_ = self._pipeline.faults_of(frame.row(place, named=True), number)
            faults.append((number, f"field '{fault['field']}': {fault['problem']}"))
        self._refuse(sorted(faults))
        kept = np.delete(np.arange(frame.height), refused)
        frame, numbers = (frame[kept], numbers[kept]) if refused else (frame, numbers)
        for each in self._pipeline.outside(frame):
            self._outside[each.column.name] += each.count
        self._accepted.add(
            hash=frame[ID].hash(),
            number=numbers,
            content=frame.drop(self._own).hash_rows().to_numpy(),
            part=self._parts_of(processed.with_columns(frame[ID]), frame, numbers),
        )

    def _parts_of(self, processed: pl.DataFrame, raw: pl.DataFrame, numbers: Numbers) -> npt.NDArray[np.int8]:
        """Return the part of every record: ``_UNLABELLED`` where it has no target; any where all records have to be known first."""
        parts = np.full(processed.height, _UNLABELLED, dtype=np.int8)
        labelled = processed[self._dataset.target].is_not_null()
        if labelled.any():
            table = processed.filter(labelled).to_arrow()
            self._alike.add(table)
            if self._dataset.split.by == "key":
                parts[labelled.to_numpy()] = parts_of(groups_of(self._dataset, table))
            else:
                parts[labelled.to_numpy()] = Part.TRAIN
                rows = numbers[labelled.to_numpy()]
                beside = plain_columns(raw.filter(labelled).select(self._origins.raw).to_arrow())
                for name in self._origins.raw:
                    table = table.append_column(raw_name(name), beside.column(name))
                # The file's order stands for that of arrival.
                self._origins.add(table.append_column(ARRIVED, pa.array(rows, pa.float64())))
                self._rows.append(rows)
        return parts

    def _refuse(self, faults: list[tuple[int, str]]) -> None:
        self._refused += len(faults)
        for number, fault in faults:
            column = fault.partition("': ")[0] + "'" if fault.startswith("field '") else fault.partition(": ")[0]
            row, reason, count = self._reasons.get(column, (number, fault, 0))
            self._reasons[column] = row, reason, count + 1

    def found(self, file: ReplayFile) -> FileCheck:
        """Return what was counted."""
        contents, same_key, repeated = HashedRows(), 0, sys.maxsize
        parts, labelled = np.zeros(len(Part), dtype=int), 0
        decided = divide(self._dataset.split, self._origins.found()) if self._rows else None
        for rows, repeats in self._accepted.parts():
            same_key += int(repeats.sum())
            repeated = min([repeated, *rows["number"][repeats].tolist()])
            kept = rows[~repeats]
            found = kept["part"][kept["part"] != _UNLABELLED]
            labelled += len(found)
            if decided is not None:  # the rows of a file rise
                places = np.searchsorted(np.concatenate(self._rows), kept["number"][kept["part"] != _UNLABELLED])
                found = decided[places]
            parts += np.bincount(found[found != NO_PART], minlength=len(Part))
            contents.add(hash=kept["content"], number=kept["number"])
        reasons = [
            f"row {row}, {fault}" + (f" ({count} rows)" if count > 1 else "")
            for row, fault, count in sorted(self._reasons.values())
        ]
        return FileCheck(
            records=self._records,
            refused=self._refused,
            labelled=labelled,
            reasons=tuple(reasons),
            same_key=same_key,
            example=_key_in(file, repeated) if same_key else "",
            without_key=self._without_key,
            absent=file.absent,
            parts=tuple(parts.tolist()),
            copies=sum(int(repeats.sum()) for _, repeats in contents.parts()),
            refusing={
                name: self._reasons[column][1]
                for name in self._dataset.by_name
                if (column := f"field '{name}'") in self._reasons
            },
            notes=file.notes,
            alike=self._alike.found(),
            limits=file.limits,
            outside=self._outside,
        )


def _key_in(file: ReplayFile, number: int) -> str:
    """Return the key of a row; the file is read up to it."""
    found = (rows.records.filter(pl.col(ROW) == number)[ID] for rows in file.frames(_BATCH))
    return next(str(keys[0]) for keys in found if len(keys))


def corrected(
    path: Path, columns: list[InspectedColumn], checked: FileCheck, target: str, nested: Container[str]
) -> list[InspectedColumn] | None:
    """Return columns that accept more of their file; None where the proposal refuses no value but such of the target.

    A column whose values the proposal would refuse becomes a text that is not used, and says why. One that is refused even as a text
    is left out where it is not an outer one (``Table.nested``), such as lists of many thousand numbers. A few values that contradict
    how the other numbers of their column are written stay refused: no declaration can say what they mean.

    Raises:
        DescribeError: A value of another column is refused even as a text.
    """
    contradicting = {column.name for column in columns if column.contradicting}
    wrong = {name: why for name, why in checked.refusing.items() if name != target and name not in contradicting}
    if not wrong:
        return None
    no_texts = {column.name for column in columns if column.name in wrong and column.type == "text"}
    if any(name not in nested for name in no_texts):
        raise DescribeError(
            f"The file {path} cannot be described: {checked.why}. Correct the values, or leave the column out."
        )
    return [
        InspectedColumn(each.name, "text", each.unit, each.missing, each.different, notes=[*each.notes, wrong[each.name]])
        if each.name in wrong
        else each
        for each in columns
        if each.name not in no_texts
    ]
