"""Makes batches of what comes in: JSON records, columns, Arrow tables, processed features."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
from msgspec.structs import astuple

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import MAX_FAULTS, faults_message, raw_check
from complex_system.errors import InvalidRecordError, InvalidRequestError, TooLargeError
from complex_system.pipeline.pipeline import FEW_RECORDS, MANY_RECORDS, Pipeline
from complex_system.pipeline.raw_columns import RawColumns
from complex_system.serving.requests.batch import Batch, ColumnBatch, FeatureBatch, RecordBatch, ValueBatch
from complex_system.serving.requests.bodies import LARGE_BODY, json_of
from complex_system.serving.requests.columns import ColumnReader
from complex_system.serving.requests.feature_matrix import feature_matrix


class BatchReader:
    """Makes batches of what comes in, or says all that is wrong with it.

    Attributes:
        pipeline: What the batches are for.
        declared: The columns that are known.
    """

    def __init__(
        self, pipeline: Pipeline, *, most: int, ignore_unknown: bool = False, present: Dataset | None = None
    ) -> None:
        """Makes a reader.

        Args:
            pipeline: Knows the declared columns.
            most: Records that one request may hold.
            ignore_unknown: Whether columns that are not declared are left out; otherwise they are faults.
            present: The deployment's data set, where the pipeline is of an older version: what only it declares is taken too, and
                the model does not see it, so that a client need not know which version answers.
        """
        self.pipeline = pipeline
        self.most = most
        self._ignore_unknown = ignore_unknown
        further = [each for each in (present.columns if present else ()) if each.name not in pipeline.dataset.by_name]
        self.declared = (*pipeline.dataset.columns, *further)
        self._check = raw_check(pipeline.dataset, ignore_unknown=ignore_unknown, also=further)
        one, many = self._check.types if self._check.compiled else (Any, Any)
        self._one = msgspec.json.Decoder(one)
        self._many = msgspec.json.Decoder(many)
        wrapped = msgspec.defstruct("Records", [("records", many)], forbid_unknown_fields=True, gc=False)
        self._wrapped: msgspec.json.Decoder[Any] = msgspec.json.Decoder(wrapped)
        raw = msgspec.defstruct("RawRecords", [("records", msgspec.Raw)], forbid_unknown_fields=True, gc=False)
        self._wrapped_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(raw)
        self._elements: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
        self._columns = ColumnReader(self.declared, self._check.names, pipeline.dataset)
        self._getters = [operator.attrgetter(f"f{i}") for i in range(len(self._columns.kinds))]

    def body(self, body: bytes) -> Batch:
        """The records of ``{"records": [...]}``, a list of records, or one record, in JSON.

        Good input is decoded straight into typed fields; only what that refuses is looked at again to find the words.

        Raises:
            InvalidRequestError: The body is no JSON, or none of the three.
            InvalidRecordError: A record is malformed.
            TooLargeError: There are too many records.
        """
        if not self._check.compiled:
            return self.records(self._untyped(body))
        start = body[:64].lstrip()
        try:
            if start.startswith(b"["):
                rows = self._many.decode(body) if len(body) < LARGE_BODY else self._in_turns(body)
            elif start.startswith(b'{"records"'):
                wrapped = self._wrapped if len(body) < LARGE_BODY else self._wrapped_raw
                rows = wrapped.decode(body).records
                rows = rows if len(body) < LARGE_BODY else self._in_turns(rows)
            else:
                rows = [self._one.decode(body)]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self.records(self._untyped(body))
        if not rows:
            return self.records(self._untyped(body))
        self._bounded(len(rows))
        if len(rows) <= FEW_RECORDS:
            return RecordBatch(msgspec.to_builtins(rows))
        if len(rows) <= MANY_RECORDS:
            return ValueBatch(
                RawColumns(dict(zip(self._columns.kinds, zip(*map(astuple, rows), strict=True), strict=True)), len(rows))
            )
        # Column by column, so that Python's lock is never held for long.
        return ColumnBatch(
            pl.DataFrame(
                [
                    pl.Series(name, list(map(get, rows)), kind)
                    for get, (name, kind) in zip(self._getters, self._columns.kinds.items(), strict=True)
                ]
            )
        )

    def records(self, value: Any) -> RecordBatch:
        """Records as mappings.

        Raises:
            InvalidRequestError: ``value`` is no list, or empty.
            InvalidRecordError: A record is malformed; all faults of all records are named, the first 20.
            TooLargeError: There are too many records.
        """
        if not isinstance(value, list):
            raise InvalidRequestError("A list of records is expected.")
        if not value:
            raise InvalidRequestError("There is no record in the request.")
        self._bounded(len(value))
        try:
            return RecordBatch(self._check(value))
        except InvalidRecordError:
            faults = self._check.faults(value, self.pipeline.faults_of)
            raise InvalidRecordError(faults_message(faults), faults) from None

    def columns(self, columns: Mapping[str, Sequence[Any]]) -> Batch:
        """Columns by name, all of the same length. A missing one that is optional is filled as declared.

        Raises:
            InvalidRequestError: There is no record, or the lengths differ.
            InvalidRecordError: A value is not of its column's type, or a column is missing or not declared.
            TooLargeError: There are too many records.
        """
        sizes = {name: len(values) for name, values in columns.items()}
        if not sizes or not max(sizes.values()):
            raise InvalidRequestError("There is no record in the request.")
        size = max(sizes.values())
        if shorter := [name for name, other in sizes.items() if other != size]:
            raise InvalidRequestError(
                f"All columns must be equally long; '{shorter[0]}' has {sizes[shorter[0]]} of {size} values."
            )
        self._bounded(size)
        complete = size > FEW_RECORDS and self._columns.needed <= set(columns)
        if complete and (self._ignore_unknown or set(columns) <= set(self._columns.kinds)):
            try:
                if size <= MANY_RECORDS:
                    return ValueBatch(self._columns.values(columns, size))
                return ColumnBatch(self._columns.frame(columns, size))
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
                pass  # the slow way finds the words
        names = list(columns)
        return self.records([dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)])

    def table(self, table: pa.Table) -> ColumnBatch:
        """An Arrow table of raw columns.

        Raises:
            InvalidRequestError: A needed column is missing, one is not declared or of another type, or there are no rows.
            TooLargeError: There are too many rows.
        """
        if not table.num_rows:
            raise InvalidRequestError("There is no record in the request.")
        self._bounded(table.num_rows)
        unknown = [name for name in table.column_names if name not in self._columns.kinds]
        if unknown and not self._ignore_unknown:
            raise InvalidRequestError(f"The column(s) {', '.join(unknown[:MAX_FAULTS])[:500]} are not declared.")
        if len(set(table.column_names)) != table.num_columns:
            raise InvalidRequestError("A column is there more than once.")
        return ColumnBatch(self.pipeline.typed(table.drop_columns(unknown)))

    def features(self, values: Sequence[Any], shape: Sequence[int]) -> FeatureBatch:
        """Processed features.

        Args:
            values: The elements in row-major order, as they came.
            shape: Rows and features.

        Raises:
            InvalidRequestError: The shape is not (n, features), or there is no row.
            InvalidRecordError: An element is no finite number that a float32 can hold.
            TooLargeError: There are too many rows.
        """
        names = self.pipeline.dataset.feature_names
        if len(shape) != 2 or shape[1] != len(names):
            raise InvalidRequestError(f"Processed features have the shape (n, {len(names)}), not {tuple(shape[:4])}.")
        if not shape[0]:
            raise InvalidRequestError("There is no record in the request.")
        self._bounded(shape[0])
        return FeatureBatch(feature_matrix(values, shape, names))

    def _in_turns(self, body: bytes | msgspec.Raw) -> list[Any]:
        # The decoder holds Python's lock for a whole call; record by record, the event loop has its turn in between.
        decode = self._one.decode
        return [decode(element) for element in self._elements.decode(body)]

    def _bounded(self, size: int) -> None:
        if size > self.most:
            raise TooLargeError(
                f"{size} records are more than the {self.most} that one request may hold; "
                f"send them in {-(-size // self.most)} requests of at most {self.most}."
            )

    def _untyped(self, body: bytes) -> list[Any]:
        content = json_of(body)
        if isinstance(content, dict):
            content = content["records"] if list(content) == ["records"] else [content]
        if not isinstance(content, list):
            raise InvalidRequestError('The body must be {"records": [...]}, a list of records, or one record.')
        return content
