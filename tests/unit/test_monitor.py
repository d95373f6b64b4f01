"""The monitor as a whole, without broker and database: services, flow, changes, points and views."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import msgspec
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.records import Record
from complex_system.monitoring import rest, views
from complex_system.monitoring.aggregates import HOUR, Gauge, Rollup, Served
from complex_system.monitoring.alerts.evaluation import AlertRules
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.change_points import ChangeDetector
from complex_system.monitoring.flow import RecordFlow, reasons_of
from complex_system.monitoring.history import Champion, History, Pair
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figure, Figures
from complex_system.monitoring.reference import Reference
from complex_system.monitoring.services import (
    EXPECTED_WITHIN,
    MAX_DETAIL,
    MAX_OWN_SERVICES,
    MAX_REPLICAS,
    SILENT_KEPT,
    STOPPED_KEPT,
    ReplicaState,
    ServiceBook,
    ServiceState,
)
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import to_wire
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.protocol.operations import Heartbeat, State
from complex_system.protocol.serving import (
    PredictedRecord,
    PredictionFailed,
    PredictionMade,
    ShadowPredictions,
    Truth,
    TruthKnown,
)
from kept import KeptDocuments
from monitoring_page.messages import compared, comparison

NOW = 1_800_000_000.0


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def beat(service: str, replica: str, state: State = "ready", started: float = 1.0, **fields: Any) -> Heartbeat:
    usual = {"cpu_percent": 10.0, "memory_megabytes": 50.0}
    return Heartbeat(service=service, replica=replica, state=state, started=started, **{**usual, **fields})


# Services


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def book(clock: Clock) -> ServiceBook:
    return ServiceBook(8.0, clock)


def passed(book: ServiceBook, clock: Clock, seconds: int) -> list[str]:
    """Looks every second; who fell silent meanwhile."""
    silent = []
    for _ in range(seconds):
        clock.now += 1.0
        silent += [each.replica for each in book.newly_silent()]
    return silent


def test_who_vanishes_is_silent_within_ten_seconds_and_who_stops_is_not(book: ServiceBook, clock: Clock) -> None:
    for name in ("gone", "stopped"):
        assert book.heartbeat_received(beat("serving", name))
    assert book.heartbeat_received(beat("serving", "stopped", "stopped"))
    assert passed(book, clock, 8) == []
    assert passed(book, clock, 2) == ["gone"]
    assert passed(book, clock, 20) == []
    (service,) = book.services()
    assert (service.state, service.running) == ("silent", 0)
    assert {each.replica: each.state for each in service.replicas} == {"gone": "silent", "stopped": "stopped"}
    assert book.figures()[Figure("services/silent")] == book.figures()[Figure("services/silent", "serving")] == 1


def test_a_replica_that_takes_a_silent_ones_place_is_a_restart(book: ServiceBook, clock: Clock) -> None:
    book.heartbeat_received(beat("serving", "a"))
    passed(book, clock, 10)
    assert book.heartbeat_received(beat("serving", "b"))
    (service,) = book.services()
    assert (service.state, service.running, service.restarts) == ("ready", 1, 1)
    assert book.figures()[Figure("services/silent", "serving")] == 0


def test_invented_services_and_endless_replicas_take_no_memory(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    book = ServiceBook(8.0, clock, {"ml_consumer"})
    for number in range(MAX_OWN_SERVICES + 900):
        assert book.heartbeat_received(beat(f"invented_{number}", replica=str(number))) is (number < MAX_OWN_SERVICES)
    assert [each.message for each in caplog.records][1] == (
        "Heartbeats were ignored (10), the last one of 'invented_59' ('59'): more than 50 services of the project's own; "
        "a restart of ml_monitoring forgets those that are gone"
    )
    # Neither names that have gone make room, whose figures the history keeps, nor does a restart take in more.
    for number in range(MAX_OWN_SERVICES):
        book.heartbeat_received(beat(f"invented_{number}", replica=str(number), state="stopped"))
    passed(book, clock, 400)
    assert book.services() == []
    assert not book.heartbeat_received(beat("one_more", "1"))
    known = [ServiceState(service=f"kept_{number}", state="ready", running=1) for number in range(99)]
    there = (ReplicaState(service="x", replica="1"),)
    restarted = ServiceBook(8.0, clock, {"ml_consumer"})
    restarted.expect([*known, *(msgspec.structs.replace(each, replicas=there) for each in known)])
    assert len(restarted.services()) == MAX_OWN_SERVICES
    # What is declared is heard beside them.
    for number in range(MAX_REPLICAS + 50):
        book.heartbeat_received(beat("ml_consumer", replica=str(number), detail="x" * 100_000))
    [service] = book.services()
    assert service.running == MAX_REPLICAS
    assert {len(each.detail) for each in service.replicas} == {MAX_DETAIL}
    # Those that do not run make room, and who is known is heard on.
    book.heartbeat_received(beat("ml_consumer", replica="7", state="stopped"))
    assert book.heartbeat_received(beat("ml_consumer", replica="the next one"))
    [service] = book.services()
    assert "the next one" in {each.replica for each in service.replicas}
    assert "7" not in {each.replica for each in service.replicas}
    assert book.heartbeat_received(beat("ml_consumer", replica="8", state="stopped"))


def test_services_of_a_projects_own_share_their_room_for_replicas(clock: Clock) -> None:
    book = ServiceBook(8.0, clock, {"ml_consumer"})
    for number in range(MAX_REPLICAS + 50):
        book.heartbeat_received(beat(f"mine_{number % 2}", replica=str(number)))
    assert [each.running for each in book.services()] == [MAX_REPLICAS / 2, MAX_REPLICAS / 2]
    assert not book.heartbeat_received(beat("mine_2", "1"))
    assert book.heartbeat_received(beat("ml_consumer", "1"))
    book.heartbeat_received(beat("mine_0", replica="0", state="stopped"))
    assert book.heartbeat_received(beat("mine_2", "1"))


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (beat("", "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("x" * 64, "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("<b>press</b>", "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("services/cpu_percent", "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("press\nline", "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("press\n", "1"), "a service's name has small letters, digits and '_', at most 63"),
        (beat("press", "x" * 201), "a text of more than 200 characters"),
        (beat("press", "1", cpu_percent=math.nan), "a number that cannot be"),
        (beat("ml_consumer", "1", memory_megabytes=math.inf), "a number that cannot be"),
        (beat("ml_consumer", "1", started=-1.0), "a number that cannot be"),
    ],
)
def test_a_heartbeat_that_cannot_be_is_ignored_with_the_reason(
    clock: Clock, caplog: pytest.LogCaptureFixture, found: Heartbeat, fault: str
) -> None:
    book = ServiceBook(8.0, clock, {"ml_consumer"})
    assert not book.heartbeat_received(found)
    assert book.services() == []
    [said] = [each.message for each in caplog.records]
    assert said.endswith(f": {fault}")
    assert "\n" not in said


def test_services_of_a_projects_own_are_watched_like_ours(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    book = ServiceBook(8.0, clock, {"ml_consumer", "database_mongo"})
    for name in ("my_service", "database_memory", "database_file", "database_mongo"):
        assert book.heartbeat_received(beat(name, "1"))
    assert book.heartbeat_received(beat("my_service", "2"))
    assert [(each.service, each.state, each.running) for each in book.services()] == [
        ("database_file", "ready", 1), ("database_memory", "ready", 1), ("database_mongo", "ready", 1), ("my_service", "ready", 2),
    ]  # fmt: skip
    assert book.figures()[Figure("services/replicas", "my_service")] == 2
    kept = book.services()
    assert passed(book, clock, 10) == ["1", "1", "1", "1", "2"]
    assert book.figures()[Figure("services/silent", "my_service")] == 1
    # After a restart of monitoring those that ran are missed.
    restarted = ServiceBook(8.0, clock, {"ml_consumer", "database_mongo"})
    restarted.heartbeat_received(beat("my_service", "1"))
    restarted.expect(kept)
    assert {each.service: each.running for each in restarted.services()} == {each.service: each.running for each in kept}
    assert caplog.records == []


def test_the_same_name_with_a_later_start_is_a_restart_and_another_replica_is_none(book: ServiceBook) -> None:
    book.heartbeat_received(beat("serving", "a"))
    book.heartbeat_received(beat("serving", "b"))
    assert not book.heartbeat_received(beat("serving", "a"))
    assert book.services()[0].restarts == 0
    assert book.heartbeat_received(beat("serving", "a", started=2.0))
    assert book.services()[0].restarts == 1
    assert book.services()[0].cpu_percent == 20.0


def test_a_silent_one_that_beats_again_is_there_again(book: ServiceBook, clock: Clock) -> None:
    book.heartbeat_received(beat("serving", "a"))
    assert passed(book, clock, 10) == ["a"]
    assert book.heartbeat_received(beat("serving", "a"))
    assert book.services()[0].state == "ready"
    assert book.services()[0].restarts == 0


def test_after_a_start_of_the_whole_system_nobody_is_missed_whoever_is_heard_first(clock: Clock) -> None:
    """A process that is started again has another name, and the kept state may be from before the orderly end."""
    before = ServiceBook(8.0, clock)
    for service in ("early", "late"):
        before.heartbeat_received(beat(service, f"{service}-1"))
    book = ServiceBook(8.0, clock, now=lambda: 5000.0)
    book.heartbeat_received(beat("early", "early-2", started=4990.0))
    book.expect(before.services())
    assert passed(book, clock, 5) == []
    assert not book.heartbeat_received(beat("early", "early-2", started=4990.0))
    assert passed(book, clock, 5) == []
    assert not book.heartbeat_received(beat("early", "early-2", started=4990.0))
    assert book.heartbeat_received(beat("late", "late-2", started=5009.0))  # later than it may be silent
    book.heartbeat_received(beat("early", "early-2", started=4990.0))
    assert passed(book, clock, 6) == []
    # Somebody ended the system and started it again, which is no restart of any service.
    assert {each.service: (each.running, each.restarts) for each in book.services()} == {
        "early": (1, 0), "late": (1, 0),
    }  # fmt: skip


def test_who_was_started_again_while_nobody_watched_is_a_restart_whoever_is_heard_first(clock: Clock) -> None:
    before = ServiceBook(8.0, clock)
    for service in ("early", "late", "named"):
        before.heartbeat_received(beat(service, f"{service}-1"))
    book = ServiceBook(8.0, clock, now=lambda: 5000.0)
    book.heartbeat_received(beat("early", "early-2", started=4000.0))
    book.expect(before.services())
    book.heartbeat_received(beat("late", "late-2", started=4000.0))
    book.heartbeat_received(beat("named", "named-1", started=4000.0))
    assert {each.service: each.restarts for each in book.services()} == {"early": 1, "late": 1, "named": 1}


def test_who_said_that_it_stops_and_comes_back_was_not_restarted(book: ServiceBook) -> None:
    book.heartbeat_received(beat("serving", "a"))
    book.heartbeat_received(beat("serving", "a", "stopped"))
    assert book.heartbeat_received(beat("serving", "a", started=2.0))
    assert (book.services()[0].state, book.services()[0].restarts) == ("ready", 0)


def test_who_vanished_while_nobody_watched_is_silent_although_another_replica_is_there(clock: Clock) -> None:
    before = ServiceBook(8.0, clock)
    for name in ("gone", "there", "stopped"):
        before.heartbeat_received(beat("serving", name))
    before.heartbeat_received(beat("serving", "stopped", "stopped"))
    book = ServiceBook(8.0, clock)
    book.expect(before.services())
    silent = []
    for _ in range(int(EXPECTED_WITHIN) + 2):
        book.heartbeat_received(beat("serving", "there"))
        silent += passed(book, clock, 1)
    assert silent == ["gone"]
    assert book.figures()[Figure("services/restarts")] == 0


def test_a_look_that_comes_late_proves_nothing(book: ServiceBook, clock: Clock) -> None:
    book.heartbeat_received(beat("serving", "a"))
    clock.now += 60.0  # this process was held up, and the heartbeats wait to be heard
    assert book.newly_silent() == []
    assert passed(book, clock, 8) == ["a"]


def test_who_was_there_before_a_restart_is_expected_to_be_there_again(book: ServiceBook, clock: Clock) -> None:
    book.heartbeat_received(beat("serving", "a"))
    book.heartbeat_received(beat("serving", "b", "stopped"))
    restarted = ServiceBook(8.0, clock)
    restarted.expect(msgspec.convert(json.loads(json.dumps(to_wire(book.services()))), list[ServiceState]))
    assert passed(restarted, clock, int(EXPECTED_WITHIN)) == []  # the whole system may be starting
    assert passed(restarted, clock, 2) == ["a"]


def test_the_book_forgets(book: ServiceBook, clock: Clock) -> None:
    book.heartbeat_received(beat("a", "stopped", "stopped"))
    book.heartbeat_received(beat("b", "gone"))
    passed(book, clock, int(STOPPED_KEPT) + 2)
    assert [each.service for each in book.services()] == ["b"]
    clock.now += SILENT_KEPT
    book.newly_silent()
    assert book.services() == []


# Record flow


def test_counts_become_rates_and_rejections_are_told_by_kind() -> None:
    flow = RecordFlow()
    assert flow.figures() == {}
    for i in range(13):
        flow.counted(NOW + 10 * i, RecordCounts(raw=100 + 20 * i, processed=90, labelled=50, rejected=i))
    rejected = [
        Rejection(id="a", reason="material_id: 'X' is not one of 00000000, 11111111"),
        Rejection(id="b", reason="r1: 31.0 is outside of [0, 30]; material_id: 'Y' is not one of 00000000"),
        Rejection(id="c", reason="r2: is missing"),
        Rejection(id="d", reason="no pattern"),
    ]
    flow.rejected(NOW + 120, rejected)
    flow.rejected(NOW + 121, rejected)
    metrics = flow.figures().flat()
    assert metrics["records/raw"] == 340
    assert metrics["records/raw_per_second"] == pytest.approx(2.0)
    assert metrics["records/processed_per_second"] == 0
    assert metrics["rejected/share"] == pytest.approx(12 / 240)
    assert metrics["rejected/count"] == 240
    assert metrics["data/new_categories/material_id"] == 2
    assert metrics["data/rejected_out_of_range/r1"] == pytest.approx(1 / 240)
    assert [metrics[f"rejected/{kind}"] for kind in ("new_category", "out_of_range", "missing", "other")] == [2, 1, 1, 1]
    flow.counted(NOW + 600, RecordCounts(raw=340, processed=90, labelled=50, rejected=12))
    assert flow.figures().number("rejected/new_category") == 0


def test_values_that_are_taken_outside_of_their_range_are_counted_for_five_minutes() -> None:
    flow = RecordFlow()
    for i in range(13):
        flow.counted(NOW + 10 * i, RecordCounts(raw=100 + 20 * i, processed=90, labelled=50, rejected=0))
    flow.range_exceeded(NOW + 100, {"r1": 40, "r2": 1})
    flow.range_exceeded(NOW + 110, {"r1": 20})
    flow.rejected(NOW + 110, [Rejection(id="b", reason="r2: 31.0 is outside of [0, 30]")])
    metrics = flow.figures().flat()
    assert (metrics["data/outside/r1"], metrics["data/outside/r2"]) == (60, 1)
    assert metrics["data/rejected_out_of_range/r1"] == pytest.approx(60 / 240)
    assert metrics["data/rejected_out_of_range/r2"] == pytest.approx(2 / 240)
    flow.counted(NOW + 600, RecordCounts(raw=340, processed=90, labelled=50, rejected=0))
    assert "data/outside/r1" not in flow.figures().flat()
    # Old records are processed anew, while none arrives: seen as all of them outside.
    for i in range(2):
        flow.counted(NOW + 610 + 10 * i, RecordCounts(raw=340, processed=90, labelled=50, rejected=0))
        flow.range_exceeded(NOW + 610, {"r1": 5}, 1000)
    assert flow.figures().number("data/rejected_out_of_range", "r1") == pytest.approx(0.005)
    assert flow.figures().by_subject("data/outside") == {"r1": 10}


def test_reasons_are_those_that_the_pipeline_writes(dataset: Dataset) -> None:
    bad = {**Laboratory(1).complete_record(), "material_id": "9", "rohwert_1_labormessung": 31.0}
    _, (rejection,) = Pipeline(dataset).split(__import__("polars").DataFrame([bad]))
    assert sorted(reasons_of(rejection["reason"])) == [
        ("material_id", "new_category"), ("rohwert_1_labormessung", "out_of_range"),
    ]  # fmt: skip


def test_records_that_are_deleted_do_not_hide_those_that_arrive() -> None:
    flow = RecordFlow()
    for i, raw in enumerate((1000, 1050, 300, 360, 380)):
        flow.counted(NOW + 10 * i, RecordCounts(raw=raw, processed=5000, labelled=50, rejected=13 if i > 2 else 0))
    metrics = flow.figures().flat()
    assert metrics["rejected/count"] == 130  # what arrived beside the delete is not known
    assert metrics["rejected/share"] == pytest.approx(0.1)
    assert metrics["records/raw_per_second"] == pytest.approx(130 / 40)


# Change points


def test_a_change_of_the_error_is_noticed_and_its_begin_named() -> None:
    generator, detector = random.Random(1), ChangeDetector()
    assert detector.is_there
    changes = [
        change
        for i in range(3000)
        if (change := detector.add(NOW + i, abs(generator.gauss(0, 14 if i < 2000 else 30)))) is not None
    ]
    assert len(changes) == 1
    assert changes[0].began - NOW == pytest.approx(2000, abs=100)
    assert 2000 < changes[0].noticed - NOW < 2200
    assert changes[0].before == pytest.approx(11, rel=0.2)
    assert changes[0].since > 15


def test_without_the_package_nothing_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "river.drift", None)
    detector = ChangeDetector()
    assert not detector.is_there
    assert detector.add(1.0, 2.0) is None


# The monitor and its views


def prediction_made(
    dataset: Dataset, records: list[Record], error: float, shadows: tuple[ShadowPredictions, ...] = ()
) -> PredictionMade:
    predictions = [PredictedRecord(id=r[ID], record=r, prediction=(truth_of(r) or 0.0) + error) for r in records]
    return PredictionMade(
        service=CHAMPIONS_SERVICE, model="lab-lightgbm", version="1", pipeline_version=dataset.version, milliseconds=4.0,
        predictions=tuple(predictions), shadows=shadows,
    )  # fmt: skip


@pytest.fixture
def monitor(dataset: Dataset, clock: Clock) -> Monitor:
    wall = Clock(NOW)
    monitor = Monitor(dataset, 500, History(seed=1), monotonic=clock, now=wall)
    monitor.wall = wall  # type: ignore[attr-defined]
    return monitor


def watched(monitor: Monitor, dataset: Dataset) -> Figures:
    """A monitor that has seen everything once."""
    laboratory = Laboratory(3)
    records = [laboratory.complete_record() for _ in range(200)]
    features = Pipeline(dataset).features(records)
    monitor.reference = Reference.of(dataset, features, __import__("pyarrow").Table.from_pylist(records))
    shadows = (
        ShadowPredictions(
            model="lab-pytorch", version="4", framework="pytorch", milliseconds=8.0,
            predictions=tuple((truth_of(r) or 0.0) + 5.0 for r in records),
        ),
        ShadowPredictions(model="lab-tensorflow", version="1", error="no ONNX model"),
    )  # fmt: skip
    monitor.compared(comparison(compared("lab-lightgbm", "1", 2.0)))
    monitor.history.crowned(Champion(model="lab-lightgbm", version="1", rmse=2.0, at=NOW - 60))
    assert monitor.predicted(prediction_made(dataset, records, 3.0, shadows))
    assert not monitor.predicted(prediction_made(dataset, records[:1], 3.0))
    monitor.measured(TruthKnown(truths=tuple(Truth(id=r[ID], truth=truth_of(r) or 0.0) for r in records)))
    monitor.failed(PredictionFailed(service=CHAMPIONS_SERVICE, failures={"invalid_record": 2}))
    monitor.services.heartbeat_received(beat("ml_serving_mlflow", "a"))
    for i in range(2):
        monitor.flow.counted(NOW + i, RecordCounts(raw=10 * i, processed=0, labelled=0, rejected=0))
    drift = monitor.measure_data(monitor.records, monitor.reference)
    return monitor.point(Figures.of_flat({"system/cpu_utilization_percentage": 12.0}), drift)


def test_a_point_has_every_metric_by_its_flat_name(monitor: Monitor, dataset: Dataset) -> None:
    metrics = watched(monitor, dataset).flat()
    assert metrics["performance/rmse"] == pytest.approx(3.0, abs=1e-3)
    assert metrics["performance/ml_serving_mlflow/bias"] == pytest.approx(3.0, abs=1e-3)
    assert metrics["performance/rmse_relative"] == pytest.approx(1.5, abs=1e-3)
    assert metrics["performance/shadow/lab-pytorch/rmse"] == pytest.approx(5.0, abs=1e-3)
    assert metrics["performance/count"] == metrics["performance/count_live"] == 200
    assert metrics["performance/rmse_live"] == metrics["performance/rmse"]
    assert metrics["latency/p99"] == metrics["latency/p50"] == 4.0
    assert metrics["latency/count"] == 2
    assert metrics["drift/psi_max"] < 0.1
    assert metrics["data/samples"] == metrics["drift/samples"] == 200
    assert metrics["data/new_categories/material_id"] == 0
    assert metrics["data/missing_excess/rohwert_1_labormessung"] == 0
    assert metrics["services/silent/ml_serving_mlflow"] == 0
    assert metrics["services/ml_serving_mlflow/memory_megabytes"] == 50
    assert metrics["records/raw_per_second"] == 10
    assert metrics["system/cpu_utilization_percentage"] == 12


def test_the_alert_for_values_outside_of_their_range_is_raised_for_those_that_are_taken(
    monitor: Monitor, dataset: Dataset
) -> None:
    column = "rohwert_2_labormessung"
    figures = watched(monitor, dataset)
    rules = AlertRules([rule for rule in load_rules() if rule.name == "out-of-range"], dataset)
    assert [rules.evaluate(NOW + second, figures) for second in (0, 40)] == [[], []]
    monitor.flow.range_exceeded(NOW + 1, {column: 1})  # of ten records that came
    figures = monitor.point(Figures(), monitor.measure_data(monitor.records, monitor.reference))
    assert figures.number("data/out_of_range", column) == pytest.approx(0.1)
    assert rules.evaluate(NOW + 50, figures) == []
    (raised,) = rules.evaluate(NOW + 90, figures)
    assert (raised.kind, raised.alert.subject) == ("raised", column)
    assert views.data(monitor).outside == {column: 1}


def assert_every_view_is_json(monitor: Monitor) -> None:
    for of_now in (views.overview, views.models, views.data, views.alerts, views.snapshot):
        assert json.loads(json.dumps(to_wire(of_now(monitor)), allow_nan=False)), of_now.__name__
    for of_period in (rest.predictions, rest.system):
        shown = to_wire(of_period(monitor, NOW - 600, NOW + 60))
        assert json.loads(json.dumps(shown, allow_nan=False)), of_period.__name__


def test_the_views_show_what_the_monitor_has_seen(monitor: Monitor, dataset: Dataset) -> None:
    watched(monitor, dataset)
    overview = to_wire(views.overview(monitor))
    assert overview["champion"]["version"] == "1"
    assert overview["champion"]["since"] == NOW - 60
    assert overview["champion"]["holdout_rmse"] == 2.0
    assert overview["champion"]["origin"] == "live"
    assert list(overview["champion"]["by_origin"]) == ["live"]
    assert overview["drift"]["band"] == "stable"
    assert overview["records"]["raw"] == 10
    assert overview["awaited"] == ["The history waits for the database service."]
    models = to_wire(views.models(monitor))
    assert [each["label"] for each in models["served"]] == ["lab-lightgbm v1"]
    assert [each["label"] for each in models["shadows"]] == ["lab-pytorch v4 (shadow)"]
    assert models["best_possible"] == pytest.approx(14.22, abs=0.01)
    shown = to_wire(rest.predictions(monitor, NOW - 600, NOW + 60))
    totals = {line["label"]: line["total"]["rmse"] for line in shown["windows"]}
    assert totals == {"lab-lightgbm v1": pytest.approx(3.0), "lab-pytorch v4 (shadow)": pytest.approx(5.0)}
    assert {line["group"] for line in shown["groups"]} == {f"material_id={i * 8}" for i in "0123"}
    assert sum(line["total"]["count"] for line in shown["groups"]) == 200
    assert (shown["joined"], shown["predictions"], shown["waiting"]) == (200, 201, 0)
    assert {each["code"]: each["count"] for each in shown["failures"]} == {"invalid_record": 2, "lab-tensorflow": 1}
    assert {round(pair["residual"], 6) for pair in shown["sample"]} == {3.0, 5.0}
    (latency,) = shown["latency"]
    assert latency["total"]["latency_ms_p95"] == pytest.approx(4.0, rel=0.06)
    data = to_wire(views.data(monitor))
    assert [column["psi"] for column in data["raw"]] == sorted((c["psi"] for c in data["raw"]), reverse=True)
    assert data["reference"] == {"source": "champion", "samples": 200}
    system = to_wire(rest.system(monitor, NOW - 600, NOW + 60))
    assert system["series"]["system/cpu_utilization_percentage"][0][1:] == [12.0, 12.0, 12.0]
    assert "services/ml_serving_mlflow/cpu_percent" in system["series"]
    assert rest.metric(monitor, "drift/psi_max", NOW - 600, NOW + 60)[0][1] < 0.1
    assert_every_view_is_json(monitor)


def test_an_empty_monitor_says_what_it_waits_for(monitor: Monitor) -> None:
    assert len(views.overview(monitor).awaited) == 4
    assert_every_view_is_json(monitor)
    assert monitor.point(Figures(), None).number("performance/count") == 0


async def test_a_restarted_monitor_shows_the_history_again(monitor: Monitor, dataset: Dataset) -> None:
    documents = KeptDocuments()
    await monitor.history.load(documents, NOW)
    metrics = watched(monitor, dataset).flat()
    await documents.save(monitor.history.changed())
    restarted = Monitor(dataset, 500, History(), now=Clock(NOW + 5))
    assert restarted.point(Figures(), None).number("performance/count") == 0  # before the database answers
    await restarted.history.load(documents, NOW + 5)
    restarted.restore()
    again = restarted.point(Figures(), None).flat()
    assert again["performance/rmse"] == pytest.approx(metrics["performance/rmse"])
    assert again["performance/rmse_relative"] == pytest.approx(1.5, abs=1e-3)
    assert views.models(restarted).served[0].version == "1"
    assert views.data(restarted).samples == 200
    assert views.overview(restarted).services[0].service == "ml_serving_mlflow"


def test_prometheus_reads_the_point(monitor: Monitor, dataset: Dataset) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    families = {f.name: f for f in text_string_to_metric_families(rest.exposition(watched(monitor, dataset)).decode())}

    def value(family: str, name: str = "") -> float:
        return next(sample.value for sample in families[family].samples if sample.labels["name"] == name)

    assert value("monitoring_system_cpu_utilization_percentage") == 12
    assert value("monitoring_drift_psi", "rohwert_2_labormessung") >= 0
    assert value("monitoring_services_cpu_percent", "ml_serving_mlflow") == 10
    assert value("monitoring_services_silent", "ml_serving_mlflow") == 0
    assert value("monitoring_performance_rmse") == value("monitoring_performance_rmse", "ml_serving_mlflow")
    assert value("monitoring_performance_shadow_rmse", "lab-pytorch") == pytest.approx(5.0, abs=1e-3)


async def test_a_view_of_three_months_has_few_points_however_many_predictions(monitor: Monitor) -> None:
    await monitor.history.load(KeptDocuments(), NOW)
    monitor.at = NOW
    served = Served(CHAMPIONS_SERVICE, "lab-lightgbm", "1")
    begin = NOW - NOW % HOUR - 90 * 24 * HOUR
    for i in range(90 * 24):
        hour = Rollup(begin + i * HOUR, HOUR)
        hour.gauges[Figure("system/cpu")] = Gauge(360, 3600.0, 1.0, 50.0, 10.0)
        monitor.history._hours[hour.at] = hour
        monitor.history.paired(Pair(hour.at, 2.0, 1.0, served, "g"))
    monitor.history.changed()  # merges the hours anew
    shown = rest.predictions(monitor, begin, NOW)
    assert len(shown["windows"][0]["points"]) <= rest.MAX_POINTS
    assert shown["joined"] == 90 * 24
    assert len(rest.system(monitor, begin, NOW)["series"]["system/cpu"]) <= rest.MAX_POINTS
