"""The stack of a round: which hold-out records the weights come from, which models join, and when there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import TrainingFailedError
from complex_system.evaluation.baselines import for_folds
from complex_system.evaluation.stacking import MIN_WEIGHTS_RECORDS, HoldOut, StackCandidate, stack_result
from complex_system.tracking.base import TrainingResult
from complex_system.training.conformal import INTERVALS_FILE
from complex_system.training.cross_validation import Keyed, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import LinearModel, fit_linear
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold
from samples import lab_samples


def samples(size: int, split_by: str = "key", seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (size, 3)).astype(np.float32)
    groups = random.integers(0, 2**63, max(1, size // 4)).astype(np.uint64)[random.integers(0, max(1, size // 4), size)]
    times = random.uniform(0, 1e6, size)
    return Samples(x, x[:, 0], None if split_by == "key" else groups, times if split_by == "time" else None)


@pytest.mark.parametrize("split_by", ["key", "group", "time"])
def test_a_fifth_of_the_hold_out_records_is_for_the_weights_and_never_decides(split_by: str) -> None:
    whole = samples(1000, split_by)
    found = HoldOut(whole).divided(split_by)
    assert found.weights is not None
    assert len(found.weights) + len(found.deciding) == 1000
    assert len(found.weights) == pytest.approx(200, abs=50)
    rows = {row.tobytes() for row in found.weights.x}
    assert not rows & {row.tobytes() for row in found.deciding.x}
    if split_by == "group":
        assert not np.isin(found.weights.groups, found.deciding.groups).any()
    if split_by == "time":
        assert found.weights.times.max() < found.deciding.times.min()
    else:  # the same ones when others came, so that a champion is not compared on records of its own weights
        more = samples(1000, split_by, seed=1)
        both = [np.concatenate([getattr(part, name) for part in (whole, more)]) for name in ("x", "y")]
        groups = None if whole.groups is None else np.concatenate([whole.groups, more.groups])
        again = HoldOut(Samples(*both, groups)).divided(split_by).weights
        assert again is not None
        assert rows <= {row.tobytes() for row in again.x}


@pytest.mark.parametrize("split_by", ["key", "group", "time"])
def test_where_only_the_inputs_have_moved_the_fifth_is_of_all_and_in_neither_part(split_by: str) -> None:
    whole = samples(1000, split_by)
    newer = whole.of(np.arange(1000) >= 900)
    found = HoldOut(newer, whole).divided(split_by)
    assert found.weights is not None
    assert found.everything is not None
    assert len(found.weights) + len(found.everything) == 1000
    rows = {row.tobytes() for row in found.weights.x}
    assert not rows & {row.tobytes() for row in found.deciding.x}
    assert len(found.deciding) == 100 - len(rows & {row.tobytes() for row in newer.x})


def test_few_hold_out_records_all_decide() -> None:
    for few in (samples(4 * MIN_WEIGHTS_RECORDS), samples(60, "time")):
        assert HoldOut(few).divided("key" if few.groups is None else "time") == HoldOut(few)
    one_group = replace(samples(1000, "group"), groups=np.full(1000, 5, dtype=np.uint64))
    assert HoldOut(one_group).divided("group") == HoldOut(one_group)


def noisy_law() -> tuple[TrainingData, Keyed]:
    """A law with noise, as few records and as training data."""
    lab, _ = lab_samples(2, 1000)
    x = np.concatenate([lab.train.x, lab.validation.x])
    y = (x.sum(axis=1) + np.random.default_rng(5).normal(0, 1, len(x))).astype(np.float32)
    data = replace(lab, train=Samples(x[:300], y[:300]), validation=Samples(x[300:400], y[300:400]))
    return data, Keyed(tuple(f"k{i}" for i in range(len(x))), Samples(x, y))


def candidate(name: str, data: TrainingData, few: Keyed | None, deviation: float = 1.0) -> StackCandidate:
    """A linear model; out of fold it predicts the truth with errors of this standard deviation, which no other model has."""
    model, folds = LinearModel(data), None
    if few is not None:
        folds = out_of_fold(for_folds(fit_linear), few)
        noise = np.random.default_rng(list(name.encode())).normal(0, deviation, folds.predictions.shape)
        folds = replace(folds, predictions=(folds.truth + noise).astype(np.float32))
    return StackCandidate(f"lab-{name}", "3", model.predict, model.to_onnx(), folds)


def result(
    candidates: list[StackCandidate], data: TrainingData, weights: Samples | None, few: Keyed | None
) -> TrainingResult | None:
    return stack_result("r1", Dataset.load(), "lab", candidates, data, weights, few, b"{}", {"sample.arrow": b"1"})


def test_with_few_records_the_weights_are_of_the_predictions_out_of_fold() -> None:
    data, few = noisy_law()
    both = [candidate("first", data, few), candidate("second", data, few)]
    found = result(both, data, None, few)
    assert found is not None
    assert [each["model"] for each in found.members][-1] == "lab-linear"
    assert found.members[-1]["version"] == ""
    assert found.cross_validation is not None
    assert OUT_OF_FOLD_FILE in found.files
    assert {"sample.arrow", INTERVALS_FILE} <= set(found.files)
    assert OutOfFold.decoded(found.files[OUT_OF_FOLD_FILE]).summary() == found.cross_validation
    metadata = found.metadata("lab-stack", "run")
    assert metadata["members"] == [dict(each) for each in found.members]
    assert (metadata["trainer"], metadata["framework"]) == ("stack", "stack")
    crossed = found.cross_validation
    assert (found.validation.rmse, found.validation.mae) == (crossed.rmse, crossed.mae), (
        "members may know the validation part"
    )
    assert found.model.history[-1].validation_rmse == crossed.rmse

    # A model that was validated with other records, or with none, is left out; the others are combined.
    other = candidate("other", data, Keyed(few.groups, Samples(few.samples.x, few.samples.y + 1)))
    plain = candidate("plain", data, None)
    again = result([other, plain, *both], data, None, few)
    assert again is not None
    assert again.members == found.members
    # Records that came since then: the linear model was validated with others, and is left out.
    more = Keyed((*few.groups, "new"), few.samples.of(np.append(np.arange(len(few.groups)), 0)))
    without = result(both, data, None, more)
    assert without is not None
    assert {each["model"] for each in without.members} == {"lab-first", "lab-second"}


def test_with_many_records_the_weights_are_of_hold_out_records() -> None:
    data, few = noisy_law()
    truth = few.samples.y
    low, high = (
        StackCandidate(f"lab-{name}", "3", lambda x, off=off: truth + off, LinearModel(data).to_onnx())
        for name, off in (("low", np.float32(-1)), ("high", np.float32(3)))
    )
    found = result([low, high], data, few.samples, None)
    assert found is not None
    assert found.cross_validation is None
    assert OUT_OF_FOLD_FILE not in found.files
    weights = {each["model"]: each["weight"] for each in found.members}
    assert weights["lab-low"] == pytest.approx(3 * weights["lab-high"], rel=0.1)
    assert found.model.parameters["weights_records"] == len(few.samples)
    assert found.validation.rmse == pytest.approx(0, abs=0.01)


def test_there_is_no_stack_where_one_model_counts_alone_or_none_can_be_weighed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data, few = noisy_law()
    useless = candidate("useless", data, few, 500.0)
    assert result([useless], data, None, few) is None
    assert "Round r1 has no stack: lab-linear counts alone" in caplog.text
    assert result([candidate("plain", data, None)], data, None, few) is None
    assert "Round r1 has no stack: there are too few records for the weights" in caplog.text


def test_a_member_that_cannot_be_merged_leaves_the_round_without_a_stack(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, few = noisy_law()
    both = [candidate("first", data, few), candidate("second", data, few)]

    def refuse(*_: object) -> None:
        raise TrainingFailedError("lab-first 3 cannot be part of a stack: it is not.")

    monkeypatch.setattr("complex_system.training.stack.merged_onnx", refuse)
    assert result(both, data, None, few) is None
    assert "Round r1 has no stack: lab-first 3 cannot be part of a stack" in caplog.text
