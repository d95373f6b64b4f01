"""The champion's service for a page in this process: the same handlers over the same engine, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty
from complex_system.protocol.trial import ModelInputs, Suggestions, SuggestRequest, TriedRecord, TryRequest
from complex_system.service_layer.serving.trials import TrialHandlers
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.suggest.suggester import Suggester
from complex_system.tracking.model_files import SAMPLE_FILE
from complex_system.training.conformal import INTERVALS_FILE, intervals_of
from models import MemorySource
from samples import lab_samples
from trainings import quick_model, quick_sample


class OwnTrials(TrialHandlers):
    """Answers from this process; ``failure`` is what its service raises, ``tried`` the records that were asked for."""

    def __init__(self, engine: PredictionEngine) -> None:
        self.engine = engine
        self.suggester = Suggester(engine)
        self.failure: ComplexSystemError | None = None
        self.tried: list[TryRequest] = []

    async def inputs(self) -> ModelInputs:
        if self.failure is not None:
            raise self.failure
        return await self.get_model_inputs(Empty())

    async def attempt(self, asked: TryRequest) -> TriedRecord:
        self.tried.append(asked)
        if self.failure is not None:
            raise self.failure
        return await self.try_record(asked)

    async def suggest(self, asked: SuggestRequest) -> Suggestions:
        return await self.suggest_settings(asked)


async def trials_of(dataset: Dataset, onnx_model: bytes, files: Mapping[str, bytes]) -> OwnTrials:
    """A model with what it carries."""
    source = MemorySource()
    source.files = dict(files)
    source.publish(dataset, 0.0, onnx_model)
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    return OwnTrials(PredictionEngine(models))


async def lab_trials() -> OwnTrials:
    """A LightGBM model of the lab, with a sample of its records and intervals by its errors."""
    model, onnx_model = await asyncio.to_thread(quick_model, "lightgbm")
    validation = lab_samples(2, 1000)[0].validation
    intervals = intervals_of(np.abs(model.predict(validation.x) - validation.y), None, "calibration records")
    files = {SAMPLE_FILE: quick_sample(), INTERVALS_FILE: intervals.encoded()}
    return await trials_of(Dataset.load(), onnx_model, files)
