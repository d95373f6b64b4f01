"""The search for LightGBM's parameters, with losses that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from complex_system.training import lightgbm_search
from complex_system.training.executor import Look, Sequential, Tasks, never
from complex_system.training.lightgbm_search import Found, Settings, search


class Losses:
    """Losses by a rule; notes what is asked for."""

    def __init__(self, rule: Callable[[Settings, int], float]) -> None:
        self.rule = rule
        self.asked: list[tuple[Settings, int]] = []

    def __call__(self, item: tuple[Settings, int], check: Look) -> list[float]:
        settings, fold = item
        check()
        self.asked.append((settings, fold))
        return [2.0 * 10.0**fold, self.rule(settings, fold)]


def _by_leaf(settings: Settings, fold: int) -> float:
    """The smaller the leaves, the better; folds differ by factors, which must not matter."""
    return (0.5 + float(settings.get("min_data_in_leaf", 20)) / 20) * 10.0**fold


def test_the_defaults_come_first_and_the_best_settings_are_found() -> None:
    losses = Losses(_by_leaf)
    found = search(losses, 5, 400, 25, 60.0, 1)
    assert losses.asked[:5] == [({}, fold) for fold in range(5)]
    assert found.trials == 25
    assert found.in_time
    assert int(found.settings["min_data_in_leaf"]) <= 4
    assert found.gain == pytest.approx(_by_leaf(found.settings, 0) / 1.5)
    assert found.logged == {"search_trials": 25, "search_complete": True, "search_loss_ratio": round(found.gain, 4)}


def test_what_is_worse_than_the_median_is_given_up_after_a_fold() -> None:
    losses = Losses(lambda settings, fold: 1.0 + 0.01 * len(losses.asked))  # each trial is worse than those before
    search(losses, 5, 400, 12, 60.0, 1)
    assert [fold for _, fold in losses.asked] == [*5 * [0, 1, 2, 3, 4], *7 * [0]]


def test_the_same_seed_proposes_the_same() -> None:
    first, again, other = (Losses(_by_leaf) for _ in range(3))
    for losses, seed in ((first, 1), (again, 1), (other, 2)):
        search(losses, 2, 400, 15, 60.0, seed)
    assert first.asked == again.asked != other.asked


def test_the_defaults_stay_where_nothing_is_better() -> None:
    assert search(Losses(lambda settings, fold: 1.1 if settings else 1.0), 5, 400, 10, 60.0, 1) == Found({}, 2 / 400, 10)


def test_settings_are_judged_by_one_number_of_rounds_for_all_folds() -> None:
    def curves(item: tuple[Settings, int], check: Look) -> list[float]:
        settings, fold = item
        # The others reach less, but each fold elsewhere; one ends early.
        return [1.0, *([0.3, 0.9] if fold else [0.9, 0.3, 0.9])] if settings else [1.0, 0.7, 0.5]

    found = search(curves, 2, 400, 6, 60.0, 1)
    assert found == Found({}, 3 / 400, 6)  # (0.9 + 0.3) / 2 = 0.6 is more than 0.5


def test_a_search_without_time_keeps_the_defaults_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = search(Losses(_by_leaf), 5, 400, 10, 0.0, 1)
    assert found == Found(in_time=False)
    assert "ended after 0 of 10 trials" in caplog.text


def test_the_time_of_a_search_begins_when_its_cluster_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(lightgbm_search.time, "monotonic", lambda: now[0])

    class Connecting(Sequential):
        @contextmanager
        def tasks(self, function: Callable[[Any, Look], Any], look: Look = never) -> Iterator[Tasks[Any, Any]]:
            now[0] += 60.0
            with super().tasks(function, look) as run:
                yield run

    assert search(Losses(_by_leaf), 2, 400, 3, 20.0, 1, executor=Connecting()).in_time


def test_a_loss_of_nothing_is_no_division_by_zero() -> None:
    assert search(Losses(lambda settings, fold: 0.0), 2, 400, 8, 60.0, 1).settings == {}
