"""Predictions and truths find each other in any order, across restarts, and within bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.documents import MAX_BODY_BYTES, Document
from complex_system.errors import StoreUnavailableError
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.history import CHAMPIONS, WAITING, Champion, History, Pair
from complex_system.monitoring.joining import SAVED_AFTER, TRUTH_REMEMBERED, PredictionJoin
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.services import KnownServices
from complex_system.service_layer.monitoring.keeper import HistoryKeeper
from kept import KeptDocuments

A, B, C = (Served("champion", "lab", version) for version in "123")


class Joined(PredictionJoin):
    def __init__(self, most: int = 1000) -> None:
        self.pairs: list[Pair] = []
        super().__init__(self.pairs.append, most)

    @property
    def found(self) -> list[tuple[float, float, str]]:
        return [(pair.prediction, pair.truth, pair.served.version) for pair in self.pairs]


class KnownTargets(KeptDocuments):
    def __init__(self, known: dict[str, float]) -> None:
        super().__init__()
        self.known = known

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        return {key: self.known[key] for key in keys if key in self.known}


def test_truth_and_prediction_are_joined_in_either_order() -> None:
    join = Joined()
    join.predicted(1.0, A, "a", 3.0, "g")
    join.measured("b", 5.0)
    assert join.pairs == []
    join.measured("a", 1.0)
    join.predicted(2.0, A, "b", 4.0)
    assert join.pairs == [Pair(1.0, 3.0, 1.0, A, "g"), Pair(2.0, 4.0, 5.0, A, "")]
    assert join.waiting == 0


def test_a_truth_counts_once_for_every_model_also_for_one_that_comes_later() -> None:
    join = Joined()
    join.predicted(1.0, A, "a", 3.0)
    join.measured("a", 1.0)
    join.measured("a", 1.0)
    join.predicted(1.0, B, "a", 4.0)
    join.predicted(1.0, B, "a", 5.0)  # waits for another truth
    assert join.found == [(3.0, 1.0, "1"), (4.0, 1.0, "2")]
    join.measured("a", 2.0)
    assert join.found[2:] == [(5.0, 2.0, "2")]


async def test_a_label_that_was_corrected_long_ago_is_asked_for_and_what_was_joined_stays() -> None:
    join, documents = Joined(), KnownTargets({"a": 5.0})
    join.predicted(10.0, A, "a", 3.0)
    assert await join.ask_targets(documents, 20.0) == 1
    documents.known["a"] = 99.9
    join.predicted(21.0, B, "a", 4.0)
    join.predicted(20.0 + TRUTH_REMEMBERED, C, "a", 6.0)
    assert join.found == [(3.0, 5.0, "1"), (4.0, 5.0, "2")]
    assert await join.ask_targets(documents, 30.0 + TRUTH_REMEMBERED) == 1
    assert join.found[2:] == [(6.0, 99.9, "3")]


def test_a_record_predicted_again_counts_with_the_newest_prediction() -> None:
    join = Joined()
    join.predicted(1.0, A, "a", 3.0)
    join.predicted(2.0, A, "a", 4.0)
    join.measured("a", 1.0)
    assert join.found == [(4.0, 1.0, "1")]


def test_what_is_no_number_is_left_out() -> None:
    join = Joined()
    join.predicted(1.0, A, "a", math.nan)
    join.measured("a", math.inf)
    assert join.waiting == 0
    join.measured("a", 1.0)
    assert join.pairs == []


def test_what_waits_is_bounded_and_the_oldest_goes_first() -> None:
    join = Joined(most=3)
    for key in "abcd":
        join.predicted(1.0, A, key, 1.0)
    assert (join.waiting, join.dropped) == (3, 1)
    join.measured("a", 1.0)
    assert join.pairs == []
    join.measured("b", 1.0)
    assert len(join.pairs) == 1


async def test_a_truth_that_comes_at_once_needs_no_database() -> None:
    join, documents = Joined(), KeptDocuments()
    join.predicted(100.0, A, "a", 1.0)
    await join.save(documents, 100.0 + SAVED_AFTER / 2)
    assert documents.kept == {}


async def test_a_truth_finds_a_prediction_that_an_earlier_process_left() -> None:
    documents, before = KeptDocuments(), Joined()
    before.predicted(100.0, A, "a", 3.0, "g")
    before.predicted(101.0, B, "a", 4.0, "g")
    before.predicted(101.0, B, "b", 7.0, "g")
    await before.save(documents, 100.0 + SAVED_AFTER)
    assert documents.count(WAITING) == 1  # the other one is too young
    await before.save(documents, 200.0)
    after = Joined()
    after.measured("a", 1.0)
    assert after.pairs == []
    await after.save(documents, 300.0)
    assert after.pairs == [Pair(100.0, 3.0, 1.0, A, "g"), Pair(101.0, 4.0, 1.0, B, "g")]
    assert [d.key for d in documents.kept.values()] == ["b"]
    after.measured("a", 1.0)
    await after.save(documents, 300.0)
    assert len(after.pairs) == 2


async def test_predictions_of_two_processes_wait_in_one_document() -> None:
    documents, before, after = KeptDocuments(), Joined(), Joined()
    before.predicted(100.0, A, "a", 3.0)
    await before.save(documents, 200.0)
    after.predicted(300.0, B, "a", 4.0)
    await after.save(documents, 400.0)
    last = Joined()
    last.measured("a", 1.0)
    await last.save(documents, 500.0)
    assert last.found == [(3.0, 1.0, "1"), (4.0, 1.0, "2")]


async def test_a_prediction_joined_in_memory_also_joins_the_one_that_waits_in_the_database() -> None:
    documents, before, after = KeptDocuments(), Joined(), Joined()
    before.predicted(100.0, A, "a", 3.0)
    await before.save(documents, 200.0)
    after.predicted(300.0, B, "a", 4.0)
    after.measured("a", 1.0)
    await after.save(documents, 301.0)
    assert sorted(after.found) == [(3.0, 1.0, "1"), (4.0, 1.0, "2")]
    assert documents.kept == {}


async def test_a_restart_reads_what_waits_and_asks_the_database_for_its_targets() -> None:
    documents, before, after = KnownTargets({"b": 2.0}), Joined(), Joined()
    for key in "abc":
        before.predicted(10_000.0, A, key, 3.0)
    await before.save(documents, 10_100.0)
    await after.load(documents, 12_000.0, kept=72 * 3600)
    assert after.waiting == 3
    assert await after.ask_targets(documents, 12_000.0) == 1
    assert after.found == [(3.0, 2.0, "1")]
    await after.save(documents, 12_000.0)
    assert sorted(d.key for d in documents.kept.values()) == ["a", "c"]
    await after.delete_old(documents, 20_000.0)
    assert (after.waiting, documents.kept) == (0, {})


async def test_all_that_waits_is_asked_for_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("complex_system.monitoring.joining.ASKED_AT_ONCE", 3)
    join, documents = Joined(), KnownTargets({"h": 1.0})
    for i, key in enumerate("abcdefgh"):
        join.predicted(float(i), A, key, 3.0)
    assert [await join.ask_targets(documents, 100.0) for _ in range(3)] == [0, 0, 1]


async def test_nothing_is_lost_while_the_database_is_away() -> None:
    documents, join = KeptDocuments(), Joined()
    join.predicted(100.0, A, "a", 3.0)
    documents.away = True
    with pytest.raises(StoreUnavailableError):
        await join.save(documents, 200.0)
    documents.away = False
    await join.save(documents, 201.0)
    assert documents.count(WAITING) == 1


async def test_a_truth_that_comes_while_its_prediction_is_written_leaves_nothing_behind() -> None:
    join = Joined()

    class Meanwhile(KeptDocuments):
        async def save(self, documents: Sequence[Document]) -> None:
            await super().save(documents)
            join.measured("a", 1.0)

    documents = Meanwhile()
    join.predicted(100.0, A, "a", 3.0)
    await join.save(documents, 200.0)
    await join.save(KeptDocuments(), 200.0)
    assert join.found == [(3.0, 1.0, "1")]
    assert documents.kept == {}


async def test_a_part_of_the_history_that_no_database_takes_does_not_hold_up_the_rest(
    dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, documents = Monitor(dataset, 100, History()), KeptDocuments()
    keeper = HistoryKeeper(monitor, documents, 72.0)  # type: ignore[arg-type]
    monitor.history.state("services", 1.0, KnownServices())
    await keeper.keep()
    assert documents.kept == {}  # nothing is written before the history was read
    assert await keeper.load()
    assert not await keeper.load()
    monitor.history.state("data", 1.0, DataDrift(source="x" * MAX_BODY_BYTES))
    await keeper.keep()
    assert [d.key for d in documents.kept.values()] == ["services"]
    assert "not kept" in caplog.text
    documents.away = True
    monitor.history.crowned(Champion(model="m", version="1", at=1.0))
    assert await keeper.close(5.0) == "away"
    documents.away = False
    assert await keeper.close(5.0) == ""
    assert documents.count(CHAMPIONS) == 1
