"""The linear model that is served where it is best: exact in single precision, and known to MLflow like a trainer's."""

from __future__ import annotations

import numpy as np
import pytest

from complex_system.training import linear
from complex_system.training.base import score
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import LinearModel, fit_linear
from complex_system.training.onnx import export_onnx, run_onnx
from samples import lab_samples, ridge


def test_it_is_scikit_learns_and_its_onnx_model_is_small_and_equal() -> None:
    data, holdout = lab_samples(1, 2000)
    model = LinearModel(data)
    expected = ridge(len(data.train)).fit(data.train.x.astype(np.float64), data.train.y).predict(holdout.x)
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


def test_the_penalty_is_scikit_learns_where_features_are_alike_and_records_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectra: neighbouring columns hardly differ, and least squares of them is worse than the mean."""
    random = np.random.default_rng(5)
    hidden = random.normal(0, 1, (120, 3))
    x = (hidden @ random.normal(0, 1, (3, 60)) + random.normal(0, 0.05, (120, 60))).astype(np.float32)
    y = (hidden @ [2.0, -1.0, 0.5] + random.normal(0, 0.3, 120)).astype(np.float32)
    train, later = Samples(x[:70], y[:70]), Samples(x[70:], y[70:])
    monkeypatch.setattr(linear, "_BLOCK", 32)
    fit = fit_linear(train)
    expected = ridge(len(train)).fit(train.x.astype(np.float64), train.y)
    assert fit.penalty == pytest.approx(expected[-1].alpha_ / len(train))
    np.testing.assert_allclose(fit(later.x), expected.predict(later.x), atol=1e-4)
    least_squares, *_ = np.linalg.lstsq(np.column_stack([train.x, np.ones(70)]), train.y, rcond=None)
    assert (
        score(later.y, fit(later.x)).rmse
        < 0.8 * score(later.y, np.column_stack([later.x, np.ones(50)]) @ least_squares).rmse
    )


def test_more_features_than_records_are_no_fault() -> None:
    random = np.random.default_rng(6)
    x = random.normal(0, 1, (20, 50)).astype(np.float32)
    fit = fit_linear(Samples(x, x[:, 0]))
    assert np.all(np.isfinite(fit.weights))
    assert fit.weights[0] > 0


def test_where_one_decomposition_fails_another_one_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on one-hot features of a public table, with some versions and threads of LAPACK."""
    data, holdout = lab_samples(1, 500)
    expected = fit_linear(data.train)(holdout.x)

    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fail)
    np.testing.assert_allclose(fit_linear(data.train)(holdout.x), expected, rtol=1e-4, atol=1e-3)
