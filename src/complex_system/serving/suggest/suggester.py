"""Answers requests for settings with the champion: one search after another, in a thread."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from complex_system.errors import BusyError, InvalidRequestError, UnsupportedByModelError
from complex_system.protocol.trial import Suggestion, Suggestions, SuggestRequest
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.known import MIN_KNOWN, KnownRecords, Numbers, sample_features
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.suggest.search import Goal, find
from complex_system.serving.suggest.space import SearchSpace, dimensions
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample

MAX_SEARCHES = 1
"""Searches at the same time: each takes a core, and predictions must not wait for it."""


@dataclass(frozen=True)
class Background:
    """What is known beside a model: the sample of its training records, measured once.

    Attributes:
        predictor: The model.
        sample: The raw records.
        records: Distances from them.
        spread: Standard deviation of their predictions.
    """

    predictor: Predictor
    sample: pa.Table
    records: KnownRecords
    spread: float

    @classmethod
    def of(cls, predictor: Predictor) -> Background:
        """Read and measure a model's sample. Blocking.

        Raises:
            UnsupportedByModelError: The model has none, or one of a few records.
        """
        content = predictor.files.get(SAMPLE_FILE)
        if content is None:
            raise UnsupportedByModelError(
                f"{predictor.info.label} carries no sample of its training records: it was trained before models had one. "
                "Train again."
            )
        sample = decode_sample(content)
        features = sample_features(predictor.pipeline, sample)
        if predictor.known is None:
            raise UnsupportedByModelError(
                f"The sample of {predictor.info.label} has {len(features)} usable records; {MIN_KNOWN} are needed."
            )
        spread = float(np.std(predictor.predict_features(features)))
        return cls(predictor, sample, predictor.known, spread or 1.0)


class Suggester:
    """Finds settings with the champion of an engine."""

    def __init__(self, engine: PredictionEngine) -> None:
        """Make a suggester.

        Args:
            engine: Has the models.
        """
        self._engine = engine
        self._running = 0
        self._background: Background | None = None

    async def suggest(self, asked: SuggestRequest) -> Suggestions:
        """Search in a thread.

        Raises:
            InvalidRequestError: The goal, a column or its bounds cannot be searched.
            InvalidRecordError: The record is not as declared.
            NoModelError: There is no model yet.
            UnsupportedByModelError: The model carries no sample of its training records.
            BusyError: Another search runs.
        """
        predictor = self._engine.champion.require()
        if (asked.goal == "value") != (asked.value is not None) or not math.isfinite(asked.value or 0.0):
            raise InvalidRequestError("'value' is a finite number where the goal is `value`, and is left out otherwise.")
        if self._running >= MAX_SEARCHES:
            raise BusyError("Another search for settings is running; send the request again in some seconds.")
        self._running += 1
        try:
            return await asyncio.to_thread(self._search, predictor, asked)
        finally:
            self._running -= 1

    def _search(self, predictor: Predictor, asked: SuggestRequest) -> Suggestions:
        background = self._background
        if background is None or background.predictor is not predictor:
            background = self._background = Background.of(predictor)
        pipeline, dataset = predictor.pipeline, predictor.pipeline.dataset
        free = dimensions(dataset, background.sample, asked.free, asked.within)
        start = {each.column.name: each.values(np.array([each.low]))[0] for each in free}
        reader = self._engine.reader_for(predictor)
        [fixed] = reader.records([asked.record | start]).records
        pipeline.features([fixed])  # what cannot be processed is named now, by record and field
        space = SearchSpace(dataset, fixed, free)

        def evaluate(points: Numbers) -> tuple[Numbers, Numbers]:
            features = pipeline.features_of(space.frame(points))
            return np.array(predictor.predict_features(features)), background.records.distance(features)

        goal = Goal(asked.goal, asked.value or 0.0, background.spread)
        found = find(
            space,
            goal,
            evaluate,
            space.known(background.sample),
            count=asked.count,
            seed=asked.seed,
            seconds=asked.seconds,
        )
        predictions, distances = evaluate(found.points)
        order = np.lexsort((goal.cost(predictions, distances), ~goal.reached(predictions)))
        return Suggestions(
            suggestions=[
                Suggestion(
                    record=space.record(found.points[i]),
                    prediction=float(predictions[i]),
                    reached=bool(goal.reached(predictions)[i]),
                    distance=round(float(distances[i]), 3),
                    half_width=predictor.info.half_width_90,
                )
                for i in order
            ],
            target=dataset.target,
            model=predictor.info.name,
            version=predictor.info.version,
            pipeline_version=predictor.info.pipeline_version,
            evaluations=found.evaluations,
            complete=found.complete,
        )
