"""What is accepted as a record, what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import MAX_FAULTS, processed_check, raw_check, with_ids
from complex_system.errors import InvalidRecordError, InvalidRequestError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.requests.reader import BatchReader


def faults_of(dataset: Dataset, records: list[Any]) -> list[dict[str, Any]]:
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(dataset)(records)
    return caught.value.faults


def test_a_good_record_comes_back_with_every_field_and_floats(dataset: Dataset) -> None:
    [record] = raw_check(dataset)([{"material_id": "00000000", "rohwert_1_labormessung": 3}])
    assert list(record) == ["_id", *dataset.raw_names]
    assert type(record["rohwert_1_labormessung"]) is float
    assert record["laborant"] is None


def test_lab_records_pass_unchanged(dataset: Dataset, laboratory: Laboratory) -> None:
    records = list(laboratory.records(100))
    assert raw_check(dataset)(records) == records


def test_a_number_in_the_place_of_a_category_is_told_how_to_write_it() -> None:
    ovens = Dataset.parse(
        "name: a\ntarget: y\ncolumns:\n  - {name: Ofen, type: category, categories: [1, 2.5, on]}\n  - {name: y, type: number, "
        "optional: true}\npipeline:\n  - {step: one_hot, column: Ofen}\n"
    )
    problems = [fault["problem"] for fault in faults_of(ovens, [{"Ofen": 1}, {"Ofen": 1.0}, {"Ofen": 2.5}, {"Ofen": 7}])]
    assert problems == [
        'must be a text, not the number 1; write "1"', 'must be a text, not the number 1.0; write "1"',
        'must be a text, not the number 2.5; write "2.5"', "must be a text, not the number 7",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, {}, "text", 5, b"bytes"])
def test_anything_but_a_list_is_refused_as_a_request(dataset: Dataset, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="A list of records is expected"):
        raw_check(dataset)(value)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"material_id": None}, "material_id", "must be a text, and is missing"),
        ({"material_id": 0}, "material_id", "must be a text, not the number 0"),
        ({"laborant": 1}, "laborant", "must be a text or nothing, not the number 1"),
        ({"rohwert_1_labormessung": "3"}, "rohwert_1_labormessung", "must be a number or nothing, not the text '3'"),
        ({"rohwert_1_labormessung": True}, "rohwert_1_labormessung", "must be a number or nothing, not true"),
        ({"rohwert_1_labormessung": [3]}, "rohwert_1_labormessung", "must be a number or nothing, not a list"),
        ({"rohwert_2_labormessung": float("inf")}, "rohwert_2_labormessung", "must be a finite number, not inf"),
        ({"rohwert_2_labormessung": float("-inf")}, "rohwert_2_labormessung", "must be a finite number, not -inf"),
        ({"aufbereiteter_wert": float("inf")}, "aufbereiteter_wert", "must be a finite number, not inf"),
        (
            {"rohwert_2_labormessung": 10**400},
            "rohwert_2_labormessung",
            f"must be a finite number, not 1{'0' * 19}... (401 digits)",
        ),
        ({"": "red"}, "", "is not a declared field"),
        ({"colour": "red"}, "colour", "is not a declared field"),
        ({"_id": ""}, "_id", "must have 1 to 64 characters"),
        ({"_id": "x" * 65}, "_id", "must have 1 to 64 characters"),
    ],
)
def test_a_fault_names_record_id_and_field(
    dataset: Dataset, laboratory: Laboratory, change: dict[str, Any], field: str, problem: str
) -> None:
    bad = {**laboratory.record(), **change}
    [fault] = faults_of(dataset, [laboratory.record(), bad, laboratory.record()])
    assert fault == {"record": 1, "id": bad["_id"], "field": field, "problem": problem}


def test_a_missing_field_and_a_thing_that_is_no_record_are_named(dataset: Dataset) -> None:
    missing, strange = faults_of(dataset, [{"_id": "a"}, 5])
    assert (missing["field"], missing["problem"]) == ("material_id", "is missing")
    assert (strange["record"], strange["problem"]) == (1, "must be a mapping, not int")


def test_the_sentence_has_the_first_fault_and_the_number_of_the_others(dataset: Dataset, laboratory: Laboratory) -> None:
    bad = [{**laboratory.record(), "_id": f"k{i}", "colour": 1} for i in range(3)]
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(dataset)([laboratory.record(), *bad])
    assert caught.value.message == (
        "Record 1 (id k0), field 'colour': is not a declared field. 2 more fault(s) in this batch."
    )


def test_no_more_than_twenty_faults_are_reported(dataset: Dataset) -> None:
    assert len(faults_of(dataset, [{}] * 50)) == MAX_FAULTS == 20


def test_a_processed_record_needs_its_key_and_every_feature(dataset: Dataset) -> None:
    good = {"_id": "a", **dict.fromkeys(dataset.feature_names, 0.0)}
    [record] = processed_check(dataset)([good])
    assert tuple(record) == dataset.processed_names
    assert record[dataset.target] is None
    for name in ("_id", dataset.feature_names[3]):
        with pytest.raises(InvalidRecordError, match="is missing") as caught:
            processed_check(dataset)([good, {key: value for key, value in good.items() if key != name}])
        assert caught.value.faults[0]["field"] == name
        assert caught.value.faults[0]["record"] == 1


def test_keys_are_given_where_there_are_none_and_rise() -> None:
    records = with_ids([{"_id": "mine"}, {}, {"_id": None}])
    assert records[0]["_id"] == "mine"
    assert records[1]["_id"] < records[2]["_id"]
    keys = [new_key() for _ in range(1000)]
    assert keys == sorted(set(keys))


MARKED = Dataset.parse("""
name: coating
target: y
columns:
  - {name: coating, type: category, categories: [oil, wax], optional: true}
  - {name: element, type: category, categories: [NA, K]}
  - {name: x, type: number, range: [-10000, 10000], optional: true, fill: 0, missing_values: [-9999, 999]}
  - {name: n, type: integer, optional: true, missing_values: [99]}
  - {name: t, type: datetime, format: "%d.%m.%Y", optional: true}
  - {name: 'a "quoted" note', type: text, optional: true}
  - {name: y, type: number, optional: true, missing_values: [-1]}
pipeline:
  - {step: one_hot, column: coating}
  - {step: one_hot, column: element}
  - {step: scale, column: x}
""")
COMPILED = Dataset.restored(
    {**MARKED.as_content(), "columns": [c for c in MARKED.as_content()["columns"] if "quoted" not in c["name"]]}
)


@pytest.mark.parametrize("dataset", [COMPILED, MARKED], ids=["compiled", "value by value"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coating", "none"), ("coating", " k.A. "), ("coating", ""), ("x", "NA"), ("x", float("nan")), ("x", -9999), ("x", 999.0),
        ("x", " - "), ("n", 99), ("n", "n.a."), ("t", "--"), ("t", ""), ("y", -1.0), ("y", None),
    ],
)  # fmt: skip
def test_a_missing_value_costs_its_field_only(dataset: Dataset, field: str, value: Any) -> None:
    full = {"_id": "a", "coating": "oil", "element": "NA", "x": 1.0, "n": 3, "t": "31.12.2025", "y": 5.0}
    check = raw_check(dataset)
    assert [{**each, 'a "quoted" note': None} for each in check([full])] == [{**full, 'a "quoted" note': None}]
    found, whole = check([{**full, field: value}, full])
    assert {name: found[name] for name in full} == {**full, field: None}
    assert {name: whole[name] for name in full} == full


@pytest.mark.parametrize("dataset", [COMPILED, MARKED], ids=["compiled", "value by value"])
@pytest.mark.parametrize("value", ["none", "n.a. ", ""])
def test_a_marker_in_a_required_field_is_named_as_such(dataset: Dataset, value: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(dataset)([{"_id": "a", "element": value}])
    assert [(fault["field"], fault["problem"]) for fault in caught.value.faults] == [
        ("element", f"is missing: {value!r} stands for a missing value")
    ]


def test_a_text_that_is_no_marker_stays_a_fault() -> None:
    with pytest.raises(InvalidRecordError, match="must be a number or nothing, not the text 'n.b.'"):
        raw_check(COMPILED)([{"element": "K", "x": "n.b."}])
    with pytest.raises(InvalidRecordError, match="must be a finite number, not inf"):
        raw_check(COMPILED)([{"element": "K", "x": float("inf")}])
    other = {"element": "argon", "t": "31.12.25"}  # well-formed: whether it can be processed is the pipeline's question
    [found] = raw_check(COMPILED)([other])
    assert {name: found[name] for name in other} == other


def test_records_that_were_saved_before_the_declaration_named_their_missing_values_are_processed_as_such() -> None:
    pipeline = Pipeline(COMPILED)
    saved = [
        {"_id": "a", "coating": "none", "element": "NA", "x": -9999.0, "y": float("nan")},
        {"_id": "b", "coating": " wax", "element": "K", "x": 5.0, "y": 2.0},
        {"_id": "c", "coating": "wax", "element": "K", "x": 5.0, "y": 2.0},
    ]
    processed, rejected = pipeline.split(pl.DataFrame(saved))
    expected = pipeline.process(raw_check(COMPILED)([{"_id": "a", "element": "NA"}, saved[2]]))
    assert processed.to_dicts() == expected.to_dicts()
    assert [(each["_id"], each["reason"]) for each in rejected] == [("b", "coating: ' wax' is not one of oil, wax")]
    assert (
        pipeline.features_of(pipeline.typed(pl.DataFrame([saved[0], saved[2]]))).tolist()
        == pipeline.features(raw_check(COMPILED)([{"_id": "a", "element": "NA"}, saved[2]])).tolist()
    )


SPELLED = Dataset.parse("""
name: works
target: y
columns:
  - {name: werk, type: category, categories: [Nord, Süd, NO], spellings: {Nord: [nord, "Nord ", "none"], NO: [no, 007]}}
  - {name: x, type: number, range: [0, 10]}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: one_hot, column: werk}
  - {step: scale, column: x}
""")


@pytest.mark.parametrize(
    ("written", "read"),
    [("nord", "Nord"), ("Nord ", "Nord"), ("none", "Nord"), ("no", "NO"), ("007", "NO"), ("Süd", "Süd")],
)
def test_another_spelling_is_the_category_in_messages_and_requests(written: str, read: str) -> None:
    records = [{"werk": "Süd", "x": 1.0}, {"werk": written, "x": 1.0}]
    assert raw_check(SPELLED)(records)[1]["werk"] == read
    pipeline = Pipeline(SPELLED)
    want = pipeline.features([{"werk": read, "x": 1.0}])[0]
    reader = BatchReader(pipeline, max_records=1000)
    for copies in (1, 400):  # few records are read as mappings, many as columns
        body = json.dumps(records * copies).encode()
        batch = reader.body(body)
        assert (batch.features(pipeline)[1] == want).all()
        assert batch.head(2)[1]["werk"] == read
        assert (
            reader.columns({"werk": ["Süd", written] * copies, "x": [1.0] * 2 * copies}).features(pipeline)[1] == want
        ).all()
    # Records that were saved before the spelling was declared.
    assert (pipeline.features([{"werk": written, "x": 1.0}])[0] == want).all()
    processed, rejected = pipeline.split(pl.DataFrame([{"_id": "a", "werk": written, "x": 1.0, "y": None}]))
    assert (processed.height, rejected) == (1, [])


@pytest.mark.parametrize("text", ["NORD", " nord", "West"])
def test_a_spelling_that_is_not_declared_is_no_category(text: str) -> None:
    with pytest.raises(InvalidRecordError, match="is not one of Nord, Süd, NO"):
        Pipeline(SPELLED).features([{"werk": text, "x": 1.0}])


def test_spellings_are_part_of_the_declaration() -> None:
    assert SPELLED.column("werk").spellings == {"Nord": ("nord", "Nord ", "none"), "NO": ("no", "007")}
    again = Dataset.restored(SPELLED.as_content())
    assert (again.version, again.column("werk").spelled) == (SPELLED.version, SPELLED.column("werk").spelled)
    plain = [{**each, "spellings": {}} for each in SPELLED.as_content()["columns"]]
    without = Dataset.restored({**SPELLED.as_content(), "columns": plain})
    assert without.version != SPELLED.version
    assert "spellings" not in without.as_content()["columns"][0]
