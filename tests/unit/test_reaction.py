"""When alerts start training rounds."""

from __future__ import annotations

from complex_system.evaluation.triggers import MAX_ALERT_PAUSE, AlertTrigger
from complex_system.protocol.operations import Alert


def alert(key: str, began: float = 100.0, *, retrain: bool = True) -> Alert:
    return Alert(
        key=key, rule="r", metric="m", subject="", severity="warning", retrain=retrain, since=began, began=began, value=3,
        newest=3, threshold=2, sentence=f"About {key}.",
    )  # fmt: skip


def test_an_alert_that_asks_for_it_makes_a_round_due_until_it_ends() -> None:
    trigger = AlertTrigger(60)
    trigger.raised(alert("no", retrain=False))
    assert trigger.due(0) is None
    trigger.raised(alert("late", 300))
    trigger.raised(alert("early", 200))
    cause = trigger.due(0)
    assert cause is not None
    assert (cause.alerts, cause.since, cause.text) == (("early", "late"), 200, "About early. About late.")
    trigger.ended(alert("early"))
    trigger.ended(alert("late"))
    trigger.ended(alert("unknown"))
    assert trigger.due(0) is None


def test_the_pause_after_a_round_doubles_while_it_brings_nothing() -> None:
    trigger = AlertTrigger(60)
    trigger.raised(alert("a"))
    assert trigger.finished(1000, improved=True) == 60
    assert trigger.due(1059) is None
    assert trigger.due(1060) is not None
    assert [trigger.finished(0, improved=False) for _ in range(3)] == [120, 240, 480]
    assert trigger.finished(0, improved=True) == 60
    for _ in range(100):
        longest = trigger.finished(0, improved=False)
    assert longest == MAX_ALERT_PAUSE


def test_what_others_know_replaces_what_was_heard() -> None:
    trigger = AlertTrigger(60)
    trigger.raised(alert("missed its end"))
    trigger.replace([alert("missed its begin"), alert("no", retrain=False)])
    cause = trigger.due(0)
    assert cause is not None
    assert cause.alerts == ("missed its begin",)
