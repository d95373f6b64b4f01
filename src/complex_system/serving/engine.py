"""What every transport calls: a batch in; predictions, and the model that made them, out."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from complex_system import tracing
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import InternalError, InvalidRecordError, RecordFault, TooLargeError
from complex_system.pipeline.pipeline import OutsideRange
from complex_system.protocol.serving import Origin
from complex_system.serving.explain import ExplanationResult, Explanations
from complex_system.serving.known import DistanceThread, RecordWarning, record_warnings
from complex_system.serving.metrics import OutsideCounters
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import ModelInfo, Predictor
from complex_system.serving.models.runtimes import Matrix
from complex_system.serving.requests.batch import Batch, FeatureBatch, RecordBatch
from complex_system.serving.requests.column_names import UnknownColumns
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.wanted import LOWER, NOTHING, UPPER, WARNINGS, Wanted

INLINE_RECORDS = 1000
"""Up to this many records are predicted on the event loop; a thread would cost more than it frees."""
MAX_READERS = 8
"""Pipeline versions beside the deployment's whose readers are kept."""
CHUNK_RECORDS = 5000
"""Records of one request to data_processing at most, well below the limit of a broker that takes 8 MB."""


@dataclass(frozen=True)
class Limits:
    """What one request may contain."""

    body_bytes: int = 32 * 1024 * 1024
    records: int = 100_000
    unknown: UnknownColumns = "mlflow"
    """Where undeclared columns are ignored; elsewhere they are faults."""


class PredictionResult(msgspec.Struct, frozen=True):
    """Predictions in the order of a batch's records, the model that made all of them, how long it took, and who asked.

    ``outside`` is what lies outside of its range and was predicted with all the same. ``half_width`` is that of the intervals that
    the batch asks for. ``distances`` are those of its first records from the training data (``Predictor.distances``), once they are
    measured; ``predictor`` measures them.
    """

    batch: Batch
    features: Matrix
    predictions: list[float]
    model: ModelInfo
    milliseconds: float
    outside: tuple[OutsideRange, ...] = ()
    origin: Origin = "live"
    half_width: float | None = None
    distances: list[float] | None = None
    predictor: Predictor | None = None

    @property
    def warnings(self) -> list[list[RecordWarning]]:
        """The warnings of every record, where they were asked for."""
        assert self.distances is not None
        return record_warnings(self.distances, self.outside)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Lower and upper end of every record's interval, where they were asked for."""
        half = self.half_width
        assert half is not None
        return [(each - half, each + half) for each in self.predictions]

    def columns(self) -> dict[str, list[Any]]:
        """Return what was asked for beside the predictions, with a value a record: ends of the intervals, texts of the warnings."""
        found: dict[str, list[Any]] = {}
        if self.half_width is not None:
            found[LOWER], found[UPPER] = map(list, zip(*self.intervals, strict=True))
        if self.distances is not None:
            found[WARNINGS] = [[each.text for each in warnings] for warnings in self.warnings]
        return found

    def head(self, limit: int) -> PredictionResult:
        """Return the first ``limit`` records of it, so that a waiting result keeps no large request in memory."""
        records = RecordBatch(self.batch.head(limit))
        if self.batch.size <= limit:
            return msgspec.structs.replace(self, batch=records)
        return msgspec.structs.replace(
            self,
            batch=records,
            features=self.features[:limit].copy(),
            predictions=self.predictions[:limit],
            outside=(),
            distances=self.distances and self.distances[:limit],
        )


class RemotePipeline:
    """Has the records processed by ``data_processing`` and takes the features from its reply."""

    def __init__(self, dataset: Dataset, process: Callable[[list[Record]], Awaitable[list[Record]]]) -> None:
        """Set the way to it.

        Args:
            dataset: Names the features.
            process: Returns the processed records of raw records, in order.
        """
        self._names = dataset.feature_names
        self._process = process

    async def features(self, batch: Batch) -> Matrix:
        """Return the features as models take them.

        Raises:
            InvalidRecordError: A record cannot be processed.
        """
        if isinstance(batch, FeatureBatch):
            return batch.matrix
        records = batch.head(batch.size)
        processed: list[Record] = []
        for start in range(0, len(records), CHUNK_RECORDS):
            processed += await self._processed(records[start : start + CHUNK_RECORDS], start)
        if len(processed) != len(records):
            raise InternalError("data_processing did not return one processed record for each raw one.")
        matrix: Matrix = await off_loop(len(records), self._matrix, processed)
        return matrix

    async def _processed(self, records: list[Record], start: int) -> list[Record]:
        """Process the records from position ``start`` on, in halves where the broker takes no more at once."""
        try:
            return await self._process(records)
        except InvalidRecordError as error:
            raise _shifted(error, start) from error
        except TooLargeError:
            if len(records) == 1:
                raise
            middle = len(records) // 2
            head = await self._processed(records[:middle], start)
            return head + await self._processed(records[middle:], start + middle)

    def _matrix(self, processed: list[Record]) -> Matrix:
        return np.array([[record[name] for name in self._names] for record in processed], dtype=np.float32)


class PredictionEngine:
    """Predicts with the model that a request names, the champion where it names none. Knows no transport.

    Attributes:
        models: All models.
        champion: The slot of the champion.
        reader: Makes batches for models of the deployment's pipeline version.
        limits: What one request may contain.
        outside: Counts values outside of their ranges.
        explanations: Explains predictions.
    """

    def __init__(
        self,
        models: ModelManager,
        remote: RemotePipeline | None = None,
        predicted: Callable[[PredictionResult], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Make an engine.

        Args:
            models: All models.
            remote: Processes the records elsewhere; by default they are processed in this process.
            predicted: Called with every prediction of the champion; must return quickly and raise nothing.
            limits: What one request may contain.
        """
        self.models = models
        self.champion = models.champion
        self.limits = limits or Limits()
        self.reader = BatchReader(models.pipeline, max_records=self.limits.records, unknown=self.limits.unknown)
        self.outside = OutsideCounters()
        self.explanations = Explanations()
        self._distances = DistanceThread()
        self._readers: OrderedDict[str, BatchReader] = OrderedDict()
        self._remote = remote
        self._predicted = predicted

    def reader_for(self, predictor: Predictor | None) -> BatchReader:
        """Return what makes batches for a model; without one, for a model of the deployment's pipeline version."""
        if predictor is None or predictor.pipeline is self.models.pipeline:
            return self.reader
        own = predictor.pipeline.dataset.version
        if own == self.models.pipeline.dataset.version:
            return self.reader
        if own not in self._readers:
            self._readers[own] = BatchReader(
                predictor.pipeline,
                max_records=self.limits.records,
                unknown=self.limits.unknown,
                present=self.models.pipeline.dataset,
            )
            if len(self._readers) > MAX_READERS:
                self._readers.popitem(last=False)
        return self._readers[own]

    async def predict(self, records: list[Record], origin: Origin = "live", wanted: Wanted = NOTHING) -> PredictionResult:
        """Predict raw records as mappings, with the champion; as :meth:`predict_batch`."""
        predictor = self.champion.require()
        batch = await off_loop(len(records), self.reader_for(predictor).records, records)
        batch.wanted = wanted
        return await self.predict_batch(batch, predictor, live=True, origin=origin)

    async def predict_table(self, table: pa.Table, origin: Origin = "live", wanted: Wanted = NOTHING) -> PredictionResult:
        """Predict an Arrow table of raw columns, with the champion; as :meth:`predict_batch`."""
        predictor = self.champion.require()
        batch = await off_loop(table.num_rows, self.reader_for(predictor).table, table)
        batch.wanted = wanted
        return await self.predict_batch(batch, predictor, live=True, origin=origin)

    async def predict_batch(
        self, batch: Batch, predictor: Predictor, *, live: bool = False, origin: Origin = "live"
    ) -> PredictionResult:
        """Predict a batch, all of it with one model.

        Args:
            batch: From :meth:`reader_for` that model.
            predictor: The model that was current when the batch was read: another one may have been swapped in since then,
                which may take other records.
            live: Whether it was the champion then.
            origin: Who asks.

        Raises:
            InvalidRecordError: A record cannot be processed.
            InvalidRequestError: The model has no intervals of the level that the batch asks for.
            UnsupportedByModelError: It lacks what the batch asks for.
        """
        began = time.perf_counter()
        level = batch.wanted.interval
        half_width = None if level is None else predictor.half_width(level)
        few = batch.size <= INLINE_RECORDS
        with tracing.span("features"):
            if self._remote is not None:
                features = await self._remote.features(batch)
            else:
                features = await off_loop(batch.size, batch.features, predictor.pipeline)
        outside: tuple[OutsideRange, ...] = ()
        if predictor.pipeline.lenient:
            outside = await off_loop(batch.size, batch.outside, predictor.pipeline)
            if origin != "trial":
                self.outside.add(outside)
        distances = None
        if batch.wanted.warnings:
            distances = await self._distances.measure(predictor.distances, features)
        with tracing.span("model") as span:
            if few and predictor.quick:
                predictions = predictor.predict_features(features)
            else:
                predictions = await asyncio.to_thread(predictor.predict_features, features)
            if span is not tracing.NOTHING:
                span.set("records", batch.size)
                span.set("model.name", predictor.info.name)
                span.set("model.version", predictor.info.version)
        milliseconds = (time.perf_counter() - began) * 1000
        result = PredictionResult(
            batch, features, predictions, predictor.info, milliseconds, outside, origin, half_width, distances, predictor
        )
        if self._predicted is not None and (live or predictor is self.champion.current):
            self._predicted(result)
        return result

    async def explain(self, records: list[Record]) -> ExplanationResult:
        """Explain the champion's predictions of raw records as mappings; errors as :meth:`Explanations.explain`."""
        predictor = self.champion.require()
        batch = await off_loop(len(records), self.reader_for(predictor).records, records)
        return await self.explanations.explain(batch, predictor)


async def off_loop(records: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function directly for few records, and in a thread for many, so that the event loop continues."""
    if records <= INLINE_RECORDS:
        return call(*arguments)
    return await asyncio.to_thread(call, *arguments)


def _shifted(error: InvalidRecordError, start: int) -> InvalidRecordError:
    """Return the error of a chunk with positions in the whole request."""
    if not start:
        return error
    faults = [RecordFault({**fault, "record": fault["record"] + start}) for fault in error.faults]
    return InvalidRecordError(f"Records from number {start} on: {error.message}", faults)
