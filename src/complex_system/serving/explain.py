"""Explains predictions of the loaded models, beside the predictions and without delaying them."""

from __future__ import annotations

import functools
from collections import OrderedDict

import msgspec

from complex_system.background import Worker
from complex_system.domain.records import Record
from complex_system.errors import (
    BusyError,
    InvalidRecordError,
    InvalidRequestError,
    ModelRefusedError,
    TooLargeError,
    UnsupportedByModelError,
)
from complex_system.explanation.shapley import Explainer
from complex_system.pipeline.pipeline import OutsideRange
from complex_system.protocol.serving import ExplainedPrediction, ExplanationMethod
from complex_system.serving.models.predictor import ModelInfo, Predictor
from complex_system.serving.models.runtimes import Matrix
from complex_system.serving.requests.batch import Batch
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample

MAX_RECORDS = 100
"""Records of one request, at most."""
MAX_REQUESTS = 16
"""Requests that are explained or wait for it at the same time; further ones are refused as busy."""
MAX_EXPLAINERS = 3
"""Models whose background is kept: with it, the model itself stays in memory."""


class ExplanationResult(msgspec.Struct, frozen=True):
    """Explained predictions in the order of a batch's records, and the model that made them.

    ``outside`` is what lies outside of its range and was explained all the same.
    """

    explanations: tuple[ExplainedPrediction, ...]
    base: float
    background: int
    method: ExplanationMethod
    model: ModelInfo
    outside: tuple[OutsideRange, ...]


class Explanations:
    """One thread that explains record by record, so that requests take turns and predictions have the other cores."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._requests = 0
        self._explainers: OrderedDict[Predictor, Explainer] = OrderedDict()

    async def explain(self, batch: Batch, predictor: Predictor) -> ExplanationResult:
        """Explain the predictions of a batch of raw records, all with one model.

        Raises:
            TooLargeError: There are too many records.
            InvalidRecordError: A record cannot be processed.
            UnsupportedByModelError: The model carries no records to explain with.
            BusyError: Too many requests wait.
        """
        if batch.size > MAX_RECORDS:
            raise TooLargeError(
                f"{batch.size} records are more than the {MAX_RECORDS} that one request may have explained; send them in "
                f"{-(-batch.size // MAX_RECORDS)} requests of at most {MAX_RECORDS}."
            )
        features = batch.features(predictor.pipeline)
        outside = batch.outside(predictor.pipeline)
        if self._requests >= MAX_REQUESTS:
            raise BusyError(f"{MAX_REQUESTS} requests for explanations are in progress; send this one again later.")
        self._requests += 1
        try:
            self._worker = worker = self._worker or Worker("explanations")
            explainer = await worker.run(functools.partial(self._explainer, predictor))
            explained = [
                await worker.run(functools.partial(_explained, explainer, record, features[place : place + 1]))
                for place, record in enumerate(batch.head(batch.size))
            ]
        finally:
            self._requests -= 1
        return ExplanationResult(tuple(explained), explainer.base, explainer.size, explainer.method, predictor.info, outside)

    def _explainer(self, predictor: Predictor) -> Explainer:
        """Return the explainer of a model, made at its first request. Runs in the thread."""
        if (known := self._explainers.get(predictor)) is not None:
            self._explainers.move_to_end(predictor)
            return known
        label = predictor.info.label
        content = predictor.files.get(SAMPLE_FILE)
        if content is None:
            raise UnsupportedByModelError(
                f"{label} carries no sample of its training records ({SAMPLE_FILE}), which explanations need: it was trained before "
                "they existed, or the database did not answer then. Train again."
            )
        try:
            made = Explainer(predictor.pipeline, predictor.predict_features, decode_sample(content))
        except (InvalidRecordError, InvalidRequestError) as error:
            raise ModelRefusedError(
                f"{label} cannot be explained: {SAMPLE_FILE} does not fit its declaration: {error.message}"
            ) from error
        self._explainers[predictor] = made
        if len(self._explainers) > MAX_EXPLAINERS:
            self._explainers.popitem(last=False)
        return made


def _explained(explainer: Explainer, record: Record, features: Matrix) -> ExplainedPrediction:
    return explainer.explain(record, features)
