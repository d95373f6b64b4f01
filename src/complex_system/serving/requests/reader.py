"""Turn JSON records, columns, Arrow tables and processed features into batches, or name all that is wrong with them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from complex_system.domain.columns import LARGEST_INTEGER
from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.keys import MAX_KEY
from complex_system.domain.records import MAX_FAULTS, faults_message, raw_check, suspects
from complex_system.domain.types import MAX_TEXT, column_type
from complex_system.errors import InvalidRecordError, InvalidRequestError, TooLargeError
from complex_system.http.limits import LARGE_BODY
from complex_system.pipeline.expressions import FrameType, frame_type
from complex_system.pipeline.pipeline import FEW_RECORDS, Pipeline
from complex_system.serving.requests.batch import Batch, ColumnBatch, FeatureBatch, RecordBatch
from complex_system.serving.requests.column_names import ColumnNames, UnknownColumns
from complex_system.serving.requests.json import json_of
from complex_system.serving.requests.wanted import INTERVAL, NOTHING, WARNINGS, Wanted, wanted_of

_WRAPPED = (b'{"records"', b'{"interval"', b'{"warnings"')


class BatchReader:
    """Makes batches for models of one pipeline.

    Attributes:
        pipeline: What the batches are for.
        declared: The known columns.
        names: What columns may be called.
    """

    def __init__(
        self, pipeline: Pipeline, *, max_records: int, unknown: UnknownColumns = "mlflow", present: Dataset | None = None
    ) -> None:
        """Make a reader.

        Args:
            pipeline: Knows the declared columns.
            max_records: Of one request.
            unknown: Where undeclared columns are ignored; elsewhere they are faults.
            present: The deployment's data set, where the pipeline is of an older version. Columns that only it declares are
                accepted and the model does not see them, so that a client need not know which version answers.
        """
        self.pipeline = pipeline
        self.max_records = max_records
        further = [each for each in (present.columns if present else ()) if each.name not in pipeline.dataset.by_name]
        self.declared = (*pipeline.dataset.columns, *further)
        self.names = ColumnNames(pipeline.dataset, self.declared, unknown, (present or pipeline.dataset).id)
        # Who has a key of another name must not have it ignored.
        self._ignore_unknown = unknown == "ignore" and not self.names.key
        self._check = raw_check(pipeline.dataset, ignore_unknown=self._ignore_unknown, also=further)
        one, many = self._check.types if self._check.compiled else (Any, Any)
        self._one = msgspec.json.Decoder(one)
        self._many = msgspec.json.Decoder(many)
        beside: list[tuple[str, Any, Any]] = [(INTERVAL, float | None, None), (WARNINGS, bool | None, None)]
        wrapped = msgspec.defstruct("Records", [("records", many), *beside], forbid_unknown_fields=True, gc=False)
        self._wrapped: msgspec.json.Decoder[Any] = msgspec.json.Decoder(wrapped)
        raw = msgspec.defstruct("RawRecords", [("records", msgspec.Raw), *beside], forbid_unknown_fields=True, gc=False)
        self._wrapped_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(raw)
        self._elements: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
        known = {column.name: column for column in self.declared}
        self._types: dict[str, FrameType] = {
            name: frame_type(known[name]) if name in known else pl.String for name in self._check.names
        }
        self._required = {column.name for column in pipeline.dataset.columns if not column.optional}
        self._columns = [
            _ColumnCheck(name, kind, known.get(name), required=name in self._required) for name, kind in self._types.items()
        ]
        self._getters = [operator.attrgetter(f"f{i}") for i in range(len(self._types))]

    def body(self, body: bytes) -> Batch:
        """Read ``{"records": [...]}``, with what is wanted beside, a list of records, or one record, in JSON.

        Good input is decoded straight into typed fields; only what that refuses is read again to name the faults.

        Raises:
            InvalidRequestError: The body is not JSON, or none of the three.
            InvalidRecordError: A record is malformed.
            TooLargeError: There are too many records.
        """
        if not self._check.compiled:
            return self._untyped(body)
        wanted = NOTHING
        start = body[:64].lstrip()
        large = len(body) >= LARGE_BODY
        try:
            if start.startswith(b"["):
                rows = self._in_turns(body) if large else self._many.decode(body)
            elif start.startswith(_WRAPPED):
                content = self._wrapped_raw.decode(body) if large else self._wrapped.decode(body)
                rows = self._in_turns(content.records) if large else content.records
                wanted = Wanted(content.interval, bool(content.warnings))
            else:
                rows = [self._one.decode(body)]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._untyped(body)
        size = len(rows)
        if not 0 < size <= self.max_records:
            raise self.bad_size(size)
        batch: Batch
        if size <= FEW_RECORDS:
            batch = RecordBatch(msgspec.to_builtins(rows))
            batch.wanted = wanted
            return batch
        # Column by column, so that Python's lock is never held for long.
        made = zip(self._getters, self._types.items(), strict=True)
        batch = ColumnBatch(pl.DataFrame([pl.Series(name, list(map(get, rows)), kind) for get, (name, kind) in made]))
        batch.wanted = wanted
        return batch

    def records(self, value: Any, *, scoring: bool = False) -> RecordBatch:
        """Read records as mappings.

        Args:
            value: The records.
            scoring: Whether undeclared fields are treated as MLflow treats them.

        Raises:
            InvalidRequestError: ``value`` is not a list, or it is empty.
            InvalidRecordError: A record is malformed; names the first 20 faults of all records.
            TooLargeError: There are too many records.
        """
        if not isinstance(value, list):
            raise InvalidRequestError("A list of records is expected.")
        if not 0 < len(value) <= self.max_records:
            raise self.bad_size(len(value))
        try:
            return RecordBatch(self._check(value))
        except InvalidRecordError:
            pass
        # What is well-formed but for its names is read again, and only then judged.
        readable = self.names.readable(value, scoring=scoring)
        try:
            return RecordBatch(self._check(readable))
        except InvalidRecordError:
            faults = self.names.advised(self._check.faults(readable, self.pipeline.faults_of), readable)
            raise InvalidRecordError(faults_message(faults), faults) from None

    def columns(self, columns: Mapping[str, Sequence[Any] | pl.Series], *, scoring: bool = False) -> Batch:
        """Read columns by name, all of the same length. Optional columns may be missing.

        Args:
            columns: The columns; those without lists may be typed, with null for a missing value.
            scoring: Whether undeclared ones are treated as MLflow treats them.

        Raises:
            InvalidRequestError: There is no record, or the lengths differ.
            InvalidRecordError: A value is not of its column's type, or a column is missing or not declared.
            TooLargeError: There are too many records.
        """
        sizes = {name: len(values) for name, values in columns.items()}
        size = max(sizes.values(), default=0)
        if shorter := [name for name, other in sizes.items() if other != size]:
            raise InvalidRequestError(
                f"All columns must be equally long; '{shorter[0]}' has {sizes[shorter[0]]} of {size} values."
            )
        if not 0 < size <= self.max_records:
            raise self.bad_size(size)
        columns = self.names.readable_columns(columns, scoring=scoring)
        for check in self._columns:
            if check.has_meanings and check.name in columns:
                columns = {**columns, check.name: check.meant(columns[check.name])}
        known = self._ignore_unknown or set(columns) <= set(self._types)
        if size > FEW_RECORDS and known and self._required <= set(columns):
            try:
                return ColumnBatch(pl.DataFrame([each.series(columns, size) for each in self._columns]))
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
                pass  # record by record, the faults are found and named
        names = list(columns)
        plain = [each.to_list() if isinstance(each, pl.Series) else each for each in columns.values()]
        rows = zip(*plain, strict=True) if names else [()] * size
        records = [dict(zip(names, values, strict=True)) for values in rows]
        return self.records(records, scoring=scoring)

    def table(self, table: pa.Table) -> ColumnBatch:
        """Read an Arrow table of raw columns.

        Raises:
            InvalidRequestError: A needed column is missing, one is not declared or of another type, or there are no rows.
            TooLargeError: There are too many rows.
        """
        if not 0 < table.num_rows <= self.max_records:
            raise self.bad_size(table.num_rows)
        given = table.column_names
        if (key := self.names.key) in given and ID not in given:
            at = given.index(key)
            table = table.set_column(at, ID, table.column(at).cast(pa.string()))
        unknown = [name for name in table.column_names if name not in self._types]
        if unknown and not self._ignore_unknown:
            raise InvalidRequestError(f"The column(s) {', '.join(unknown[:MAX_FAULTS])[:500]} are not declared.")
        if len(set(table.column_names)) != table.num_columns:
            raise InvalidRequestError("A column is there more than once.")
        return ColumnBatch(self.pipeline.typed(table.drop_columns(unknown)))

    def features(self, values: Sequence[Any] | NDArray[Any], shape: Sequence[int]) -> FeatureBatch:
        """Read processed features.

        Args:
            values: The elements in row-major order, as the client sent them, or an array of them.
            shape: Rows and features.

        Raises:
            InvalidRequestError: The shape is not (n, features), or there is no row.
            InvalidRecordError: An element is not a finite number within float32.
            TooLargeError: There are too many rows.
        """
        names = self.pipeline.dataset.feature_names
        if len(shape) != 2 or shape[1] != len(names):
            raise InvalidRequestError(f"Processed features have the shape (n, {len(names)}), not {tuple(shape[:4])}.")
        if not 0 < shape[0] <= self.max_records:
            raise self.bad_size(shape[0])
        return FeatureBatch(values, shape, names)

    def bad_size(self, size: int) -> InvalidRequestError | TooLargeError:
        """Return the error for a request of so many records, which are none or too many."""
        if not size:
            return InvalidRequestError("There is no record in the request.")
        return TooLargeError(
            f"{size} records are more than the {self.max_records} that one request may hold; "
            f"send them in {-(-size // self.max_records)} requests of at most {self.max_records}."
        )

    def _in_turns(self, body: bytes | msgspec.Raw) -> list[Any]:
        # The decoder holds Python's lock during a whole call; record by record, the event loop runs in between.
        decode = self._one.decode
        return [decode(element) for element in self._elements.decode(body)]

    def _untyped(self, body: bytes) -> RecordBatch:
        content, wanted = json_of(body), NOTHING
        if isinstance(content, dict):
            is_wrapped = "records" in content and content.keys() <= {"records", INTERVAL, WARNINGS}
            wanted = wanted_of(content) if is_wrapped else NOTHING
            content = content["records"] if is_wrapped else [content]
        if not isinstance(content, list):
            raise InvalidRequestError('The body must be {"records": [...]}, a list of records, or one record.')
        batch = self.records(content)
        batch.wanted = wanted
        return batch


class _ColumnCheck:
    """Accepts good values of one column fast and refuses others without a message; the check of the records finds that.

    Attributes:
        name: Of the column.
        has_meanings: Whether it is optional and has values that are not meant as they are written.
    """

    def __init__(self, name: str, kind: Any, column: Column | None, *, required: bool) -> None:
        """Make a check.

        Args:
            name: Of the column.
            kind: polars' type of it.
            column: Its declaration; None for the key.
            required: Whether no value may be missing.
        """
        self.name = name
        self._kind = kind
        # numpy and polars accept a boolean as a number, and with mixed types more than that; the record check does not.
        allowed: set[type] = {float, int} if kind == pl.Float64 else {bool} if kind == pl.Boolean else {str}
        self._allowed = allowed if required else {*allowed, type(None)}
        # Values that need more than a look at their types are checked record by record.
        self._whole = column is not None and column.type == "integer"
        self._simple = column is None or not (self._whole or column_type(column).is_list)
        self._required = required
        self._min_length, self._max_length = (1, MAX_KEY) if name == ID else (0, MAX_TEXT)
        self._meanings = {} if column is None else {value: column.read(value) for value in suspects(column)}
        self.has_meanings = bool(self._meanings) and not required

    def meant(self, values: Sequence[Any] | pl.Series) -> Sequence[Any] | pl.Series:
        """Return the values as they are meant (``Column.read``), as far as a look-up tells; others are left to the check."""
        if not isinstance(values, pl.Series):
            try:
                if self._meanings.keys().isdisjoint(values):
                    return values
                return [self._meanings.get(value, value) for value in values]
            except TypeError:  # a list among them
                return values
        if values.dtype != self._kind or not (has_meaning := values.is_in(list(self._meanings))).any():
            return values
        others = {written: value for written, value in self._meanings.items() if value is not None}
        if not others:
            return values.set(has_meaning, None)
        return values.set(has_meaning & ~values.is_in(list(others)), None).replace(others)

    def series(self, columns: Mapping[str, Sequence[Any] | pl.Series], size: int) -> pl.Series:
        """Return the column's values as a typed series, null for each where it is missing.

        Raises:
            TypeError, ValueError, OverflowError, PolarsError: They are not well-formed, or it takes a look at each record to tell.
        """
        given = columns.get(self.name)
        if given is None:
            return pl.Series(self.name, [None], self._kind).new_from_index(0, size)
        if isinstance(given, pl.Series):
            series = self._typed(given)
        else:
            if not self._simple or not set(map(type, given)) <= self._allowed:
                raise TypeError(self.name)
            if self._required and not self._meanings.keys().isdisjoint(given):
                raise TypeError(self.name)
            series = pl.Series(self.name, given, self._kind, strict=True)
        if self._kind == pl.Float64 and not series.is_finite().all():
            raise ValueError(self.name)
        if self._kind == pl.String and not series.str.len_chars().is_between(self._min_length, self._max_length).all():
            raise ValueError(self.name)
        return series

    def _typed(self, given: pl.Series) -> pl.Series:
        series = given.alias(self.name)
        if series.dtype != self._kind or not (self._simple or self._whole):
            raise TypeError(self.name)
        if self._required and (series.null_count() or (self._meanings and series.is_in(list(self._meanings)).any())):
            raise ValueError(self.name)
        if self._whole and not ((series.abs() <= LARGEST_INTEGER) & (series == series.round())).all():
            raise ValueError(self.name)
        return series
