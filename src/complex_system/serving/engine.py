"""What every transport calls: raw records in, predictions with their model out."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import InternalError, InvalidRecordError, TooLargeError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.predictor import Matrix, ModelInfo, Predictor
from complex_system.serving.models.slot import ModelHolder
from complex_system.serving.requests.batch import Batch, FeatureBatch, RecordBatch
from complex_system.serving.requests.reader import BatchReader

INLINE_RECORDS = 1000
"""Up to so many records are predicted on the event loop; a thread would cost more than it frees."""
MOST_READERS = 8
"""Pipeline versions beside the deployment's whose readers are kept."""
CHUNK_RECORDS = 5000
"""Most records of one request to data_processing, well below the limit of a broker that takes 8 MB."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    body_bytes: int = 32 * 1024 * 1024
    records: int = 100_000
    ignore_unknown: bool = False
    """Whether columns that are not declared are left out; otherwise they are faults."""


class PredictionResult(msgspec.Struct, frozen=True):
    """Predictions in the order of a batch's records, the model that made all of them, and how long it took."""

    batch: Batch
    features: Matrix
    predictions: list[float]
    model: ModelInfo
    milliseconds: float

    def head(self, most: int) -> PredictionResult:
        """The first ``most`` records of it, so that what waits somewhere holds no large request in memory."""
        records = RecordBatch(self.batch.head(most))
        if self.batch.size <= most:
            return msgspec.structs.replace(self, batch=records)
        return msgspec.structs.replace(
            self, batch=records, features=self.features[:most].copy(), predictions=self.predictions[:most]
        )


class PredictionRoute(ABC):
    """How a batch becomes features."""

    @abstractmethod
    async def features(self, pipeline: Pipeline, batch: Batch) -> Matrix:
        """The features as models take them.

        Raises:
            InvalidRecordError: A record cannot be processed.
        """


class LocalRoute(PredictionRoute):
    """Processes the records in this process."""

    @override
    async def features(self, pipeline: Pipeline, batch: Batch) -> Matrix:
        if batch.size <= INLINE_RECORDS:
            return batch.features(pipeline)
        return await asyncio.to_thread(batch.features, pipeline)


class RemoteRoute(PredictionRoute):
    """Has the records processed elsewhere and takes the features from the answer."""

    def __init__(self, dataset: Dataset, process: Callable[[list[Record]], Awaitable[list[Record]]]) -> None:
        """Makes the route.

        Args:
            dataset: Names the features.
            process: Returns the processed twins of raw records, in order.
        """
        self._names = dataset.feature_names
        self._process = process

    @override
    async def features(self, pipeline: Pipeline, batch: Batch) -> Matrix:
        if isinstance(batch, FeatureBatch):
            return batch.matrix
        records = batch.head(batch.size)
        processed: list[Record] = []
        for start in range(0, len(records), CHUNK_RECORDS):
            processed += await self._processed(records[start : start + CHUNK_RECORDS], start)
        if len(processed) != len(records):
            raise InternalError("data_processing did not return one processed record for each raw one.")
        if len(records) <= INLINE_RECORDS:
            return self._matrix(processed)
        return await asyncio.to_thread(self._matrix, processed)

    async def _processed(self, records: list[Record], start: int) -> list[Record]:
        """The processed twins of the records from number ``start`` on, in halves where the broker takes no more."""
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
        models: Where the models are.
        reader: Makes batches of what comes in for a model of the deployment's pipeline version.
        limits: What one request may hold.
    """

    def __init__(
        self,
        models: ModelManager | ModelHolder,
        route: PredictionRoute,
        made: Callable[[PredictionResult], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Makes an engine.

        Args:
            models: Has the models.
            route: Local or remote processing.
            made: Told of every prediction of the champion; must return at once and raise nothing.
            limits: What one request may hold.
        """
        if isinstance(models, ModelHolder):
            models = ModelManager(models.source, models.pipeline, champion=models)
        self.models = models
        self.limits = limits or Limits()
        self.reader = BatchReader(models.pipeline, most=self.limits.records, ignore_unknown=self.limits.ignore_unknown)
        self._readers: OrderedDict[str, BatchReader] = OrderedDict()
        self._route = route
        self._made = made

    @property
    def holder(self) -> ModelHolder:
        """Holds the champion."""
        return self.models.champion

    def reader_for(self, predictor: Predictor | None) -> BatchReader:
        """Makes batches for a model; without one for a model of the deployment's pipeline version."""
        if predictor is None or predictor.pipeline is self.models.pipeline:
            return self.reader
        own = predictor.pipeline.dataset.version
        if own == self.models.pipeline.dataset.version:
            return self.reader
        if own not in self._readers:
            limits = self.limits
            self._readers[own] = BatchReader(
                predictor.pipeline,
                most=limits.records,
                ignore_unknown=limits.ignore_unknown,
                present=self.models.pipeline.dataset,
            )
            if len(self._readers) > MOST_READERS:
                self._readers.popitem(last=False)
        return self._readers[own]

    async def predict(self, records: list[Record]) -> PredictionResult:
        """As :meth:`predict_batch`, for raw records as mappings, with the champion."""
        predictor = self.holder.require()
        batch = await off_loop(len(records), self.reader_for(predictor).records, records)
        return await self.predict_batch(batch, predictor=predictor, live=True)

    async def predict_table(self, table: pa.Table) -> PredictionResult:
        """As :meth:`predict_batch`, for an Arrow table of raw columns, with the champion."""
        predictor = self.holder.require()
        batch = await off_loop(table.num_rows, self.reader_for(predictor).table, table)
        return await self.predict_batch(batch, predictor=predictor, live=True)

    async def predict_batch(
        self,
        batch: Batch,
        name: str | None = None,
        version: str | None = None,
        *,
        predictor: Predictor | None = None,
        live: bool | None = None,
    ) -> PredictionResult:
        """Predicts a batch; all of it with one model.

        Args:
            batch: From :meth:`reader_for` that model.
            name: Registered name of the model; None for the champion.
            version: Its version or alias; None for the newest.
            predictor: The model itself, where it was found before the batch was read: it answers although another one may have been
                swapped in since then, which may take other records.
            live: Whether it was the champion when it was found; None to see whether it is now.

        Raises:
            NoModelError: No model is loaded yet.
            UnknownModelError: There is no such model.
            ModelRefusedError: The model exists and must not be served.
            InvalidRecordError: A record cannot be processed.
        """
        predictor = predictor or await self.models.predictor(name, version)
        began = time.perf_counter()
        features = await self._route.features(predictor.pipeline, batch)
        if predictor.quick and batch.size <= INLINE_RECORDS:
            predictions = predictor.predict_features(features)
        else:
            predictions = await asyncio.to_thread(predictor.predict_features, features)
        milliseconds = (time.perf_counter() - began) * 1000
        result = PredictionResult(batch, features, predictions, predictor.info, milliseconds)
        if self._made is not None and (live or (live is None and predictor is self.holder.current)):
            self._made(result)
        return result


async def off_loop(records: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """Calls at once for few records, and in a thread for many, so that the loop goes on meanwhile."""
    if records <= INLINE_RECORDS:
        return call(*arguments)
    return await asyncio.to_thread(call, *arguments)


def _shifted(error: InvalidRecordError, start: int) -> InvalidRecordError:
    """The error of a chunk with record positions in the whole request."""
    if not start:
        return error
    faults = [{**fault, "record": fault["record"] + start} for fault in error.faults]
    return InvalidRecordError(f"Records from number {start} on: {error.message}", faults)
