"""What every transport calls: raw records in, predictions with their model out."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import InternalError, InvalidRecordError, TooLargeError
from complex_system.serving.holder import ModelHolder
from complex_system.serving.predictor import Matrix, ModelInfo, Predictor

INLINE_RECORDS = 1000
"""Up to so many records are predicted on the event loop; a thread would cost more than it frees."""
CHUNK_RECORDS = 5000
"""Most records of one request to data_processing, well below the limit of a broker that takes 8 MB."""


@dataclass(frozen=True)
class PredictionResult:
    """Predictions in the order of ``records``, the model that made all of them, and how long it took."""

    records: list[Record]
    predictions: list[float]
    model: ModelInfo
    milliseconds: float


class PredictionRoute(ABC):
    """How raw records become predictions of a given predictor."""

    @abstractmethod
    async def predict(self, predictor: Predictor, records: list[Record]) -> list[float]:
        """One prediction a record.

        Raises:
            InvalidRecordError: A record cannot be processed.
        """


class LocalRoute(PredictionRoute):
    """Processes the records in this process."""

    @override
    async def predict(self, predictor: Predictor, records: list[Record]) -> list[float]:
        if len(records) <= INLINE_RECORDS:
            return predictor.predict(records)
        return await asyncio.to_thread(predictor.predict, records)


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
    async def predict(self, predictor: Predictor, records: list[Record]) -> list[float]:
        processed: list[Record] = []
        for start in range(0, len(records), CHUNK_RECORDS):
            processed += await self._processed(records[start : start + CHUNK_RECORDS], start)
        if len(processed) != len(records):
            raise InternalError("data_processing did not return one processed record for each raw one.")
        if len(records) <= INLINE_RECORDS:
            return predictor.predict_features(self._matrix(processed))
        return await asyncio.to_thread(lambda: predictor.predict_features(self._matrix(processed)))

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
    """Predicts with the model that the holder has at the moment. Knows no transport."""

    def __init__(
        self, holder: ModelHolder, route: PredictionRoute, made: Callable[[PredictionResult], None] | None = None
    ) -> None:
        """Makes an engine.

        Args:
            holder: Has the model.
            route: Local or remote processing.
            made: Told of every prediction; must return at once and raise nothing.
        """
        self.holder = holder
        self._route = route
        self._made = made

    async def predict(self, records: list[Record]) -> PredictionResult:
        """Predicts raw records; all of them with one model.

        Raises:
            NoModelError: No model is loaded yet.
            InvalidRecordError: A record cannot be processed.
        """
        predictor = self.holder.require()
        began = time.perf_counter()
        predictions = await self._route.predict(predictor, records)
        milliseconds = (time.perf_counter() - began) * 1000
        result = PredictionResult(records, predictions, predictor.info, milliseconds)
        if self._made is not None:
            self._made(result)
        return result


def _shifted(error: InvalidRecordError, start: int) -> InvalidRecordError:
    """The error of a chunk with record positions in the whole request."""
    if not start:
        return error
    faults = [{**fault, "record": fault["record"] + start} for fault in error.faults]
    return InvalidRecordError(f"Records from number {start} on: {error.message}", faults)
