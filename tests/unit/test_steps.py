"""Every step and every type: a record alone equals the same record in a batch, bit for bit, and faults are the same in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record, raw_check
from complex_system.errors import DeclarationError, InvalidRecordError
from complex_system.pipeline.pipeline import FEW_RECORDS, Pipeline
from everything import EVERYTHING, TEXT, anything, records

PIPELINE = Pipeline(EVERYTHING)


def faults(make: Callable[[], Any]) -> list[dict[str, Any]]:
    try:
        make()
    except InvalidRecordError as error:
        return error.faults
    return []


def frame_of(batch: list[Record]) -> pl.DataFrame:
    return pl.DataFrame(batch, schema={name: PIPELINE._raw_types.get(name, pl.String) for name in batch[0]}, strict=False)


def bits(row: Any) -> list[Any]:
    return [value.hex() if isinstance(value, float) else value for value in row]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(records(), min_size=1, max_size=12))
def test_a_record_of_all_types_alone_equals_the_same_record_in_any_batch(batch: list[Record]) -> None:
    checked = raw_check(EVERYTHING)(batch)
    together = PIPELINE.process(checked)
    arrow = pa.Table.from_pylist(
        [{**record, "_id": record["_id"] or "k"} for record in checked], schema=raw_schema(EVERYTHING)
    )
    bulk, rejections = PIPELINE.split(arrow)
    by_row = PIPELINE.features(checked)
    by_frame = PIPELINE.features_of(PIPELINE.typed(arrow))
    many = PIPELINE.features([*checked] * (FEW_RECORDS // len(checked) + 1))
    assert not rejections
    assert by_row.tobytes() == by_frame.tobytes() == many[: len(checked)].tobytes()
    for place, record in enumerate(checked):
        alone = bits(PIPELINE.process([record]).row(0))
        assert alone == bits(together.row(place))
        assert alone[1:] == bits(bulk.row(place))[1:]
        assert not np.isnan(by_row[place]).any()


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(anything(), min_size=1, max_size=5))
def test_records_of_all_types_are_refused_alike_alone_in_few_and_in_bulk(batch: list[Record]) -> None:
    refused = []
    for record in batch:
        alone = faults(lambda: PIPELINE.features([record]))  # noqa: B023 - called at once
        assert faults(lambda: PIPELINE.features_of(PIPELINE.typed(frame_of([record])))) == alone  # noqa: B023
        if alone:
            refused.append("; ".join(f"{fault['field']}: {fault['problem']}" for fault in alone))
    frame = frame_of(batch)
    assert faults(lambda: PIPELINE.features_of(PIPELINE.typed(frame))) == faults(lambda: PIPELINE.features(batch))
    processed, rejections = PIPELINE.split(frame)
    assert [rejection["reason"] for rejection in rejections] == refused
    assert processed.height == len(batch) - len(refused)


def test_long_columns_are_processed_as_single_values_are() -> None:
    random = np.random.default_rng(3)
    base: Record = {"Temp. [°C]": 1.0, "an": False, "Ort": "x"}
    batch: list[Record] = [
        {**base, "Temp. [°C]": t, "temp. [°c]": u, "select": n, "Größe": s}
        for t, u, n, s in zip(
            random.uniform(-40, 250, 400).tolist(),
            random.uniform(0.5, 80, 400).tolist(),
            random.integers(0, 1000, 400).tolist(),
            random.uniform(0.001, 1e6, 400).tolist(),
            strict=True,
        )
    ]
    together = PIPELINE.process(batch)
    one_by_one = np.concatenate([PIPELINE.features([record]) for record in batch])
    assert len(batch) > FEW_RECORDS
    assert PIPELINE.features(batch).tobytes() == one_by_one.tobytes()
    assert PIPELINE.features(batch[:FEW_RECORDS]).tobytes() == one_by_one[:FEW_RECORDS].tobytes()
    assert [bits(PIPELINE.process([record]).row(0)) for record in batch] == [bits(row) for row in together.rows()]


def test_a_record_becomes_what_the_steps_say() -> None:
    [record] = PIPELINE.process(
        [{"Temp. [°C]": 105.0, "select": 10, "Größe": None, "an": None, "Zeit": "29.02.2024 7:05", "Stoffe": ["K3", "K1"],
          "Anteile": [0.25, 0.75], "temp. [°c]": 41.0}]
    ).to_dicts()  # fmt: skip
    expected = {
        "Temp. [°C]": 0.0, "an": 1.0, "size": 2.5, "clipped": 100.0, "clipped_low": 0.0, "clipped_high": 1.0, "select_few": 1.0,
        "has_K1": 1.0, "has_K2": 0.0, "has_K3": 1.0, "share_K1": 0.75, "share_K2": 0.0, "share_K3": 0.25, "Sorte_A": 1.0,
        "Sorte_007": 0.0, "Sorte_NO": 0.0, "Ort_x": 0.0, "Zeit_year": 2024.0, "Zeit_month": 2.0, "Zeit_day": 29.0, "Zeit_hour": 7.0,
        "Zeit_minute": 5.0, "Zeit_second": 0.0, "Zeit_weekday": 4.0, "Zeit_day_of_year": 60.0, "energy": 41.0 * 105 * 10,
        "per_degree": 10 / 41,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert "size_log" not in EVERYTHING.feature_names
    assert "size_scaled" in EVERYTHING.feature_names


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"select": 2.5}, "select", "must be a whole number up to 9007199254740992, not 2.5"),
        ({"select": 2**60}, "select", "must be a whole number up to 9007199254740992, not 1152921504606846976"),
        ({"an": 1}, "an", "must be true or false or nothing, not the number 1"),
        ({"an": "ja"}, "an", "must be true or false or nothing, not the text 'ja'"),
        ({"Stoffe": "K1"}, "Stoffe", "must be a list or nothing, not the text 'K1'"),
        ({"Stoffe": ["K1", 3]}, "Stoffe", "entry 1 must be a text, not the number 3"),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(change: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(EVERYTHING)([{"Temp. [°C]": 1.0, **change}])
    assert [(fault["field"], fault["problem"]) for fault in caught.value.faults] == [(field, problem)]


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"select": 1001}, "select", "1001 is outside of [0, 1000]"),
        ({"Zeit": "31.02.2024 00:00"}, "Zeit", "'31.02.2024 00:00' is not a time of the format %d.%m.%Y %H:%M"),
        ({"Stoffe": ["K1", "K9"], "Anteile": [1.0, 0.0]}, "Stoffe", "'K9' is not one of K1, K2, K3"),
        ({"Stoffe": ["K1", "K1"], "Anteile": [1.0, 0.0]}, "Stoffe", "has an entry more than once"),
        ({"Stoffe": ["K1", "K2"]}, "Anteile", "is missing, and 'Stoffe' has 2 entries"),
        ({"Stoffe": ["K1", "K2"], "Anteile": [1.0]}, "Anteile", "has 1 shares, and 'Stoffe' has 2 entries"),
        ({"Stoffe": ["K1", "K2"], "Anteile": [1.5, -0.5]}, "Anteile", "has a share outside of [0, 1]"),
        ({"Stoffe": ["K1", "K2"], "Anteile": [0.5, 0.4]}, "Anteile", "has shares that add up to 0.9, not to 1"),
    ],
)
def test_a_value_that_cannot_be_processed_is_refused_in_words(change: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        PIPELINE.features([{"Temp. [°C]": 1.0, **change}])
    assert [(fault["field"], fault["problem"]) for fault in caught.value.faults] == [(field, problem)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("power: 0.3", "power: x", r"line 34, pipeline step 15 \(box_cox\), power: must be a number"),
        ("column: size, power: 0.3", "column: Siz, power: 0.3", "names the unknown column 'Siz'"),
        ('by: "temp. [°c]"', 'by: "Temp. [°C]"', r"'Temp. \[°C\]' may be 0 \(its range is \[-40.0, 250.0\]\)"),
        (
            "column: select, plus: 1",
            "column: select",
            "'select' may be 0, which has no logarithm; 'plus' must be larger than 0",
        ),
        ("edges: [0, 50, 100]", "edges: [0, 50, 90]", "the bins of 'clipped' must cover its range"),
        ("as: size_cox_0", "as: size_cox", "the result 'size_cox' needs a name that no column and no other result has"),
        ("as: size_cox_0", "as: select", "the result 'select' needs a name that no column"),
        ("columns: [Prüfer]", "columns: [Ort]", "takes 'Ort', which another step drops"),
        ("columns: [Prüfer]", "columns: [quality]", "must not name the target"),
        ("column: Zeit,", "column: Notiz,", "does not fit 'Notiz' of type text; it takes datetime"),
        ('format: "%d.%m.%Y %H:%M"', 'format: "%d.%b.%Y"', r"the format '%d.%b.%Y' may have %d, %m"),
        ('fill: "31.12.2025 23:59"', 'fill: "32.12.2025 23:59"', "which is not a time of the format"),
        (
            "range: [0, 1000], optional: true, fill: 7",
            "range: [0, 1000], optional: true, fill: 7.5",
            "is an integer and declares a fill",
        ),
        ("deviation: 7.7", "deviation: 0", "deviation: must be larger than 0"),
        ("deviation: 7.7", "deviatoin: 7.7", "is not a known key \\(did you mean 'deviation'\\?\\); allowed are as,"),
        ("categories: [x, y]", "categories: [x, y, x]", "the category 'x' more than once"),
        ("id: Chargen-Nr.", "id: Ort", "must not use the key 'Ort'"),
        ("value: 2.5", "value: 0", "the value 0 for 'Größe' is outside of its range"),
        (
            "type: integer, range: [0, 1000]",
            "type: integer, range: [0, 1000], range: [0, 5]",
            "range: is there twice; keep one",
        ),
        ('columns: ["temp. [°c]", "Temp. [°C]", select]', "columns: [select]", "needs two columns or more"),
    ],
)
def test_a_fault_of_a_declaration_is_named_with_what_is_allowed(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(DeclarationError, match=says):
        Dataset.parse(TEXT.replace(old, new))


def test_all_faults_of_a_declaration_are_named_at_once_in_the_order_of_the_file() -> None:
    bad = (
        TEXT.replace("range: [-40, 250]", "range: [-40]")
        .replace("categories: [x, y]", "categories: []")
        .replace("mean: 33.3, ", "")
    )
    bad = (
        bad.replace("prefix: has", "perfix: has")
        .replace("step: ratio", "step: ration")
        .replace("name: everything", "name: Every Thing")
    )
    with pytest.raises(DeclarationError) as caught:
        Dataset.parse(bad, "plant.yaml")
    first, *lines = caught.value.message.splitlines()
    assert first == "plant.yaml has 6 faults:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "line 2, name",
        "line 6, column 'Temp. [°C]', range",
        "line 12, column 'Ort'",
        "line 23, pipeline step 4 (multi_hot), perfix",
        "line 28, pipeline step 9 (standardise), mean",
        "line 39, pipeline step 20 (ration), step",
    ]


def test_categories_are_what_is_written_and_not_what_yaml_makes_of_it() -> None:
    assert EVERYTHING.column("Sorte").categories == ("A", "b c", "007", "NO")


def test_of_several_targets_one_is_chosen_and_the_others_are_never_features() -> None:
    text = TEXT.replace("target: quality", "target: [quality, Größe]")
    with pytest.raises(DeclarationError, match="must not use the target 'Größe'"):
        Dataset.parse(text, target="quality")
    with pytest.raises(
        DeclarationError, match="'Ort' was chosen as the target and is not declared as one; declared are quality, Größe"
    ):
        Dataset.parse(text, target="Ort")
    notes = TEXT.replace("target: quality", "target: [quality, extra]").replace(
        "columns:\n", "columns:\n  - {name: extra, type: number, optional: true}\n", 1
    )
    with pytest.raises(
        DeclarationError, match=r"line 4, target: there are 2 targets \(quality, extra\), .*--target quality"
    ):
        Dataset.parse(notes)
    chosen = Dataset.parse(notes, target="extra")
    assert (chosen.target, chosen.targets) == ("extra", ("extra", "quality"))
    assert Dataset.parse(notes, target="quality").version != chosen.version


def test_what_decides_nothing_does_not_change_the_version() -> None:
    same = EVERYTHING.version
    assert Dataset.parse(TEXT.replace("id: Chargen-Nr.", "")).version == same
    assert Dataset.parse(TEXT.replace("  - {step: drop, columns: [Prüfer]}\n", "")).version == same
    assert Dataset.parse(TEXT.replace("power: 0.3", "power: 0.4")).version != same
    assert Dataset.parse(TEXT.replace("plus: 1,", "plus: 2,")).version != same
