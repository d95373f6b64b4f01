"""One training round, and what it does with trainers that reply late, fail or vanish."""

from __future__ import annotations

from typing import Literal

from complex_system.protocol.training import TrainingFinished, TrainingProgress, TrainReply
from complex_system.service_layer.rounds.round import RoundState, RoundTimes

TIMES = RoundTimes(timeout=1000, patience=120, ask_again=1.5, check_again=15)


def reply(trainer: str, round_id: str = "r1", *, accepted: bool = True, reason: str | None = None) -> TrainReply:
    return TrainReply(trainer=trainer, accepted=accepted, round=round_id, reason=reason)


def progress(trainer: str, round_id: str = "r1") -> TrainingProgress:
    return TrainingProgress(trainer=trainer, framework="f", round=round_id, stage="training")


def end(
    trainer: str, round_id: str = "r1", status: Literal["finished", "failed"] = "finished", error: str = ""
) -> TrainingFinished:
    return TrainingFinished(
        trainer=trainer, framework="f", round=round_id, status=status, model="m", version="1", error=error
    )


def round_of(*trainers: str) -> RoundState:
    return RoundState("r1", trainers, 0.0, TIMES)


def test_a_trainer_that_does_not_answer_is_asked_again_and_given_up_in_the_end() -> None:
    current = round_of("a", "b")
    assert current.to_ask(0.0) == ["a", "b"]
    current.replied(reply("a"), 0.1)
    assert current.to_ask(1.0) == []
    assert current.to_ask(1.6) == ["b"]
    current.ended(end("a"))
    current.give_up(119)
    assert current.open == ["b"]
    current.give_up(120)
    assert current.open == []
    assert current.statuses == {"a": "finished", "b": "missing"}
    assert "silent for 120 s" in current.problems["b"]
    assert [outcome.model for outcome in current.finished] == ["m"]


def test_a_busy_trainer_is_waited_for_and_busy_with_this_round_is_acceptance() -> None:
    current = round_of("a", "b")
    current.replied(reply("a", "other", accepted=False, reason="busy"), 100)
    current.replied(reply("b", "r1", accepted=False, reason="busy"), 100)
    current.give_up(200)
    assert current.statuses == {"a": "asked", "b": "training"}
    assert current.to_ask(101) == ["a"]


def test_a_silent_training_is_checked_and_one_that_reports_is_left_alone() -> None:
    current = round_of("a", "b")
    for trainer in ("a", "b"):
        current.replied(reply(trainer), 0)
    current.progressed(progress("b", "r1"), 10)
    current.progressed(progress("a", "another"), 10)
    assert current.to_ask(15) == ["a"]
    assert current.to_ask(16) == []
    assert current.to_ask(25) == ["b"]
    assert current.to_ask(30) == ["a"]
    current.replied(reply("a"), 119)  # it had been restarted: it trains anew
    current.progressed(progress("b", "r1"), 119)
    current.give_up(130)
    assert current.open == ["a", "b"]


def test_a_failed_trainer_ends_its_part_and_late_news_change_nothing() -> None:
    current = round_of("a")
    current.ended(end("a", "r0"))
    assert current.open == ["a"]
    current.ended(end("a", status="failed", error="out of paper"))
    current.ended(end("a"))
    current.ended(end("stranger"))
    assert current.statuses == {"a": "failed"}
    assert current.problems == {"a": "out of paper"}


def test_the_time_of_a_round_ends_whatever_its_trainers_do() -> None:
    current = round_of("a")
    current.replied(reply("a"), 999)
    current.give_up(1000)
    assert "not done after 1000 s" in current.problems["a"]
