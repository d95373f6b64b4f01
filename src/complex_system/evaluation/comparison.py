"""Compare models: by cross-validation where the records are few, else on the hold-out part, which no model has seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

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
from complex_system.evaluation.verdict import (
    MIN_UNSEEN,
    Basis,
    copies_message,
    format_figure,
    judge_champion,
    split_message,
)
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.labels import NO_SUSPECTS, SuspectTargets
from complex_system.protocol.scores import CrossValidation
from complex_system.protocol.training import (
    Cause,
    ChampionSummary,
    ComparedModel,
    ComparisonFinished,
    FoldCounts,
    VerdictOnBaseline,
)
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.cross_validation import Keyed
from complex_system.training.data import Samples
from complex_system.training.split import NO_COPIES, Copies
from complex_system.training.targets import targets_message

log = logging.getLogger(__name__)


@dataclass
class ComparisonRequest:
    """Models to compare. What was done is kept, so that a comparison that failed halfway goes on from there.

    Attributes:
        round: Id of the round.
        models: Registered name and version of each.
        labelled: Labelled records at the round; None for models that no round asked for.
        since: The models were trained only on records whose time is later, and are compared on such.
        alert: The alerts that asked for the round; None where it was the growth of the data.
        corrected: Labels that were ever corrected when the round began.
        after: The same by key, where the last champion is of a release that went by keys.
        comparison: The result, once there is one.
        runs: Ids of the runs that were made in MLflow, by name.
    """

    round: str
    models: list[tuple[str, str]]
    labelled: int | None = None
    since: float | None = None
    alert: AlertCause | None = None
    corrected: int = 0
    after: str | None = None
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
class ToCompare:
    """Samples to compare models on.

    Attributes:
        holdout: Samples that no trainer has seen.
        train: Samples for the baselines; None where there are too few or none were asked for.
        few: All labelled records, where they are few.
        copies: Copies among the labelled records.
        unseen: Of the hold-out samples those that the champion, which was trained with another split, has not seen either; None where
            its split is the present one.
        suspects: Labels that are probably wrong.
    """

    holdout: Samples
    train: Samples | None = None
    few: Keyed | None = None
    copies: Copies = NO_COPIES
    unseen: Samples | None = None
    suspects: SuspectTargets = NO_SUSPECTS

    @property
    def decisive(self) -> Samples:
        """The samples that decide: those that no model has seen, where there are enough of them."""
        return self.holdout if self.unseen is None or len(self.unseen) < MIN_UNSEEN else self.unseen


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
        champion_split: How the previous champion was compared, where it was trained with another split.
        copies: Copies among the labelled records.
        suspects: Labels that are probably wrong.
    """

    round: str
    results: tuple[Result, ...]
    holdout: int
    refused: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Evaluation] = field(default_factory=dict)
    ranked_by: Basis = "hold-out"
    verdicts: dict[str, VerdictOnBaseline] = field(default_factory=dict)
    verdict: str = ""
    champion_split: str = ""
    copies: Copies = NO_COPIES
    suspects: SuspectTargets = NO_SUSPECTS

    @property
    def evidence(self) -> str:
        """What people must know of the comparison; empty for nothing."""
        parts = (self.verdict, self.champion_split, copies_message(self.copies), targets_message(self.suspects))
        return " ".join(part for part in parts if part)

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
        """Return the comparison as it is published and kept, with the page of its run."""
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
            records=self.copies.records,
            copies=self.copies.count,
            not_better_than=self.unbeaten,
            suspects=self.suspects,
        )


class ModelComparison:
    """Compares versions of the registry with each other and with the present champion. Blocking; runs in a thread."""

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline) -> None:
        self._registry = registry
        self._pipeline = pipeline

    def run(self, request: ComparisonRequest, data: ToCompare, champion: ModelVersionRef | None = None) -> Comparison:
        """Compare the models of a round with each other and with the present champion, so that a worse new model does not replace it.

        A champion that was trained with another split has seen hold-out records: it is compared on those that it has not seen, or,
        where these are too few, on all, which favours it. Other models of another split do not take part.

        Args:
            request: The models.
            data: What they are compared on.
            champion: The present champion, if it is for this pipeline version.

        Raises:
            TrainingFailedError: None of them can be loaded and predicts.
            TrackingUnavailableError: MLflow does not answer; the same call may be repeated.
        """
        dataset, holdout = self._pipeline.dataset, data.decisive
        refused: dict[str, str] = {}
        candidates: list[Candidate] = []
        incumbent = (champion.model, champion.version) if champion else None
        for model, version in dict.fromkeys([*request.models, *([incumbent] if incumbent else [])]):
            try:
                ref = self._registry.find(model, version)
                if ref.split != dataset.split_rule and (model, version) != incumbent:
                    raise ModelRefusedError(
                        f"It was trained with another split (by {ref.split}, not by {dataset.split_rule}), so it has seen hold-out "
                        "records. The next training replaces it."
                    )
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
        baselines = {} if data.train is None else evaluate_baselines(data.train, holdout, data.few)
        verdicts, verdict = judge_champion(order[0], order[0].label, baselines, basis, dataset.column(dataset.target).unit)
        old = next((result for result in results if result.incumbent), None)
        how = ""
        if old is not None and data.unseen is not None:
            how = split_message(old.label, old.ref.split, len(holdout), len(data.unseen), stays=order[0].incumbent)
        found = request.round, order, len(holdout), refused, baselines, basis, verdicts, verdict, how
        return Comparison(*found, data.copies, data.suspects)


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
