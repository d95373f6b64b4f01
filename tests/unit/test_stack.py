"""The stack: weights with known solutions, out-of-fold predictions that do not know their own fold, and one merged ONNX model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from scipy.optimize import minimize

from complex_system.errors import TrainingFailedError
from complex_system.evaluation.baselines import fit_mean, for_folds
from complex_system.training.cross_validation import Keyed, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import LINEAR, LinearModel
from complex_system.training.onnx import ONNX_INPUT, export_onnx, run_onnx
from complex_system.training.out_of_fold import OutOfFold
from complex_system.training.stack import MIN_WEIGHT, PRIOR, Member, StackModel, stack_weights, stacked
from samples import lab_samples
from trainings import quick_model


def errors(deviations: list[float], size: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions with independent errors of these standard deviations, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.normal(50, 20, size)
    return truth[:, None] + random.normal(0, 1, (size, len(deviations))) * deviations, truth


def test_independent_errors_are_weighed_by_the_inverse_of_their_variance() -> None:
    weights = stack_weights(*errors([1.0, 2.0, 4.0], 200_000))
    assert weights == pytest.approx(np.array([16, 4, 1]) / 21, abs=0.01)


def test_weights_are_those_of_a_general_solver_and_follow_shift_and_scale() -> None:
    for seed in range(5):
        predictions, truth = errors([1.0, 1.3, 1.5, 3.0], 60, seed)
        predictions[:, 1] = 0.6 * predictions[:, 0] + 0.4 * predictions[:, 1]
        weights = stack_weights(predictions, truth)
        found = minimize(
            lambda w, p=predictions, y=truth: np.sum((p @ w - y) ** 2) / np.mean((p.T - y) ** 2, axis=1).min() + w @ w / PRIOR**2,
            np.full(4, 0.25), bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12}
        )  # fmt: skip
        if found.x[found.x > 1e-4].min() > MIN_WEIGHT:
            assert weights == pytest.approx(found.x, abs=2e-3)
        assert weights.sum() == pytest.approx(1)
        assert all(weight == 0 or weight >= MIN_WEIGHT for weight in weights)
        for shift, scale in ((1e5, 1.0), (0.0, 1e-6), (-300.0, -7.0)):
            assert stack_weights(shift + scale * predictions, shift + scale * truth) == pytest.approx(weights, abs=1e-6)


def test_the_fewer_records_the_closer_are_the_weights_to_equal_ones() -> None:
    predictions, truth = errors([14.0, 14.0, 15.0], 2000)
    far = [np.abs(stack_weights(predictions[:n], truth[:n]) - 1 / 3).max() for n in (5, 2000)]
    assert far[0] < 0.15
    copies = stack_weights(np.column_stack([predictions[:, 0]] * 4), truth)
    assert copies == pytest.approx(np.full(4, 0.25))


def test_members_that_add_nothing_are_left_out() -> None:
    predictions, truth = errors([1.0, 1.0])
    worse = predictions[:, :1] + np.random.default_rng(1).normal(0, 3, (len(truth), 1))
    biased = truth[:, None] + 50
    assert stack_weights(np.hstack([predictions[:, :1], worse, biased]), truth).tolist() == [1, 0, 0]
    copies = stack_weights(np.hstack([predictions, predictions]), truth)
    assert copies[0] + copies[2] == pytest.approx(0.5, abs=0.05)
    assert stack_weights(np.column_stack([truth, truth + 1]), truth).tolist() == [1, 0]


def known(size: int = 100, repeats: int = 1, *, members: int = 3, seed: int = 0) -> list[OutOfFold]:
    """Out-of-fold predictions of members with independent errors."""
    random = np.random.default_rng(seed)
    y = random.normal(0, 5, size).astype(np.float32)
    records = Keyed(tuple(f"k{i}" for i in range(size)), Samples(y[:, None], y))
    first = out_of_fold(for_folds(fit_mean), records, repeats=repeats)
    noise = random.normal(0, 1, (members, *first.predictions.shape)).astype(np.float32)
    return [replace(first, predictions=first.truth + each) for each in noise]


@pytest.mark.parametrize("split_by", ["key", "time"])
def test_a_fold_is_predicted_with_weights_that_do_not_know_it(split_by: str) -> None:
    members = known(repeats=1 if split_by == "time" else 2)
    weights, found = stacked(members, split_by)
    for repeat, folds in enumerate(found.folds):
        for fold in range(5):
            # With another truth in this fold its predictions stay; without the rule the weights would follow it.
            inside = folds == fold
            truth = members[0].truth.copy()
            truth[inside] = members[2].predictions[repeat, inside] + 40
            changed = stacked([replace(member, truth=truth) for member in members], split_by)[1]
            np.testing.assert_array_equal(changed.predictions[repeat, inside], found.predictions[repeat, inside])
            if split_by == "time":
                later = folds > fold
                truth[later] += 1000
                again = stacked([replace(member, truth=truth) for member in members], split_by)[1]
                np.testing.assert_array_equal(again.predictions[repeat, inside], found.predictions[repeat, inside])
    if split_by == "time":
        equal = np.mean([member.predictions[0] for member in members], axis=0)
        np.testing.assert_allclose(found.predictions[0][found.folds[0] == 0], equal[found.folds[0] == 0], rtol=1e-5)
    else:
        assert weights == pytest.approx(np.full(3, 1 / 3), abs=0.15)
        assert found.summary().rmse < min(member.summary().rmse for member in members)


def test_the_weights_do_not_know_the_hold_out_part() -> None:
    members = known(300, 2)
    assert 0 < members[0].held_out.sum() < 100
    weights, _ = stacked(members)
    truth = np.where(members[0].held_out, members[2].predictions[0] + 100, members[0].truth)
    again, _ = stacked([replace(member, truth=truth) for member in members])
    np.testing.assert_array_equal(again, weights)


def test_the_cross_validation_of_a_stack_of_one_is_that_of_its_member() -> None:
    (member,) = known(60, 2, members=1)
    weights, found = stacked([member])
    assert weights.tolist() == [1]
    assert found.summary() == member.summary()


def test_the_merged_onnx_model_is_the_weighted_sum_of_its_members() -> None:
    data, holdout = lab_samples(2, 1000)
    shares = {LINEAR: 0.2, "lightgbm": 0.5, "pytorch": 0.3}
    members = [Member(f"lab-{name}", "7", share, quick_model(name)[1]) for name, share in shares.items()]
    stack = StackModel(members, data, {"weights_from": "a test"}, 2.5)
    merged = export_onnx(stack, data.validation.x, data.validation.y)
    model = onnx.load_model_from_string(merged)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == [ONNX_INPUT]
    native = sum(share * quick_model(name)[0].predict(holdout.x).astype(np.float64) for name, share in shares.items())
    predicted = run_onnx(merged, [holdout.x, holdout.x[:1]])
    np.testing.assert_allclose(predicted[0][:, 0], native, rtol=1e-5, atol=1e-3 * float(holdout.y.std()))
    np.testing.assert_array_equal(predicted[1], predicted[0][:1])
    assert stack.parameters == {
        "weights_from": "a test", "weight_of_lab-linear": 0.2, "weight_of_lab-lightgbm": 0.5, "weight_of_lab-pytorch": 0.3
    }  # fmt: skip
    assert members[1].about() == {"model": "lab-lightgbm", "version": "7", "weight": 0.5}
    assert stack.history[0].validation_rmse == 2.5
    assert stack.history[0].train_rmse == pytest.approx(
        np.sqrt(np.mean((stack.predict(data.train.x) - data.train.y) ** 2)), rel=1e-4
    )
    # One of its members by other names is no fault: a stack of two of the same architecture.
    twice = StackModel([members[1], replace(members[1], weight=0.5)], data, {}, 0.0)
    np.testing.assert_array_equal(run_onnx(twice.to_onnx(), [holdout.x])[0], run_onnx(members[1].onnx_model, [holdout.x])[0])


def test_the_sum_keeps_what_single_precision_has_of_a_large_target() -> None:
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (200, 2)).astype(np.float32)
    y = (101_325 + 0.1 * x[:, 0]).astype(np.float32)
    data = TrainingData(("a", "b"), "pressure", Samples(x, y), Samples(x, y))
    onnx_model = LinearModel(data).to_onnx()
    stack = StackModel([Member("lab-linear", "", weight, onnx_model) for weight in (0.3, 0.3, 0.4)], data, {}, 0.0)
    merged = export_onnx(stack, x, y)
    np.testing.assert_array_equal(run_onnx(merged, [x])[0], run_onnx(onnx_model, [x])[0])


def test_a_member_that_cannot_be_merged_is_named() -> None:
    data, _ = lab_samples(2, 1000)
    trees = onnx.load_model_from_string(quick_model("lightgbm")[1])
    for each in trees.opset_import:
        each.version = 3 if each.domain == "ai.onnx.ml" else each.version
    members = [
        Member("lab-lightgbm", "1", 0.5, quick_model("lightgbm")[1]),
        Member("lab-newer", "2", 0.5, trees.SerializeToString()),
    ]
    with pytest.raises(
        TrainingFailedError, match=r"lab-newer 2 cannot be part of a stack: it needs version 3 of ai\.onnx\.ml"
    ):
        StackModel(members, data, {}, 0.0)
    trees.functions.add().name = "own"
    with pytest.raises(TrainingFailedError, match="lab-newer 2 cannot be part of a stack: its ONNX model has functions"):
        StackModel([members[0], replace(members[1], onnx_model=trees.SerializeToString())], data, {}, 0.0)
