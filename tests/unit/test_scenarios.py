"""What can happen to the lab, and what the system makes of such records."""

from __future__ import annotations

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, InvalidRequestError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.scenarios import SCENARIOS, SENSOR, TARGET, Disturbance, Scenario


def made(name: str, at: float = 1000.0, count: int = 1000) -> tuple[list[Record], list[Record]]:
    """Records before and after a scenario that began at 0 with a ramp of 100 s."""
    scenario, disturbance = Scenario.named(name, 0.0, 100.0), Disturbance(5)
    before = list(Laboratory(3).records(count))
    return before, [disturbance.apply(record, scenario, at) for record in before]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_makes_the_same_records_and_keys_stay(name: str) -> None:
    before, after = made(name)
    assert after == made(name)[1]
    assert [record["_id"] for record in before] == [record["_id"] for record in after]
    assert before == list(Laboratory(3).records(1000)), "the given records stay as they are"
    assert (before == after) == (name == "normal")


@pytest.mark.parametrize("name", ["normal", "shift", "noise", "missing", "concept"])
def test_the_pipeline_takes_the_records_and_an_incomplete_one_has_no_target(name: str, dataset: Dataset) -> None:
    _, after = made(name)
    assert np.isfinite(Pipeline(dataset).features(after)).all()
    assert all(record[TARGET] is None for record in after if truth_of(record) is None)


def test_a_new_material_is_rejected_and_in_a_fifth_of_the_records(dataset: Dataset) -> None:
    _, after = made("new_category")
    assert np.mean([record["material_id"] == "44444444" for record in after]) == pytest.approx(0.2, abs=0.04)
    with pytest.raises(InvalidRecordError, match="material_id"):
        Pipeline(dataset).features(after)


def test_a_shift_comes_by_degrees_and_leaves_the_target(dataset: Dataset) -> None:
    for at, gain in ((0.0, 1.0), (50.0, 0.75), (100.0, 0.5), (1e6, 0.5)):
        before, after = made("shift", at)
        for old, new in zip(before, after, strict=True):
            assert new == {**old, SENSOR: None if old[SENSOR] is None else pytest.approx(gain * old[SENSOR])}


def test_another_law_changes_the_target_and_nothing_else() -> None:
    before, after = made("concept")
    for old, new in zip(before, after, strict=True):
        known = old[TARGET] is not None
        assert new == {**old, TARGET: pytest.approx(old[TARGET] + 3 * (15 - old[SENSOR])) if known else None}
    assert made("concept", at=-1.0)[0] == made("concept", at=-1.0)[1]


def test_a_failing_sensor_gives_no_value_in_three_of_five_measurements() -> None:
    before, after = made("missing")
    gone = [new[SENSOR] is None for old, new in zip(before, after, strict=True) if old[SENSOR] is not None]
    assert np.mean(gone) == pytest.approx(0.6, abs=0.05)


def test_what_is_no_scenario_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(InvalidRequestError, match="normal, shift, noise, missing, concept, new_category"):
        Scenario.named("storm", 0, 0)
    for ramp in (-1, "10", None, float("nan"), True):
        with pytest.raises(InvalidRequestError, match="ramp"):
            Scenario.named("shift", 0, ramp)
