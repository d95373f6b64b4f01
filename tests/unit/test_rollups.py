"""Roll-ups merge without loss, and the history of them comes back from documents."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from complex_system.domain.documents import Document
from complex_system.monitoring.aggregates import (
    HOUR,
    MINUTE,
    ErrorSums,
    LatencySums,
    Rollup,
    Series,
    Served,
    merged,
)
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.history import ALERTS, HOURS, MINUTES, PAIRS_AN_HOUR, SAMPLES, Champion, History, Pair
from complex_system.monitoring.points import Figure, Figures
from complex_system.protocol.base import to_wire
from complex_system.training.base import score
from kept import KeptDocuments
from monitoring_page.messages import alert

NOW = 1_800_000_000.0 - 1_800_000_000.0 % HOUR
ALERT = alert("a", began=NOW)
MODEL = Served("ml_serving_mlflow", "lab-lightgbm", "3")


numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=50), places=st.lists(st.integers(0, 50), max_size=3))
def test_merged_sums_score_as_all_pairs_together(pairs: list[tuple[float, float]], places: list[int]) -> None:
    whole = ErrorSums()
    cuts = [0, *sorted(min(place, len(pairs)) for place in places), len(pairs)]
    for start, end in pairwise(cuts):
        part = ErrorSums()
        for truth, prediction in pairs[start:end]:
            part.add(truth, prediction)
        whole.merge(msgspec.convert(json.loads(json.dumps(to_wire(part))), ErrorSums) if part.n else part)
    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    metrics, errors = whole.metrics(), predicted - truth
    assert metrics["count"] == len(pairs)
    assert metrics["rmse"] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-9, abs=1e-9)
    assert metrics["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-9, abs=1e-9)
    assert metrics["bias"] == pytest.approx(np.mean(errors), rel=1e-6, abs=1e-6)
    assert (whole.lowest, whole.highest) == pytest.approx((errors.min(), errors.max()), rel=1e-12, abs=1e-9)
    if truth.std() > 1e-3:
        assert metrics["r2"] == pytest.approx(1 - np.sum(errors**2) / np.sum((truth - truth.mean()) ** 2), rel=1e-6)


def test_the_scores_are_those_of_the_comparison_also_where_the_truth_hardly_varies() -> None:
    generator = np.random.default_rng(1)
    truth = 1e6 + generator.normal(size=500)
    predicted = truth + generator.normal(0, 0.5, size=500)
    sums = ErrorSums()
    for y, p in zip(truth, predicted, strict=True):
        sums.add(float(y), float(p))
    assert sums.metrics()["r2"] == pytest.approx(score(truth, predicted).r2, abs=1e-6)  # type: ignore[arg-type]


def test_quantiles_of_merged_latencies_are_right_to_a_bucket() -> None:
    generator = random.Random(3)
    times = [generator.lognormvariate(1.0, 1.0) for _ in range(5000)]
    parts = [LatencySums(), LatencySums()]
    for i, time in enumerate(times):
        parts[i % 2].add(time, 3)
    rollup = Rollup(NOW, latency={MODEL: parts[1]})
    parts[0].merge(Rollup.of_document(NOW, json.loads(json.dumps(rollup.to_document()))).latency[MODEL])
    metrics = parts[0].metrics()
    for share in (50, 95, 99):
        assert metrics[f"latency_ms_p{share}"] == pytest.approx(float(np.percentile(times, share)), rel=0.06)
    assert metrics["latency_ms_mean"] == pytest.approx(np.mean(times))
    assert (metrics["requests"], metrics["predictions"]) == (5000, 15_000)
    assert LatencySums().metrics() == {"requests": 0, "predictions": 0}


def test_a_rollup_comes_back_from_its_document() -> None:
    rollup = Rollup(NOW)
    rollup.joined(MODEL, "material_id=00000000", 1.0, 3.0)
    rollup.joined(MODEL._replace(shadow=True), "", 1.0, 2.0)
    rollup.answered(MODEL, 4.5, 2)
    rollup.joined(MODEL._replace(origin="probe"), "", 1.0, 2.0)
    rollup.answered(MODEL._replace(origin="probe"), 4.5, 2)
    rollup.failed("ml_serving", "invalid_record", 3)
    rollup.read(Figures.of_flat({"system/cpu": 5.0, "broken": math.nan}))
    rollup.read(Figures.of_flat({"system/cpu": 3.0}))
    body = json.loads(Document(MINUTES, "k", NOW, rollup.to_document()).encoded_body())
    assert Rollup.of_document(NOW, body) == rollup
    hour = merged([rollup, rollup], NOW, HOUR)
    assert hour.errors[Series(MODEL)].n == hour.errors[Series(MODEL, "material_id=00000000")].n == 2
    assert hour.failures["ml_serving", "invalid_record"] == 6
    cpu = hour.gauges[Figure("system/cpu")]
    assert (cpu.mean, cpu.last, cpu.highest) == (4, 3, 5)


def test_rollups_of_earlier_releases_have_no_origins() -> None:
    errors = [["ml_serving_mlflow", "lab-lightgbm", "3", False, "", [1, 2.0, 2.0, 4.0, 1.0, 0.0, 2.0, 2.0]]]
    latency = [["ml_serving_mlflow", "lab-lightgbm", "3", False, [1, 2, 4.5, [[16, 1]]]]]
    read = Rollup.of_document(NOW, {"seconds": 60, "errors": errors, "latency": latency, "failures": [], "gauges": {}})
    assert read.errors[Series(MODEL)].metrics()["rmse"] == 2
    assert read.latency[MODEL].predictions == 2


def pair(at: float, error: float = 1.0) -> Pair:
    return Pair(at, 10.0 + error, 10.0, MODEL, "material_id=00000000")


def counted(history: History, start: float = 0.0, end: float = math.inf) -> tuple[int, int]:
    """Pairs in the minutes, and in the hours."""

    def total(rollups: list[Rollup]) -> int:
        return sum(rollup.errors[Series(MODEL)].n for rollup in rollups if Series(MODEL) in rollup.errors)

    return total(history.minutes(start, end)), total(history.hours(start, end))


async def test_a_history_goes_on_where_an_earlier_process_ended_in_the_middle_of_a_minute() -> None:
    documents, first = KeptDocuments(), History(seed=1)
    await first.load(documents, NOW)
    for i in range(100):
        first.paired(pair(NOW - 90 + i))
    first.crowned(Champion(model="lab-lightgbm", version="3", at=NOW))
    first.alert(ALERT)
    first.state("data", NOW, DataDrift(samples=3))
    await documents.save(first.changed())
    assert first.changed() == []
    second = History(seed=2)
    for i in range(50):
        second.paired(pair(NOW + 5 + i))  # before the database answered
    await second.load(documents, NOW + 60)
    assert counted(second)[0] == 150
    await documents.save(second.changed())
    third = History()
    await third.load(documents, NOW + 120)
    assert counted(third) == (150, 150)
    assert [champion.version for champion in third.champions] == ["3"]
    assert third.alerts() == [ALERT]
    assert third.earlier("data", DataDrift) == DataDrift(samples=3)
    assert len(list(third.samples(NOW - HOUR, NOW + HOUR))) == 150


async def test_a_truth_that_comes_days_later_counts_in_the_hour_of_its_prediction() -> None:
    documents, first = KeptDocuments(), History()
    old = NOW - 50 * HOUR
    await first.load(documents, old)
    for i in range(20):
        first.paired(pair(old + i))
    await documents.save(first.changed())
    history = History()
    await history.load(documents, NOW)  # the minutes of then are not kept any more
    history.paired(pair(NOW))
    history.paired(pair(old + 30))
    await documents.save(history.changed())
    again = History()
    await again.load(documents, NOW)
    assert counted(again, old, old + HOUR) == (0, 21)
    assert counted(again, NOW, NOW + HOUR) == (1, 1)


async def test_minutes_go_and_their_hours_stay() -> None:
    documents, history = KeptDocuments(), History(hours_kept=30 * HOUR)
    await history.load(documents, NOW)
    for hour in range(40):
        history.paired(pair(NOW + hour * HOUR + 59 * MINUTE))
        await documents.save(history.changed())
        await history.delete_old(documents, NOW + hour * HOUR + 59 * MINUTE)
    minutes, hours = counted(history)
    assert (minutes, hours) == (25, 30)
    assert documents.count(MINUTES) == 25
    assert documents.count(HOURS) == 30
    restarted = History(hours_kept=30 * HOUR)
    await restarted.load(documents, NOW + 41 * HOUR)
    assert counted(restarted)[1] == 29  # the oldest is beyond what is kept by now


async def test_what_the_database_did_not_take_is_written_later() -> None:
    documents, history = KeptDocuments(), History()
    await history.load(documents, NOW)
    history.paired(pair(NOW))
    history.alert(ALERT)
    changed = history.changed()
    history.unsaved(changed)
    assert {d.kind for d in history.changed()} == {d.kind for d in changed} == {MINUTES, HOURS, SAMPLES, ALERTS}


def test_an_hours_sample_is_bounded_and_even() -> None:
    history = History(seed=5)
    for i in range(3000):
        history.paired(pair(NOW + i))
    sample = list(history.samples(NOW, NOW + HOUR))
    assert len(sample) == PAIRS_AN_HOUR
    early = sum(each.at < NOW + 1500 for each in sample)
    assert 70 <= early <= 130  # 100 expected; four standard deviations and more


def test_the_same_champion_twice_is_one() -> None:
    history = History()
    for version in ("1", "1", "2", "1"):
        history.crowned(Champion(model="lab", version=version, at=NOW))
    assert [each.version for each in history.champions] == ["1", "2", "1"]
