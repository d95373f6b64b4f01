"""Alert rules: what a file may say, when an alert begins and ends, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError
from complex_system.monitoring.alerts.evaluation import AlertChange, AlertRules, with_action
from complex_system.monitoring.alerts.rules import load_rules, parse_rules
from complex_system.monitoring.flow import RecordFlow
from complex_system.monitoring.points import Figures
from complex_system.protocol.base import to_wire
from complex_system.protocol.database import IngestCounts
from complex_system.protocol.operations import ALERT_RAISED, Action
from everything import EVERYTHING


def rules(dataset: Dataset, text: str) -> AlertRules:
    return AlertRules(parse_rules(f"rules:\n{text}"), dataset)


def events(judge: AlertRules, metric: str, values: list[float], **others: float) -> list[tuple[int, str, str]]:
    """Ten seconds between two values: place, kind and subject of what changed."""
    found = []
    for place, value in enumerate(values):
        for change in judge.evaluate(1000.0 + 10 * place, Figures.of_flat({metric: value, **others})):
            found.append((place, change.kind, change.alert.subject))
    return found


def test_a_source_without_room_for_dead_letters_is_an_alert(dataset: Dataset, tmp_path: Path) -> None:
    judge = AlertRules(load_rules(str(tmp_path), "alerts.yaml"), dataset)
    flow = RecordFlow()

    def judged(at: float, stopped: tuple[str, ...]) -> list[AlertChange]:
        flow.ingested(IngestCounts(on=True, waiting=0, in_flight=5, dead=1000, stopped=stopped))
        return judge.evaluate(at, flow.figures())

    assert judged(1000.0, ()) == []
    [raised] = judged(1010.0, ("press-4",))
    assert (raised.kind, raised.alert.rule, raised.alert.severity) == ("raised", "stopped-sources", "critical")
    assert raised.alert.sentence.startswith("1 source(s) have no room for another dead letter")
    assert judged(1020.0, ()) == []
    [ended] = judged(1080.0, ())
    assert ended.kind == "ended"
    assert "room for dead letters is back to normal" in ended.alert.over


RULE = "- {name: error, metric: performance/rmse, above: 20, clear: 15, for: 20, clear_for: 30}"


def test_an_alert_begins_when_it_has_lasted_and_ends_when_it_was_good_for_long_enough(dataset: Dataset) -> None:
    judge = rules(dataset, RULE)
    values = [10, 21, 21, 19, 21, 22, 25, 19, 14, 14, 16, 14, 14, 14, 14]
    assert events(judge, "performance/rmse", values) == [(6, "raised", ""), (14, "ended", "")]
    assert judge.open == []


def test_an_alert_tells_since_when_the_worst_value_and_the_threshold(dataset: Dataset) -> None:
    judge = rules(dataset, RULE)
    events(judge, "performance/rmse", [10, 21, 22, 23, 40, 30])
    (alert,) = judge.open
    assert (alert.since, alert.began, alert.ended) == (1010, 1030, None)
    assert (alert.value, alert.newest, alert.threshold) == (40, 30, 20)
    assert "aufbereiteter_wert (the value to predict) are off by an RMSE of 23" in alert.sentence
    assert ALERT_RAISED.decode(to_wire(alert)) == alert
    assert ALERT_RAISED.decode({**to_wire(alert), "of a later version": 1}) == alert


def test_too_little_can_be_bad_as_well(dataset: Dataset) -> None:
    judge = rules(dataset, "- {name: quality, metric: performance/r2, below: 0.9, clear: 0.95}")
    assert events(judge, "performance/r2", [0.99, 0.89, 0.94, 0.96]) == [(1, "raised", ""), (3, "ended", "")]


@pytest.mark.parametrize("count", [{}, {"performance/count": 99.0}, {"performance/count": float("nan")}])
def test_too_few_samples_begin_no_alert_and_end_none(dataset: Dataset, count: dict[str, float]) -> None:
    judge = rules(dataset, "- {name: error, metric: performance/rmse, above: 20, min_count: 100}")
    assert judge.evaluate(0, Figures.of_flat({"performance/rmse": 30, **count})) == []
    assert len(judge.evaluate(10, Figures.of_flat({"performance/rmse": 30, "performance/count": 100}))) == 1
    assert judge.evaluate(20, Figures.of_flat({"performance/rmse": 1, **count})) == []
    assert len(judge.open) == 1


def test_what_is_not_measured_or_no_number_is_not_judged(dataset: Dataset) -> None:
    judge = rules(dataset, RULE)
    assert events(judge, "performance/rmse", [float("nan"), float("inf")]) == []
    assert events(judge, "another", [1, 100]) == []


def test_a_window_takes_the_mean_so_that_one_outlier_is_no_alert(dataset: Dataset) -> None:
    quick = rules(dataset, "- {name: a, metric: m, above: 10}")
    slow = rules(dataset, "- {name: a, metric: m, above: 10, window: 40}")
    values = [0.0, 0, 0, 40, 0, 0, 20, 20, 20, 20, 20]
    assert events(quick, "m", values)[0] == (3, "raised", "")
    assert events(slow, "m", values) == [(6, "raised", "")]


def test_the_features_of_a_column_are_one_subject_and_the_worst_speaks(dataset: Dataset) -> None:
    judge = rules(dataset, "- {name: drift, metric: drift/psi/*, above: 0.25}")
    (change,) = judge.evaluate(
        0, Figures.of_flat({"drift/psi/rohwert_1_low": 0.3, "drift/psi/rohwert_1_high": 0.6, "drift/psi/laborant_AN": 0})
    )
    assert change.alert.subject == "rohwert_1_labormessung"
    assert change.alert.metric == "drift/psi/rohwert_1_high"
    assert "rohwert_1_labormessung (first raw value)" in change.alert.sentence
    assert "PSI 0.60, limit 0.25" in change.alert.sentence


def test_a_clock_that_is_set_back_counts_anew(dataset: Dataset) -> None:
    judge = rules(dataset, RULE)
    judge.evaluate(5000, Figures.of_flat({"performance/rmse": 30}))
    assert judge.evaluate(100, Figures.of_flat({"performance/rmse": 30})) == []
    assert judge.evaluate(110, Figures.of_flat({"performance/rmse": 30})) == []
    assert len(judge.evaluate(120, Figures.of_flat({"performance/rmse": 30}))) == 1


def test_an_alert_from_before_a_restart_goes_on_and_one_without_a_rule_ends(dataset: Dataset) -> None:
    before = rules(dataset, RULE + "\n- {name: old, metric: m, above: 1}")
    events(before, "performance/rmse", [30, 30, 30, 30], m=2)
    after = rules(dataset, RULE)
    assert after.restore(2000, before.open) == []
    (change,) = after.evaluate(2000, Figures.of_flat({"performance/rmse": 30}))
    assert (change.kind, change.alert.rule) == ("ended", "old")
    assert "no longer declared" in change.alert.over
    assert [alert.key for alert in after.open] == [alert.key for alert in before.open if alert.rule == "error"]
    assert events(after, "performance/rmse", [30, 1, 1, 1, 1]) == [(4, "ended", "")]


def test_an_alert_that_was_raised_anew_before_the_old_one_was_read_ends_the_old_one(dataset: Dataset) -> None:
    before, after = rules(dataset, RULE), rules(dataset, RULE)
    events(before, "performance/rmse", [30, 30, 30])
    for at in (3000, 3020):
        after.evaluate(at, Figures.of_flat({"performance/rmse": 30}))
    (change,) = after.restore(3030, before.open)
    assert (change.kind, change.alert.key) == ("ended", before.open[0].key)
    assert len(after.open) == 1


def test_what_the_system_did_stays_with_the_alert(dataset: Dataset) -> None:
    judge = rules(dataset, RULE)
    events(judge, "performance/rmse", [30, 30, 30])
    key = judge.open[0].key

    def act(action: Action) -> None:
        judge.change(key, lambda alert: with_action(alert, action))

    act(Action(round="r1", at=1.0))
    act(Action(round="r1", at=9.0, outcome="kept", what="The old one is better."))
    act(Action(round="r2", at=10.0))
    assert judge.change("another", lambda alert: alert) is None
    assert [(each.round, each.at, each.outcome) for each in judge.open[0].actions] == [
        ("r1", 1.0, "kept"),
        ("r2", 10.0, "training"),
    ]
    assert ALERT_RAISED.decode(to_wire(judge.open[0])) == judge.open[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rules:\n- name: a\n  metric: m\n  above: much", "line 4: 'above' must be a number, not 'much'"),
        ("rules:\n- name: a\n  metric: m\n  abov: 1", "line 4: the key 'abov' is not known; allowed are name, metric, above,"),
        ("rules:\n- name: a\n  metric: m", "line 2: the rule 'a' needs either 'above' or 'below'"),
        ("rules:\n- name: a\n  metric: m\n  above: 1\n  below: 1", "line 2: the rule 'a' needs either"),
        ("rules:\n- metric: m\n  above: 1", "line 2: the rule needs 'name'"),
        ("rules:\n- {name: a, metric: m, above: 1}\n- {name: a, metric: n, above: 1}", "line 3: the rule 'a' is there twice"),
        ("rules:\n- {name: a, metric: m, above: 1, clear: 2}", "line 2: 'clear' of the rule 'a' must be at most 'above' (1), not 2"),
        ("rules:\n- {name: a, metric: m, above: 1, for: -3}", "'for' must be a number of seconds of at least 0, not -3"),
        ("rules:\n- {name: a, metric: m, above: .nan}", "'above' must be a number"),
        ("rules:\n- {name: a, metric: m, above: 1, severity: bad}", "'severity' must be one of info, warning, critical, not 'bad'"),
        ("rules:\n- {name: a, metric: m, above: 1, retrain: 1}", "'retrain' must be true or false, not 1"),
        ("rules:\n- {name: a, metric: m/*/*, above: 1}", "'metric' must be the name of a metric"),
        ("rules:\n- {name: a, metric: m, above: 1, min_count: 5}", "'min_count' of the rule 'a' needs 'count'"),
        ("rules:\n- {name: a, metric: m, above: 1, text: '{nobody}'}", "'text' must be a sentence"),
        ("rules: 3", "line 1: 'rules' must be a list"),
        ("alerts: []", "line 1: the key 'alerts' is not known"),
        ("- a", "line 1: the file must be a mapping"),
        ("rules: [", "alerts.yaml is not YAML: line 1: "),
        ("rules:\n- name: a\n  metric: m\n  above: 1\n  above: 2", "line 5: the key 'above' is there twice"),
        ("rules: &all\n- *all", "line 1: a rule must be a mapping"),
    ],
)  # fmt: skip
def test_an_error_names_line_key_and_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_rules(text, "alerts.yaml")
    assert problem in caught.value.message
    assert caught.value.message.startswith("alerts.yaml")


def test_a_deployments_file_replaces_the_shipped_rules(tmp_path: Path) -> None:
    shipped = load_rules(tmp_path)
    assert {rule.name for rule in shipped if rule.retrain} == {"drift", "error"}
    (tmp_path / "alerts.yaml").write_text(
        "rules:\n- {name: mine, metric: m, above: 1, text: 'Look at {subject}: {value:.1f}'}"
    )
    assert [rule.name for rule in load_rules(tmp_path)] == ["mine"]
    (tmp_path / "alerts.yaml").write_text("")
    assert load_rules(tmp_path) == ()


def test_every_shipped_rule_has_a_sentence_of_its_own(dataset: Dataset) -> None:
    for rule in load_rules():
        judge = AlertRules([rule], dataset)
        metric = rule.metric.replace("*", "ml_serving" if "services" in rule.metric else "rohwert_2_labormessung")
        value, well = (10 * rule.threshold + 1, 0) if rule.above else (rule.threshold / 10, 1)
        bad, good = {metric: value, rule.count_metric: 1000}, {metric: well, rule.count_metric: 1000}
        (change,) = [change for at in (0, 1000) for change in judge.evaluate(at, Figures.of_flat(bad))]
        assert len(change.alert.sentence) > 40, rule.name
        assert metric not in change.alert.sentence
        (change,) = [change for at in (2000, 3000) for change in judge.evaluate(at, Figures.of_flat(good))]
        assert "back to normal after" in change.alert.over
        assert ("limit" in change.alert.over) == (rule.threshold != 0)  # else it is a matter of yes or no


def test_an_alert_names_the_raw_column_through_all_steps_or_the_feature_where_there_are_several() -> None:
    judge = rules(EVERYTHING, "- {name: drift, metric: drift/psi/*, above: 0.2}")
    metrics = {
        f"drift/psi/{name}": 0.3
        for name in ("has_K1", "size_scaled", "size_cox", "clipped_low", "energy", "per_degree_standard")
    }
    subjects = [change.alert.subject for change in judge.evaluate(1000.0, Figures.of_flat(metrics))]
    assert set(subjects) == {"Größe", "Stoffe", "Temp. [°C]", "energy", "per_degree_standard"}
