"""Permutation importance and effects of raw columns, against models whose answer is known, and their picture."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import raw_check
from complex_system.evaluation.candidates import explain_version
from complex_system.evaluation.effects_chart import effects_chart
from complex_system.explanation import model as model_module
from complex_system.explanation.model import MAX_EFFECTS, explain_model
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.rows import Matrix
from complex_system.protocol.explanation import ColumnImportance, ModelExplanation
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.data import Samples
from random_data import datasets, labelled_records

LABEL = ("plant-lightgbm", "3")


def plant(count: int = 3, *more: Any) -> Dataset:
    columns: list[Any] = [{"name": f"x{i}", "type": "number", "range": [-10, 10], "unit": "°C"} for i in range(count)]
    target = {"name": "y", "type": "number", "optional": True}
    steps: list[Any] = [{"step": "keep", "column": f"x{i}"} for i in range(count)]
    for column in more:
        steps.append({"step": "one_hot" if column["type"] == "category" else "keep", "column": column["name"]})
    return Dataset.parse_obj({"name": "plant", "target": "y", "columns": [*columns, *more, target], "pipeline": steps})


def test_importance_is_that_of_scikit_learn_and_what_is_not_used_has_none() -> None:
    dataset, draw = plant(4), np.random.default_rng(2)
    x = draw.uniform(-10, 10, (1500, 4)).astype(np.float32)
    y = (3 * x[:, 0] - 2 * x[:, 1] + x[:, 2] + draw.normal(size=1500)).astype(np.float32)
    model = LinearRegression().fit(x[:, :3], y)
    found = explain_model(LABEL, Pipeline(dataset), lambda rows: model.predict(rows[:, :3]).tolist(), x, y)
    oracle = permutation_importance(
        model, x[:, :3], y, scoring="neg_root_mean_squared_error", n_repeats=20, random_state=1
    ).importances_mean
    assert [each.column for each in found.importance] == ["x0", "x1", "x2", "x3"]
    assert [each.increase for each in found.importance[:3]] == pytest.approx(oracle.tolist(), rel=0.03)
    assert found.importance[3] == ColumnImportance(column="x3", increase=0.0, low=0.0, high=0.0)
    assert all(each.low <= each.increase <= each.high for each in found.importance)
    assert found.rmse == pytest.approx(1.0, rel=0.1)
    assert (found.model, found.version, found.records, found.repeats, found.effects) == (*LABEL, 1500, 5, ())
    assert found == explain_model(LABEL, Pipeline(dataset), lambda rows: model.predict(rows[:, :3]).tolist(), x, y), "seeded"


def test_the_features_of_a_category_are_exchanged_together() -> None:
    dataset, records = Dataset.load(), list(Laboratory(3).records(300))
    pipeline = Pipeline(dataset)
    x = pipeline.features(records)
    materials = [i for i, name in enumerate(dataset.feature_names) if name.startswith("material_id_")]

    def predict(rows: Matrix) -> list[float]:
        assert (rows[:, materials].sum(axis=1) == 1).all()
        return (rows[:, materials] @ np.array([0.0, 10.0, 20.0, 30.0])).tolist()  # type: ignore[no-any-return]

    table = pa.Table.from_pylist(records, raw_schema(dataset))
    found = explain_model(LABEL, pipeline, predict, x, np.asarray(predict(x)), table)
    assert found.importance[0].column == "material_id"
    assert [each.increase for each in found.importance[1:]] == [0.0] * 4
    effects = {each.column: each for each in found.effects}
    assert effects["material_id"].method == "partial"
    assert effects["material_id"].values == ("00000000", "11111111", "22222222", "33333333")
    assert np.diff(effects["material_id"].effects) == pytest.approx([10.0] * 3)
    shares = [sum(record["material_id"] == each for record in records) for each in effects["material_id"].values]
    assert np.average(effects["material_id"].effects, weights=shares) == pytest.approx(0.0, abs=1e-9)
    assert effects["laborant"].effects == pytest.approx([0.0] * 4)
    assert effects["rohwert_2_labormessung"].effects == pytest.approx([0.0] * 21)


def test_accumulated_effects_of_dependent_columns_are_those_of_the_formula() -> None:
    """With x1 = x0 and f = x0 x1, the effect of x0 is the integral of E[x1 | x0 = z] = z: half the square of z.

    Partial dependence would be z times the mean of x1, about 0.
    """
    dataset, draw = plant(2), np.random.default_rng(5)
    values = draw.uniform(-5, 5, 1000)
    table = pa.table({"x0": values, "x1": values})
    x = np.column_stack([values, values]).astype(np.float32)

    def predict(rows: Matrix) -> list[float]:
        return (rows[:, 0].astype(np.float64) * rows[:, 1]).tolist()  # type: ignore[no-any-return]

    found = explain_model(LABEL, Pipeline(dataset), predict, x, np.asarray(predict(x)), table)
    effect = found.effects[0]
    assert (effect.method, effect.unit) == ("accumulated", "°C")
    grid = np.array(effect.values, dtype=np.float64)
    assert (grid[0], grid[-1]) == (values.min(), values.max())
    expected = grid**2 / 2 - np.mean(values**2 / 2)
    assert effect.effects == pytest.approx(expected.tolist(), abs=0.25)


def test_whole_numbers_stay_whole_and_a_boolean_has_two_values() -> None:
    dataset = plant(
        1,
        {"name": "count", "type": "integer", "range": [0, 9], "optional": True, "fill": 4},
        {"name": "on", "type": "boolean"},
    )
    draw = np.random.default_rng(1)
    records = [
        {"_id": str(i), "x0": 1.0, "count": int(draw.integers(0, 10)) if i % 9 else None, "on": bool(draw.integers(0, 2)), "y": 0.0}
        for i in range(400)
    ]  # fmt: skip
    pipeline, table = Pipeline(dataset), pa.Table.from_pylist(records, raw_schema(dataset))
    place = {name: i for i, name in enumerate(dataset.feature_names)}

    def predict(rows: Matrix) -> list[float]:
        return (2.0 * rows[:, place["count"]] + 5.0 * rows[:, place["on"]]).tolist()  # type: ignore[no-any-return]

    x = pipeline.features(records)
    found = {each.column: each for each in explain_model(LABEL, pipeline, predict, x, x[:, 0], table).effects}
    assert set(found) == {"count", "on"}, "x0 is constant"
    assert found["count"].values == tuple(float(i) for i in range(10))
    assert np.diff(found["count"].effects) == pytest.approx([2.0] * 9)
    assert (found["on"].values, np.diff(found["on"].effects)) == (("false", "true"), pytest.approx([5.0]))


@settings(derandomize=True, max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(datasets(), st.integers(0, 2**20))
def test_any_declared_data_set_can_be_explained(dataset: Dataset, seed: int) -> None:
    records = raw_check(dataset)(labelled_records(dataset, seed)[:80])
    pipeline = Pipeline(dataset)
    x = pipeline.features(records)
    weights = np.random.default_rng(seed).normal(size=x.shape[1])

    def predict(rows: Matrix) -> list[float]:
        return np.tanh(np.tanh(rows.astype(np.float64)) @ weights).tolist()  # type: ignore[no-any-return]

    schema = raw_schema(dataset)
    table = pa.table([pa.array([r.get(f.name) for r in records], f.type) for f in schema], schema=schema)
    found = explain_model(LABEL, pipeline, predict, x, np.zeros(len(x)), table)
    figures = [each.increase for each in found.importance] + [value for each in found.effects for value in each.effects]
    assert all(map(math.isfinite, figures))
    assert len(found.effects) <= MAX_EFFECTS
    assert all(len(each.values) == len(each.effects) >= 2 for each in found.effects)


def test_many_columns_get_fewer_records_and_the_least_important_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "MAX_PREDICTIONS", 40 * 5 * 120)
    dataset, draw = plant(40), np.random.default_rng(3)
    x = draw.uniform(-10, 10, (800, 40)).astype(np.float32)
    predictions = 0

    def predict(rows: Matrix) -> list[float]:
        nonlocal predictions
        predictions += len(rows)
        return rows.sum(axis=1).tolist()  # type: ignore[no-any-return]

    found = explain_model(LABEL, Pipeline(dataset), predict, x, x.sum(axis=1))
    assert (found.records, len(found.importance), found.left_out) == (120, 30, 10)
    assert predictions == 120 * (1 + 40 * 5)


def test_the_picture_has_a_bar_for_each_column_and_a_panel_for_each_effect() -> None:
    dataset, records = Dataset.load(), list(Laboratory(3).records(300))
    pipeline = Pipeline(dataset)
    x = pipeline.features(records)
    found = explain_model(
        LABEL,
        pipeline,
        lambda rows: rows.sum(axis=1).tolist(),
        x,
        x[:, 0],
        pa.Table.from_pylist(records, raw_schema(dataset)),
    )
    figure = effects_chart(found, "mm")
    bars, *panels = figure.axes
    assert [text.get_text() for text in bars.get_yticklabels()] == [each.column for each in found.importance]
    assert "in mm" in bars.get_xlabel()
    assert [panel.get_title(loc="left") for panel in panels] == [each.column for each in found.effects]
    assert len({panel.get_ylim() for panel in panels}) == 1
    odd = ModelExplanation(
        model="$a", version="1", rmse=1.0, records=10, repeats=5, left_out=3,
        importance=(ColumnImportance(column="$x_1$", increase=0.0, low=0.0, high=0.0),),
    )  # fmt: skip
    effects_chart(odd).canvas.draw()


def test_a_fault_of_an_explanation_does_not_hold_up_the_comparison() -> None:
    class Registry(ModelRegistry):
        def load_onnx_model(self, ref: ModelVersionRef) -> tuple[bytes, dict[str, Any]]:
            raise ZeroDivisionError

    ref = ModelVersionRef(*LABEL, "lightgbm", "lightgbm", "", "", {}, datetime.now(UTC))
    holdout = Samples(np.zeros((9, 3), np.float32), np.zeros(9, np.float32))
    assert explain_version(Registry("http://127.0.0.1:1", "plant"), Pipeline(plant()), ref, holdout) is None
