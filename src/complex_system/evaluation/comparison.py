"""The comparison of models: by cross-validation where the records are few, else on the hold-out part, which no model has seen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from complex_system.errors import InternalError, ModelRefusedError, NoModelError, TrainingFailedError
from complex_system.evaluation.baselines import BASELINES, cross_validated_baseline
from complex_system.evaluation.statistics import Interval, cross_difference, cross_interval, rmse_difference, rmse_interval
from complex_system.evaluation.verdict import Verdict, format_figure, sentence
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.base import Scores
from complex_system.training.cross_validation import CrossValidation, Keyed
from complex_system.training.data import Matrix, Samples

Basis = Literal["hold-out", "cross-validation"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Attributes:
        incumbent: It was the champion before this comparison.
        cross: What its trainer found by cross-validation; None where the records were too many for it.
    """

    ref: ModelVersionRef
    predictor: Predictor
    incumbent: bool = False
    cross: CrossValidation | None = None


@dataclass(frozen=True)
class Quality:
    """How a model or a baseline did, in the target's unit.

    Attributes:
        scores: On the hold-out part.
        interval: Of the RMSE there.
        cross: By cross-validation, where the records are few.
        errors: Prediction less truth of every hold-out sample.
    """

    scores: Scores
    interval: Interval | None = None
    cross: CrossValidation | None = None
    errors: Matrix | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, predicted: Matrix, holdout: Samples, cross: CrossValidation | None = None) -> Quality:
        """The quality of predictions of the hold-out samples."""
        errors = predicted - holdout.y
        return cls(Scores.of(holdout.y, predicted), rmse_interval(errors), cross, errors)

    def as_dict(self) -> dict[str, Any]:
        """As events carry it: ``rmse``, ``mae``, ``r2``, ``rmse_low``, ``rmse_high``, and ``cv`` with the same where it is there."""
        found: dict[str, Any] = self.scores.as_dict()
        if self.interval is not None:
            found |= {"rmse_low": self.interval.low, "rmse_high": self.interval.high}
        if self.cross is not None:
            ends = cross_interval(self.cross)
            found["cv"] = {
                "rmse": ends.value,
                "mae": self.cross.mae,
                "r2": self.cross.r2,
                "rmse_low": ends.low,
                "rmse_high": ends.high,
            }
        return found


@dataclass(frozen=True)
class Result:
    """How a candidate did."""

    ref: ModelVersionRef
    scores: Scores
    incumbent: bool = False
    quality: Quality | None = None

    @property
    def cross(self) -> CrossValidation | None:
        """Its cross-validation, where there is one."""
        return self.quality.cross if self.quality else None

    def as_dict(self) -> dict[str, Any]:
        """The result as events carry it."""
        ref = self.ref
        named = {"trainer": ref.trainer, "framework": ref.framework, "model": ref.model, "version": ref.version}
        return {**named, **(self.quality or Quality(self.scores)).as_dict()}


@dataclass(frozen=True)
class Comparison:
    """What came out of a comparison.

    Attributes:
        round: Id of the training round.
        results: Best first, at least one.
        holdout: Number of hold-out samples.
        refused: Reason by ``model version`` of those that could not take part.
        baselines: How the mean and a linear model did, where they were asked for.
        ranked_by: What the newcomers are ranked by.
        verdicts: Whether the champion is better than each baseline.
        unit: Of the target.
    """

    round: str
    results: tuple[Result, ...]
    holdout: int
    refused: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Quality] = field(default_factory=dict)
    ranked_by: Basis = "hold-out"
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    unit: str = ""

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The baselines that are at least as good as the champion."""
        return tuple(name for name, verdict in self.verdicts.items() if verdict.word == "not better")

    @property
    def verdict(self) -> str:
        """What must be known of the champion beside the baselines, in a sentence; empty where it is surely better."""
        return sentence(self.verdicts, _label(self.champion.ref), self.unit)

    @property
    def folds(self) -> dict[str, int] | None:
        """``records``, ``folds`` and ``repeats`` of the cross-validation; None where there was none."""
        cross = next((result.cross for result in self.results if result.cross and not result.incumbent), self.champion.cross)
        return {"records": cross.records, "folds": cross.folds, "repeats": cross.repeats} if cross else None

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
        where = f"on the newest {self.holdout} hold-out records"
        rmse, best = self.champion.scores.rmse, self.results[1] if len(self.results) > 1 else None
        best_rmse = best.scores.rmse if best else 0.0
        old, new = self.champion.cross, best.cross if best else None
        if self.ranked_by == "cross-validation" and old and new and old.digest == new.digest:
            where, rmse, best_rmse = f"by cross-validation with {old.records} records", old.rmse, new.rmse
        kept = f"{_label(self.champion.ref)} stays champion with RMSE {format_figure(rmse)} {where}"
        if best is None:
            return f"{kept}: no new model could be compared."
        return f"{kept}: the best new model, {_label(best.ref)}, has {format_figure(best_rmse)}."


def ranked(candidates: Iterable[Candidate], holdout: Samples) -> tuple[list[Result], dict[str, str]]:
    """Scores candidates: the results by RMSE on the hold-out part, and the reasons of those whose predictions are no numbers.

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
        quality = Quality.of(predicted, holdout, candidate.cross)
        results.append(Result(candidate.ref, quality.scores, candidate.incumbent, quality))
    results.sort(key=lambda result: (result.scores.rmse, not result.incumbent, result.ref.model))
    return results, refused


def ranked_by_folds(results: list[Result]) -> list[Result] | None:
    """The results in the order of their cross-validation, or None where the newcomers were not all validated with the same records.

    A champion of before that was trained on other records has no such figure; it is compared with the best newcomer on the
    hold-out part, which neither has seen, and stands first or last.
    """
    newcomers = [result for result in results if not result.incumbent]
    digests = {result.cross.digest if result.cross else "" for result in newcomers}
    if len(digests) != 1 or "" in digests:
        return None
    same = [(result.cross.rmse, not result.incumbent, result.ref.model, result)
            for result in results if result.cross and result.cross.digest in digests]  # fmt: skip
    order = [result for *_, result in sorted(same, key=lambda each: each[:3])]
    others = [result for result in results if result not in order]
    better = [result for result in others if result.scores.rmse <= order[0].scores.rmse]
    return [*better, *order, *(result for result in others if result not in better)]


class ModelComparison:
    """Compares versions of the registry with each other and with the present champion. Blocking; runs in a thread."""

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline) -> None:
        self._registry = registry
        self._pipeline = pipeline

    def run(
        self, round_id: str, handed_in: Sequence[tuple[str, str]], holdout: Samples, train: Samples | None = None,
        few: Keyed | None = None,
    ) -> Comparison:  # fmt: skip
        """Compares the models that were handed in.

        The present champion takes part if it belongs to this pipeline version, so that a worse newcomer does not replace it.

        Args:
            round_id: Id of the round that they come from.
            handed_in: Registered name and version of each.
            holdout: The samples that no trainer has seen.
            train: What the baselines are fitted on; None for a comparison without them.
            few: All labelled records where they are few, to cross-validate the baselines.

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
                onnx, metadata = self._registry.load_onnx_model(ref)
                predictor = Predictor(self._pipeline, model, version, onnx, metadata)
            except (ModelRefusedError, NoModelError) as error:
                refused[f"{model} {version}"] = error.message
                continue
            is_champion = champion is not None and (model, version) == (champion.model, champion.version)
            cross = CrossValidation.parse(metadata.get("cross_validation"))
            candidates.append(Candidate(ref, predictor, is_champion, cross))
        results, without_numbers = ranked(candidates, holdout)
        refused |= without_numbers
        for name, reason in refused.items():
            log.warning("%s does not take part in the comparison: %s", name, reason)
        if not results:
            reasons = "; ".join(refused.values()) or "no trainer handed one in"
            raise TrainingFailedError(f"Round {round_id} has no model to compare: {reasons}")
        by_folds = ranked_by_folds(results)
        order, basis = (results, _HOLDOUT) if by_folds is None else (by_folds, _FOLDS)
        baselines = {} if train is None else baseline_qualities(train, holdout, few)
        unit = self._pipeline.dataset.column(self._pipeline.dataset.target).unit
        verdicts = verdicts_on(order[0], baselines, basis)
        return Comparison(round_id, tuple(order), len(holdout), refused, baselines, basis, verdicts, unit)


_HOLDOUT: Basis = "hold-out"
_FOLDS: Basis = "cross-validation"


def baseline_qualities(train: Samples, holdout: Samples, few: Keyed | None = None) -> dict[str, Quality]:
    """How the baselines do on the hold-out part, fitted on what the trainers trained on, and in their folds."""
    return {
        name: Quality.of(fit(train)(holdout.x), holdout, cross_validated_baseline(name, few) if few else None)
        for name, fit in BASELINES.items()
    }


def verdicts_on(champion: Result, baselines: Mapping[str, Quality], basis: Basis) -> dict[str, Verdict]:
    """The champion beside each baseline: by the folds where both were validated with the same records, else on the hold-out part."""
    verdicts = {}
    for name, quality in baselines.items():
        ours, theirs = champion.cross, quality.cross
        if basis == _FOLDS and ours and theirs and ours.digest == theirs.digest and len(ours.rmses) == len(theirs.rmses):
            verdicts[name] = Verdict(name, ours.rmse, cross_difference(ours, theirs))
        elif champion.quality is not None and champion.quality.errors is not None and quality.errors is not None:
            verdicts[name] = Verdict(name, champion.scores.rmse, rmse_difference(champion.quality.errors, quality.errors))
    return verdicts


def _label(ref: ModelVersionRef) -> str:
    return f"{ref.model} {ref.version}"
