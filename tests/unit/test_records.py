"""What is accepted as a record, what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import MAX_FAULTS, processed_check, raw_check, with_ids
from complex_system.errors import InvalidRecordError, InvalidRequestError


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


@pytest.mark.parametrize("value", [None, {}, "text", 5, b"bytes"])
def test_anything_but_a_list_is_refused_as_a_request(dataset: Dataset, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="A list of records is expected"):
        raw_check(dataset)(value)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"material_id": None}, "material_id", "must be a text, and is missing"),
        ({"material_id": 0}, "material_id", "must be a text, not the number 0"),
        ({"rohwert_1_labormessung": "3"}, "rohwert_1_labormessung", "must be a number or nothing, not the text '3'"),
        ({"rohwert_1_labormessung": True}, "rohwert_1_labormessung", "must be a number or nothing, not true"),
        ({"rohwert_1_labormessung": [3]}, "rohwert_1_labormessung", "must be a number or nothing, not a list"),
        ({"rohwert_2_labormessung": float("nan")}, "rohwert_2_labormessung", "must be a finite number, not nan"),
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
