"""What a request asks predictions for: records, columns, or features that are already made; each becomes features its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod

import polars as pl
from typing_extensions import override

from complex_system.domain.records import Record
from complex_system.pipeline.arrays import Matrix
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.raw_columns import RawColumns


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
