"""Requests with columns of every type: schema, examples, JSON, columns, CSV and Arrow give the same features."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.errors import InvalidRecordError
from complex_system.pipeline.pipeline import FEW_RECORDS, Pipeline
from complex_system.serving.requests.csv import csv_columns, csv_text
from complex_system.serving.requests.examples import example_columns, example_record
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensors import decode_inference, inference_batch
from complex_system.serving.rest.oip import inference_body
from complex_system.serving.rest.schemas import record_schema
from everything import EVERYTHING, records

PIPELINE = Pipeline(EVERYTHING)
READER = BatchReader(PIPELINE, max_records=10_000)
DATASETS = [EVERYTHING, Dataset.load(), Dataset.shipped("films", target="Kaltverfo")]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("position", range(4))
def test_the_examples_are_records_that_are_processed(dataset: Dataset, position: int) -> None:
    example = example_record(dataset, position)
    jsonschema.Draft202012Validator(record_schema(dataset)).validate(example)
    assert Pipeline(dataset).features(raw_check(dataset)([example])).shape == (1, len(dataset.feature_names))
    assert not set(example) & set(dataset.targets)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(records(), min_size=1, max_size=6))
def test_every_form_of_a_request_gives_the_same_features(batch: list[Record]) -> None:
    batch = [{name: value for name, value in record.items() if name != "_id"} for record in batch]
    for record in batch:
        jsonschema.Draft202012Validator(record_schema(EVERYTHING)).validate({**record, "quality": None})
    expected = READER.records(batch).features(PIPELINE).tobytes()
    assert READER.body(json.dumps(batch).encode()).features(PIPELINE).tobytes() == expected
    columns = {name: [record[name] for record in batch] for name in batch[0]}
    assert READER.columns(columns).features(PIPELINE).tobytes() == expected
    many = {name: values * 300 for name, values in columns.items()}
    assert READER.columns(many).features(PIPELINE).tobytes() == expected * 300
    assert READER.body(json.dumps(batch * 300).encode()).features(PIPELINE).tobytes() == expected * 300
    arrow = pa.Table.from_pylist([{"_id": "k", **record} for record in batch], schema=raw_schema(EVERYTHING))
    assert READER.table(arrow).features(PIPELINE).tobytes() == expected


LAB = BatchReader(Pipeline(Dataset.load()), max_records=10_000)


@pytest.mark.parametrize("size", [1, 30, FEW_RECORDS + 10])
def test_columns_and_bodies_of_any_size_are_the_records(size: int, laboratory: Laboratory) -> None:
    batch = [{"_id": f"k{i}", **laboratory.complete_record(), "rohwert_2_labormessung": 3} for i in range(size)]
    for record in batch[::3]:
        record["aufbereiteter_wert"] = None
    one_by_one = LAB.records(batch)
    columns = {name: [record[name] for record in batch] for name in batch[0]}
    for other in (LAB.columns(columns), LAB.body(json.dumps(batch).encode())):
        assert other.size == size
        assert other.features(LAB.pipeline).tobytes() == one_by_one.features(LAB.pipeline).tobytes()
        assert json.dumps(other.head(7), sort_keys=True) == json.dumps(one_by_one.head(7), sort_keys=True)


@pytest.mark.parametrize("size", [1, 30, FEW_RECORDS + 10])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rohwert_1_labormessung", math.inf),
        ("rohwert_1_labormessung", True),
        ("rohwert_1_labormessung", "3"),
        ("rohwert_1_labormessung", -1e9),
        ("rohwert_1_labormessung", 10**400),
        ("material_id", None),
        ("material_id", 11111111),
        ("material_id", "nobody's"),
        ("datum", "x" * 65_537),
        ("_id", ""),
        ("_id", "x" * 65),
    ],
)
def test_a_wrong_value_in_columns_of_any_size_has_the_same_words(
    size: int, field: str, value: Any, laboratory: Laboratory
) -> None:
    batch = [{"_id": f"k{i}", **laboratory.complete_record()} for i in range(size)]
    batch[size // 2][field] = value
    columns = {name: [record[name] for record in batch] for name in batch[0]}
    found = []
    for make in (lambda: LAB.records(batch), lambda: LAB.columns(columns)):
        with pytest.raises(InvalidRecordError) as caught:
            make().features(LAB.pipeline)
        found.append(caught.value.faults)
    assert found[0] == found[1]
    assert [(fault["record"], fault["field"]) for fault in found[0]] == [(size // 2, field)]


def test_csv_has_lists_and_flags() -> None:
    record = {"Temp. [°C]": 1.5, "an": False, "select": 3, "Stoffe": ["K1", "K2"], "Anteile": [0.25, 0.75]}
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(record)
    writer.writerow([1.5, "false", 3, '["K1", "K2"]', "0.25;0.75"])
    writer.writerow([1.5, "False", "3.0", "K1|K2", "[0.25, 0.75]"])
    read = READER.columns(csv_columns(out.getvalue().encode(), EVERYTHING.columns)).features(PIPELINE)
    assert read.tobytes() == READER.records([record, record]).features(PIPELINE).tobytes()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"select": 2.5}, "whole number"),
        ({"an": 1}, "true or false"),
        ({"Stoffe": "K1"}, "a list"),
        ({"Anteile": [2.0]}, "Anteile"),
        ({"Anteile": [0.5, "x"]}, "'Anteile': entry 1 must be a number, not the text 'x'"),
        ({"Stoffe": ["K1", 5]}, "'Stoffe': entry 1 must be a text, not the number 5"),
        ({"Stoffe": ["x" * 65_537]}, "'Stoffe': entry 0 must have at most 65536 characters, not 65537"),
    ],
)
def test_a_wrong_value_is_refused_with_a_message_however_it_comes(change: dict[str, Any], problem: str) -> None:
    record = {"Temp. [°C]": 1.5, "Stoffe": ["K1"], **change}
    for size in (1, 500):
        with pytest.raises(InvalidRecordError, match=problem):
            READER.columns({name: [value] * size for name, value in record.items()}).features(PIPELINE)
        with pytest.raises(InvalidRecordError, match=problem):
            READER.body(json.dumps([record] * size).encode()).features(PIPELINE)


def test_a_fraction_for_an_integer_is_refused_in_arrow_too() -> None:
    with pytest.raises(InvalidRecordError, match=r"select.*must be a whole number, not 2.5"):
        READER.table(pa.table({"Temp. [°C]": [1.0], "select": [2.5]})).features(PIPELINE)


def test_tensors_of_the_example_are_read_again() -> None:
    example = inference_body(EVERYTHING)["content"]["application/json"]["examples"]["columns"]["value"]
    kinds = {tensor["name"]: tensor["datatype"] for tensor in example["inputs"]}
    assert (kinds["select"], kinds["an"], kinds["Stoffe"], kinds["Zeit"]) == ("INT64", "BOOL", "BYTES", "BYTES")
    read = inference_batch(decode_inference(json.dumps(example).encode()), READER)
    expected = READER.columns(example_columns(EVERYTHING, 2)).features(PIPELINE)
    assert read.features(PIPELINE).tobytes() == expected.tobytes()


def test_the_example_of_csv_is_read_again() -> None:
    columns = example_columns(EVERYTHING, 3)
    assert csv_columns(csv_text(columns).encode(), EVERYTHING.columns) == columns


def test_what_pandas_writes_for_a_missing_value_is_missing_in_columns_of_every_type() -> None:
    names = ["temp. [°c]", "select", "an", "Sorte", "Stoffe", "Anteile", "Notiz"]
    for marker in ("", "NaN", "null", "<NA>", "None"):
        body = ",".join(["Temp. [°C]", *names]) + "\n1.5" + f",{marker}" * len(names)
        assert csv_columns(body.encode(), EVERYTHING.columns) == {"Temp. [°C]": [1.5], **{name: [None] for name in names}}
    assert csv_columns("Temp. [°C],an,Notiz\n1_0,٣, nan".encode(), EVERYTHING.columns) == {
        "Temp. [°C]": ["1_0"], "an": ["٣"], "Notiz": [None],
    }  # fmt: skip
