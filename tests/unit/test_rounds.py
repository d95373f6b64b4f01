"""When a training round is due, and what it does with trainers that reply late, fail or vanish."""

from __future__ import annotations

from typing import Literal

from complex_system.evaluation.triggers import GrowthTrigger
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.training import TrainingFinished, TrainingProgress, TrainReply
from complex_system.service_layer.rounds.round import RoundState, RoundTimes


def counts(raw: int, processed: int, labelled: int, rejected: int = 0) -> RecordCounts:
    return RecordCounts(raw=raw, processed=processed, labelled=labelled, rejected=rejected)


def test_the_first_round_waits_until_the_bulk_is_there_and_processed() -> None:
    trigger = GrowthTrigger(200, 0.25)
    assert not trigger.is_due(counts(1000, 500, 250), 0)
    assert not trigger.is_due(counts(2000, 1990, 990), 1)  # processed, and still growing
    assert not trigger.is_due(counts(2000, 1900, 950), 2)  # at rest, and not yet processed
    assert trigger.is_due(counts(2000, 1970, 985, rejected=20), 3)


def test_data_that_never_settle_do_not_hold_a_round_up_for_ever() -> None:
    trigger = GrowthTrigger(200, 0.25)
    raw = 1000
    for now in range(60):
        assert not trigger.is_due(counts(raw, raw // 2, raw // 4), now)
        raw = int(raw * 1.05)
    assert trigger.is_due(counts(raw, raw // 2, raw // 4), 60)


def test_too_few_labelled_records_start_no_round() -> None:
    trigger = GrowthTrigger(200, 0.25)
    assert not any(trigger.is_due(counts(398, 398, 199), now) for now in range(100))


def test_the_next_round_comes_with_a_quarter_more_and_not_after_a_restart_without_growth() -> None:
    trigger = GrowthTrigger(200, 0.25, last_labelled=1000)
    assert not any(trigger.is_due(counts(2500, 2500, 1249), now) for now in range(100))
    assert trigger.is_due(counts(2500, 2500, 1250), 101)
    trigger.succeeded(1250)
    assert not trigger.is_due(counts(2500, 2500, 1250), 102)


def test_a_database_that_was_filled_anew_starts_a_round() -> None:
    trigger = GrowthTrigger(200, 0.25, last_labelled=5000)
    trigger.is_due(counts(1000, 1000, 500), 0)
    assert trigger.is_due(counts(1000, 1000, 500), 1)


def failed_at_once(trigger: GrowthTrigger, labelled: int, now: float) -> float:
    """Seconds from a failed round until the next one is due."""
    trigger.failed(labelled, now)
    look = counts(2 * labelled, 2 * labelled, labelled)
    return next(pause for pause in range(10_000) if trigger.is_due(look, now + pause))


def test_rounds_without_a_model_are_repeated_after_growing_pauses() -> None:
    trigger = GrowthTrigger(200, 0.25)
    trigger.is_due(counts(2000, 2000, 1000), 0)
    assert [failed_at_once(trigger, 1000, 10_000.0 * i) for i in range(8)] == [30, 60, 120, 240, 480, 960, 1800, 1800]
    for _ in range(2000):
        assert trigger.failed(1000, 0.0) == 1800
    trigger.succeeded(1000)
    assert failed_at_once(GrowthTrigger(200, 0.25), 1000, 0.0) == 30


def test_new_data_end_the_pause_after_a_failed_round() -> None:
    trigger = GrowthTrigger(200, 0.25)
    trigger.failed(1000, 0.0)
    for raw in (2490, 2490):
        assert not trigger.is_due(counts(raw, raw, 1245), 1.0)
    assert trigger.is_due(counts(2500, 2500, 1250), 2.0)
    assert trigger.failed(1250, 3.0) == 30, "with other data it is the first failure"


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
