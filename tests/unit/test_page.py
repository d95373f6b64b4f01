"""The content of the page without a browser: readings, figures, texts, drawings, and the ASGI gateway to WSGI."""

from __future__ import annotations

import asyncio
import gzip
import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.http.auth import ApiKey
from complex_system.monitoring import rest, series
from complex_system.monitoring.aggregates import ErrorSums, Served
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.evidence import Evidence
from complex_system.monitoring.history import History, Pair
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page import answers
from complex_system.monitoring.page import gateway as gateway_module
from complex_system.monitoring.page.app import VIEWS, only_changed, public_address
from complex_system.monitoring.page.diagram import diagrams
from complex_system.monitoring.page.formatting import Clock, Viewer, count, lasting, link, rate, share
from complex_system.monitoring.page.gateway import MAX_BODY, WsgiGateway
from complex_system.monitoring.page.period_report import make_report
from complex_system.monitoring.page.reading import PERIODS, Facts, Reading, take
from complex_system.monitoring.page.summaries import champions, errors_of_models
from complex_system.monitoring.page.svg import chart, histogram, nice_ticks, safe
from complex_system.monitoring.page.terms import TERMS, requests_of
from complex_system.monitoring.page.views import alerts
from complex_system.monitoring.page.views.data import judged_drift
from complex_system.monitoring.page.views.predictions import _errors
from complex_system.monitoring.performance import WindowPair
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import Reference
from complex_system.monitoring.views import ReferenceView
from complex_system.protocol.base import to_wire
from complex_system.protocol.explanation import ColumnEffect, ColumnImportance, ModelExplanation
from complex_system.protocol.operations import Action, SentMessage
from complex_system.protocol.training import FoldCounts, ScoresWithInterval, StackMember, VerdictOnBaseline
from monitoring_page.messages import alert, champion, compared, comparison, crowned, drifted, heartbeat

NOW = 1_780_000_000.0
BY = Served("ml_serving_mlflow", "lab-pytorch", "3", origin="live")
OTHER = Served("ml_serving", "lab-pytorch-wandb", "1", origin="live")
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def monitor() -> Monitor:
    made = Monitor(Dataset.load(), 100, History(seed=1), now=lambda: NOW, monotonic=lambda: 0.0)
    made.history.loaded = True
    return made


def read(monitor: Monitor, key: str = "1h") -> Reading:
    return take(monitor, Facts(monitor.dataset, version="1"), PERIODS[key], NOW)


def predict(
    monitor: Monitor, pairs: int = 40, error: float = 10.0, served: Served = BY, group: str = "material_id="
) -> None:
    for i in range(pairs):
        at = NOW - 60 * (i % 30) - 1
        of = f"{group}{i % 2}" if group else ""
        monitor.history.paired(Pair(at, 100.0 + i + error * (-1) ** i, 100.0 + i, served, of))
        monitor.history.minute(at).answered(served, 2.0, 3)


def everything(reading: Reading) -> str:
    return (
        "".join(str(view.fill(reading, Viewer())) for view in VIEWS)
        + "".join(diagrams(reading))
        + make_report(reading, Clock())
    )


def test_a_reading_does_not_change_any_more(monitor: Monitor) -> None:
    predict(monitor)
    reading = read(monitor)
    before = everything(reading)
    for _ in range(60):
        monitor.history.paired(Pair(NOW - 1, 600.0, 100.0, BY, "material_id=1"))
        monitor.history.minute(NOW - 1).answered(Served("new", "new", "1"), 2.0, 3)
        monitor.history.minute(NOW - 1).read(Figures.of_flat({"system/cpu_utilization_percentage": 99.0}))
    monitor.history.crowned(crowned(NOW, champion(version="9", rmse=1.0)))
    monitor.services.heartbeat_received(heartbeat("ml_serving", state="failing"))
    assert everything(reading) == before
    assert everything(read(monitor)) != before


def test_the_page_and_the_rest_interface_have_the_same_figures(monitor: Monitor) -> None:
    predict(monitor)
    predict(monitor, 11, 25.0, OTHER)
    predict(monitor, 12, 5.0, BY._replace(origin="own"))
    monitor.history.minute(NOW - 5).failed("ml_serving", "invalid_record", 2)
    shown = to_wire(rest.predictions(monitor, NOW - 3600, NOW + 60))
    reading = read(monitor)
    for window in shown["windows"]:
        served = Served(*(window[name] for name in Served._fields))
        assert series.total(reading.errors[served].values(), ErrorSums).metrics()["rmse"] == pytest.approx(
            window["total"]["rmse"]
        )
    assert {name: sum(each.requests for each in curve.values()) for name, curve in reading.latency.items()} == {
        each["service"]: each["total"]["requests"] for each in shown["latency"]
    }
    assert series.failed_requests(reading.rollups) == {("ml_serving", "invalid_record"): 2}


@pytest.mark.parametrize("key", PERIODS)
def test_a_curve_has_a_bounded_number_of_points(key: str, monitor: Monitor) -> None:
    period = PERIODS[key]
    for i in range(600):
        at = NOW - period.seconds * i / 600
        monitor.history.paired(Pair(at, 1.0, 2.0, BY, ""))
    monitor.history.changed()
    curve = read(monitor, key).errors[BY]
    assert sum(sums.n for sums in curve.values()) >= 599
    assert len(curve) <= 250


def test_without_anything_every_view_says_what_is_awaited(monitor: Monitor) -> None:
    reading = read(monitor)
    for view in VIEWS:
        filled = str(view.fill(reading, Viewer()) or view.skeleton())
        assert re.search("[Ww]aiting|No |Nothing|None", filled), view.title
    assert {answer.level for answer in answers.all_answers(reading)[:3]} == {"none"}


def test_without_a_category_the_page_does_not_wait_for_groups(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, group="")
    assert "no category by which residuals could be grouped" in everything(read(monitor))


def test_the_answers_follow_services_errors_and_drift(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor)
    monitor.services.heartbeat_received(heartbeat("ml_serving"))
    good = answers.all_answers(read(monitor))
    assert [answer.level for answer in good] == ["good", "good", "none", "good"]
    monitor.services.heartbeat_received(heartbeat("ml_serving", state="failing", detail="no model"))
    predict(monitor, 40, 30.0)
    monitor.drift = DataDrift(raw={"rohwert_1_labormessung": drifted(0.3)}, samples=200)
    monitor.history.alert(alert("a", NOW - 60, severity="critical"))
    bad = answers.all_answers(read(monitor))
    assert [answer.level for answer in bad] == ["bad", "bad", "bad", "bad"]
    assert "ml_serving" in bad[0].why
    assert bad[3].why == "Look at it."


def test_few_records_are_no_verdict(monitor: Monitor) -> None:
    for samples, level in ((answers.MIN_RECORDS - 1, "none"), (answers.MIN_RECORDS, "bad")):
        monitor.drift = DataDrift(raw={"rohwert_1_labormessung": drifted(0.3)}, samples=samples)
        assert answers.data_answer(read(monitor)).level == level


def test_evidence_decides_and_not_the_index_of_a_slow_sensor(monitor: Monitor) -> None:
    for value, level in ((1.0, "good"), (7.0, "bad")):
        column = drifted(0.6, evidence=Evidence(value=value, records=40))
        monitor.drift = DataDrift(raw={"rohwert_1_labormessung": column}, samples=900)
        reading = read(monitor)
        assert answers.data_answer(reading).level == level
        assert ("moved</td>" in make_report(reading, Clock())) is (level == "bad")


def test_a_drift_that_raised_an_alert_is_told_before_the_index_can_be(monitor: Monitor) -> None:
    """Nor is it overlooked where it is of a feature that several columns make."""
    moved = drifted(0.6, evidence=Evidence(value=7.0, records=24))
    calm = drifted(0.1, evidence=Evidence(value=0.5, records=4))
    few = {"psi": None, "band": None}
    monitor.reference = Reference(monitor.dataset.version, {}, {})
    for name, raw in (("rohwert_2_labormessung", moved), ("ratio_of_two", calm)):
        for samples in (24, 900):
            columns = {"rohwert_2_labormessung": raw}, {name: moved}
            raws, features = (
                {key: msgspec.structs.replace(each, **few) if samples == 24 else each for key, each in column.items()}
                for column in columns
            )
            monitor.drift = DataDrift(raw=raws, processed=features, samples=samples)
            reading = read(monitor)
            answer = answers.data_answer(reading)
            assert (answer.level, answer.text) == ("bad", "1 column has changed")
            assert answer.why.startswith(f"Strongest evidence of a drift: {name}, 7.0 of 6")
            assert not [text for text in reading.overview.awaited if "drift" in text]
            assert ("fewer than 30 predicted records: no index yet" in shown(reading, "data-drift")) is (samples == 24)


def test_a_slip_or_chance_does_not_make_a_model_worse(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, 60, 30.0)
    for surely, level in ((0.9, "good"), (1.2, "bad")):
        figures = {"performance/error_ratio": 1.03, "performance/error_ratio_low": surely}
        monitor.history.minute(NOW - 1).read(Figures.of_flat(figures))
        answer = answers.model_answer(read(monitor))
        assert answer.level == level
        assert ("1.03 times those, which may be chance" in answer.why) is (level == "good")


def test_without_a_comparison_no_error_is_called_that_of_the_holdout_records(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion(rmse=None)))
    predict(monitor, 60, 10.0)
    reading = msgspec.structs.replace(read(monitor).models, best_possible=None)
    answer = answers.model_answer(replace(read(monitor), models=reading))
    assert (answer.text, answer.why) == (
        "Not known yet",
        "No comparison of this model is known. lab-pytorch v3: RMSE 10.00 on 60 live predictions.",
    )


def test_a_reference_of_few_records_is_no_verdict(monitor: Monitor) -> None:
    monitor.drift = DataDrift(raw={"rohwert_1_labormessung": drifted(0.6)}, samples=900)
    for trained, level in ((36, "none"), (answers.MIN_RECORDS, "bad")):
        reading = read(monitor)
        size = ReferenceView(source="champion", samples=trained)
        reading = replace(reading, data=msgspec.structs.replace(reading.data, reference=size))
        assert answers.data_answer(reading).level == level
        shown = str(
            [value for view in VIEWS if ("data-note", "children") in view.outputs for value in view.fill(reading, Viewer())]
        )
        assert ("0.60 significant" in shown) is (level == "bad")
        assert ("it may be chance; the reference has 36" in shown) is (level == "none")
        assert ("significant</td>" in make_report(reading, Clock())) is (level == "bad")


def test_a_champion_that_a_linear_model_surely_beats_is_not_called_good(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, answers.MIN_PAIRS, 10.0)
    assert answers.model_answer(read(monitor)).level == "good"
    for high, level in ((-0.1, "warn"), (0.1, "good")):
        verdicts = {
            "mean": VerdictOnBaseline(verdict="better", better_by=80.0, low=70.0, high=90.0),
            "linear": VerdictOnBaseline(verdict="not better", better_by=-0.3, low=-0.5, high=high),
        }
        found = comparison(compared("lab-pytorch", "3", 10.0), verdicts=verdicts, verdict="It is worse than a linear model.")
        monitor.compared(found)
        assert answers.model_answer(read(monitor)).level == level


def test_few_pairs_are_no_verdict(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, answers.MIN_PAIRS - 1, 500.0)
    assert answers.model_answer(read(monitor)).level == "none"
    predict(monitor, 1, 500.0)
    assert answers.model_answer(read(monitor)).level == "bad"


def shown(reading: Reading, *ids: str) -> str:
    """What the views show in these places."""
    found = {
        where: value for view in VIEWS for (where, _), value in zip(view.outputs, view.fill(reading, Viewer()), strict=True)
    }
    return "".join(str(found[each]) for each in ids)


def test_the_predictions_of_the_period_shown_are_a_link_away(monitor: Monitor) -> None:
    reading = read(monitor)
    period = f"from={reading.begin:.0f}&to={reading.end:.0f}"
    assert shown(reading, "predictions-csv") == f"/api/predictions.csv?{period}"
    assert shown(reading, "predictions-parquet") == f"/api/predictions.parquet?{period}"


def test_the_champions_figures_are_its_own_however_few(monitor: Monitor) -> None:
    """Seen in a trial: the card said 7.99, which was mixed from the champion's 6.35 and the error of the other serving's model."""
    monitor.history.crowned(crowned(NOW - 1800, champion(holdout=80)))
    predict(monitor, 25, 6.35)
    predict(monitor, 60, 8.6, OTHER)
    predict(
        monitor, 60, 30.0, Served("ml_serving", "lab-pytorch", "3", origin="live")
    )  # the same version, served by another one
    reading = read(monitor)
    answer = answers.model_answer(reading)
    assert answer.level == "none"
    assert answer.why.startswith("25 of the 30 live predictions")
    assert "lab-pytorch v3: RMSE 6.35 on 25 live predictions, 10.00 on 80 hold-out records" in answer.why
    for where in ("overview-champion", "predictions-figures"):
        assert "6.35" in shown(reading, where)
        assert "8.60" not in shown(reading, where)
        assert "'7.99'" not in shown(reading, where)
    rows = {tuple(row[:3]): row[3:5] for row in errors_of_models(reading).rows}
    assert rows["lab-pytorch v3", "ml_serving_mlflow", "live predictions"] == ("25", "6.35")
    assert rows["lab-pytorch-wandb v1", "ml_serving", "live predictions"] == ("60", "8.60")
    assert set(reading.groups) == {"material_id=0", "material_id=1"}
    assert sum(sums.n for sums in reading.groups.values()) == 25


@pytest.mark.parametrize(
    ("origin", "error", "level", "text"),
    [
        ("live", 10.0, "good", "Yes"), ("live", 12.0, "warn", "Worse than before"), ("live", 30.0, "bad", "No"),
        ("probe", 10.0, "good", "Yes, on probes"), ("own", 10.0, "none", "Not known yet"), ("own", 30.0, "bad", "No"),
        ("", 10.0, "none", "Not known yet"),
    ],
)  # fmt: skip
def test_the_consumers_own_requests_do_not_make_a_model_good(
    monitor: Monitor, origin: str, error: float, level: str, text: str
) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, 60, error, BY._replace(origin=origin))
    answer = answers.model_answer(read(monitor))
    assert (answer.level, answer.text) == (level, text)
    assert f"on 60 {requests_of(origin)}" in answer.why


def test_clients_predictions_come_before_what_the_system_asks_itself(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor, 200, 30.0, BY._replace(origin="probe"))
    predict(monitor, answers.MIN_PAIRS, 10.0)
    assert answers.model_answer(read(monitor)).text == "Yes"
    everywhere = shown(read(monitor), "overview-champion", "predictions-figures", "predictions-scatter", "models-live")
    for name in ("probes", "live predictions", "lab-pytorch v3, probes", "lab-pytorch v3, live"):
        assert name in everywhere


def test_cross_validation_that_decided_is_what_the_champion_is_measured_by(monitor: Monitor) -> None:
    scores = ScoresWithInterval(rmse=20.0, mae=15.0, r2=0.5)
    row = compared("lab-pytorch", "3", 10.0, cv=scores)
    folds = FoldCounts(records=120, folds=5, repeats=2)
    monitor.compared(comparison(row, ranked_by="cross-validation", cross_validation=folds, holdout=18))
    monitor.history.crowned(crowned(NOW - 1800, champion(holdout=18)))
    predict(monitor, 60, 21.0)
    answer = answers.model_answer(read(monitor))
    assert (answer.text, answer.why) == (
        "Yes", "lab-pytorch v3: RMSE 21.00 on 60 live predictions, 20.00 by cross-validation of 120 records.",
    )  # fmt: skip


def test_a_stack_is_shown_with_its_members_the_largest_weight_first(monitor: Monitor) -> None:
    members = (
        StackMember(model="lab-linear", version="", weight=0.3),
        StackMember(model="lab-tensorflow", version="2", weight=0.7),
    )
    stack = compared("lab-stack", "1", 10.0, trainer="stack", framework="stack", members=members)
    monitor.compared(comparison(stack, compared("lab-pytorch", "3", 11.0)))
    assert "0.70 lab-tensorflow v2 + 0.30 lab-linear" in shown(read(monitor), "models-table")


def test_an_outlier_is_named_with_its_record(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion()))
    predict(monitor)
    monitor.outliers = [WindowPair(1234.5, 123.4, NOW, "B-0007")]
    reading = read(monitor)
    for where in (shown(reading, "predictions-figures"), make_report(reading, Clock())):
        assert "1 outlier among its newest pairs" in where
        assert "B-0007: measured 1234.5, predicted 123.4" in where


def test_a_database_of_ones_own_has_the_box_of_databases(monitor: Monitor) -> None:
    assert "database_memory: ready, 1 running" not in diagrams(read(monitor))[0]
    monitor.services.heartbeat_received(heartbeat("database_memory"))
    assert "database_memory: ready, 1 running" in diagrams(read(monitor))[0]


def test_two_serving_services_are_not_replicas_of_one(monitor: Monitor) -> None:
    for service in ("ml_serving", "ml_serving_mlflow"):
        monitor.services.heartbeat_received(heartbeat(service))
    assert "2 services" in diagrams(read(monitor))[0]
    assert "replicas" not in diagrams(read(monitor))[0]
    monitor.services.heartbeat_received(heartbeat("data_processing"))
    monitor.services.heartbeat_received(heartbeat("data_processing", replica="b"))
    assert diagrams(read(monitor))[0].count("2 replicas") == 1


def test_why_a_champion_was_trained_is_said_in_words(monitor: Monitor) -> None:
    monitor.history.crowned(crowned(NOW - 1800, champion(cause="first", holdout=80)))
    assert list(champions(monitor.history.champions, Clock()).rows[0][2:]) == [
        "10.00",
        "80",
        "enough records",
    ]


def test_labels_of_champions_in_quick_succession_are_below_each_other(monitor: Monitor) -> None:
    predict(monitor)
    for version, before in enumerate((1800, 1700, 600)):
        monitor.history.crowned(crowned(NOW - before, champion(version=str(version), holdout=80)))
    figure = _errors(read(monitor), Viewer())
    labels = [each["yshift"] for each in figure["layout"]["annotations"] if "lab-pytorch" in each["text"]]
    assert labels == [0, -14, 0]


def test_drift_of_few_records_is_in_no_curve(monitor: Monitor) -> None:
    """Seen in a trial: points above the limit of drift beside "no drift yet"."""
    for minutes, judged, psi in ((50, 25.0, 0.9), (20, 40.0, 0.8), (10, 400.0, 0.3)):
        at = NOW - 60 * minutes
        monitor.history.minute(at).read(Figures.of_flat({"data/psi/rohwert_1_labormessung": psi, "drift/judged": judged}))
    reading = read(monitor)
    (curve,) = judged_drift(reading, reading.gauges("data/psi")).values()
    assert [gauge.mean for gauge in curve.values()] == [0.3]
    assert "0.9" not in shown(reading, "data-over-time")


def test_a_drift_from_before_a_restart_is_told_with_its_time_everywhere(monitor: Monitor) -> None:
    monitor.drift = DataDrift(
        raw={"rohwert_1_labormessung": drifted(0.3)}, samples=300, reference_samples=900, at=NOW - 86_400
    )
    monitor.point(Figures(), None)  # restarted: no record was predicted yet
    reading = read(monitor)
    assert not [text for text in reading.overview.awaited if "drift" in text]
    assert reading.overview.drift is not None
    assert (reading.overview.drift.psi, answers.data_answer(reading).level) == (0.3, "bad")
    assert "PSI 0.30 over 300 predicted records, 1 d ago." in answers.data_answer(reading).why
    assert Clock().moment(NOW - 86_400) in shown(reading, "data-note")


def test_every_term_is_explained(monitor: Monitor) -> None:
    skeletons = "".join(str(view.skeleton()) for view in VIEWS)  # a term without a meaning would raise an error
    report = make_report(read(monitor), Clock())
    for term, meaning in TERMS.items():
        assert f"Dt({term!r})" in skeletons, term
        assert meaning.endswith(".")
        assert f">{safe(term)}</td>" in report


def test_text_from_events_is_never_markup(monitor: Monitor) -> None:
    by = Served(EVIL, EVIL, EVIL)
    for i in range(40):
        monitor.history.paired(Pair(NOW - i - 1, 1.0, 2.0, by, f"{EVIL}={EVIL}"))
        monitor.history.minute(NOW - i - 1).answered(by, 1.0, 1)
    monitor.history.minute(NOW - 1).failed(EVIL, EVIL, 1)
    monitor.history.minute(NOW - 1).read(
        Figures.of_flat({f"data/psi/{EVIL}": 0.3, f"services/{EVIL}/cpu_percent": 1.0, f"data/missing/{EVIL}": 0.5})
    )
    beat = heartbeat(EVIL, replica=EVIL, state=EVIL, detail=EVIL, url="javascript:alert(1)")
    monitor.services.heartbeat_received(beat)
    monitor.history.crowned(crowned(NOW - 9, champion(EVIL, EVIL, 1.0, framework=EVIL, cause=EVIL)))
    row = compared(EVIL, EVIL, 2.0, framework=EVIL)
    explained = ModelExplanation(
        model=EVIL, version=EVIL, rmse=1.0, records=9, repeats=5,
        importance=(ColumnImportance(column=EVIL, increase=1.0, low=1.0, high=1.0),),
        effects=(ColumnEffect(column=EVIL, unit=EVIL, method="partial", values=(EVIL, EVIL), effects=(1.0, -1.0)),
                 ColumnEffect(column=EVIL, unit=EVIL, method="accumulated", values=(1.0, 2.0), effects=(1.0, -1.0))),
    )  # fmt: skip
    row_fields = {"kept": EVIL, "verdict": EVIL, "run_url": "javascript:alert(1)", "baselines": {EVIL: row}}
    monitor.compared(comparison(row, explanation=explained, **row_fields))
    halves = {"categories": [EVIL, EVIL], "reference": [0.5, 0.5], "live": [0.5, 0.5]}
    category = drifted(0.3, type="category", edges=[], new_categories={EVIL: 2}, **halves)
    monitor.drift = DataDrift(raw={EVIL: drifted(0.3), f"b{EVIL}": category}, samples=9)
    action = Action(round=EVIL, at=NOW, outcome=EVIL, what=EVIL)
    evil = alert("a", NOW - 5, rule=EVIL, severity=EVIL, metric=EVIL, sentence=EVIL, actions=(action,))
    monitor.history.alert(evil)
    reading = read(monitor)
    # What is markup or read as such: pictures, the report, figures. Other text is put in by React, which escapes it.
    assert EVIL not in make_report(reading, Clock())
    assert EVIL not in "".join(diagrams(reading))
    for view in VIEWS:
        for (where, what), value in zip(view.outputs, view.fill(reading, Viewer()), strict=True):
            if what in ("figure", "data"):
                assert EVIL not in str(value), where
            assert "javascript:" not in str(value), where


def test_what_the_model_depends_on_is_shown_and_told_to_those_who_cannot_see_it(monitor: Monitor) -> None:
    places = (
        "models-dependence-note",
        "models-importance",
        "models-effects-note",
        "models-effects",
        "models-effect-pictures",
    )
    row = compared("lab-pytorch", "3", 10.0)
    monitor.compared(comparison(row))
    assert "The next comparison says what its winner depends on." in shown(read(monitor), *places)
    importance = tuple(ColumnImportance(column=f"x{i}", increase=20.0 - i, low=19.0 - i, high=22.0 - i) for i in range(14))
    found = ModelExplanation(
        model="lab-pytorch", version="3", rmse=9.5, records=700, repeats=5, importance=importance, left_out=3,
        effects=(
            ColumnEffect(column="x0", unit="bar", method="accumulated", values=(0.0, 1.5, 3.0), effects=(-4.0, 1.0, 3.0)),
            ColumnEffect(column="x1", method="partial", values=("a", "b"), effects=(1e-14, -1e-14)),
        ),
    )  # fmt: skip
    monitor.compared(comparison(row, explanation=found))
    text = shown(read(monitor), *places)
    assert "lab-pytorch v3, on 700 hold-out records with RMSE 9.50." in text
    assert "5 less important columns are not shown." in text
    assert "x11" in text
    assert "x12" not in text
    assert "least -4 at 0, most +3 at 3" in text
    assert "3 bar" in text
    assert "from -4 to +3" in text
    assert "no effect" in text
    monitor.compared(comparison(row, explanation=msgspec.structs.replace(found, effects=())))
    assert "carries no sample of its training records" in shown(read(monitor), *places)


def test_only_what_has_changed_is_sent() -> None:
    first = only_changed(["a", {"b": 1}], {})
    assert first[:2] == ["a", {"b": 1}]
    again = only_changed(["a", {"b": 2}], first[2])
    assert again[1] == {"b": 2}
    assert "no_update" in str(again[0]).lower() or again[0] is not first[0]
    assert only_changed(["a", {"b": 2}], again[2]).count(again[0]) == 3
    assert only_changed(["a"], "nonsense")[0] == "a"


def test_times_are_those_of_the_browser() -> None:
    summer = 1_782_907_200.0  # 2026-07-01 12:00 UTC
    assert Clock.of({"zone": "Europe/Berlin"}).axis(summer) == "2026-07-01 14:00:00"
    assert Clock.of({"zone": "Nowhere/At_All", "offset": -330}).axis(summer) == "2026-07-01 17:30:00"
    for nonsense in (None, {}, {"zone": "../../etc/passwd"}, {"zone": 3, "offset": "x"}, {"zone": "", "offset": 1e99}):
        assert Clock.of(nonsense).axis(summer) == "2026-07-01 12:00:00"


def test_formats() -> None:
    assert [lasting(s) for s in (0.4, 59, 61, 3600, 90_000)] == ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]
    assert [count(n) for n in (0, 99_999, 123_456, 1_000_000)] == ["0", "99,999", "123 k", "1 M"]
    assert [rate(r) for r in (0.0, 0.05, 2.1234, 12_000)] == ["0/s", "3/min", "2.12/s", "12,000/s"]
    assert [share(s).replace("\u00a0", " ") for s in (0.0, 0.0004, 0.1234, 1.0)] == ["0 %", "< 0.1 %", "12.3 %", "100 %"]
    assert link(" https://host/x") == "https://host/x"
    assert [link(u) for u in ("javascript:alert(1)", "data:text/html,x", None, "//host")] == [""] * 4


def test_the_address_of_mlflow_keeps_its_password_to_itself() -> None:
    assert public_address("http://user:secret@mlflow:8080/base/") == "http://mlflow:8080/base"
    assert public_address("http://[::1]:8080") == "http://[::1]:8080"
    assert [public_address(uri) for uri in ("", "file:///tmp/x", "databricks", "http://host:x")] == [""] * 4


def test_pictures_have_finite_numbers_whatever_they_show() -> None:
    drawn = histogram([5.0, 5.0], [0.0], [0.0], "mm", "one value") + chart(
        [[(0.0, 1.0), (1.0, None), (2.0, 1.0)]], (0.0, 0.0), [(0.0, "now")], "y", "flat"
    )
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(math.isfinite(tick) for tick in nice_ticks(-1e-9, 1e9))


# From ASGI to WSGI


def application(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("on purpose")
    body = environ["wsgi.input"].read()
    start("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "7")])
    yield f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']} ".encode()
    yield body + b"." * 3000
    yield repr(sorted(key for key in environ if "KEY" in key or "AUTH" in key)).encode()


def client(gateway: WsgiGateway) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://page")


async def test_the_gateway_passes_requests_and_answers_on() -> None:
    gateway = WsgiGateway(application)
    async with client(gateway) as http:
        answer = await http.post("/a%20b?c=d", content=b"body")
        assert answer.text.startswith("POST /a b c=d body...")
        assert answer.headers["content-encoding"] == "gzip"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        plain = await http.get("/x", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert len(plain.content) == int(plain.headers["content-length"])
        assert (await http.post("/", content=b"x" * (MAX_BODY + 1))).status_code == 413
        answers_at_once = await asyncio.gather(*(http.get(f"/{i}") for i in range(20)))
        assert [f"GET /{i} " in each.text for i, each in enumerate(answers_at_once)] == [True] * 20
    gateway.close()


async def test_with_an_api_key_the_page_asks_for_it_and_does_not_pass_it_on() -> None:
    gateway = WsgiGateway(application, "s3cret")
    async with client(gateway) as http:
        refused = await http.get("/")
        assert refused.status_code == 401
        assert "/login" in refused.text
        led = await http.get("/models?a=b&c=d", headers={"accept": "text/html,*/*"})
        assert (led.status_code, led.headers["location"]) == (303, "/login?next=/models%3Fa%3Db%26c%3Dd")
        key = ApiKey("s3cret")
        http.cookies.set(key.cookie, key.token("session"))
        assert (await http.get("/models")).text.endswith("[]")
        http.cookies.clear()
        assert (await http.get("/", auth=("anybody", "wrong"))).status_code == 401
        assert (await http.get("/", headers={"authorization": "Basic \u00fc".encode("latin-1")})).status_code == 401
        for allowed in ({"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}):
            assert (await http.get("/", headers=allowed)).text.endswith("[]")
        assert (await http.get("/", auth=("anybody", "s3cret"))).text.endswith("[]")
    gateway.close()


async def test_scripts_are_kept_compressed_however_many_names_they_are_asked_by(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a": b"let a = 1;" * 1000, "b": bytes(random.Random(1).choices(b"0123456789abcdef", k=100_000))}

    def scripts(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/javascript"), ("Cache-Control", "public, max-age=31536000")])
        yield texts[environ["PATH_INFO"][1]]

    gateway = WsgiGateway(scripts)
    compressed = []
    compress = gzip.compress
    monkeypatch.setattr(gateway_module.gzip, "compress", lambda *a, **k: compressed.append(1) or compress(*a, **k))
    async with client(gateway) as http:
        for number in range(50):
            for name, text in texts.items():
                answer = await http.get(f"/{name}.v1m{number}.js")
                assert answer.headers["content-encoding"] == "gzip"
                assert answer.content == text
        assert len(compressed) == len(gateway._compressed) == 2
        monkeypatch.setattr(gateway_module, "MAX_COMPRESSED", 60_000)
        for number in range(20):  # contents that change
            texts["b"] = bytes(random.Random(number).choices(b"0123456789abcdef", k=80_000))
            await http.get("/b")
        assert sum(map(len, gateway._compressed.values())) <= 60_000
    gateway.close()


def test_an_alert_says_where_it_was_sent_and_what_became_of_it(monitor: Monitor) -> None:
    usual: dict[str, Any] = {"event": "raised", "at": NOW - 500, "due": NOW + 60}
    messages = (
        SentMessage(**usual, channel="webhook", outcome="delivered", finished=NOW - 400, attempts=1),
        SentMessage(**usual, channel="mailto", attempts=3, problem=f"status 503 {EVIL}"),
        SentMessage(**usual, channel="slack", quiet=True),
        SentMessage(**usual, channel="json", outcome="expired", finished=NOW - 300, problem="TimeoutError"),
        SentMessage(**{**usual, "event": "ended"}, channel="sms", outcome="dropped", finished=NOW - 200),
    )
    monitor.history.alert(alert("a", NOW - 500, messages=messages))
    shown = str(alerts.VIEW.fill(read(monitor), Viewer()))
    clock = Viewer().clock
    told = (
        f"webhook delivered {clock.short(NOW - 400)}",
        f"mailto not delivered yet (status 503 {EVIL}), 3 attempt(s), the next {clock.short(NOW + 60)}",
        f"slack held back in quiet hours until {clock.short(NOW + 60)}",
        f"json expired {clock.short(NOW - 300)} (TimeoutError)",
    )
    assert f"Li('Beginning: {'; '.join(told)}')" in shown
    assert f"Li('End: sms dropped {clock.short(NOW - 200)} (without an answer)')" in shown
