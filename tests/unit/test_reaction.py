"""When alerts start training rounds."""

from __future__ import annotations

from typing import Any

from complex_system.evaluation.triggers import LONGEST_PAUSE, AlertReaction


def alert(key: str, began: float = 100.0, *, retrain: bool = True) -> dict[str, Any]:
    return {"key": key, "began": began, "retrain": retrain, "sentence": f"About {key}."}


def test_an_alert_that_asks_for_it_makes_a_round_due_until_it_ends() -> None:
    reaction = AlertReaction(60)
    reaction.raised(alert("no", retrain=False))
    assert reaction.due(0) is None
    reaction.raised(alert("late", 300))
    reaction.raised(alert("early", 200))
    cause = reaction.due(0)
    assert cause is not None
    assert (cause.alerts, cause.since, cause.text) == (("early", "late"), 200, "About early. About late.")
    reaction.ended(alert("early"))
    reaction.ended(alert("late"))
    reaction.ended(alert("unknown"))
    assert reaction.due(0) is None


def test_the_pause_after_a_round_doubles_while_it_brings_nothing() -> None:
    reaction = AlertReaction(60)
    reaction.raised(alert("a"))
    assert reaction.done(1000, improved=True) == 60
    assert reaction.due(1059) is None
    assert reaction.due(1060) is not None
    assert [reaction.done(0, improved=False) for _ in range(3)] == [120, 240, 480]
    assert reaction.done(0, improved=True) == 60
    for _ in range(100):
        longest = reaction.done(0, improved=False)
    assert longest == LONGEST_PAUSE


def test_what_others_know_replaces_what_was_heard() -> None:
    reaction = AlertReaction(60)
    reaction.raised(alert("missed its end"))
    reaction.replace([alert("missed its begin"), alert("no", retrain=False)])
    cause = reaction.due(0)
    assert cause is not None
    assert cause.alerts == ("missed its begin",)
