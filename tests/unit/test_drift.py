"""The population stability index and the histograms of the training data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.monitoring.drift import FeatureReference, population_stability_index
from complex_system.preprocessing.pipeline import Pipeline


def features(dataset: Dataset, laboratory: Laboratory, count: int, **shift: float) -> np.ndarray:
    records = [laboratory.complete_record() for _ in range(count)]
    for record in records:
        for name, factor in shift.items():
            record[name] *= factor
    return Pipeline(dataset).features(records)


def test_the_formula_gives_the_value_computed_by_hand() -> None:
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    by_hand = 0.3 * math.log(1.6) - 0.3 * math.log(0.4)
    assert by_hand == pytest.approx(0.41589, abs=1e-5)
    assert population_stability_index(np.array([50, 50]), np.array([8, 2])) == pytest.approx(by_hand)
    assert population_stability_index(np.array([10, 30]), np.array([100, 300])) == 0


def test_an_empty_bin_counts_as_half_a_record() -> None:
    by_hand = (0.05 - 0.5) * math.log(0.05 / 0.5) + (1 - 0.5) * math.log(1 / 0.5)
    assert population_stability_index(np.array([50, 50]), np.array([0, 10])) == pytest.approx(by_hand)


def test_records_like_the_training_data_show_no_drift(dataset: Dataset) -> None:
    reference = FeatureReference(dataset, features(dataset, Laboratory(1), 5000))
    drift = reference.drift(features(dataset, Laboratory(2), 2000))
    assert tuple(drift) == dataset.feature_names
    assert max(drift.values()) < 0.03
    assert min(drift.values()) >= 0


def test_a_shift_shows_in_its_feature_and_in_no_other(dataset: Dataset) -> None:
    reference = FeatureReference(dataset, features(dataset, Laboratory(1), 5000))
    drift = reference.drift(features(dataset, Laboratory(2), 1000, rohwert_2_labormessung=0.5, rohwert_1_labormessung=0.2))
    high = {name for name, value in drift.items() if value > 0.25}
    assert "rohwert_2_labormessung" in high
    assert "rohwert_1_very_low" in high
    assert all(name.startswith(("rohwert_1", "rohwert_2")) for name in high)
    assert drift["rohwert_3_labormessung"] < 0.05
    assert drift["material_id_00000000"] < 0.05


def test_a_tiny_window_reports_nothing(dataset: Dataset, laboratory: Laboratory) -> None:
    made = features(dataset, laboratory, 30)
    reference = FeatureReference(dataset, made)
    assert reference.drift(made[:29]) == {}
    assert set(reference.drift(made).values()) == {0.0}


def test_a_shift_of_a_constant_feature_is_seen_in_both_directions(dataset: Dataset) -> None:
    i = dataset.feature_names.index("rohwert_2_labormessung")
    constant = np.full((500, len(dataset.feature_names)), 0.4, dtype=np.float32)
    reference = FeatureReference(dataset, constant)
    for value in (0.39, 0.41):
        moved = constant[:100].copy()
        moved[:, i] = value
        drift = reference.drift(moved)
        assert drift["rohwert_2_labormessung"] > 5
        assert drift["rohwert_3_labormessung"] == 0


def test_a_continuous_feature_has_ten_even_bins_and_an_indicator_two(dataset: Dataset) -> None:
    kept = FeatureReference(dataset, features(dataset, Laboratory(1), 5000)).as_dict()
    counts = kept["rohwert_2_labormessung"]["counts"]
    assert len(counts) == 10
    assert min(counts) >= 499
    assert max(counts) <= 501
    assert sum(kept["laborant_AN"]["counts"]) == 5000
    assert len(kept["laborant_AN"]["counts"]) == 2
