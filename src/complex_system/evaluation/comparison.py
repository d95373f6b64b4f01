"""Compare models: by cross-validation where the records are few, else on the hold-out part, which no model has seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from complex_system.domain.dataset import BY_KEY
from complex_system.errors import (
    InternalError,
    ModelRefusedError,
    TrackingRefusedError,
    TrainingFailedError,
    UnknownModelError,
)
from complex_system.evaluation.baselines import evaluate_baselines
from complex_system.evaluation.statistics import Evaluation
from complex_system.evaluation.triggers import AlertCause
from complex_system.evaluation.verdict import Basis, copies_message, format_figure, judge_champion
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.training import (
    Cause,
    ChampionSummary,
    ComparedModel,
    ComparisonFinished,
    CrossValidation,
    FoldCounts,
    VerdictOnBaseline,
)
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import SPLIT, ModelRegistry, ModelVersionRef
from complex_system.training.cross_validation import Keyed
from complex_system.training.data import Samples

log = logging.getLogger(__name__)


@dataclass
class ComparisonRequest:
    """Models to compare. What was done is kept, so that a comparison that failed halfway goes on from there.

    Attributes:
        round: Id of the round.
        models: Registered name and version of each.
        labelled: Labelled records at the round; None for models that no round asked for.
        corrected: Corrections of labelled records that the round's data have.
        after: The models were trained on records with larger keys only, and are compared on such.
        alert: The alerts that asked for the round; None where it was the growth of the data.
        comparison: The result, once there is one.
        runs: Ids of the runs that were made in MLflow, by name.
    """

    round: str
    models: list[tuple[str, str]]
    labelled: int | None = None
    after: str | None = None
    alert: AlertCause | None = None
    corrected: int = 0
    comparison: Comparison | None = None
    runs: dict[str, str] = field(default_factory=dict)

    @property
    def cause(self) -> Cause:
        """Why the models were trained."""
        if self.alert is not None:
            return "alert"
        return "schedule" if self.labelled is None else "growth"

    def failed(self, error: Exception) -> None:
        """Prepare the next try; after a refusal it makes new runs, because somebody may have deleted one that was begun."""
        if isinstance(error, TrackingRefusedError):
            self.runs.clear()


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Attributes:
        incumbent: It was the champion before this comparison.
        cross: The cross-validation by its trainer; None where the records were too many for it.
    """

    ref: ModelVersionRef
    predictor: Predictor
    incumbent: bool = False
    cross: CrossValidation | None = None


@dataclass(frozen=True, kw_only=True)
class Result(Evaluation):
    """How a candidate did."""

    ref: ModelVersionRef
    incumbent: bool = False

    @property
    def label(self) -> str:
        """Name and version."""
        return _label(self.ref)

    def message(self) -> ComparedModel:
        """Return the result as it is published."""
        ref, figures = self.ref, msgspec.structs.asdict(self.quality)
        return ComparedModel(trainer=ref.trainer, framework=ref.framework, model=ref.model, version=ref.version, **figures)


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        round: Id of the training round.
        results: Best first, at least one.
        holdout: Number of hold-out samples.
        refused: Reason by ``model version`` of those that could not take part.
        baselines: How the mean and a linear model did, where they were asked for.
        ranked_by: What the new models are ranked by.
        verdicts: Whether the champion is better than each baseline.
        verdict: What people must know of the champion beside the baselines; empty where it is clearly better.
        records: Labelled records behind the comparison.
        copies: Those of them whose features and target are those of an earlier one.
        copies_together: Whether the split keeps copies in one part.
    """

    round: str
    results: tuple[Result, ...]
    holdout: int
    refused: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Evaluation] = field(default_factory=dict)
    ranked_by: Basis = "hold-out"
    verdicts: dict[str, VerdictOnBaseline] = field(default_factory=dict)
    verdict: str = ""
    records: int = 0
    copies: int = 0
    copies_together: bool = True

    @property
    def evidence(self) -> str:
        """The verdict, and how many copies there are among the records; empty where there is nothing to know."""
        copies = copies_message(self.copies, self.records, together=self.copies_together)
        return " ".join(part for part in (self.verdict, copies) if part)

    @property
    def champion(self) -> Result:
        """The best of them."""
        return self.results[0]

    @property
    def is_change(self) -> bool:
        """Whether the champion is another one than before."""
        return not self.champion.incumbent

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The baselines that are at least as good as the champion."""
        return tuple(name for name, verdict in self.verdicts.items() if verdict.verdict == "not better")

    @property
    def folds(self) -> FoldCounts | None:
        """Size of the cross-validation; None where there was none."""
        cross = next((result.cross for result in self.results if result.cross and not result.incumbent), self.champion.cross)
        return FoldCounts(records=cross.records, folds=cross.folds, repeats=cross.repeats) if cross else None

    @property
    def kept(self) -> str:
        """Why the previous champion stays, in one sentence; empty for a new one."""
        if self.is_change:
            return ""
        where = f"on the newest {self.holdout} hold-out records"
        rmse, best = self.champion.quality.rmse, self.results[1] if len(self.results) > 1 else None
        best_rmse = best.quality.rmse if best else 0.0
        old, new = self.champion.cross, best.cross if best else None
        if self.ranked_by == "cross-validation" and old and new and old.digest == new.digest:
            where, rmse, best_rmse = f"by cross-validation with {old.records} records", old.rmse, new.rmse
        kept = f"{self.champion.label} stays champion with RMSE {format_figure(rmse)} {where}"
        if best is None:
            return f"{kept}: no new model could be compared."
        return f"{kept}: the best new model, {best.label}, has {format_figure(best_rmse)}."

    def message(self, request: ComparisonRequest, run_url: str = "") -> ComparisonFinished:
        """Return the comparison as it is published and kept.

        Args:
            request: What was asked for.
            run_url: Page of the comparison's run.
        """
        results = tuple(result.message() for result in self.results)
        return ComparisonFinished(
            round=self.round,
            results=results,
            champion=msgspec.convert(results[0], ChampionSummary, from_attributes=True),
            holdout=self.holdout,
            kept=self.kept,
            cause=request.cause,
            alerts=request.alert.alerts if request.alert else (),
            ranked_by=self.ranked_by,
            run_url=run_url,
            cross_validation=self.folds,
            baselines={name: baseline.quality for name, baseline in self.baselines.items()},
            verdicts=self.verdicts,
            verdict=self.evidence,
            records=self.records,
            copies=self.copies,
            not_better_than=self.unbeaten,
        )


class ModelComparison:
    """Compares versions of the registry with each other and with the present champion. Blocking; runs in a thread."""

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline) -> None:
        self._registry = registry
        self._pipeline = pipeline

    def run(
        self, request: ComparisonRequest, holdout: Samples, train: Samples | None = None, few: Keyed | None = None
    ) -> Comparison:
        """Compare the models of a round.

        The present champion takes part if it belongs to this pipeline version, so that a worse new model does not replace it, and to
        this split: one that was trained with another has seen hold-out records.

        Args:
            request: The models.
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
        incumbent = (champion.model, champion.version) if champion else None
        names = dict.fromkeys(request.models)
        if champion and incumbent and champion.pipeline_version == self._pipeline.dataset.version:
            if champion.tags.get(SPLIT, BY_KEY) == self._pipeline.dataset.split_rule:
                names[incumbent] = None
            else:
                log.warning("%s is not compared: its records were divided in another way, so it has seen hold-out records",
                            _label(champion))  # fmt: skip
        for model, version in names:
            try:
                ref = self._registry.find(model, version)
                onnx, metadata = self._registry.load_onnx_model(ref)
                predictor = Predictor(self._pipeline, model, version, onnx, metadata)
            except (ModelRefusedError, UnknownModelError) as error:
                refused[f"{model} {version}"] = error.message
                continue
            candidates.append(Candidate(ref, predictor, (model, version) == incumbent, kept_cross_validation(metadata)))
        results, without_numbers = ranked(candidates, holdout)
        refused |= without_numbers
        for name, reason in refused.items():
            log.warning("%s does not take part in the comparison: %s", name, reason)
        if not results:
            reasons = "; ".join(refused.values()) or "no trainer submitted one"
            raise TrainingFailedError(f"Round {request.round} has no model to compare: {reasons}")
        by_folds = ranked_by_folds(results)
        basis: Basis = "hold-out" if by_folds is None else "cross-validation"
        order = tuple(by_folds or results)
        baselines = {} if train is None else evaluate_baselines(train, holdout, few)
        dataset = self._pipeline.dataset
        verdicts, verdict = judge_champion(order[0], order[0].label, baselines, basis, dataset.column(dataset.target).unit)
        return Comparison(request.round, order, len(holdout), refused, baselines, basis, verdicts, verdict)


def kept_cross_validation(metadata: Mapping[str, Any]) -> CrossValidation | None:
    """Return the cross-validation in a model's metadata; None where there is none that can be used."""
    try:
        found = msgspec.convert(metadata.get("cross_validation"), CrossValidation | None)
    except msgspec.ValidationError:
        return None
    usable = found and found.folds > 1 and len(found.rmses) >= found.folds and all(map(math.isfinite, found.rmses))
    return found if usable else None


def ranked(candidates: Iterable[Candidate], holdout: Samples) -> tuple[list[Result], dict[str, str]]:
    """Return the candidates by RMSE on the hold-out part, and the reasons of those that predict values that are not finite.

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
        found = vars(Evaluation.of(predicted, holdout, candidate.cross))
        results.append(Result(ref=candidate.ref, incumbent=candidate.incumbent, **found))
    results.sort(key=lambda result: (result.quality.rmse, not result.incumbent, result.ref.model))
    return results, refused


def ranked_by_folds(results: list[Result]) -> list[Result] | None:
    """Return the results by their cross-validation, or None where the new models were not all validated with the same records.

    A previous champion that was trained on other records has no such figure; it is compared with the best new model on the
    hold-out part, which neither has seen, and stands first or last.
    """
    digests = {result.cross.digest if result.cross else "" for result in results if not result.incumbent}
    if len(digests) != 1 or "" in digests:
        return None
    same = [(result.cross.rmse, not result.incumbent, result.ref.model, result)
            for result in results if result.cross and result.cross.digest in digests]  # fmt: skip
    order = [result for *_, result in sorted(same, key=lambda each: each[:3])]
    others = [result for result in results if all(result is not each for each in order)]
    better = [result for result in others if result.quality.rmse <= order[0].quality.rmse]
    worse = [result for result in others if result.quality.rmse > order[0].quality.rmse]
    return [*better, *order, *worse]


def _label(ref: ModelVersionRef) -> str:
    return f"{ref.model} {ref.version}"
