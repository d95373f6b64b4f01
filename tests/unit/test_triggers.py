"""When a training round is due: after enough new data, or on alerts."""

from __future__ import annotations

from complex_system.evaluation.triggers import MAX_ALERT_PAUSE, AlertTrigger, GrowthTrigger
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import Alert


def counts(raw: int, processed: int, labelled: int, rejected: int = 0, corrected: int = 0) -> RecordCounts:
    return RecordCounts(raw=raw, processed=processed, labelled=labelled, rejected=rejected, corrected=corrected)


def test_the_first_round_waits_until_the_bulk_is_there_and_processed() -> None:
    trigger = GrowthTrigger(200, 0.25)
    assert not trigger.is_due(counts(1000, 500, 250), 0)
    assert not trigger.is_due(counts(2000, 1990, 990), 1)  # processed, and still growing
    assert not trigger.is_due(counts(2000, 1900, 950), 2)  # at rest, and not yet processed
    assert trigger.is_due(counts(2000, 1970, 985, rejected=20), 3)


def test_deleted_raw_records_do_not_delay_a_round() -> None:
    """With COMPLEX_SYSTEM_RAW_DAYS there are fewer raw records than results."""
    trigger = GrowthTrigger(200, 0.25)
    assert not trigger.is_due(counts(600, 2000, 1000), 0)
    assert trigger.is_due(counts(500, 2000, 1000), 1)


def test_data_that_never_settle_do_not_delay_a_round_indefinitely() -> None:
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
    trigger.succeeded(1250, 0)
    assert not trigger.is_due(counts(2500, 2500, 1250), 102)


def test_corrected_labels_count_as_new_ones() -> None:
    trigger = GrowthTrigger(200, 0.25, last_labelled=1000, last_corrected=30)
    assert not any(trigger.is_due(counts(2500, 2500, 1100, corrected=179), now) for now in range(100))
    due = counts(2500, 2500, 1100, corrected=180)
    assert trigger.is_due(due, 101)
    assert trigger.most_waiting(due) == 0  # a correction counts when it comes, and before it is processed
    assert trigger.most_waiting(counts(2500, 2500, 1250, corrected=180)) == 25
    trigger.succeeded(1100, 180)
    assert not trigger.is_due(due, 102)
    assert trigger.failed(1100, 180, 103) == 30
    assert not trigger.is_due(counts(2500, 2500, 1100, corrected=454), 104)
    assert trigger.is_due(counts(2500, 2500, 1100, corrected=455), 105)  # new data end the pause


def test_corrections_from_before_they_were_counted_start_no_round() -> None:
    trigger = GrowthTrigger(200, 0.25, last_labelled=1000)
    assert not any(trigger.is_due(counts(2500, 2500, 1000, corrected=900), now) for now in range(100))
    assert trigger.is_due(counts(2500, 2500, 1000, corrected=1150), 101)


def test_a_database_that_was_filled_anew_starts_a_round() -> None:
    trigger = GrowthTrigger(200, 0.25, last_labelled=5000)
    trigger.is_due(counts(1000, 1000, 500), 0)
    assert trigger.is_due(counts(1000, 1000, 500), 1)


def failed_at_once(trigger: GrowthTrigger, labelled: int, now: float) -> float:
    """Seconds from a failed round until the next one is due."""
    trigger.failed(labelled, 0, now)
    look = counts(2 * labelled, 2 * labelled, labelled)
    return next(pause for pause in range(10_000) if trigger.is_due(look, now + pause))


def test_rounds_without_a_model_are_repeated_after_growing_pauses() -> None:
    trigger = GrowthTrigger(200, 0.25)
    trigger.is_due(counts(2000, 2000, 1000), 0)
    assert [failed_at_once(trigger, 1000, 10_000.0 * i) for i in range(8)] == [30, 60, 120, 240, 480, 960, 1800, 1800]
    for _ in range(2000):
        assert trigger.failed(1000, 0, 0.0) == 1800
    trigger.succeeded(1000, 0)
    assert failed_at_once(GrowthTrigger(200, 0.25), 1000, 0.0) == 30


def test_new_data_end_the_pause_after_a_failed_round() -> None:
    trigger = GrowthTrigger(200, 0.25)
    trigger.failed(1000, 0, 0.0)
    for raw in (2490, 2490):
        assert not trigger.is_due(counts(raw, raw, 1245), 1.0)
    assert trigger.is_due(counts(2500, 2500, 1250), 2.0)
    assert trigger.failed(1250, 0, 3.0) == 30, "with other data it is the first failure"


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
