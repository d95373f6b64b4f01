"""Compare models: by cross-validation where the records are few, else on the hold-out part, which no model has seen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.errors import (
    InternalError,
    TrackingRefusedError,
    TrainingFailedError,
)
from complex_system.evaluation.baselines import evaluate_baselines, for_folds
from complex_system.evaluation.candidates import Candidate, Candidates, kept_members
from complex_system.evaluation.decision import decide, ranked_by_folds
from complex_system.evaluation.results import Comparison, Result
from complex_system.evaluation.stacking import stack_result
from complex_system.evaluation.statistics import Evaluation, Squares, units_of
from complex_system.evaluation.triggers import AlertCause
from complex_system.evaluation.verdict import judge_champion, replaced_message
from complex_system.pipeline.onnx_graph import with_raw_onnx
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.labels import NO_SUSPECTS, SuspectTargets
from complex_system.protocol.scores import Basis
from complex_system.protocol.training import Cause
from complex_system.tracking.base import TrainingResult
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.base import score
from complex_system.training.conformal import interval_files
from complex_system.training.cross_validation import Keyed, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import LINEAR, LinearModel, fit_linear
from complex_system.training.onnx import export_onnx
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE
from complex_system.training.split import NO_COPIES, Copies
from complex_system.training.stack import STACK
from complex_system.training.training_set import describe_training

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
        first: Whether no earlier round of this pipeline version is known.
        after: The same by key, where the last champion is of a release that went by keys.
        comparison: The result, once there is one.
        linear: The linear model, where it is to be champion and is not registered yet.
        stack: The stack of the models, as long as it is not registered.
        stacked: Whether the stack was made, or there is none.
        runs: Ids of the runs that were made in MLflow, by name.
        holdout: The hold-out samples, until the winner is explained on them.
    """

    round: str
    models: list[tuple[str, str]]
    labelled: int | None = None
    since: float | None = None
    alert: AlertCause | None = None
    corrected: int = 0
    after: str | None = None
    first: bool = False
    comparison: Comparison | None = None
    linear: TrainingResult | None = None
    stack: TrainingResult | None = None
    stacked: bool = False
    runs: dict[str, str] = field(default_factory=dict)
    holdout: Samples | None = None

    @property
    def cause(self) -> Cause:
        """Why the models were trained."""
        if self.alert is not None:
            return "alert"
        if self.labelled is None:
            return "schedule"
        return "first" if self.first else "growth"

    @property
    def moved_since(self) -> float | None:
        """Since when the inputs have moved and the error has not: there a new model must be better, and nowhere surely worse."""
        return self.alert.since if self.alert is not None and self.alert.moved == "input" else None

    def compare_again(self) -> None:
        """Forget what was compared, because a person has changed the champion meanwhile."""
        self.comparison = self.linear = None
        self.runs.clear()

    def failed(self, error: Exception) -> None:
        """Prepare the next try; after a refusal it makes new runs, because somebody may have deleted one that was begun."""
        if isinstance(error, TrackingRefusedError):
            self.runs.clear()


@dataclass(frozen=True)
class ToCompare:
    """Samples to compare models on.

    Attributes:
        holdout: Samples that no trainer has seen.
        training: Samples for the baselines; None where there are too few or none were asked for.
        few: All labelled records, where they are few.
        copies: Copies among the labelled records.
        champion_has_seen: The champion was trained on many of the hold-out samples, because the split has moved since then.
        notes: What people must know of the split, as sentences.
        suspects: Labels that are probably wrong.
        keys: A sample of the keys of the training part.
        everything: Hold-out samples on which a new champion must not be surely worse; None where ``holdout`` decides alone.
        labelled: Labelled records that were read.
        weights: Other hold-out samples, for the weights of a stack; None where there are none.
    """

    holdout: Samples
    training: TrainingData | None = None
    few: Keyed | None = None
    copies: Copies = NO_COPIES
    champion_has_seen: bool = False
    notes: str = ""
    suspects: SuspectTargets = NO_SUSPECTS
    keys: list[str] = field(default_factory=list)
    everything: Samples | None = None
    labelled: int = 0
    weights: Samples | None = None


class ModelComparison:
    """Compares versions of the registry with each other and with the present champion. Blocking; runs in a thread."""

    def __init__(
        self, registry: ModelRegistry, pipeline: Pipeline, prefix: str, level: float, *, baselines: bool = True
    ) -> None:
        """Make a comparison.

        Args:
            registry: Where the models are.
            pipeline: Makes their features.
            prefix: Begin of the registered names.
            level: Probability with which a round may change the champion although no model is better.
            baselines: Whether the mean and a linear model are compared, too, where there is training data.
        """
        self._pipeline = pipeline
        self._prefix = prefix
        self._level = level
        self._baselines = baselines
        self._candidates = Candidates(registry, pipeline)

    def run(
        self, request: ComparisonRequest, data: ToCompare, champion: ModelVersionRef | None = None, hold: str = ""
    ) -> Comparison:
        """Compare the models of a round with each other, with the present champion, and with a linear model.

        The champion stays unless a new model is surely better, or far smaller and not worse (``evaluation.decision``). The linear
        model is not registered yet: it is among the results only where it is to be champion.

        A model that was trained with another split may have seen hold-out records, so it does not take part, not even as the champion:
        the best new model replaces that.

        Args:
            request: The models.
            data: What they are compared on.
            champion: The present champion, if it is for this pipeline version.
            hold: Why a person decides about a new champion, as a part of a sentence; empty where the round does.

        Raises:
            TrainingFailedError: None of them can be loaded and predicts.
            TrackingUnavailableError: MLflow does not answer; the same call may be repeated.
        """
        dataset, holdout = self._pipeline.dataset, data.holdout
        replaced = ""
        if champion and (champion.split != dataset.split_rule or data.champion_has_seen):
            replaced = replaced_message(
                f"{champion.model} {champion.version}", champion.split, dataset.split_rule, held=bool(hold)
            )
            champion = None
        incumbent = (champion.model, champion.version) if champion else None
        candidates, refused = self._candidates.load([*request.models, *([incumbent] if incumbent else [])], incumbent)
        results, without_numbers = ranked(candidates, holdout, dataset.split.by, data.everything)
        refused |= without_numbers
        for name, reason in refused.items():
            log.warning("%s does not take part in the comparison: %s", name, reason)
        if not results:
            reasons = "; ".join(refused.values()) or "no trainer submitted one"
            raise TrainingFailedError(f"Round {request.round} has no model to compare: {reasons}")
        baselines: dict[str, Evaluation] = {}
        if data.training is not None and self._baselines:
            baselines = evaluate_baselines(data.training.train, holdout, data.few, dataset.split.by)
            results = sorted([*results, self._linear(data.training, baselines[LINEAR], data.everything)], key=_place)
        by_folds = ranked_by_folds(results) if data.everything is None else None
        basis: Basis = "hold-out" if by_folds is None else "cross-validation"
        results = by_folds or results
        winner, challenges = decide(results, self._level, dataset.split.by)
        candidate = winner if hold and not winner.incumbent else None
        best = winner if candidate is None else next((result for result in results if result.incumbent), winner)
        others = {name: each for name, each in baselines.items() if name not in (best.ref.trainer, winner.ref.trainer)}
        unit, by = dataset.column(dataset.target).unit, dataset.split.by
        verdicts, verdict = judge_champion(best, best.label, others, basis, unit, by)
        return Comparison(
            round=request.round, results=tuple(result for result in results if result is winner or result.ref.version),
            champion=best, holdout=len(holdout), best_new=next((result for result in results if not result.incumbent), None),
            refused=refused, baselines=baselines if winner.ref.version else others, ranked_by=basis, challenges=challenges,
            verdicts=verdicts, verdict=verdict, replaced=replaced, copies=data.copies, split=dataset.split_rule, split_by=by,
            question=dataset.split.question, notes=data.notes, suspects=data.suspects, candidate=candidate, hold=hold, truth=holdout.y,
        )  # fmt: skip

    def stack(
        self, request: ComparisonRequest, data: ToCompare, reference: bytes, files: Mapping[str, bytes]
    ) -> TrainingResult | None:
        """Return the stack of the models of a round, to be registered and compared like them; None where there is none.

        Args:
            request: The models. Where an earlier try has registered their stack, it is among them, and there is no other one.
            data: What it is made of.
            reference: What the training data are like, for monitoring.
            files: Kept beside the ONNX model.

        Raises:
            TrackingUnavailableError: MLflow does not answer; the same call may be repeated.
        """
        new, _ = self._candidates.load(request.models)
        if data.training is None or any(each.ref.trainer == STACK for each in new):
            return None
        members = [self._candidates.for_stack(each) for each in new]
        dataset, weights = self._pipeline.dataset, data.weights
        return stack_result(
            request.round, dataset, self._prefix, members, data.training, weights, data.few, reference, files
        )

    def _linear(self, training: TrainingData, found: Evaluation, everything: Samples | None) -> Result:
        dataset, model = self._pipeline.dataset, LinearModel(training)
        ref = ModelVersionRef(
            f"{self._prefix}-{LINEAR}", "", LINEAR, LINEAR, "", dataset.version, {}, datetime.now(UTC), dataset.split_rule
        )
        overall = None if everything is None else _squares(model.predict(everything.x), everything, dataset.split.by)
        return Result(ref=ref, size=len(model.to_onnx()), overall=overall, **vars(found))


def linear_result(
    request: ComparisonRequest,
    dataset: Dataset,
    data: TrainingData,
    few: Keyed | None,
    reference: bytes,
    files: Mapping[str, bytes],
) -> TrainingResult:
    """Return the linear model as a trainer returns its own, with the checked ONNX model.

    Args:
        request: The round that it is of.
        dataset: What it is for.
        data: What it is fitted on; its samples have their keys.
        few: All labelled records, where they are few: it is cross-validated with them.
        reference: What the data are like, for monitoring.
        files: Kept beside the ONNX model.
    """
    started, model = datetime.now(UTC), LinearModel(data)
    onnx_model = export_onnx(model, data.validation.x, data.validation.y)
    crossed = None if few is None else out_of_fold(for_folds(fit_linear), few)
    made = {**files, **interval_files(dataset, model.predict, data, crossed)}
    if crossed is not None:
        made[OUT_OF_FOLD_FILE] = crossed.encoded()
    return TrainingResult(
        trainer=LINEAR, framework=LINEAR, round=request.round, dataset=dataset, data=data, model=model,
        onnx_model=onnx_model,
        validation=score(data.validation.y, model.predict(data.validation.x)),
        started_at=started, trained_at=datetime.now(UTC), timings={}, reference=reference,
        cross_validation=None if crossed is None else crossed.summary(),
        files=with_raw_onnx(dataset, onnx_model, made),
        training=describe_training(None, dataset, data, model, request.since, request.after),
    )  # fmt: skip


def ranked(
    candidates: Iterable[Candidate], holdout: Samples, split_by: str = "key", everything: Samples | None = None
) -> tuple[list[Result], dict[str, str]]:
    """Return the candidates by RMSE on the hold-out part, and the reasons of those that predict values that are not finite.

    At the same RMSE the incumbent comes first.

    Args:
        candidates: The models.
        holdout: What they are ranked on.
        split_by: What the split goes by (``Split.by``).
        everything: What they are also evaluated on; None for nothing else.
    """
    results: list[Result] = []
    refused: dict[str, str] = {}
    for candidate in candidates:
        predict, overall = candidate.predictor.predict_features, None
        try:
            predicted = np.asarray(predict(holdout.x), dtype=np.float32)
            if everything is not None:
                overall = _squares(predict(everything.x), everything, split_by)
        except InternalError as error:
            refused[f"{candidate.ref.model} {candidate.ref.version}"] = error.message
            continue
        found = vars(Evaluation.of(predicted, holdout, candidate.cross, split_by))
        results.append(
            Result(
                ref=candidate.ref,
                incumbent=candidate.incumbent,
                size=candidate.size,
                overall=overall,
                members=kept_members(candidate.metadata),
                **found,
            )
        )
    return sorted(results, key=_place), refused


def _squares(predicted: Any, samples: Samples, split_by: str) -> Squares:
    return Squares.of(np.asarray(predicted, dtype=np.float32) - samples.y, units_of(samples, split_by))


def _place(result: Result) -> tuple[float, bool, str]:
    return result.quality.rmse, not result.incumbent, result.ref.model
