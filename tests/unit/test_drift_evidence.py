"""The sequential test of drift: records that depend on each other, campaigns, the clock, repetitions; and what it finds."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import lfilter

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.monitoring.alerts.evaluation import AlertRules
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.drift import measure
from complex_system.monitoring.evidence import LARGEST, SURE, KeptTest, SequentialTest
from complex_system.monitoring.flow import LiveWindow
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import NumberReference, Reference, density_of, dependence_of
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.serving import Origin, PredictedRecord, PredictionMade
from complex_system.training.data import Samples

Matrix = npt.NDArray[np.float64]

SOURCE = """
name: plant
target: y
columns:
  - {name: pressure, type: number, range: [-100, 100], unit: bar, description: Pressure in the vessel}
  - {name: flow, type: number, range: [-100, 100]}
  - {name: material, type: category, categories: [a, b, c]}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: standardise, column: pressure, mean: 5, deviation: 2}
  - {step: keep, column: flow}
  - {step: one_hot, column: material}
"""
PLANT = Dataset.parse(SOURCE)
NUMBERS = 2
PRESSURE, FLOW = (PLANT.feature_names.index(name) for name in ("pressure", "flow"))


def autoregressive(numbers: np.random.Generator, size: int, rho: float) -> Matrix:
    warm_up = int(20 / (1 - rho))
    noise = numbers.standard_normal((size + warm_up, NUMBERS)) * math.sqrt(1 - rho**2)
    found: Matrix = lfilter([1], [1, -rho], noise, axis=0)[warm_up:]
    return found


def campaigns(numbers: np.random.Generator, size: int) -> tuple[Matrix, Matrix]:
    """A level and a material for each campaign of 50 to 500 records, its material another one than that before."""
    lengths = numbers.integers(50, 501, size // 50 + 1)
    campaign = np.repeat(np.arange(len(lengths)), lengths)[:size]
    materials = np.cumsum(numbers.integers(1, 3, len(lengths))) % 3
    return numbers.standard_normal((len(lengths), NUMBERS))[campaign], np.eye(3)[materials[campaign]]


def features(values: Matrix, materials: Matrix | None = None, seed: int = 0) -> Matrix:
    """Of the pressure and the flow, and of the material; random ones by default."""
    if materials is None:
        materials = np.eye(3)[np.random.default_rng(seed).integers(0, 3, len(values))]
    made = np.column_stack([values, materials]).astype(np.float32)
    names = ["pressure", "flow", "material_a", "material_b", "material_c"]
    return made[:, [names.index(name) for name in PLANT.feature_names]]


def reference(training: Matrix, density: float = 1.0) -> Reference:
    return Reference.of(PLANT, training.astype(np.float32), density=density)


def largest(test: SequentialTest, live: Matrix, step: int = 500) -> float:
    """The largest evidence of any feature after any record."""
    found = [
        test.update(np.arange(begin, begin + len(rows), dtype=float), rows).max()
        for begin in range(0, len(live), step)
        if len(rows := live[begin : begin + step])
    ]
    return float(max(found))


# How long records depend on each other


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, 1.0, 1.5), (0.9, 13, 25), (0.98, 60, 150)])
def test_the_dependence_of_a_series_is_that_of_its_law(rho: float, low: float, high: float) -> None:
    series = autoregressive(np.random.default_rng(1), 20_000, rho)[:, 0]
    assert low <= dependence_of(series)[0] <= high
    shuffled = np.random.default_rng(2).permutation(series)
    assert dependence_of(shuffled)[0] < 3, "without its order nothing is left"


def test_a_series_that_only_grows_is_worth_too_few_records_to_judge() -> None:
    training = features(np.column_stack([np.arange(3000.0), np.random.default_rng(1).standard_normal(3000)]))
    test = SequentialTest(reference(training), PLANT)
    assert set(test.unjudged) == {"pressure"}
    assert set(test.features) == {"flow", "material_a", "material_b", "material_c"}


def test_a_share_of_the_records_at_random_tells_how_all_depend_on_each_other() -> None:
    numbers = np.random.default_rng(3)
    series = autoregressive(numbers, 40_000, 0.98)
    known = series[numbers.random(40_000) < 0.3]
    test = SequentialTest(reference(features(known), 0.3), PLANT)
    assert 60 <= 1 / test.weight_of("flow") <= 150


# No alarm


@pytest.mark.parametrize("rho", [0.0, 0.9, 0.99])
def test_a_stationary_sensor_raises_no_alert(rho: float) -> None:
    numbers = np.random.default_rng(4)
    series = autoregressive(numbers, 40_000, rho)
    known = features(series[:20_000])[numbers.random(20_000) < 0.7]
    test = SequentialTest(reference(known, 0.7), PLANT)
    assert largest(test, features(series[20_000:], seed=1)) < SURE
    if rho:  # the same without the order of the training records
        ignorant = SequentialTest(reference(numbers.permutation(known), 0.7), PLANT)
        assert largest(ignorant, features(series[20_000:], seed=1)) == LARGEST


def test_campaigns_known_in_the_training_data_are_no_drift() -> None:
    numbers = np.random.default_rng(5)
    every = features(*campaigns(numbers, 50_000))
    test = SequentialTest(reference(every[:30_000][numbers.random(30_000) < 0.7], 0.7), PLANT)
    assert {*test.features, *test.unjudged} == set(PLANT.feature_names)
    assert any(name.startswith("material") for name in test.features)
    assert largest(test, every[30_000:]) < SURE
    assert largest(test, every[:30_000]) < SURE


def test_a_slip_of_the_decimal_point_is_no_drift() -> None:
    numbers = np.random.default_rng(6)
    test = SequentialTest(reference(features(numbers.standard_normal((3000, NUMBERS)))), PLANT)
    live = features(numbers.standard_normal((500, NUMBERS)))
    live[::100, PRESSURE] *= 1e6
    assert largest(test, live) < SURE / 2


def test_the_clock_is_not_judged() -> None:
    dataset = Dataset.parse("""
name: ovens
target: q
columns:
  - {name: t, type: datetime, format: "%Y-%m-%d"}
  - {name: x, type: number, range: [0, 10]}
  - {name: q, type: number, optional: true}
pipeline:
  - {step: date_parts, column: t, parts: [month, weekday]}
  - {step: keep, column: x}
""")
    training = np.random.default_rng(7).random((1000, 3)).astype(np.float32)
    assert SequentialTest(Reference.of(dataset, training), dataset).features == ["x"]


OVENS = """
name: ovens
target: q
columns:
  - {name: t, type: datetime, format: "%Y-%m-%d %H:%M:%S"}
  - {name: x, type: number, range: [0, 10]}
  - {name: q, type: number, optional: true}
pipeline:
  - {step: date_parts, column: t, parts: [month, weekday, hour]}
  - {step: scale, column: x}
"""


def alerts_of(dataset: Dataset, made: Reference, live: list[Record], step: int = 100) -> list[str]:
    """The messages of all alerts while records are predicted, by the shipped rules; a point after every few."""
    clock = [0.0]
    monitor = Monitor(dataset, 500, History(), monotonic=lambda: clock[0], now=lambda: clock[0])
    monitor.reference, rules, found = made, AlertRules(load_rules(), dataset), []
    for begin in range(0, len(live), step):
        clock[0] += 60.0
        predicted = tuple(
            PredictedRecord(id=f"{place}", record=each, prediction=1.0)
            for place, each in enumerate(live[begin : begin + step], begin)
        )
        monitor.predicted(
            PredictionMade(
                service=CHAMPIONS_SERVICE, model="m", version="1", pipeline_version=dataset.version, predictions=predicted
            )
        )
        drift = monitor.measure_data(monitor.records, made)
        changes = rules.evaluate(clock[0], monitor.point(Figures(), drift), drift)
        found += [change.alert.sentence for change in changes if change.kind == "raised"]
    return found


def test_no_alert_while_only_the_clock_goes_on() -> None:
    """Two weeks after months of training data; every live window is of a quarter of an hour (trial T07)."""
    dataset, numbers = Dataset.parse(OVENS), np.random.default_rng(1)
    start = datetime(2024, 1, 1)

    def made(minutes: npt.NDArray[np.floating]) -> list[Record]:
        xs = numbers.random(len(minutes)) * 10
        times = [start + timedelta(minutes=float(each)) for each in minutes]
        return [{"t": f"{at:%Y-%m-%d %H:%M:%S}", "x": float(x), "q": None} for at, x in zip(times, xs, strict=True)]

    known = made(29.0 * np.arange(4000))
    found = Reference.of(dataset, Pipeline(dataset).features(known), density=0.7)
    looks = np.concatenate([29.0 * 4000 + 6 * 60 * look + np.arange(500) / 24 for look in range(28)])
    live = made(looks)
    assert alerts_of(dataset, found, live) == []
    assert len(alerts_of(dataset, found, [{**each, "x": 0.3 * float(each["x"])} for each in live[:500]])) == 1


@pytest.mark.parametrize("length", [800, 100])
def test_production_campaigns_known_in_the_reference_raise_no_alert(length: int) -> None:
    """The training data once more, in their order (trial T08): with campaigns of 800 a material was made ten times."""
    numbers = np.random.default_rng(2)
    made = records(numbers, 8000)
    for place, each in enumerate(made):
        each["material"] = "abc"[place // length % 3]
    found = Reference.of(PLANT, Pipeline(PLANT).features(made))
    assert alerts_of(PLANT, found, made) == []
    judged = SequentialTest(found, PLANT)
    assert any(name.startswith("material") for name in judged.features) is (length == 100)
    assert {*judged.features, *judged.unjudged} == set(PLANT.feature_names)


def test_an_alert_ends_where_the_next_champions_reference_cannot_judge_its_column() -> None:
    """Seen: it stayed open, and asked for one training round after the other."""
    numbers = np.random.default_rng(3)
    training, live = records(numbers, 2000), records(numbers, 60, shift=6.0)
    rules, pipeline = AlertRules(load_rules(), PLANT), Pipeline(PLANT)

    def judged(made: Reference, at: float) -> list[tuple[str, str, str]]:
        test = SequentialTest(made, PLANT)
        test.update(np.arange(60.0), pipeline.features(live))
        drift = measure(PLANT, made, live, pipeline.features(live), test)
        changes = rules.evaluate(at, drift.figures(), drift)
        return [(change.kind, change.alert.subject, change.alert.over) for change in changes]

    assert judged(Reference.of(PLANT, pipeline.features(training)), 100.0) == [("raised", "pressure", "")]
    few = [{**each, "pressure": float(place)} for place, each in enumerate(records(numbers, 90))]
    ((kind, subject, over),) = judged(Reference.of(PLANT, pipeline.features(few)), 110.0)
    assert (kind, subject) == ("ended", "pressure")
    assert over.startswith("The training data of the present champion tell too little of pressure (pressure in the vessel)")
    assert rules.open == []


def test_own_requests_for_old_records_do_not_hide_what_clients_ask_for() -> None:
    numbers = np.random.default_rng(4)
    found = Reference.of(PLANT, Pipeline(PLANT).features(records(numbers, 2000)))
    clock = [0.0]

    def plant() -> Monitor:
        made = Monitor(PLANT, 500, History(), monotonic=lambda: clock[0], now=lambda: clock[0])
        made.history.loaded = True
        made.reference = found
        return made

    def ask(monitor: Monitor, origin: Origin, count: int, shift: float = 0.0) -> None:
        clock[0] += 10.0
        predicted = tuple(PredictedRecord(id=r["_id"], record=r, prediction=1.0) for r in records(numbers, count, shift))
        event = PredictionMade(
            service=CHAMPIONS_SERVICE, model="m", version="1", pipeline_version=PLANT.version, predictions=predicted,
            origin=origin,
        )  # fmt: skip
        monitor.predicted(event)
        monitor.point(Figures(), monitor.measure_data(monitor.records, found) if monitor.records else None)

    monitor = plant()
    ask(monitor, "own", 40)
    assert monitor.origins == {"own": 40}, "before anybody else has asked, they stand for the model"
    for _ in range(60):
        ask(monitor, "own", 20)
        ask(monitor, "live", 1, shift=4.0)
    assert monitor.origins == {"live": 60}
    assert (monitor.figures.number("drift/evidence", "pressure") or 0.0) > SURE
    restarted = plant()
    restarted.history._earlier = {document.key: document for document in monitor.history.changed()}
    restarted.restore()
    for _ in range(30):
        ask(restarted, "own", 20)
    assert restarted.origins == {}, "old records do not end the alert after a restart"
    ask(restarted, "live", 1, shift=4.0)
    assert (restarted.figures.number("drift/evidence", "pressure") or 0.0) > SURE
    clock[0] += 100_000.0
    ask(restarted, "own", 20)
    assert set(restarted.origins) == {"own"}, "nobody else has asked for a day"


def test_a_record_that_is_predicted_again_counts_once() -> None:
    window = LiveWindow(500)
    numbers = np.random.default_rng(8)
    holdout: list[Record] = [{"_id": str(i), "x": float(x)} for i, x in enumerate(numbers.standard_normal(77))]
    for i in numbers.integers(0, 77, 5000):
        window.add(0.0, [PredictedRecord(id=holdout[i]["_id"], record=holdout[i], prediction=1.0)])
    assert [each.number for each in window.records] == list(range(1, 78))
    window.add(1.0, [PredictedRecord(id="3", record={"_id": "3", "x": 99.0}, prediction=1.0)])
    assert len(window.records) == 78, "other values under the same key are news"
    window.add(2.0, [PredictedRecord(id=None, record={"x": 1.0}, prediction=1.0)] * 2)
    assert len(window.records) == 80, "without a key nothing tells that it is the same record"


def test_a_category_that_few_training_records_lack_by_chance_is_no_sure_drift() -> None:
    """Of 36 records one in a hundred times none is of a category with a share of 12 %; of 3,000 never."""
    numbers = np.random.default_rng(19)
    found = []
    for known in (36, 3000):
        training = features(numbers.standard_normal((known, NUMBERS)), np.eye(3)[numbers.integers(0, 2, known)])
        test = SequentialTest(reference(training), PLANT)
        live = features(numbers.standard_normal((400, NUMBERS)), np.eye(3)[numbers.choice(3, 400, p=[0.44, 0.44, 0.12])])
        found.append(test.update(np.arange(400.0), live).max(axis=0)[test.features.index("material_c")])
    assert found[0] < SURE / 2
    assert found[1] > SURE


# What is found


@pytest.mark.parametrize(("rho", "effective"), [(0.0, 1), (0.9, 19)])
@pytest.mark.parametrize(("shift", "within"), [(2.0, 50), (-2.0, 50), (1.0, 200)])
def test_a_lasting_shift_is_found_soon(rho: float, effective: int, shift: float, within: int) -> None:
    numbers = np.random.default_rng(9)
    series = autoregressive(numbers, 24_000, rho)
    test = SequentialTest(reference(features(series[:20_000])), PLANT)
    live = features(series[20_000:], seed=2)
    live[100:, PRESSURE] += shift
    times = np.arange(len(live), dtype=float)
    found = test.update(times, live)[:, PRESSURE]
    beyond = np.flatnonzero(found > SURE)[0]
    assert 100 < beyond <= 100 + within * effective
    evidence = test.evidence()
    assert evidence["pressure"].rising is (shift > 0)
    assert 50 <= evidence["pressure"].since <= beyond
    assert evidence["pressure"].since + evidence["pressure"].records == len(live)
    assert evidence["flow"].value < SURE


@pytest.mark.parametrize("value", [0.0, -0.55, 0.8])
def test_a_sensor_that_stands_still_is_found(value: float) -> None:
    numbers = np.random.default_rng(10)
    test = SequentialTest(reference(features(numbers.standard_normal((5000, NUMBERS)))), PLANT)
    live = features(numbers.standard_normal((200, NUMBERS)))
    live[:, FLOW] = value
    assert test.update(np.arange(200.0), live)[-1, FLOW] > SURE


def test_more_noise_is_found() -> None:
    numbers = np.random.default_rng(11)
    test = SequentialTest(reference(features(numbers.standard_normal((5000, NUMBERS)))), PLANT)
    live = features(2 * numbers.standard_normal((300, NUMBERS)))
    test.update(np.arange(300.0), live)
    evidence = test.evidence()["flow"]
    assert evidence.value > SURE
    assert evidence.aspect == "spread"


def test_many_features_are_tested_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(18)
    known, live = features(numbers.standard_normal((2000, NUMBERS))), features(numbers.standard_normal((90, NUMBERS)) + 0.7)
    whole, parts = SequentialTest(reference(known), PLANT), SequentialTest(reference(known), PLANT)
    found = whole.update(np.arange(90.0), live)
    monkeypatch.setattr("complex_system.monitoring.evidence.MAX_NUMBERS", 7 * parts._sums.size)
    assert np.allclose(parts.update(np.arange(90.0), live), found)
    for name, each in whole.evidence().items():
        assert parts.evidence()[name].value == pytest.approx(each.value)
        assert (parts.evidence()[name].since, parts.evidence()[name].records) == (each.since, each.records)
    assert parts.update(np.arange(0.0), live[:0]).shape == (0, len(parts.features))


# Over restarts, champions and releases


def test_a_test_goes_on_after_a_restart_and_not_with_another_reference() -> None:
    numbers = np.random.default_rng(12)
    training = features(numbers.standard_normal((3000, NUMBERS)))
    live = features(numbers.standard_normal((40, NUMBERS)) + 1.0)
    times = np.arange(40.0)
    whole, first, second = (SequentialTest(reference(training), PLANT) for _ in range(3))
    whole.update(times, live)
    first.update(times[:20], live[:20])
    kept = first.kept()
    second.restore(kept)
    second.update(times[20:], live[20:])
    assert second.evidence()["flow"].value == pytest.approx(whole.evidence()["flow"].value, abs=0.01)
    assert second.evidence()["flow"].since == whole.evidence()["flow"].since
    other = SequentialTest(reference(training[:-1]), PLANT)
    other.restore(kept)
    assert other.kept() == KeptTest(reference=other.kept().reference)


def test_the_reference_of_an_earlier_release_is_tested_as_independent_records() -> None:
    numbers = np.random.default_rng(13)
    artifact = json.loads(reference(features(numbers.standard_normal((3000, NUMBERS)))).encoded())
    del artifact["density"]
    for column in artifact["processed"].values():
        del column["scores"]
    earlier = Reference.decoded(json.dumps(artifact).encode())
    assert earlier.density == 1.0
    test = SequentialTest(earlier, PLANT)
    assert test.independent
    assert largest(test, features(numbers.standard_normal((5000, NUMBERS)))) < SURE
    live = features(numbers.standard_normal((50, NUMBERS)) + 2.0)
    test.update(np.arange(50.0), live)
    assert test.evidence()["flow"].value > SURE


def test_a_reference_keeps_its_scores_as_it_is_logged() -> None:
    made = reference(features(np.random.default_rng(14).standard_normal((300, NUMBERS))), 0.35)
    read = Reference.decoded(made.encoded())
    assert read.density == 0.35
    for name, column in made.processed.items():
        assert isinstance(column, NumberReference)
        assert read.processed[name].scores == column.scores
        assert len(column.scores) == (1 if name.startswith("material") else 4)


# In the monitor, and as an alert


def records(numbers: np.random.Generator, count: int, shift: float = 0.0) -> list[Record]:
    return [
        {
            "_id": f"{numbers.integers(1 << 60)}",
            "pressure": 5 + shift + 2 * float(numbers.standard_normal()),
            "flow": float(numbers.standard_normal()),
            "material": "abc"[numbers.integers(3)],
            "y": None,
        }
        for _ in range(count)
    ]


def test_an_alert_says_what_moved_from_what_to_what_since_when_and_how_sure_that_is() -> None:
    import pyarrow as pa

    numbers = np.random.default_rng(15)
    training = records(numbers, 2000)
    clock = [1000.0]
    monitor = Monitor(PLANT, 500, History(), monotonic=lambda: clock[0], now=lambda: clock[0])
    monitor.reference = Reference.of(PLANT, Pipeline(PLANT).features(training), pa.Table.from_pylist(training))
    rules = AlertRules(load_rules(), PLANT)

    def predict(live: list[Record]) -> list[str]:
        raised = []
        for begin in range(0, len(live), 10):
            clock[0] += 25.0
            made = tuple(PredictedRecord(id=each["_id"], record=each, prediction=1.0) for each in live[begin : begin + 10])
            event = PredictionMade(
                service=CHAMPIONS_SERVICE, model="m", version="1", pipeline_version=PLANT.version, predictions=made
            )
            monitor.predicted(event)
            drift = monitor.measure_data(monitor.records, monitor.reference)
            changes = rules.evaluate(clock[0], monitor.point(Figures(), drift), drift)
            raised += [change.alert for change in changes if change.kind == "raised"]
        return raised

    assert predict(records(numbers, 200)) == []
    moved = clock[0]
    (alert,) = predict(records(numbers, 60, shift=4.0))
    assert (alert.rule, alert.metric, alert.subject) == ("drift", "drift/evidence/pressure", "pressure")
    assert moved - 60 <= alert.since <= moved + 30 < alert.began
    assert "pressure (pressure in the vessel) has moved: median 5" in alert.sentence
    assert " bar in the training data (80 % from 2." in alert.sentence
    assert "9." in alert.sentence.split("bar in the training data")[1]
    assert "at most once in 1,000,000 independent records" in alert.sentence
    assert "Whether the model's error has moved is not known yet" in alert.sentence
    # A new champion, which knows these values, begins with the records that come from now on.
    training = records(numbers, 2000, shift=4.0)
    monitor.reference = Reference.of(PLANT, Pipeline(PLANT).features(training))
    assert predict(records(numbers, 40, shift=4.0)) == []
    assert monitor.figures.number("drift/evidence", "pressure") < 3


def test_an_alert_tells_of_how_many_records_its_numbers_are() -> None:
    numbers = np.random.default_rng(15)
    training, live = records(numbers, 2000), records(numbers, 1200, shift=4.0)
    pipeline = Pipeline(PLANT)
    made = Reference.of(PLANT, pipeline.features(training))
    test = SequentialTest(made, PLANT)
    test.update(np.arange(1200.0), pipeline.features(live))
    drift = measure(PLANT, made, live[-500:], pipeline.features(live[-500:]), test)
    (change,) = AlertRules(load_rules(), PLANT).evaluate(1200.0, drift.figures(), drift)
    assert "in the newest 500 of the 1,200 records of the last 20 min" in change.alert.sentence


def test_the_share_of_a_category_is_named() -> None:
    numbers = np.random.default_rng(16)
    training, live = records(numbers, 2000), [{**each, "material": "b"} for each in records(numbers, 60)]
    made, pipeline = Reference.of(PLANT, Pipeline(PLANT).features(training)), Pipeline(PLANT)
    test = SequentialTest(made, PLANT)
    test.update(np.arange(60.0), pipeline.features(live))
    drift = measure(PLANT, made, live, pipeline.features(live), test)
    (change,) = AlertRules(load_rules(), PLANT).evaluate(100.0, drift.figures(), drift)
    assert change.alert.subject == "material"
    assert change.alert.metric == "drift/evidence/material_b"
    assert "The share of material_b has moved: 3" in change.alert.sentence
    assert "of the training data, 100 % of the 60 records of the last 100 s" in change.alert.sentence


# In which order, and how dense


def test_the_training_data_are_described_by_their_times_and_not_by_their_keys() -> None:
    numbers = np.random.default_rng(17)
    x = features(autoregressive(numbers, 5000, 0.9))
    by_key = numbers.permutation(len(x))
    samples = Samples(x[by_key], np.zeros(len(x), dtype=np.float32), times=by_key.astype(float))
    assert dependence_of(samples.x[:, FLOW].astype(float))[0] < 3
    assert np.array_equal(samples.in_order(), x)
    assert dependence_of(samples.in_order()[:, FLOW].astype(float))[0] > 10
    assert Samples(x, samples.y).in_order() is x, "without times as they are"


def test_a_split_by_time_leaves_no_gaps_between_the_training_records() -> None:
    assert density_of(PLANT, 700, 1000) == 0.7
    by_time = Dataset.parse(SOURCE.replace("target: y", "target: y\nsplit: {by: time}"))
    assert density_of(by_time, 700, 1000) == 1.0
