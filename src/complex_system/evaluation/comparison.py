"""The comparison of models on the hold-out part, which no trainer has seen. The lowest RMSE becomes the champion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from complex_system.errors import InternalError, ModelRefusedError, NoModelError, TrainingFailedError
from complex_system.evaluation.baselines import baseline_scores
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.serving.predictor import Predictor
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.base import Scores
from complex_system.training.data import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Attributes:
        incumbent: It was the champion before this comparison.
    """

    ref: ModelVersionRef
    predictor: Predictor
    incumbent: bool = False


@dataclass(frozen=True)
class Result:
    """How a candidate did on the hold-out part, in the target's unit."""

    ref: ModelVersionRef
    scores: Scores
    incumbent: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The result as events carry it."""
        ref = self.ref
        named = {"trainer": ref.trainer, "framework": ref.framework, "model": ref.model, "version": ref.version}
        return {**named, **self.scores.as_dict()}


@dataclass(frozen=True)
class Comparison:
    """What came out of a comparison.

    Attributes:
        round: Id of the training round.
        results: Best first, at least one.
        holdout: Number of hold-out samples.
        refused: Reason by ``model version`` of those that could not take part.
        baselines: How the mean and a linear model did, where they were asked for.
    """

    round: str
    results: tuple[Result, ...]
    holdout: int
    refused: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Scores] = field(default_factory=dict)

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The baselines that are at least as good as the champion."""
        return tuple(name for name, scores in self.baselines.items() if scores.rmse <= self.champion.scores.rmse)

    @property
    def champion(self) -> Result:
        """The best of them."""
        return self.results[0]

    @property
    def is_change(self) -> bool:
        """Whether the champion is another one than before."""
        return not self.champion.incumbent

    @property
    def kept(self) -> str:
        """Why the champion of before stays, in one sentence; empty for a new one."""
        if self.is_change:
            return ""
        old = f"{_label(self.champion.ref)} stays champion with RMSE {self.champion.scores.rmse:.2f}"
        where = f"on the newest {self.holdout} hold-out records"
        if len(self.results) == 1:
            return f"{old} {where}: no new model could be compared."
        best = self.results[1]
        return f"{old} {where}: the best new model, {_label(best.ref)}, has {best.scores.rmse:.2f}."


def ranked(candidates: Iterable[Candidate], holdout: Samples) -> tuple[list[Result], dict[str, str]]:
    """Scores candidates: the results by RMSE, and the reasons of those whose predictions are no numbers.

    At the same RMSE the incumbent comes first, so that the champion does not change for nothing.
    """
    results: list[Result] = []
    refused: dict[str, str] = {}
    for candidate in candidates:
        try:
            predicted = np.asarray(candidate.predictor.predict_features(holdout.x), dtype=np.float32)
        except InternalError as error:
            refused[_label(candidate.ref)] = error.message
            continue
        results.append(Result(candidate.ref, Scores.of(holdout.y, predicted), candidate.incumbent))
    results.sort(key=lambda result: (result.scores.rmse, not result.incumbent, result.ref.model))
    return results, refused


class ModelComparison:
    """Compares versions of the registry with each other and with the present champion. Blocking; runs in a thread."""

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline) -> None:
        self._registry = registry
        self._pipeline = pipeline

    def run(
        self, round_id: str, handed_in: Sequence[tuple[str, str]], holdout: Samples, train: Samples | None = None
    ) -> Comparison:
        """Compares the models that were handed in.

        The present champion takes part if it belongs to this pipeline version, so that a worse newcomer does not replace it.

        Args:
            round_id: Id of the round that they come from.
            handed_in: Registered name and version of each.
            holdout: The samples that no trainer has seen.
            train: What the baselines are fitted on; None for a comparison without them.

        Raises:
            TrainingFailedError: None of them can be loaded and predicts.
            TrackingUnavailableError: MLflow does not answer; the same call may be repeated.
        """
        refused: dict[str, str] = {}
        candidates: list[Candidate] = []
        champion = self._registry.champion()
        names = list(dict.fromkeys(handed_in))
        if champion and champion.pipeline_version == self._pipeline.dataset.version:
            names = [*(name for name in names if name != (champion.model, champion.version)),
                     (champion.model, champion.version)]  # fmt: skip
        for model, version in names:
            try:
                ref = self._registry.version(model, version)
                onnx, metadata = self._registry.load_twin(ref)
                predictor = Predictor(self._pipeline, model, version, onnx, metadata)
            except (ModelRefusedError, NoModelError) as error:
                refused[f"{model} {version}"] = error.message
                continue
            is_champion = champion is not None and (model, version) == (champion.model, champion.version)
            candidates.append(Candidate(ref, predictor, is_champion))
        results, without_numbers = ranked(candidates, holdout)
        refused |= without_numbers
        for name, reason in refused.items():
            log.warning("%s does not take part in the comparison: %s", name, reason)
        if not results:
            reasons = "; ".join(refused.values()) or "no trainer handed one in"
            raise TrainingFailedError(f"Round {round_id} has no model to compare: {reasons}")
        baselines = {} if train is None else baseline_scores(train, holdout)
        return Comparison(round_id, tuple(results), len(holdout), refused, baselines)


def _label(ref: ModelVersionRef) -> str:
    return f"{ref.model} {ref.version}"
