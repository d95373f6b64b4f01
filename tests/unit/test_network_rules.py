"""The rules that the neural networks of both frameworks share."""

from __future__ import annotations

import numpy as np
import pytest

from complex_system.training.base import TrainingParameters
from complex_system.training.data import Samples
from complex_system.training.network import (
    CLIP,
    MIN_STEPS,
    WARM_UP,
    Course,
    Epoch,
    Pace,
    Scaling,
    learning_rate,
    members_for,
    train_epochs,
    winsorized,
)


def test_one_extreme_record_does_not_move_the_scaling_of_the_others() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(50, 2, (150, 2)).astype(np.float32)
    clean = Scaling.of(Samples(x, x[:, 0]))
    x[7, 1] = 50 + 1e6
    scaling = Scaling.of(Samples(x, x[:, 0]))
    assert scaling.feature_mean[1] == pytest.approx(clean.feature_mean[1], abs=0.3)
    assert scaling.feature_scale[1] == pytest.approx(clean.feature_scale[1], rel=0.15)
    scaled, _ = scaling.apply(Samples(x, x[:, 0]))
    assert scaled[7, 1] == CLIP
    assert np.abs(scaled).max() == CLIP


def test_ordinary_rare_and_constant_columns_are_not_winsorized() -> None:
    draw = np.random.default_rng(2)
    rare = (draw.random(2000) < 0.01).astype(np.float32)
    for column in (draw.uniform(-3, 9, 2000).astype(np.float32), rare, np.full(2000, 5, np.float32)):
        np.testing.assert_array_equal(winsorized(column), column)
    scaling = Scaling.of(Samples(np.stack([rare, np.full(2000, 5, np.float32)], axis=1), rare))
    assert scaling.feature_mean[0] == pytest.approx(rare.mean())
    assert scaling.feature_scale.tolist() == [pytest.approx(rare.std(), rel=1e-5), 1.0]


def test_the_bounds_of_many_records_are_those_of_an_even_sample() -> None:
    column = np.random.default_rng(3).normal(0, 1, 200_001).astype(np.float32)
    column[:2] = 1000
    clipped = winsorized(column)
    assert clipped.max() == pytest.approx(4.93, abs=0.1)
    assert len(clipped) == len(column)


@pytest.mark.parametrize("samples", [1, 5, 36, 130, 700, 799, 800, 801, 2000, 3532, 70_000, 1_000_000])
@pytest.mark.parametrize("largest", [1, 8, 64, 512])
def test_an_epoch_has_enough_steps(samples: int, largest: int) -> None:
    pace = Pace.of(samples, largest)
    assert pace.steps >= MIN_STEPS
    assert pace.batch <= largest
    assert pace.passes == 1 or pace.steps <= MIN_STEPS + samples / pace.batch + 1
    assert pace.steps == -(-samples * pace.passes // pace.batch)


def test_the_laboratorys_10_000_records_have_the_batches_of_the_setting() -> None:
    assert Pace.of(3532, 64) == Pace(64, 1, 56)
    assert Pace.of(36, 64) == Pace(16, 23, 52)


def test_the_average_is_over_nine_epochs_of_steps_and_forgets_the_start() -> None:
    pace = Pace.of(3532, 64)
    assert 1 / (1 - pace.averaging) == pytest.approx(9 * pace.steps)
    start = np.prod([pace.averaging_at(step) for step in range(1, pace.steps + 1)])
    assert start < 1e-9
    assert pace.averaging_at(10**6) == pace.averaging


def test_an_ensemble_is_for_data_that_scatter() -> None:
    assert [members_for(samples) for samples in (10, 19_999, 20_000)] == [4, 4, 1]


def test_narrow_layers_learn_faster() -> None:
    rates = [learning_rate(TrainingParameters(learning_rate=0.001), units) for units in (64, 32, 10, 128)]
    assert rates == [0.001, 0.002, 0.004, 0.0005]


def _course(losses: list[float], patience: int) -> Course[int]:
    steps = iter(range(1, len(losses) + 1))
    at = 0

    def one() -> Epoch:
        nonlocal at
        at = next(steps)
        return Epoch(1.0, 1.0, losses[at - 1])

    return train_epochs(TrainingParameters(epochs=len(losses), patience=patience), one, lambda: at, lambda _: None)


def test_patience_counts_after_the_warm_up() -> None:
    course = _course([1.0, *[2.0] * 99], patience=5)
    assert (len(course.history), course.best_step, course.best_weights) == (WARM_UP + 5, 1, 1)
    late = _course([3.0] * (WARM_UP + 4) + [1.0] + [2.0] * 50, patience=5)
    assert (len(late.history), late.best_step) == (WARM_UP + 10, WARM_UP + 5)


def test_a_decrease_below_a_thousandth_does_not_prolong_but_is_kept() -> None:
    creeping = _course([1.0 - 1e-5 * step for step in range(60)], patience=10)
    assert (len(creeping.history), creeping.best_step) == (WARM_UP + 10, WARM_UP + 10)
    # Small steps add up to an improvement.
    steady = _course([1.0 - 3e-4 * step for step in range(60)], patience=10)
    assert len(steady.history) == 60
