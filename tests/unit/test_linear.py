"""The linear model that is served where it is best: exact in single precision, and known to MLflow like a trainer's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from complex_system.training.base import score
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import PENALTIES, LinearModel, fit_linear
from complex_system.training.onnx import export_onnx, run_onnx
from samples import lab_samples


def test_it_is_scikit_learns_and_its_onnx_model_is_small_and_equal() -> None:
    data, holdout = lab_samples(1, 2000)
    model = LinearModel(data)
    expected = LinearRegression().fit(data.train.x.astype(np.float64), data.train.y).predict(holdout.x)
    np.testing.assert_allclose(model.predict(holdout.x), expected, rtol=1e-4, atol=1e-3)
    onnx = export_onnx(model, holdout.x)
    assert onnx == model.saved()
    assert len(onnx) < 1000
    assert model.feature_names == data.feature_names
    assert model.history[-1].validation_rmse == score(data.validation.y, model.predict(data.validation.x)).rmse


def test_large_values_lose_no_digits_in_single_precision() -> None:
    random = np.random.default_rng(2)
    x = (1e6 + random.normal(0, 1, (300, 2))).astype(np.float32)
    y = (3 * (x[:, 0] - 1e6) - 2 * (x[:, 1] - 1e6) + 5e4).astype(np.float32)
    samples = Samples(x, y)
    model = LinearModel(TrainingData(("a", "b"), "y", samples, samples))
    assert model.history[0].train_rmse < 0.01
    np.testing.assert_allclose(run_onnx(model.to_onnx(), [x])[0][:, 0], y, atol=0.05)


def test_a_constant_feature_and_copies_of_one_are_no_fault() -> None:
    random = np.random.default_rng(4)
    column = random.normal(0, 1, 50).astype(np.float32)
    fit = fit_linear(Samples(np.column_stack([column, column, np.full(50, 7, np.float32)]), 4 * column))
    assert fit.weights == pytest.approx([2, 2, 0], abs=1e-5)


@pytest.mark.parametrize("records", [40, 90, 300])
def test_features_that_are_nearly_the_same_are_given_the_penalty_of_a_ridge_regression(records: int) -> None:
    random = np.random.default_rng(8)
    # 60 wavelengths of a spectrum of three components, in units of their own.
    x = random.normal(0, 1, (records, 3)) @ random.normal(0, 1, (3, 60)) + random.normal(0, 0.05, (records, 60))
    x = (x * np.logspace(-2, 2, 60) + 50).astype(np.float32)
    y = (x[:, 0] * 100 + random.normal(0, 0.5, records)).astype(np.float32)
    fit = fit_linear(Samples(x, y))
    theirs = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(x.astype(np.float64), y)
    assert fit.penalty == theirs[-1].alpha_
    np.testing.assert_allclose(fit(x), theirs.predict(x), rtol=1e-3, atol=1e-3 * y.std())
    assert (
        LinearModel(TrainingData(tuple("x" * i for i in range(60)), "y", Samples(x, y), Samples(x, y))).parameters["penalty"]
        > 0
    )


def test_where_least_squares_are_as_good_they_stay() -> None:
    data, _ = lab_samples(1, 2000)
    assert fit_linear(data.train).penalty == 0
