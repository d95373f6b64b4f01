"""The stack of a round: weights for its models on records that none of them has seen, and one model of those that count."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.errors import InternalError, TrainingFailedError
from complex_system.evaluation.baselines import for_folds
from complex_system.pipeline.onnx_graph import with_raw_onnx
from complex_system.protocol.scores import Scores
from complex_system.tracking.base import TrainingResult
from complex_system.training.base import Parameter, score
from complex_system.training.conformal import interval_files
from complex_system.training.cross_validation import Keyed, Predict, out_of_fold
from complex_system.training.data import MIN_SAMPLES, Samples, TrainingData
from complex_system.training.grouping import Mask
from complex_system.training.linear import LINEAR, LinearModel, fit_linear
from complex_system.training.onnx import export_onnx
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from complex_system.training.split import contents_of
from complex_system.training.stack import STACK, Member, StackModel, Weights, stack_weights, stacked

log = logging.getLogger(__name__)

WEIGHTS_SHARE = 5
"""One of so many hold-out records is for the weights of a stack, and does not decide."""
MIN_WEIGHTS_RECORDS = 50
"""Where they would be fewer, all decide, and there is no stack without a cross-validation."""


@dataclass(frozen=True)
class StackCandidate:
    """A model that may become a member.

    Attributes:
        model: Registered name.
        version: Its version; empty where it is not registered.
        predict: Features to predictions, as served.
        onnx_model: Its ONNX model.
        folds: Its out-of-fold predictions, where it was cross-validated.
    """

    model: str
    version: str
    predict: Predict
    onnx_model: bytes
    folds: OutOfFold | None = None


@dataclass(frozen=True)
class HoldOut:
    """The hold-out samples of a comparison.

    Attributes:
        deciding: On which models are compared.
        everything: On which a new champion must not be surely worse; None where the others decide alone.
        weights: On which the weights of a stack are fitted, and which are in neither; None where there are none.
    """

    deciding: Samples
    everything: Samples | None = None
    weights: Samples | None = None

    def divided(self, split_by: str) -> HoldOut:
        """Return the samples with a fifth of them apart, for the weights; as they are where that would leave too few in either part.

        The fifth follows from content or group, so it is the same in every round, and a champion that is a stack is never compared on
        its own. With a split by time it is the oldest fifth.

        Args:
            split_by: What the split goes by (``Split.by``).
        """
        whole = self.deciding if self.everything is None else self.everything
        for_weights = _for_weights(whole, whole, split_by)
        deciding = self.deciding.of(~_for_weights(self.deciding, whole, split_by))
        if not MIN_WEIGHTS_RECORDS <= for_weights.sum() <= len(whole) / 2 or len(deciding) < MIN_SAMPLES:
            return self
        return HoldOut(deciding, None if self.everything is None else whole.of(~for_weights), whole.of(for_weights))


def _for_weights(samples: Samples, whole: Samples, split_by: str) -> Mask:
    if split_by == "time" and samples.times is not None and whole.times is not None:
        chosen: Mask = samples.times <= np.quantile(whole.times, 1 / WEIGHTS_SHARE, method="lower")
    else:
        names = contents_of([*samples.x.T, samples.y], len(samples)) if samples.groups is None else samples.groups
        chosen = names % np.uint64(WEIGHTS_SHARE) == 0
    return chosen


def stack_result(
    round_id: str,
    dataset: Dataset,
    prefix: str,
    candidates: Sequence[StackCandidate],
    data: TrainingData,
    weights_samples: Samples | None,
    few: Keyed | None,
    reference: bytes,
    files: Mapping[str, bytes],
) -> TrainingResult | None:
    """Return the stack of a round's models and the linear one, as a trainer returns its model; None where one model counts alone.

    Args:
        round_id: The round that it is of.
        dataset: What it is for.
        prefix: Begin of the registered names.
        candidates: The new models of the round.
        data: What the linear model is fitted on, and monitoring compares later data with.
        weights_samples: Hold-out samples for the weights, where the models were not cross-validated.
        few: All labelled records, where they are few: the linear model is cross-validated with them.
        reference: What the data are like, for monitoring.
        files: Kept beside the ONNX model.
    """
    started, linear = datetime.now(UTC), LinearModel(data)
    crossed = out_of_fold(for_folds(fit_linear), few) if few is not None else None
    everyone = [*candidates, StackCandidate(f"{prefix}-{LINEAR}", "", linear.predict, linear.to_onnx(), crossed)]
    try:
        found = _weighed(everyone, weights_samples, dataset.split.by)
        if found is None or len(found.members) < 2:
            alone = (
                "there are too few records for the weights" if found is None else f"{found.members[0].model} counts alone"
            )
            log.info("Round %s has no stack: %s", round_id, alone)
            return None
        model = StackModel(found.members, data, found.parameters, found.scores.rmse)
        onnx_model = export_onnx(model, data.validation.x, data.validation.y)
    except (TrainingFailedError, InternalError) as error:
        log.warning("Round %s has no stack: %s", round_id, error.message)
        return None
    told = " + ".join(f"{each.weight:.2f} x {each.model} {each.version}".rstrip() for each in found.members)
    log.info("Round %s: the stack is %s", round_id, told)
    made = {**files, **interval_files(dataset, model.predict, data, found.folds)}
    if found.folds is not None:
        made[OUT_OF_FOLD_FILE] = found.folds.encoded()
    return TrainingResult(
        trainer=STACK, framework=STACK, round=round_id, dataset=dataset, data=data, model=model, onnx_model=onnx_model,
        validation=found.scores, started_at=started, trained_at=datetime.now(UTC), timings={}, reference=reference,
        cross_validation=None if found.folds is None else found.folds.summary(),
        files=with_raw_onnx(dataset, onnx_model, made), members=tuple(member.about() for member in found.members),
    )  # fmt: skip


@dataclass(frozen=True)
class _Weighed:
    """The members of a stack.

    Attributes:
        members: Those with a weight.
        parameters: How it was found.
        scores: Of the stack on the records of the weights: members may know the validation part, as one does that was fitted again.
        folds: What the stack predicts out of fold, where that is what the weights are of.
    """

    members: list[Member]
    parameters: dict[str, Parameter]
    scores: Scores
    folds: OutOfFold | None = None


def _weighed(candidates: Sequence[StackCandidate], samples: Samples | None, split_by: str) -> _Weighed | None:
    """Return the members with their weights; None where there are no records for these."""
    crossed = [each for each in candidates if each.folds is not None]
    folds: OutOfFold | None = None
    weights: Weights
    if any(each.version for each in crossed):
        weighed = max(([other for other in crossed if _alike(each, other)] for each in crossed), key=len)
        known = [each.folds for each in weighed if each.folds is not None]
        weights, folds = stacked(known, split_by)
        parameters: dict[str, Parameter] = {"weights_from": "out-of-fold predictions", "weights_records": len(folds.truth)}
        crossed_scores = folds.summary()
        scores = Scores(rmse=crossed_scores.rmse, mae=crossed_scores.mae, r2=crossed_scores.r2)
    elif samples is not None:
        weighed = list(candidates)
        predictions = np.column_stack([np.asarray(each.predict(samples.x)) for each in weighed])
        weights = stack_weights(predictions, samples.y)
        parameters = {"weights_from": "hold-out records that do not decide", "weights_records": len(samples)}
        scores = score(samples.y, (predictions @ weights).astype(np.float32))
    else:
        return None
    members = [
        Member(each.model, each.version, float(weight), each.onnx_model)
        for each, weight in zip(weighed, weights, strict=True)
        if weight > 0
    ]
    return _Weighed(members, parameters, scores, folds)


def _alike(one: StackCandidate, other: StackCandidate) -> bool:
    return one.folds is not None and other.folds is not None and one.folds.is_like(other.folds)
