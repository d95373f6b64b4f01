"""The stability index, the other measures of drift, and the reference that they are taken against."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.stats import ks_2samp

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.monitoring.drift import (
    LARGE_WINDOW,
    MIN_LIVE,
    DataDrift,
    band_of,
    kolmogorov_smirnov,
    measure,
    population_stability_index,
    wasserstein_distance,
)
from complex_system.monitoring.reference import NumberReference, Reference
from complex_system.pipeline.pipeline import Pipeline
from everything import EVERYTHING

R1, R2, R3 = (f"rohwert_{i}_labormessung" for i in (1, 2, 3))


def drawn(seed: int, count: int, **shift: float) -> list[Record]:
    laboratory = Laboratory(seed)
    records = [laboratory.complete_record() for _ in range(count)]
    for record in records:
        for name, factor in shift.items():
            record[name] *= factor
    return records


def reference(dataset: Dataset, count: int = 5000) -> Reference:
    records = drawn(1, count)
    return Reference.of(dataset, Pipeline(dataset).features(records), pa.Table.from_pylist(records))


def measured(dataset: Dataset, live: list[Record], against: Reference | None = None) -> DataDrift:
    return measure(dataset, against or reference(dataset), live, Pipeline(dataset).features(live))


def test_the_formula_gives_the_value_computed_by_hand() -> None:
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    by_hand = 0.3 * math.log(1.6) - 0.3 * math.log(0.4)
    assert by_hand == pytest.approx(0.41589, abs=1e-5)
    assert population_stability_index(np.array([50, 50]), np.array([8, 2])) == pytest.approx(by_hand)
    assert population_stability_index(np.array([10, 30]), np.array([100, 300])) == 0


def test_an_empty_bin_counts_as_half_a_record() -> None:
    by_hand = (0.05 - 0.5) * math.log(0.05 / 0.5) + (1 - 0.5) * math.log(1 / 0.5)
    assert population_stability_index(np.array([50, 50]), np.array([0, 10])) == pytest.approx(by_hand)


def test_the_bands_are_the_conventional_ones() -> None:
    assert [band_of(index) for index in (0.0, 0.099, 0.1, 0.25, 0.251)] == [
        "stable", "stable", "moderate", "moderate", "significant",
    ]  # fmt: skip


OVENS = Dataset.parse("""
name: ovens
target: q
columns:
  - {name: t, type: datetime, format: "%Y-%m-%d %H:%M:%S"}
  - {name: x, type: number, range: [0, 10]}
  - {name: q, type: number, optional: true}
pipeline:
  - {step: date_parts, column: t, parts: [year, month, weekday, hour, day_of_year]}
  - {step: scale, column: x}
""")


def test_nothing_drifts_where_only_the_clock_goes_on() -> None:
    """Months of training data beside the 500 predictions of the last twenty minutes."""
    draw, begin, pipeline = random.Random(1), datetime(2024, 1, 1), Pipeline(OVENS)

    def ovens(count: int, step: timedelta, since: datetime, shift: float = 0.0) -> list[Record]:
        return [
            {
                "_id": str(i),
                "t": f"{since + i * step:%Y-%m-%d %H:%M:%S}",
                "x": min(10.0, draw.random() * 10 + shift),
                "q": 1.0,
            }
            for i in range(count)
        ]

    reference = Reference.of(OVENS, pipeline.features(ovens(4000, timedelta(minutes=29), begin)))

    def figures(live: list[Record]) -> dict[str, float]:
        return measure(OVENS, reference, live, pipeline.features(live)).figures().flat()

    now = begin + timedelta(minutes=29 * 4000)
    found = figures(ovens(500, timedelta(seconds=2.5), now))
    assert {name for name in found if name.startswith("drift/psi/")} == {"drift/psi/x"}
    assert found["drift/psi_max"] == found["drift/psi/x"] < 0.1
    assert figures(ovens(500, timedelta(seconds=2.5), now, shift=3.0))["drift/psi/x"] > 0.25
    measured = measure(OVENS, reference, live := ovens(50, timedelta(seconds=2), now), pipeline.features(live))
    hour = measured.processed["t_hour"]
    assert (hour.follows_clock, hour.psi, hour.band, hour.test) == (True, None, None, None)
    assert sum(hour.live) == pytest.approx(1)  # it is shown all the same
    assert not measured.processed["x"].follows_clock


def test_records_like_the_training_data_show_no_drift(dataset: Dataset) -> None:
    found = measured(dataset, drawn(2, 2000))
    assert tuple(found.processed) == dataset.feature_names
    assert set(found.raw) == {"material_id", "laborant", R1, R2, R3}
    for each in [*found.processed.values(), *found.raw.values()]:
        assert 0 <= each.psi < 0.03
        assert each.band == "stable"
        assert sum(each.live) == pytest.approx(1)
        assert sum(each.reference) == pytest.approx(1)
    assert found.raw[R2].test.distance < 0.15


def test_a_shift_shows_in_its_column_and_in_no_other(dataset: Dataset) -> None:
    metrics = measured(dataset, drawn(2, 1000, **{R2: 0.5, R1: 0.2})).figures().flat()
    high = {name for name, value in metrics.items() if "/psi/" in name and value > 0.25}
    assert {f"drift/psi/{R2}", "drift/psi/rohwert_1_very_low", f"data/psi/{R1}", f"data/psi/{R2}"} <= high
    assert all("rohwert_1" in name or "rohwert_2" in name for name in high)
    assert metrics["drift/psi_max"] == max(value for name, value in metrics.items() if name.startswith("drift/psi/"))
    assert metrics[f"data/wasserstein/{R2}"] > 0.5
    assert metrics[f"data/wasserstein/{R3}"] < 0.15
    assert metrics["drift/samples"] == metrics["drift/judged"] == 1000


def test_an_index_counts_for_as_many_records_as_the_smaller_side_has(dataset: Dataset) -> None:
    found = measured(dataset, drawn(2, 1000), reference(dataset, 36))
    assert found.figures().flat()["drift/judged"] == 36


def test_a_small_window_is_tested_and_a_large_one_measured(dataset: Dataset) -> None:
    against = reference(dataset)
    small = measured(dataset, drawn(2, LARGE_WINDOW - 1), against).raw
    assert small[R2].test.name == "ks"
    assert small[R2].test.p_value > 0.01
    shifted = measured(dataset, drawn(2, 100, **{R2: 0.5}), against).raw
    assert shifted[R2].test.p_value < 1e-6
    assert measured(dataset, drawn(2, LARGE_WINDOW), against).raw[R2].test.name == "wasserstein"
    assert small["material_id"].test is None


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_test_agrees_with_scipys_on_the_samples_themselves(shift: float) -> None:
    generator = np.random.default_rng(4)
    known, live = generator.normal(size=4000), generator.normal(shift, 1.0, size=200)
    statistic, p_value = kolmogorov_smirnov(NumberReference.of(known), live)
    theirs = ks_2samp(known, live, method="asymp")
    assert statistic == pytest.approx(theirs.statistic, abs=0.01)  # the reference is known to its percents
    assert math.log10(p_value) == pytest.approx(math.log10(theirs.pvalue), abs=0.7)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (700, 101), (500, 3)])
def test_the_distance_is_scipys(first: int, second: int) -> None:
    draw = np.random.default_rng(first)
    one, other = draw.normal(size=first).round(1), draw.normal(1, 2, size=second).round(1)  # with equal values
    assert wasserstein_distance(one, other) == pytest.approx(stats.wasserstein_distance(one, other), rel=1e-12)


def test_missing_values_and_values_that_were_never_declared_are_told(dataset: Dataset) -> None:
    live = drawn(2, 100)
    for record in live[:40]:
        record[R1] = None
    against = reference(dataset)
    found = measure(dataset, against, live, Pipeline(dataset).features(live))
    assert found.raw[R1].missing == pytest.approx(0.4)
    assert found.raw[R1].missing_reference == 0
    assert found.figures().flat()[f"data/missing_excess/{R1}"] == pytest.approx(0.4)
    for record in live[:10]:
        record["material_id"], record[R2] = "99999999", 31.0
    strange = measure(dataset, against, live, Pipeline(dataset).features(drawn(2, 100)))
    assert strange.raw["material_id"].new_categories == {"99999999": 10}
    assert strange.raw["material_id"].categories[-1] == "other"
    assert strange.raw[R2].out_of_range == pytest.approx(0.1)
    assert strange.figures().flat()["data/new_category/material_id"] == pytest.approx(0.1)


def test_a_tiny_window_has_histograms_and_no_index(dataset: Dataset) -> None:
    found = measured(dataset, drawn(2, MIN_LIVE - 1))
    assert found.raw[R1].psi is None
    assert sum(found.raw[R1].live) == pytest.approx(1)
    assert not [name for name in found.figures().flat() if "psi" in name]
    assert measured(dataset, drawn(2, MIN_LIVE)).raw[R1].psi is not None


def test_a_shift_of_a_constant_feature_is_seen_in_both_directions(dataset: Dataset) -> None:
    i = dataset.feature_names.index(R2)
    constant = np.full((500, len(dataset.feature_names)), 0.4, dtype=np.float32)
    against = Reference.of(dataset, constant)
    for value in (0.39, 0.41):
        moved = constant[:100].copy()
        moved[:, i] = value
        found = measure(dataset, against, [], moved).processed
        assert found[R2].psi > 5
        assert found[R3].psi == 0


def test_a_reference_is_the_same_after_its_way_through_json(dataset: Dataset) -> None:
    made = reference(dataset, 500)
    read = Reference.decoded(made.encoded())
    assert read.encoded() == made.encoded()
    assert read.samples == 500
    live = drawn(3, 200)
    assert measured(dataset, live, read) == measured(dataset, live, made)
    for broken in (b"", b"{}", b'{"raw": 3, "processed": {}}', b'{"raw": {}, "processed": {"a": {"type": "number"}}}'):
        with pytest.raises(ValueError, match="not a reference"):
            Reference.decoded(broken)


def test_a_continuous_feature_has_ten_even_bins_and_an_indicator_two(dataset: Dataset) -> None:
    kept = reference(dataset).processed
    number, indicator = kept[R2], kept["laborant_AN"]
    assert isinstance(number, NumberReference)
    assert isinstance(indicator, NumberReference)
    assert len(number.counts) == 10
    assert 499 <= min(number.counts) <= max(number.counts) <= 501
    assert len(indicator.counts) == 2


def test_integers_and_booleans_are_compared_and_the_features_of_lists_are_indicators() -> None:
    pipeline = Pipeline(EVERYTHING)

    def records(highest: int, flag: bool) -> list[Record]:
        rest = {"Temp. [°C]": 20.0, "Stoffe": ["K1", "K2"], "Anteile": [0.5, 0.5]}
        return [{**rest, "select": i % highest, "an": None if i == 0 else flag} for i in range(200)]

    before = records(10, True)
    table = pa.Table.from_pylist([{"_id": "k", **record} for record in before], schema=raw_schema(EVERYTHING))
    reference = Reference.of(EVERYTHING, pipeline.features(before), table)
    live = records(1000, False)
    result = measure(EVERYTHING, Reference.decoded(reference.encoded()), live, pipeline.features(live))
    assert result.raw["select"].band == result.raw["an"].band == "significant"
    assert result.raw["select"].out_of_range == 0
    assert (result.raw["an"].type, result.raw["an"].missing) == ("indicator", pytest.approx(1 / 200))
    assert result.processed["has_K1"].type == "indicator"
    assert result.processed["share_K1"].type == "number"
