"""Baselines and how sure an error is, against scikit-learn and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression

from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import processed_schema
from complex_system.errors import NotEnoughDataError
from complex_system.evaluation.baselines import baseline_scores, fit_linear, fit_mean
from complex_system.evaluation.validation import cross_validated, holdout_interval
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.sources.films import films
from complex_system.training.base import Scores
from complex_system.training.data import Part, SampleCollector, Samples
from samples import lab_samples


def film_parts() -> SampleCollector:
    dataset = Dataset.shipped("films", target="Ausformung")
    collector = SampleCollector(dataset, list(Part))
    collector.add(Pipeline(dataset).process(films(dataset)).to_arrow().cast(processed_schema(dataset)))
    return collector


def noisy(seed: int, size: int = 60, deviation: float = 2.0) -> Samples:
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (size, 3)).astype(np.float32)
    return Samples(x, (x @ [3.0, -2.0, 0.0] + random.normal(0, deviation, size)).astype(np.float32))


def test_the_baselines_are_scikit_learns_also_with_one_hot_features() -> None:
    data, holdout = lab_samples(1, 2000)
    train = data.train
    for ours, theirs in ((fit_mean, DummyRegressor()), (fit_linear, LinearRegression())):
        expected = theirs.fit(train.x.astype(np.float64), train.y).predict(holdout.x)
        np.testing.assert_allclose(ours(train)(holdout.x), expected, rtol=1e-4, atol=1e-3)
    scores = baseline_scores(train, holdout)
    assert scores["mean"].r2 == pytest.approx(0, abs=0.05)
    assert scores["linear"].rmse < 0.3 * scores["mean"].rmse


def test_the_films_are_enough_for_a_split_and_a_linear_model_beats_their_mean() -> None:
    collector = film_parts()
    data, holdout = collector.training_data(), collector.samples(Part.HOLDOUT)
    assert len(data.train) + len(data.validation) + len(holdout) == 51
    scores = baseline_scores(data.train, holdout)
    assert scores["linear"].rmse < scores["mean"].rmse


def test_cross_validation_scores_every_record_once_a_repeat_with_a_model_that_has_not_seen_it() -> None:
    samples = noisy(0)
    seen: list[int] = []

    def fit(train: Samples):  # type: ignore[no-untyped-def]
        seen.append(len(train))
        known = {row.tobytes() for row in train.x}

        def predict(x):  # type: ignore[no-untyped-def]
            assert not known & {row.tobytes() for row in x}
            return fit_mean(train)(x)

        return predict

    found = cross_validated(fit, samples, folds=4, repeats=3)
    assert seen == [45] * 12
    assert len(found.folds) == 12
    assert found.rmse.rmse == pytest.approx(np.mean([score.rmse for score in found.folds]))
    assert cross_validated(fit_linear, samples, seed=1) == cross_validated(fit_linear, samples, seed=1)
    with pytest.raises(NotEnoughDataError, match="needs 10 labelled records; there are 9"):
        cross_validated(fit_mean, noisy(0, 9))


@pytest.mark.parametrize("way", ["cross-validation", "hold-out"])
def test_the_intervals_hold_the_true_error_about_as_often_as_they_say(way: str) -> None:
    held = 0
    for seed in range(60):
        samples = noisy(seed)
        if way == "cross-validation":
            interval, model = cross_validated(fit_linear, samples).rmse, fit_linear(samples)
        else:
            model = fit_linear(samples)
            interval = holdout_interval(model, noisy(seed + 1000))
        fresh = noisy(seed + 5000, 4000)
        held += interval.low <= Scores.of(fresh.y, model(fresh.x)).rmse <= interval.high
    assert held >= 50
