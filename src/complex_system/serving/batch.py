"""What a request asks predictions for: records, columns, or features that are already made; each becomes features its own way."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from msgspec.structs import astuple
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.kinds import MAX_TEXT, kind_of
from complex_system.domain.records import MAX_FAULTS, MAX_KEY, Record, raw_check, sentence, shown
from complex_system.errors import InvalidRecordError, InvalidRequestError, TooLargeError
from complex_system.preprocessing.pipeline import FEW_RECORDS, MANY_RECORDS, Pipeline
from complex_system.preprocessing.raw_columns import RawColumns
from complex_system.preprocessing.steps import frame_type
from complex_system.serving.bodies import LARGE_BODY, decoded
from complex_system.serving.json_words import why_no_json

Matrix = npt.NDArray[np.float32]

_LARGEST_FEATURE = float(np.finfo(np.float32).max)


class Batch(ABC):
    """Well-formed input of one request."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many predictions are asked for."""

    @abstractmethod
    def features(self, pipeline: Pipeline) -> Matrix:
        """The features as models take them.

        Raises:
            InvalidRecordError: A record cannot be processed.
        """

    @abstractmethod
    def head(self, most: int) -> list[Record]:
        """The first ``most`` raw records."""


class RecordBatch(Batch):
    """Raw records as mappings; the quickest form of few."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    @property
    @override
    def size(self) -> int:
        return len(self.records)

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        return pipeline.features(self.records)

    @override
    def head(self, most: int) -> list[Record]:
        return self.records[:most]


class ValueBatch(Batch):
    """Raw records as columns of Python values; the quickest form of some hundreds."""

    def __init__(self, columns: RawColumns) -> None:
        self.columns = columns

    @property
    @override
    def size(self) -> int:
        return self.columns.size

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        return pipeline.features_from(self.columns)

    @override
    def head(self, most: int) -> list[Record]:
        return self.columns.head(most)


class ColumnBatch(Batch):
    """Raw records as typed columns; the quickest form of many."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    @property
    @override
    def size(self) -> int:
        return self.frame.height

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        return pipeline.features_of(self.frame)

    @override
    def head(self, most: int) -> list[Record]:
        return self.frame.head(most).to_dicts()


class FeatureBatch(Batch):
    """Processed features, shape (n, features), columns in the order of ``Dataset.feature_names``. There are no raw records."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    @property
    @override
    def size(self) -> int:
        return len(self.matrix)

    @override
    def features(self, pipeline: Pipeline) -> Matrix:
        return self.matrix

    @override
    def head(self, most: int) -> list[Record]:
        return []


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
        kinds = {column.name: frame_type(column) for column in self.declared}
        # Columns whose values need more than a look at their types are checked record by record.
        self._simple = {
            ID,
            *(column.name for column in self.declared if column.type != "integer" and not kind_of(column).is_list),
        }
        self._kinds: dict[str, Any] = {name: kinds.get(name, pl.String) for name in self._check.names}
        self._getters = [operator.attrgetter(f"f{i}") for i in range(len(self._kinds))]
        self._longest = {name: MAX_KEY if name == ID else MAX_TEXT for name in self._kinds}
        self._needed = {column.name for column in pipeline.dataset.columns if not column.optional}

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
                RawColumns(dict(zip(self._kinds, zip(*map(astuple, rows), strict=True), strict=True)), len(rows))
            )
        # Column by column, so that Python's lock is never held for long.
        return ColumnBatch(
            pl.DataFrame(
                [
                    pl.Series(name, list(map(get, rows)), kind)
                    for get, (name, kind) in zip(self._getters, self._kinds.items(), strict=True)
                ]
            )
        )

    def _in_turns(self, body: bytes | msgspec.Raw) -> list[Any]:
        # The decoder holds Python's lock for a whole call; record by record, the event loop has its turn in between.
        decode = self._one.decode
        return [decode(element) for element in self._elements.decode(body)]

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
            raise InvalidRecordError(sentence(faults), faults) from None

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
        if (
            size > FEW_RECORDS
            and (self._ignore_unknown or set(columns) <= set(self._kinds))
            and self._needed <= set(columns)
        ):
            try:
                return (
                    ValueBatch(self._values(columns, size))
                    if size <= MANY_RECORDS
                    else ColumnBatch(self._typed(columns, size))
                )
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
        unknown = [name for name in table.column_names if name not in self._kinds]
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
        width = len(self.pipeline.dataset.feature_names)
        if len(shape) != 2 or shape[1] != width:
            raise InvalidRequestError(f"Processed features have the shape (n, {width}), not {tuple(shape[:4])}.")
        if not shape[0]:
            raise InvalidRequestError("There is no record in the request.")
        self._bounded(shape[0])
        try:
            if not set(map(type, values)) <= {int, float}:
                raise TypeError
            matrix = np.array(values, dtype=np.float64).reshape(shape)
        except (OverflowError, TypeError):
            raise self._no_features(enumerate(values)) from None
        bad = ~(np.abs(matrix) <= _LARGEST_FEATURE)
        if bad.any():
            raise self._no_features((i * width + j, matrix[i, j].item()) for i, j in np.argwhere(bad).tolist())
        return FeatureBatch(np.ascontiguousarray(matrix, dtype=np.float32))

    def _no_features(self, elements: Iterable[tuple[int, Any]]) -> InvalidRecordError:
        """The error for those of the elements, each with its place in row-major order, that are no features; the first 20."""
        names = self.pipeline.dataset.feature_names
        faults: list[dict[str, Any]] = []
        for place, value in elements:
            if value is None:
                problem = "is missing, and processed features must all be numbers"
            elif type(value) not in (int, float):
                problem = f"must be a number, not {shown(value)}"
            elif not -_LARGEST_FEATURE <= value <= _LARGEST_FEATURE:
                problem = f"must be a finite number within {_LARGEST_FEATURE:.2g} in size, not {shown(value)}"
            else:
                continue
            row, column = divmod(place, len(names))
            faults.append({"record": row, "id": None, "field": names[column], "problem": problem})
            if len(faults) == MAX_FAULTS:
                break
        return InvalidRecordError(sentence(faults), faults)

    def _values(self, columns: Mapping[str, Sequence[Any]], size: int) -> RawColumns:
        """Columns that are well-formed.

        Raises:
            TypeError, ValueError, OverflowError: They are not, or it takes a look at each record to tell.
        """
        made: dict[str, Sequence[Any]] = {}
        for name, kind in self._kinds.items():
            given = columns.get(name)
            if given is None:
                made[name] = [None] * size
                continue
            found = self._types(name, kind, given)
            if kind == pl.Float64:
                values = given if int not in found else [None if value is None else float(value) for value in given]
                if not all(map(math.isfinite, values if type(None) not in found else [v for v in values if v is not None])):
                    raise ValueError(name)
                made[name] = values
                continue
            if kind == pl.String:
                lengths = list(map(len, given if type(None) not in found else [v for v in given if v is not None]))
                if lengths and (max(lengths) > self._longest[name] or (name == ID and min(lengths) < 1)):
                    raise ValueError(name)
            made[name] = given
        return RawColumns(made, size)

    def _types(self, name: str, kind: Any, values: Sequence[Any]) -> set[type]:
        """The types of a column's values.

        Raises:
            TypeError: One is not the column's, or is missing where it must not.
        """
        # numpy and polars take a boolean for a number, and with mixed types more than that: the record check does not.
        wanted = {float, int} if kind == pl.Float64 else {bool} if kind == pl.Boolean else {str}
        found = set(map(type, values))
        if name not in self._simple or not found <= wanted | {type(None)} or (name in self._needed and type(None) in found):
            raise TypeError(name)
        return found

    def _typed(self, columns: Mapping[str, Sequence[Any]], size: int) -> pl.DataFrame:
        made = []
        for name, kind in self._kinds.items():
            values = columns.get(name)
            if values is None:
                made.append(pl.Series(name, [None], kind).new_from_index(0, size))
                continue
            self._types(name, kind, values)
            series = pl.Series(name, values, kind, strict=True)
            if kind == pl.Float64 and not series.is_finite().all():
                raise ValueError(name)
            if kind == pl.String and not series.str.len_chars().is_between(int(name == ID), self._longest[name]).all():
                raise ValueError(name)
            made.append(series)
        return pl.DataFrame(made)

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


def json_of(body: bytes) -> Any:
    """A JSON body.

    Raises:
        InvalidRequestError: It is no JSON in UTF-8, or nested too deeply.
    """
    try:
        return decoded(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequestError(why_no_json(body, error)) from None
