"""The dummy data are what the contract says, and the same for the same seed."""

from __future__ import annotations

import math
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import (
    MATERIALS,
    TECHNICIANS,
    Laboratory,
    has_known_function,
    true_value,
    truth_of,
)
from complex_system.domain.records import Record
from complex_system.errors import DeclarationError
from complex_system.local.probe import sample_record
from complex_system.messaging.clients import DatabaseClient
from complex_system.serving.requests.examples import example_record
from complex_system_services.ml_consumer.predictions import LabProbes, StoredProbes, probes_for

RAW = [f"rohwert_{i}_labormessung" for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(Laboratory(5).records(20_000))


def test_the_same_seed_makes_the_same_records_keys_included() -> None:
    assert list(Laboratory(3).records(50)) == list(Laboratory(3).records(50))
    first, second = Laboratory(3).record(), Laboratory(4).record()
    assert first["_id"] != second["_id"]
    assert first[RAW[1]] != second[RAW[1]]


def test_more_records_begin_with_the_fewer_ones() -> None:
    assert list(Laboratory(3).records(80))[:50] == list(Laboratory(3).records(50))


def test_keys_are_unique_rising_uuids_of_version_7(records: list[Record]) -> None:
    keys = [record["_id"] for record in records]
    assert keys == sorted(set(keys))
    for key in keys[:1000]:
        assert str(UUID(key)) == key
        assert UUID(key).version == 7
        assert UUID(key).variant == "specified in RFC 4122"


def test_a_key_holds_the_time_it_was_started_at() -> None:
    key = Laboratory(1, start=datetime(2030, 6, 1)).record()["_id"]
    assert UUID(key).int >> 80 == 1906502400000 + 1


def test_a_record_with_a_target_is_complete_and_obeys_the_law(records: list[Record]) -> None:
    labelled = [record for record in records if record["aufbereiteter_wert"] is not None]
    assert len(labelled) / len(records) == pytest.approx(0.5, abs=0.02)
    for record in labelled:
        r1, r2, r3 = (record[name] for name in RAW)
        assert record["aufbereiteter_wert"] == (r1 + r2) ** 1.5 - math.exp(-0.25 * r3)


def test_the_shares_of_what_is_missing_are_the_contracts(records: list[Record]) -> None:
    others = [record for record in records if record["aufbereiteter_wert"] is None]
    for name, share in zip(RAW, (1 / 2, 1 / 4, 1 / 8), strict=True):
        assert sum(record[name] is None for record in others) / len(others) == pytest.approx(share, abs=0.02)
    assert all(sum(record[name] is None for name in RAW) <= 1 for record in others)
    for technician in TECHNICIANS:
        share = sum(record["laborant"] == technician for record in records) / len(records)
        assert share == pytest.approx(0.2, abs=0.02)
    for material in MATERIALS:
        assert sum(record["material_id"] == material for record in records) / len(records) == pytest.approx(0.25, abs=0.02)


def test_raw_values_are_uniform_in_their_ranges(records: list[Record]) -> None:
    for name, high in zip(RAW, (30, 30, 2), strict=True):
        values = [record[name] for record in records if record[name] is not None]
        assert 0 <= min(values) < max(values) <= high
        assert sum(values) / len(values) == pytest.approx(high / 2, rel=0.02)


def test_times_are_written_as_declared_a_minute_apart(dataset: Dataset) -> None:
    laboratory = Laboratory(1, start=datetime(2024, 12, 31, 23, 58))
    times = [datetime.strptime(laboratory.record()["datum"], dataset.column("datum").format) for _ in range(3)]
    assert times == [datetime(2024, 12, 31, 23, 59), datetime(2025, 1, 1, 0, 0), datetime(2025, 1, 1, 0, 1)]


def test_fields_are_those_of_the_lab_data_set(dataset: Dataset, laboratory: Laboratory) -> None:
    assert list(laboratory.record()) == ["_id", *dataset.raw_names]


def test_a_complete_record_is_worth_a_prediction(laboratory: Laboratory) -> None:
    for _ in range(100):
        record = laboratory.complete_record()
        assert record["aufbereiteter_wert"] is None
        assert truth_of(record) == true_value(*(record[name] for name in RAW))


def test_the_truth_of_an_incomplete_record_is_not_known() -> None:
    assert truth_of({RAW[0]: 1.0, RAW[1]: None, RAW[2]: 1.0}) is None
    assert truth_of({}) is None
    assert true_value(1, 3, 0) == 7.0


ORDINARY = """
name: lab
target: y
columns:
  - {name: x, type: number, range: [0, 1]}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: keep, column: x}
"""


class Unasked:
    async def ask(self, *_: Any) -> Any:
        raise AssertionError("nobody is asked")


def test_a_data_set_is_the_demonstration_by_its_declaration_and_not_by_its_name() -> None:
    shipped = Dataset.load()
    text = Path(str(resources.files("complex_system.domain") / "lab.yaml")).read_text()
    unmarked = Dataset.parse(text.replace("law: laboratory\n", ""))
    renamed = Dataset.parse(text.replace("name: lab\n", "name: plant_3\n"))
    ordinary = Dataset.parse(ORDINARY)
    assert [has_known_function(each) for each in (shipped, unmarked, renamed, ordinary)] == [True, False, True, False]
    assert unmarked.version == shipped.version == "4fb01c13320f", "models and records of earlier releases stay"
    assert shipped.as_content() == unmarked.as_content(), "earlier releases can read it"
    assert sample_record(ordinary, 1) == example_record(ordinary)
    database = DatabaseClient(Unasked())
    assert isinstance(probes_for(shipped, database), LabProbes)
    for dataset in (unmarked, ordinary):
        assert isinstance(probes_for(dataset, database), StoredProbes)


def test_a_law_whose_columns_are_not_there_is_refused() -> None:
    with pytest.raises(
        DeclarationError, match="line 4, law: is for the demonstration, whose columns are material_id, .*leave it out"
    ):
        Dataset.parse(ORDINARY.replace("target: y\n", "target: y\nlaw: laboratory\n"))
    with pytest.raises(DeclarationError, match="law: must be one of laboratory, not 'lab'"):
        Dataset.parse(ORDINARY.replace("target: y\n", "target: y\nlaw: lab\n"))
