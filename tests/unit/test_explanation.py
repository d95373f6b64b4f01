"""Shapley values by raw column, against full enumeration in raw space and against shap."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.explanation import shapley
from complex_system.explanation.columns import raw_columns
from complex_system.explanation.shapley import Explainer
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.rows import Matrix
from random_data import datasets, record_of

Predict = Callable[[Matrix], list[float]]
FEW = settings(derandomize=True, max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def numbers(count: int, *steps: Mapping[str, Any], **more: Any) -> Dataset:
    """A data set of ``count`` numbers x0, x1, ... that models take as they are."""
    columns: list[Any] = [{"name": f"x{i}", "type": "number", "range": [-10, 10]} for i in range(count)]
    columns += [{"name": "y", "type": "number", "optional": True}, *more.get("columns", ())]
    kept = [{"step": "keep", "column": f"x{i}"} for i in range(count)]
    return Dataset.parse_obj({"name": "numbers", "target": "y", "columns": columns, "pipeline": [*kept, *steps]})


def records_of(dataset: Dataset, count: int, seed: int = 1) -> list[Record]:
    draw = random.Random(seed)
    return [{**record_of(dataset, draw), ID: str(i)} for i in range(count)]


def table_of(dataset: Dataset, records: list[Record]) -> pa.Table:
    schema = raw_schema(dataset)
    return pa.table([pa.array([each.get(f.name) for each in records], f.type) for f in schema], schema=schema)


def bumpy(width: int, seed: int = 1) -> Predict:
    """A model that is neither additive nor linear in any feature."""
    draw = np.random.default_rng(seed)
    weights, inner = draw.normal(size=(6, width)), draw.normal(size=6)

    def predict(features: Matrix) -> list[float]:
        hidden = np.tanh(np.tanh(features.astype(np.float64)) @ weights.T + inner)
        return (hidden.sum(axis=1) + 3 * hidden[:, 0] * hidden[:, 1]).tolist()  # type: ignore[no-any-return]

    return predict


def enumerated(pipeline: Pipeline, predict: Predict, record: Record, background: list[Record]) -> dict[str, float]:
    """The definition: every coalition, mixed in raw records and processed by the pipeline."""
    columns = raw_columns(pipeline.dataset)
    members = dict(zip(columns.names, columns.members, strict=True))

    def value(coalition: frozenset[str]) -> float:
        own = {each: record.get(each) for name in coalition for each in members[name]}
        return float(np.mean(predict(pipeline.features([{**other, **own} for other in background]))))

    found = {}
    for name in members:
        others = [each for each in members if each != name]
        found[name] = math.fsum(
            (value(frozenset(chosen) | {name}) - value(frozenset(chosen)))
            / (len(members) * math.comb(len(others), len(chosen)))
            for size in range(len(others) + 1)
            for chosen in combinations(others, size)
        )
    return found


@FEW
@given(datasets(most_columns=6), st.integers(0, 2**20))
def test_any_declared_data_set_is_explained_as_full_enumeration_does(dataset: Dataset, seed: int) -> None:
    pipeline, (record, *others) = Pipeline(dataset), records_of(dataset, 7, seed)
    predict = bumpy(len(dataset.feature_names))
    explainer = Explainer(pipeline, predict, table_of(dataset, others))
    found = explainer.explain(record, pipeline.features([record]))
    assert explainer.method == "exact"
    assert found.contributions == pytest.approx(enumerated(pipeline, predict, record, others), rel=1e-6, abs=1e-6)
    assert explainer.base + sum(found.contributions.values()) == pytest.approx(found.prediction, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_features_of_several_columns_and_lists_with_shares(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[Any] = [
        {"name": "kinds", "type": "list of categories", "categories": ["a", "b", "c"], "optional": True},
        {"name": "parts", "type": "list of shares", "optional": True},
    ]
    dataset = numbers(
        4,
        {"step": "product", "columns": ["x0", "x1"], "as": "area", "feature": False},
        {"step": "product", "columns": ["area", "x2"], "as": "volume"},
        {"step": "shares", "column": "kinds", "shares": "parts"},
        columns=lists,
    )
    columns = raw_columns(dataset)
    assert columns.names == ("x0", "x1", "x2", "x3", "kinds")
    assert columns.members[-1] == ("kinds", "parts")
    assert [dataset.feature_names[i] for i in columns.joint] == ["volume"]
    pipeline, (record, *others) = Pipeline(dataset), records_of(dataset, 9)
    predict = bumpy(len(dataset.feature_names))
    if not exact:
        monkeypatch.setattr(shapley, "EXACT_COLUMNS", 0)
        monkeypatch.setattr(shapley, "PAIRS", 300)
        monkeypatch.setattr(shapley, "ROWS", {"sampled": 10**6})
    explainer = Explainer(pipeline, predict, table_of(dataset, others))
    found = explainer.explain(record, pipeline.features([record]))
    expected = enumerated(pipeline, predict, record, others)
    assert found.contributions == pytest.approx(expected, rel=1e-6 if exact else 0, abs=1e-6 if exact else 0.05)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of shap's own import
def test_the_interventional_tree_explainer_of_shap_agrees() -> None:
    import lightgbm
    import shap

    dataset = numbers(6)
    pipeline, draw = Pipeline(dataset), np.random.default_rng(4)
    x = draw.uniform(-10, 10, (600, 6)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + 5 * np.sin(x[:, 2]) + x[:, 3]
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), num_boost_round=60)
    names = [f"x{i}" for i in range(6)]
    sample = pa.table({name: x[:80, i].astype(np.float64) for i, name in enumerate(names)})
    oracle = shap.TreeExplainer(model, x[:80], feature_perturbation="interventional")
    explainer = Explainer(pipeline, lambda features: model.predict(features).tolist(), sample)
    assert explainer.size == 80
    assert explainer.base == pytest.approx(float(np.ravel(oracle.expected_value)[0]), abs=1e-3)
    for row in x[100:110]:
        record = dict(zip(names, row.tolist(), strict=True))
        found = explainer.explain(record, row[np.newaxis])
        assert list(found.contributions.values()) == pytest.approx(oracle.shap_values(row[np.newaxis])[0].tolist(), abs=1e-3)


@FEW
@given(st.integers(2, 14), st.integers(0, 2**20))
def test_contributions_add_up_equals_get_equal_ones_and_what_is_not_used_gets_none(count: int, seed: int) -> None:
    dataset = numbers(count)
    pipeline, draw = Pipeline(dataset), np.random.default_rng(seed)
    place = {name: i for i, name in enumerate(dataset.feature_names)}
    first, second, unused = place["x0"], place["x1"], [place[f"x{i}"] for i in range(2, count, 2)]

    def predict(features: Matrix) -> list[float]:
        used = np.delete(features.astype(np.float64), [first, second, *unused], axis=1)
        pair = features[:, first].astype(np.float64) + features[:, second]
        return (np.sin(pair) * 5 + (used**2).sum(axis=1) * np.cos(pair / 7)).tolist()  # type: ignore[no-any-return]

    others = draw.uniform(-10, 10, (20, count))
    others[:, 1] = others[:, 0]
    sample = pa.table({f"x{i}": others[:, i] for i in range(count)})
    record = {f"x{i}": float(value) for i, value in enumerate(draw.uniform(-10, 10, count))}
    record["x1"] = record["x0"]
    explainer = Explainer(pipeline, predict, sample)
    found = explainer.explain(record, pipeline.features([record]))
    assert explainer.method == ("exact" if count <= shapley.EXACT_COLUMNS else "sampled")
    spread = np.std(predict(pipeline.features_of(pipeline.typed(sample))))
    assert explainer.base + sum(found.contributions.values()) == pytest.approx(found.prediction, abs=1e-3 * spread)
    assert [found.contributions[f"x{i}"] for i in range(2, count, 2)] == pytest.approx(
        [0.0] * len(unused), abs=1e-6 * spread
    )
    if explainer.method == "exact":
        assert found.contributions["x0"] == pytest.approx(found.contributions["x1"], abs=1e-6 * spread)
    again = Explainer(pipeline, predict, sample).explain(record, pipeline.features([record]))
    assert again == found, "seeded"


def test_a_sampled_explanation_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = numbers(9)
    pipeline, (record, *others) = Pipeline(dataset), records_of(dataset, 101)
    predict, table = bumpy(9), table_of(dataset, others)
    exact = Explainer(pipeline, predict, table)
    features = pipeline.features([record])
    expected = exact.explain(record, features).contributions
    assert exact.size == shapley.ROWS["exact"] // 2**9
    monkeypatch.setattr(shapley, "EXACT_COLUMNS", 0)
    sampled = Explainer(pipeline, predict, table.take(pa.array(np.linspace(0, 99, exact.size).astype(np.int64))))
    found = sampled.explain(record, features).contributions
    assert sampled.method == "sampled"
    worst = max(abs(found[name] - expected[name]) for name in expected)
    assert worst < 0.15 * np.std(predict(pipeline.features(others)))


def test_very_many_columns_keep_some_background(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = numbers(40)
    pipeline, (record, *others) = Pipeline(dataset), records_of(dataset, 30)
    monkeypatch.setattr(shapley, "ROWS", {"sampled": 100})
    monkeypatch.setattr(shapley, "_CELLS", 40**2)  # one order at a time
    rows: list[int] = []

    def predict(features: Matrix) -> list[float]:
        rows.append(len(features))
        return features.sum(axis=1, dtype=np.float64).tolist()  # type: ignore[no-any-return]

    explainer = Explainer(pipeline, predict, table_of(dataset, others))
    assert explainer.size == shapley.MIN_BACKGROUND
    found = explainer.explain(record, pipeline.features([record]))
    assert max(rows) < 40
    chosen = [others[i] for i in np.linspace(0, 28, 8).astype(int)]
    mean = {name: float(np.mean([each[name] for each in chosen])) for name in found.contributions}
    assert found.contributions == pytest.approx({n: record[n] - mean[n] for n in mean}, abs=1e-4)


def test_the_labs_columns_are_those_that_the_model_sees() -> None:
    dataset = Dataset.load()
    assert raw_columns(dataset).names == (
        "material_id", "laborant", "rohwert_1_labormessung", "rohwert_2_labormessung", "rohwert_3_labormessung",
    )  # fmt: skip
    pipeline, records = Pipeline(dataset), list(Laboratory(1).records(101))
    explainer = Explainer(pipeline, bumpy(len(dataset.feature_names)), table_of(dataset, records[1:]))
    same = explainer.explain(records[1], pipeline.features(records[1:2]))
    assert explainer.base + sum(same.contributions.values()) == pytest.approx(same.prediction, abs=1e-9)
