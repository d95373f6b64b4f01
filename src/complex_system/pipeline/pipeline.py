"""Turns raw records of a data set into processed ones, by the declared steps and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa

from complex_system.domain.columns import Column
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import MAX_FAULTS, Record, as_read, faults_message
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault
from complex_system.pipeline.checks import checks, range_text
from complex_system.pipeline.expressions import FrameType, feature_expressions, frame_type
from complex_system.pipeline.rows import Matrix, RowSteps

FEW_RECORDS = 300
"""Up to so many records are processed one by one, more of them as a frame of polars: see ``docs/serving.md`` for the times."""


@dataclass(frozen=True)
class OutsideRange:
    """Values of a column that lie outside of its range and were taken all the same (``Column.outside``).

    Attributes:
        column: Its declaration.
        count: How many there are.
        records: Positions of the records that have one, ascending.
    """

    column: Column
    count: int
    records: tuple[int, ...]

    @property
    def message(self) -> str:
        """What was found, and what became of it; without the name of the column."""
        assert self.column.range is not None
        if self.count == 1:
            return f"1 value {self.problem}"
        done = "moved to its nearer end" if self.column.outside == "clip" else "taken as they are"
        return f"{self.count} values are outside of {range_text(self.column.range)} and are {done}"

    @property
    def problem(self) -> str:
        """The same of one value, without it."""
        assert self.column.range is not None
        done = "moved to its nearer end" if self.column.outside == "clip" else "taken as it is"
        return f"is outside of {range_text(self.column.range)} and is {done}"


class Pipeline:
    """The compiled steps of one data set; thread-safe.

    A record's result does not depend on the records beside it, to the last bit.

    Attributes:
        dataset: What was compiled.
        lenient: Its columns whose numbers may lie outside of their range (``Column.outside``).
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._checks = checks(dataset)
        self._raw_types: dict[str, FrameType] = {ID: pl.String}
        used = [dataset.column(check.field) for check in self._checks]
        self._raw_types |= {column.name: frame_type(column) for column in used}
        made = feature_expressions(dataset)
        self._rows = RowSteps(dataset)
        self._features = [made[name] for name in dataset.feature_names]
        self._processed = [pl.col(ID), pl.col(dataset.target), *self._features]
        self._known_numbers = [_known(column) for column in used if column.missing_values]
        self._known_values = [_known(column) for column in used if frame_type(column) in (pl.String, pl.Float64)]
        self._spelled = any(column.spelled for column in used)
        self.lenient = [column for column in used if column.outside != "refuse" and column.range]
        self._ranges = [(column, column.name, *column.range) for column in self.lenient if column.range]
        self._outside = [_outside(column) for column in self.lenient]
        self._passes = reduce(operator.and_, (check.passes for check in self._checks))
        self._numbers_pass = [check.all_pass.alias(check.field) for check in self._checks if not check.one_hot]
        self._known = [
            pl.sum_horizontal(pl.col(check.one_hot).sum()).alias(check.field) for check in self._checks if check.one_hot
        ]

    def process(self, records: Sequence[Record]) -> pl.DataFrame:
        """Process well-formed raw records (``domain.records.raw_check``).

        Returns:
            Columns ``dataset.processed_names`` in that order; a row a record, in the order of the records. The key is null
            for a record without one, the target where it is missing; features are never null or NaN.

        Raises:
            InvalidRecordError: A record cannot be processed; names the first 20 faults.
        """
        return self._typed_frame(self._processable(records)).select_seq(*self._processed)

    def features(self, records: Sequence[Record]) -> Matrix:
        """Return the features of well-formed raw records, as models take them.

        Returns:
            Shape (records, features), float32, columns in the order of ``dataset.feature_names``.

        Raises:
            InvalidRecordError: As for :meth:`process`.
        """
        if len(records) <= FEW_RECORDS:
            if len(records) == 1 or self._known_numbers or not all(check.all_valid(records) for check in self._checks):
                records = self._processable(records)
            return self._rows(records)
        return self.features_of(self._typed_frame(records))

    def features_of(self, frame: pl.DataFrame) -> Matrix:
        """Return the features of raw records as typed columns (:meth:`typed`); errors as for :meth:`features`."""
        frame, made, valid = self._applied(frame, self._features, parallel=False)
        if not valid:
            self._refuse_rows(frame)
        matrix = np.empty((made.height, made.width), dtype=np.float32)
        for i, column in enumerate(made.iter_columns()):
            matrix[:, i] = column.to_numpy()
        return matrix

    def known(self, records: Sequence[Record]) -> list[Record]:
        """Return raw records with every value as it is meant (``Column.read``), such as None for what stands for a missing one."""
        return [as_read(record, self.dataset.by_name) for record in records]

    def outside(self, values: Sequence[Record] | pl.DataFrame) -> tuple[OutsideRange, ...]:
        """Return what lies outside of the range in columns whose records are not refused for it; the target counts, too.

        Args:
            values: Raw records that can be processed, as mappings or as typed columns (:meth:`typed`).
        """
        if not self.lenient:
            return ()
        found: list[tuple[Column, list[int]]] = []
        if isinstance(values, pl.DataFrame):
            for (column, name, low, high), is_outside in zip(self._ranges, self._outside, strict=True):
                least, most = (cast("float | None", end) for end in (values[name].min(), values[name].max()))
                if least is not None and most is not None and not low <= least <= most <= high:
                    found.append((column, values.select(is_outside).to_series().arg_true().to_list()))
        else:
            for column, name, low, high in self._ranges:
                # Most are numbers inside, and this is asked of every value of a request.
                other = [
                    (place, value)
                    for place, record in enumerate(values)
                    if type(value := record.get(name)) is not float or not low <= value <= high
                ]
                found.append((column, [place for place, value in other if column.is_outside(value)]))
        return tuple(OutsideRange(column, len(at), tuple(at)) for column, at in found if at)

    def split(self, raw: pl.DataFrame | pa.Table) -> tuple[pl.DataFrame, list[dict[str, str]]]:
        """Process raw records in bulk and name those that cannot be processed.

        Args:
            raw: Columns by name, in any order; optional ones may be missing, others are ignored.

        Returns:
            The processed records, as from :meth:`process` but without those left out, and for each of these
            ``{"_id", "reason"}``.

        Raises:
            InvalidRequestError: A required column is missing or has another type.
        """
        frame, processed, valid = self._applied(self.typed(raw), self._processed)
        if valid:
            return processed, []
        passes = frame.select(self._passes).to_series()
        left_out = frame.filter(~passes).to_dicts()
        rejections = [{ID: record[ID], "reason": self._reason(record)} for record in left_out]
        return processed.filter(passes), rejections

    def transform(self, raw: pl.DataFrame | pa.Table) -> pl.DataFrame:
        """Process raw records in bulk, all or none: a record that cannot be processed is an error, as in :meth:`process`."""
        frame, processed, valid = self._applied(self.typed(raw), self._processed)
        if not valid:
            self._refuse_rows(frame)
        return processed

    def typed(self, raw: pl.DataFrame | pa.Table) -> pl.DataFrame:
        """Return the columns that processing needs, in the declared types; missing optional columns are null.

        Raises:
            InvalidRequestError: A required column is missing or has another type.
        """
        given = raw if isinstance(raw, pl.DataFrame) else pl.DataFrame(pl.from_arrow(raw))
        if missing := [check.field for check in self._checks if check.needed and check.field not in given.columns]:
            raise InvalidRequestError(f"The column(s) {', '.join(missing)} are required and missing.")
        columns = [
            pl.col(name).cast(kind) if name in given.columns else pl.lit(None, dtype=kind).alias(name)
            for name, kind in self._raw_types.items()
        ]
        try:
            return given.with_columns(columns).select(list(self._raw_types))
        except pl.exceptions.PolarsError as error:
            raise InvalidRequestError(f"The columns do not have the declared types: {error}") from error

    def _applied(
        self, raw: pl.DataFrame, expressions: list[pl.Expr], *, parallel: bool = True
    ) -> tuple[pl.DataFrame, pl.DataFrame, bool]:
        """Return raw records with values as they are meant, what is made of them, and whether all can be processed.

        Records that were saved before the declaration named missing values or spellings still have them. A marker or a spelling among
        the texts, or NaN, fails its check, so it is looked for only where one fails; a number in ``missing_values`` may lie within the
        range.
        """
        frame = raw.with_columns(self._known_numbers) if self._known_numbers else raw
        made = frame.select(expressions) if parallel else frame.select_seq(expressions)
        if self._all_pass(frame, made):
            return frame, made, True
        known = frame.with_columns(self._known_values)
        if not self._spelled and known.null_count().equals(frame.null_count()):
            return frame, made, False
        made = known.select(expressions)
        return known, made, self._all_pass(known, made)

    def _all_pass(self, raw: pl.DataFrame, processed: pl.DataFrame) -> bool:
        """Return whether every row can be processed; sums the one-hot features, since comparing the texts again costs most."""
        nulls = {check.field: raw.get_column(check.field).null_count() for check in self._checks}
        if any(check.needed and nulls[check.field] for check in self._checks):
            return False
        if not all(raw.select(self._numbers_pass).row(0)):
            return False
        known = processed.select(self._known)
        return all(known.get_column(field)[0] == raw.height - nulls[field] for field in known.columns)

    def _typed_frame(self, records: Sequence[Record]) -> pl.DataFrame:
        # One series per column is twice as fast as a frame of a dict of lists, and much faster than one of a list of dicts.
        return pl.DataFrame(
            [pl.Series(name, [record.get(name) for record in records], kind) for name, kind in self._raw_types.items()]
        )

    def faults_of(self, record: Record, position: int) -> list[RecordFault]:
        """Return what keeps a well-formed record from being processed, one fault per column."""
        return [
            {"record": position, "id": record.get(ID), "field": check.field, "problem": problem}
            for check in self._checks
            if (problem := check.problem_in(record))
        ]

    def _processable(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return records that can be processed; as for :meth:`_applied`, one that cannot is looked at for missing values."""
        records = self.known(records) if self._known_numbers else records
        try:
            self._refuse_faults(records)
        except InvalidRecordError:
            known = self.known(records)
            if known == list(records):
                raise
            self._refuse_faults(known)
            return known
        return records

    def _refuse_rows(self, frame: pl.DataFrame) -> None:
        positions = frame.select(~self._passes).to_series().arg_true().head(MAX_FAULTS).to_list()
        self._refuse_faults(frame[positions].to_dicts(), positions)

    def _refuse_faults(self, records: Sequence[Record], positions: Sequence[int] | None = None) -> None:
        faults: list[RecordFault] = []
        for position, record in zip(positions or range(len(records)), records, strict=True):
            faults += self.faults_of(record, position)
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            raise InvalidRecordError(faults_message(faults[:MAX_FAULTS]), faults[:MAX_FAULTS])

    def _reason(self, record: Record) -> str:
        found = ((check.field, check.problem_in(record)) for check in self._checks)
        return "; ".join(f"{field}: {problem}" for field, problem in found if problem)


def _outside(column: Column) -> pl.Expr:
    """Return whether a value lies outside of its range (``Column.is_outside``)."""
    assert column.range is not None
    value = pl.col(column.name)
    outside = ~value.is_between(*column.range) & value.is_not_nan() & ~value.is_in(list(column.missing_values))
    return outside.fill_null(value=False).alias(column.name)


def _known(column: Column) -> pl.Expr:
    """Return the column with its values as they are meant (``Column.read``)."""
    value = pl.col(column.name)
    if column.is_numeric:
        missing = value.is_nan() | value.is_in(list(column.missing_values))
    else:
        as_written = [*column.categories, *column.spelled]
        missing = value.str.strip_chars().is_in(sorted(column.markers)) & ~value.is_in(as_written)
        if column.spelled:
            value = value.replace(column.spelled)
    return pl.when(missing).then(None).otherwise(value).alias(column.name)
