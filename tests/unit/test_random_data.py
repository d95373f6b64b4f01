"""Random declarations and random data: what is within is processed alike everywhere, what is not is named."""

from __future__ import annotations

import math
import os
import random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.errors import DeclarationError, InvalidRecordError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.schemas import example_record
from random_data import datasets, declarations, labelled_records, record_of, text_of

FEW = settings(
    derandomize="RANDOM_DATA_EXAMPLES" not in os.environ,
    max_examples=int(os.environ.get("RANDOM_DATA_EXAMPLES", "30")),
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""``RANDOM_DATA_EXAMPLES`` makes a hunt, each time another one."""


def table_of(dataset: Dataset, records: list[Record]) -> pa.Table:
    schema = raw_schema(dataset)
    return pa.table([pa.array([record[field.name] for record in records], field.type) for field in schema], schema=schema)


@FEW
@given(datasets(), st.integers(0, 2**32))
def test_random_records_are_processed_alike_alone_in_a_batch_and_in_bulk(dataset: Dataset, seed: int) -> None:
    records = raw_check(dataset)(labelled_records(dataset, seed))
    pipeline = Pipeline(dataset)
    batch = pipeline.process(records)
    bulk, rejections = pipeline.split(table_of(dataset, records))
    assert not rejections
    assert bulk.equals(batch)
    features = pipeline.features(records)
    assert np.isfinite(features).all()
    assert features.tobytes() == np.ascontiguousarray(batch.select(dataset.feature_names).to_numpy(), np.float32).tobytes()
    assert all(pipeline.features([record]).tobytes() == row.tobytes() for record, row in zip(records, features, strict=True))
    for step in dataset.pipeline:
        if step.step == "bins":
            assert set(batch.select(pl.sum_horizontal(dataset.features_of(step))).to_series()) == {1.0}


@FEW
@given(datasets(), st.randoms(use_true_random=False))
def test_a_random_record_in_json_is_the_record(dataset: Dataset, draw: random.Random) -> None:
    import msgspec

    records = [{"_id": None, **record_of(dataset, draw)}, {"_id": None, **example_record(dataset), dataset.target: None}]
    batch = BatchReader(Pipeline(dataset), max_records=10).body(msgspec.json.encode(records))
    assert batch.records == raw_check(dataset)(records)  # type: ignore[attr-defined]


def wrong_value(  # noqa: PLR0912 - one branch a type
    column: Column, *, used: bool
) -> list[tuple[Any, list[str]]]:
    """Values that the column must not have, and what a message has to say of each."""
    found: list[tuple[Any, list[str]]] = []
    if not column.optional:
        found.append((None, ["is missing"]))
    match column.type:
        case "number" | "integer":
            found += [("warm", ["number", "'warm'"]), (True, ["number", "true"]), (math.inf, ["number", "inf"])]
            if column.type == "integer":
                found += [(0.5, ["whole number", "0.5"]), (LARGEST_INTEGER * 4, ["whole number", str(LARGEST_INTEGER)])]
            if used and column.range and column.outside == "refuse":
                high = column.range[1]
                step = 1 if column.type == "integer" else abs(high) * 1e-9 + 1e-9
                beyond = int(high) + 1 if column.type == "integer" else high + step
                if abs(beyond) <= LARGEST_INTEGER or column.type == "number":
                    limit = str(int(high)) if high.is_integer() and abs(high) < 1e16 else str(high)
                    found.append((beyond, [str(beyond), "outside of", limit]))
        case "boolean":
            found.append(("ja", ["true or false", "'ja'"]))
        case "category":
            found.append((7, ["text", "7"]))
            if used:
                found.append(("never declared", ["'never declared' is not one of", column.categories[0]]))
        case "datetime":
            found.append((20250101, ["text", "20250101"]))
            if used:
                found.append(("yesterday", ["'yesterday' is not a time of the format", column.format]))
        case "list of categories":
            found.append(("A", ["list", "'A'"]))
            if used:
                found.append((["never declared"], ["'never declared' is not one of", column.categories[0]]))
        case "list of shares":
            found.append((["much"], ["entry 0", "number", "'much'"]))
            if used:
                found.append(([0.5, 0.1, 0.1], ["shares"]))
        case _:
            found.append((7, ["text", "7"]))
    return found


@FEW
@given(datasets(), st.integers(0, 2**32), st.data())
def test_a_wrong_value_is_told_with_its_record_its_column_itself_and_what_is_allowed(
    dataset: Dataset, seed: int, data: st.DataObject
) -> None:
    records = labelled_records(dataset, seed, (3, 1, 1), 0)
    place = data.draw(st.integers(0, len(records) - 1))
    pipeline = Pipeline(dataset)
    used = {check.field for check in pipeline._checks}
    column = data.draw(st.sampled_from(dataset.columns))
    values = wrong_value(column, used=column.name in used)
    assume(values)
    value, said = data.draw(st.sampled_from(values))
    records[place][column.name] = value
    with pytest.raises(InvalidRecordError) as refused:
        pipeline.process(raw_check(dataset)(records))
    fault = next(fault for fault in refused.value.faults if fault["field"] == column.name)
    assert (fault["record"], fault["id"]) == (place, records[place]["_id"])
    for part in said:
        assert part in fault["problem"]
    if refused.value.faults[0] == fault:
        assert refused.value.message.startswith(f"Record {place} (id {records[place]['_id']}), field '{column.name}': ")


@FEW
@given(declarations(), st.data())
def test_one_wrong_key_in_a_random_declaration_is_told_with_its_place(content: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content["columns"]) - 1))
    name = content["columns"][place]["name"]
    content["columns"][place]["optionl"] = True
    with pytest.raises(DeclarationError) as refused:
        Dataset.parse(text_of(content))
    message = refused.value.message
    assert f"column '{name}', optionl: is not a known key (did you mean 'optional'?); allowed are name," in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "name: a,",
            'name: "a\\0",',
            r"line 3, column 'a.*has a zero character, which tables cannot store; rename the column",
        ),
        ("[A, B]", '[A, "B\\0"]', "line 4, pipeline step 1 .one_hot.: the feature 'a_B.x00' has a zero character"),
    ],
)
def test_a_zero_character_in_a_name_is_refused_at_once(old: str, new: str, said: str) -> None:
    # The library that makes the tables ends the thread at one.
    text = (
        "name: x\ntarget: y\ncolumns: [{name: a, type: category, categories: [A, B]}, {name: y, type: number}]\n"
        "pipeline: [{step: one_hot, column: a}]"
    )
    Dataset.parse(text)
    with pytest.raises(DeclarationError, match=said):
        Dataset.parse(text.replace(old, new))


def test_one_bin_alone_makes_a_feature_of_every_record() -> None:
    dataset = Dataset.parse(
        "name: x\ntarget: y\ncolumns: [{name: a, type: number, range: [0, 1]}, {name: y, type: number}]\n"
        "pipeline: [{step: bins, column: a, edges: [0, 1], labels: [all]}]"
    )
    for count in (1, 300):
        records = [{"_id": "1", "a": 0.5, "y": 1.0}] * count
        assert Pipeline(dataset).features(records).tolist() == [[1.0]] * count


def test_a_limit_is_told_to_its_last_digit() -> None:
    dataset = Dataset.parse(
        "name: x\ntarget: y\ncolumns: [{name: a, type: number, range: [0, 1234567]}, {name: y, type: number}]\n"
        "pipeline: [{step: scale, column: a}]"
    )
    with pytest.raises(InvalidRecordError, match=r"1234567.5 is outside of \[0, 1234567\]"):
        Pipeline(dataset).process([{"_id": "1", "a": 1234567.5, "y": 1.0}])
