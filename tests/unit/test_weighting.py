"""Newer records that count more where a model is fitted, because the inputs have moved and the law has not."""

from __future__ import annotations

import numpy as np
import pytest

from complex_system.evaluation.triggers import MAX_TIMES, weighting_since
from complex_system.protocol.training import Weighting
from complex_system.training.data import Samples, TrainingData
from trainings import FRAMEWORKS, trainer


def test_newer_samples_count_several_times_in_a_fit_and_nowhere_else() -> None:
    y = np.arange(4, dtype=np.float32)
    samples = Samples(y[:, None], y, times=np.array([1.0, 5.0, 2.0, 6.0]))
    data = TrainingData(("x",), "y", samples, samples.of(np.array([0, 1])), weighting=Weighting(since=2.0, times=3))
    fitted = data.weighted()
    assert fitted.train.y.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert fitted.validation.y.tolist() == [0, 1, 1, 1]
    assert data.train is samples, "what is scored, described and logged stays as it is"
    assert fitted.weighted().train is fitted.train
    assert TrainingData(("x",), "y", samples, samples).weighted().train is samples


@pytest.mark.parametrize(
    ("newer", "records", "times"), [(1000, 6000, 5), (1000, 2600, 2), (1000, 2400, None), (10, 9000, MAX_TIMES)]
)
def test_the_newer_records_count_about_as_much_as_the_others(newer: int, records: int, times: int | None) -> None:
    assert weighting_since(7.0, newer, records) == (Weighting(since=7.0, times=times) if times else None)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_learns_more_from_what_counts_more(framework: str) -> None:
    """Where older and newer records say 0 and 1 of the same inputs, a model says what counts more."""
    generator = np.random.default_rng(1)
    x, new = generator.random((600, 3)).astype(np.float32), np.arange(600) % 6 == 0
    samples = Samples(x, new.astype(np.float32), times=new.astype(np.float64))
    data = TrainingData(("a", "b", "c"), "y", samples.of(np.arange(500)), samples.of(np.arange(500, 600)))
    plain, weighted = (
        trainer(framework).fit(each.weighted(), lambda _: None).predict(x).mean()
        for each in (
            data,
            TrainingData(data.feature_names, "y", data.train, data.validation, weighting=Weighting(since=0.5, times=5)),
        )
    )
    assert plain == pytest.approx(1 / 6, abs=0.06)
    assert weighted == pytest.approx(1 / 2, abs=0.06)
