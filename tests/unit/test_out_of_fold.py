"""What fits predict for the fold that they were made without: scores, files, and which of them are of the same records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from complex_system.domain.partition import Split
from complex_system.errors import ModelRefusedError
from complex_system.evaluation.baselines import fit_mean, for_folds
from complex_system.training.cross_validation import FOLDS, Keyed, out_of_fold
from complex_system.training.data import Samples
from complex_system.training.grouping import Origins, divide
from complex_system.training.linear import fit_linear
from complex_system.training.out_of_fold import OutOfFold
from complex_system.training.split import Part, parts_of


def records(split_by: str, size: int = 120, seed: int = 0) -> Keyed:
    """Records of a linear law with noise; by group each has two."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (size, 3)).astype(np.float32)
    y = (x @ [3.0, -2.0, 0.0] + random.normal(0, 0.5, size)).astype(np.float32)
    if split_by == "key":
        return Keyed(tuple(f"key {i}" for i in range(size)), Samples(x, y))
    bound = random.permutation(np.arange(size, dtype=np.uint64) // np.uint64(2 if split_by == "group" else 1))
    names = tuple(f"{each:016x}" for each in bound.tolist())
    split = Split(by="group", group=("batch",)) if split_by == "group" else Split(by="time")
    return Keyed(names, Samples(x, y, bound, random.uniform(0, 1e6, size)), split)


@pytest.mark.parametrize("split_by", ["key", "group", "time"])
def test_predictions_and_truth_are_of_the_same_record_whatever_the_order_in_which_records_are_read(split_by: str) -> None:
    known = records(split_by)
    found = out_of_fold(for_folds(fit_linear), known)
    assert found.predictions.shape == found.folds.shape
    for folds, predicted, divided in zip(found.folds, found.predictions, known.folds(), strict=True):
        for fold, (train, validation, scored) in enumerate(divided):
            fit = for_folds(fit_linear)(known.samples.of(train), known.samples.of(validation))
            expected = sorted(zip(known.samples.y[scored], fit(known.samples.x[scored]), strict=True))
            ours = sorted(zip(found.truth[folds == fold], predicted[folds == fold], strict=True))
            np.testing.assert_allclose(ours, expected, rtol=1e-6)
    # Read in another order, and records of one group have kept theirs, as keys have it.
    order = np.array(sorted(range(len(known.groups)), key=lambda place: known.groups[place][::-1]))
    again = Keyed(tuple(known.groups[i] for i in order), known.samples.of(order), known.split)
    other = out_of_fold(for_folds(fit_mean), again)
    assert found.is_like(other)
    assert found.summary().groups == other.summary().groups


@pytest.mark.parametrize("split_by", ["key", "group", "time"])
def test_the_hold_out_records_are_those_of_the_split(split_by: str) -> None:
    known = records(split_by)
    found = out_of_fold(for_folds(fit_mean), known)
    if split_by == "key":
        parts = parts_of(known.groups)
    else:
        assert known.samples.groups is not None
        assert known.samples.times is not None
        parts = divide(known.split, Origins(known.samples.groups, known.samples.times, np.zeros(len(known.groups))))
    assert sorted(found.truth[found.held_out]) == sorted(known.samples.y[parts == Part.HOLDOUT])
    assert 0 < found.held_out.sum() < len(found.truth) / 2


@pytest.mark.parametrize("split_by", ["key", "time"])
def test_a_file_holds_all_of_it(split_by: str) -> None:
    found = out_of_fold(for_folds(fit_linear), records(split_by))
    again = OutOfFold.decoded(found.encoded())
    for name, value in vars(found).items():
        np.testing.assert_array_equal(value, vars(again)[name], err_msg=name)
    assert found.is_like(again)
    assert found.summary() == again.summary()
    assert found.summary().repeats * FOLDS == len(found.summary().rmses)
    assert len(found.encoded()) < 50 * len(found.truth) + 3000


def test_predictions_of_other_records_other_folds_or_another_truth_are_not_alike() -> None:
    found = out_of_fold(for_folds(fit_mean), records("key"))
    assert not found.is_like(out_of_fold(for_folds(fit_mean), records("key", seed=1)))
    assert not found.is_like(out_of_fold(for_folds(fit_mean), records("key"), repeats=1))
    assert not found.is_like(replace(found, truth=found.truth + 1))
    assert not found.is_like(replace(found, folds=found.folds[::-1]))


def test_a_file_that_is_not_of_this_format_is_refused() -> None:
    content = out_of_fold(for_folds(fit_mean), records("key")).encoded()
    for broken in (
        b"",
        b"not Arrow",
        content.replace(b"prediction_1", b"prediction_9"),
        content.replace(b"digest", b"tsegid"),
    ):
        with pytest.raises(ModelRefusedError, match=r"out_of_fold\.arrow cannot be read"):
            OutOfFold.decoded(broken)
