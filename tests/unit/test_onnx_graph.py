"""The pipeline as an ONNX graph: the same features, the same predictions and the same refusals as ``/predict``, from raw values."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.local.own_data import films
from complex_system.pipeline.onnx_graph import PREDICTION, NotExportableError, raw_onnx
from complex_system.pipeline.pipeline import Pipeline
from models import linear_onnx
from random_data import datasets, record_of
from raw_models import by_serving, predicted
from trainings import quick_model

R1, R3 = "rohwert_1_labormessung", "rohwert_3_labormessung"


def spread(dataset: Dataset, records: Sequence[Record]) -> float:
    """The standard deviation of the targets."""
    return float(np.nanstd(np.array([record[dataset.target] for record in records], np.float64)))


def feature_model(width: int, place: int) -> bytes:
    """A model that answers one of its features."""
    nodes = [helper.make_node("Gather", ["features", "place"], [PREDICTION], axis=1)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "feature", [value("features", TensorProto.FLOAT, ["n", width])], [value(PREDICTION, TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("place", TensorProto.INT64, [1], [place])],
    )  # fmt: skip
    encoded: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return encoded


@settings(derandomize=True, max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(datasets(most_columns=6), st.integers(0, 2**32), st.data())
def test_features_of_any_declaration_are_those_of_the_pipeline(dataset: Dataset, seed: int, data: Any) -> None:
    draw = random.Random(seed)
    records = [record_of(dataset, draw) for _ in range(12)]
    place = data.draw(st.integers(0, len(dataset.feature_names) - 1))
    try:
        answer = predicted(dataset, raw_onnx(dataset, feature_model(len(dataset.feature_names), place)), records)
    except NotExportableError:
        return
    expected = Pipeline(dataset).features(records)[:, place]
    np.testing.assert_allclose(answer, expected, rtol=3e-7, atol=1e-30)


def spoiled(dataset: Dataset, record: Record, draw: random.Random) -> Record:
    """A record with another value in one column, as its input of ``raw.onnx`` can have it."""
    column = draw.choice([each for each in dataset.columns if each.name != dataset.target])
    value: Any = None
    match column.type:
        case "number" | "integer":
            low, high = column.range or (0.0, 1.0)
            value = draw.choice([None, high + (high - low), low - 1e-3 * (high - low), low + 0.37, float("inf"), 1e300])
        case "category":
            value = draw.choice([None, "unknown", *column.categories])
        case "list of categories":
            value = draw.choice([[], ["unknown"], [column.categories[0]] * 2, list(column.categories)])
        case "list of shares":
            value = draw.choice([None, [1.0], [0.5, 0.5], [0.7, 0.4], [1.5, -0.5]])
        case _:
            return record
    return {**record, column.name: value}


def as_inputs_have_it(dataset: Dataset, record: Record) -> Record:
    """A record without the difference between no shares and a list of none, which inputs of one size do not have."""
    return {
        name: None if value == [] and dataset.column(name).type == "list of shares" else value
        for name, value in record.items()
    }


@settings(derandomize=True, max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(datasets(most_columns=6), st.integers(0, 2**32))
def test_what_serving_refuses_has_no_prediction(dataset: Dataset, seed: int) -> None:
    draw, pipeline = random.Random(seed), Pipeline(dataset)
    records = [as_inputs_have_it(dataset, spoiled(dataset, record_of(dataset, draw), draw)) for _ in range(12)]
    refused = []
    for record in records:
        try:
            pipeline.features([record])
            refused.append(False)
        except InvalidRecordError:
            refused.append(True)
    try:
        answer = predicted(dataset, raw_onnx(dataset, feature_model(len(dataset.feature_names), 0)), records)
    except NotExportableError:
        return
    assert np.isnan(answer).tolist() == refused


EVERYTHING = Dataset.parse(
    """
    name: everything
    target: y
    columns:
      - {name: a, type: number, range: [0.5, 60], missing_values: [-9999, 33]}
      - {name: b, type: number, range: [1, 10], optional: true, fill: 2.5, outside: warn}
      - {name: c, type: number, range: [-5, 5], outside: clip}
      - {name: count, type: integer, range: [0, 9], optional: true, missing_values: [9]}
      - {name: is on, type: boolean, optional: true, fill: true}
      - {name: grade, type: category, categories: [A, B, 2.0], spellings: {A: [alpha, "a "]}, optional: true, fill: B}
      - {name: site, type: category, categories: [north, south], optional: true}
      - {name: parts, type: list of categories, categories: [x, y, z], optional: true}
      - {name: shares, type: list of shares, optional: true}
      - {name: y, type: number, optional: true}
    pipeline:
      - {step: scale, column: a, to: [-1, 3]}
      - {step: log, column: a, plus: 1, as: log of a}
      - {step: box_cox, column: a, power: 0.3, as: box of a}
      - {step: standardise, column: b, mean: 4, deviation: 2}
      - {step: keep, column: c}
      - {step: clip, column: c, to: [-2, 2], as: near c}
      - {step: impute, column: count, value: 4}
      - {step: keep, column: is on}
      - {step: product, columns: [a, c, "near c"], as: product}
      - {step: ratio, column: product, by: b, as: ratio}
      - {step: bins, column: a, edges: [0.5, 10, 20.5, 60], labels: [low, mid, top]}
      - {step: one_hot, column: grade}
      - {step: one_hot, column: site}
      - {step: multi_hot, column: parts, prefix: has}
      - {step: shares, column: parts, shares: shares}
    """
)
PLAIN: Record = {
    "a": 7.0,
    "b": 3.0,
    "c": 1.0,
    "count": 5,
    "is on": False,
    "grade": "A",
    "site": "south",
    "parts": [],
    "shares": None,
}


CHANGES: list[Record] = [
    {}, {"a": 10.0}, {"a": float(np.nextafter(10.0, 11.0))}, {"b": None}, {"b": -40.0}, {"c": 17.0}, {"c": -17.0}, {"count": None},
    {"count": 9}, {"is on": None}, {"is on": True}, {"grade": "alpha"}, {"grade": "a "}, {"grade": None}, {"grade": "N/A"},
    {"grade": "2.0"}, {"site": None}, {"site": "--"}, {"parts": ["z"]}, {"parts": ["z"], "shares": [1.0]},
    {"parts": ["z", "x"], "shares": [0.25, 0.75]}, {"parts": [], "shares": []},
]  # fmt: skip


def test_every_step_and_what_it_is_declared_with() -> None:
    records = [{**PLAIN, **change} for change in CHANGES]
    width = len(EVERYTHING.feature_names)
    expected = np.concatenate([Pipeline(EVERYTHING).features([record]) for record in records])
    answer = [predicted(EVERYTHING, raw_onnx(EVERYTHING, feature_model(width, place)), records) for place in range(width)]
    np.testing.assert_allclose(np.transpose(answer), expected, rtol=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        {"a": None}, {"a": -9999.0}, {"a": 33.0}, {"a": 0.4}, {"c": None}, {"count": 3.5}, {"count": 10}, {"grade": "C"},
        {"grade": "a"}, {"site": "west"}, {"parts": ["x", "x"], "shares": [0.5, 0.5]}, {"parts": ["q"]}, {"parts": ["x", "y"]},
        {"parts": ["x", "y"], "shares": [0.5, 0.6]}, {"parts": ["x"], "shares": [0.5, 0.5]}, {"shares": [1.0]},
        {"b": float("inf")},
    ],
)  # fmt: skip
def test_what_the_pipeline_refuses_is_not_predicted(change: Record) -> None:
    records = [PLAIN, {**PLAIN, **change}]
    with pytest.raises(InvalidRecordError):
        Pipeline(EVERYTHING).features(records)
    answer = predicted(EVERYTHING, raw_onnx(EVERYTHING, linear_onnx(EVERYTHING)), records)
    assert np.isnan(answer).tolist() == [False, True]


@pytest.mark.parametrize("framework", ["lightgbm", "linear"])
def test_the_labs_model_predicts_from_raw_columns_what_serving_predicts(framework: str, laboratory: Laboratory) -> None:
    dataset, (_, model) = Dataset.load(), quick_model(framework)
    records = list(laboratory.records(2000))
    expected = by_serving(dataset, model, records)
    difference = np.abs(predicted(dataset, raw_onnx(dataset, model), records) - expected)
    assert difference.max() <= 1e-5 * spread(dataset, records)


def test_kios_films_predict_from_raw_columns_what_serving_predicts() -> None:
    dataset = Dataset.shipped("films", target="Ausformung")
    records = films(dataset)
    model = linear_onnx(dataset, bias=0.5, weight=0.1)
    expected = by_serving(dataset, model, records)
    difference = np.abs(predicted(dataset, raw_onnx(dataset, model), records) - expected)
    assert difference.max() <= 1e-5 * spread(dataset, records)


def test_a_step_without_an_operator_is_named() -> None:
    dataset = Dataset.parse(
        """
        name: dates
        target: y
        columns:
          - {name: when, type: datetime, format: "%d.%m.%Y"}
          - {name: y, type: number, optional: true}
        pipeline:
          - {step: date_parts, column: when, parts: [month]}
        """
    )
    with pytest.raises(NotExportableError, match="the step date_parts of 'when'"):
        raw_onnx(dataset, linear_onnx(dataset))


def test_the_file_says_what_its_inputs_are() -> None:
    model = onnx.load_from_string(raw_onnx(EVERYTHING, linear_onnx(EVERYTHING)))
    about = {each.name: each.doc_string for each in model.graph.input}
    assert list(about) == [name for name in EVERYTHING.raw_names if name != "y"]
    assert about["grade"] == "categories: A, B, 2.0; may be missing"
    assert about["a"] == "range: [0.5, 60]"
    assert {each.key: each.value for each in model.metadata_props}["pipeline_version"] == EVERYTHING.version
    assert {each.domain for each in model.opset_import} == {"", "ai.onnx.ml"}


def test_the_documentations_program_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "handing-over.md").read_text()
    [program] = re.findall(r"^```python\n(import numpy.*?)^```", text, re.MULTILINE | re.DOTALL)
    dataset, (_, model) = Dataset.load(), quick_model("linear")
    (tmp_path / "raw.onnx").write_bytes(raw_onnx(dataset, model))
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, text=True, capture_output=True, check=True)
    record: Record = {"material_id": "11111111", "laborant": "TK", R1: 3.2, R3: 1.0}
    assert float(done.stdout.strip("[]\n")) == pytest.approx(by_serving(dataset, model, [record])[0], rel=1e-6)
