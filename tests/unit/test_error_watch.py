"""Live errors beside those of the evaluation that decided: what is surely worse, since when, and what is only an outlier."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest

from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.error_watch import ChangeWatch, ErrorReference, KeptComparison
from complex_system.monitoring.history import Pair
from complex_system.monitoring.performance import ErrorWindow, WindowPair
from complex_system.protocol.scores import Residuals
from complex_system.protocol.training import ScoresWithInterval
from complex_system.training.base import residuals_of
from monitoring_page.messages import compared, comparison

CHAMPION = Served("ml_serving_mlflow", "lab", "1")
Errors = npt.NDArray[np.float64]


def drawn(generator: np.random.Generator, size: int, outliers: float = 0.0) -> Errors:
    """Residuals with a share of decimal slips."""
    errors = generator.standard_normal(size)
    return np.where(generator.random(size) < outliers, 30 * errors, errors)


def reference(residuals: Errors) -> ErrorReference:
    rmse = float(np.sqrt(np.mean(residuals**2)))
    return ErrorReference(rmse=rmse, count=len(residuals), residuals=residuals_of(residuals))


@pytest.mark.parametrize("outliers", [0.0, 0.03])
def test_with_few_holdout_records_a_larger_error_may_be_chance(outliers: float) -> None:
    generator, by_rmse, surely = np.random.default_rng(14), 0, 0
    for _ in range(100):
        found = reference(drawn(generator, 14, outliers)).judge(np.abs(drawn(generator, 100, outliers)))
        by_rmse += found["rmse_relative"] > 1.3
        surely += found["error_ratio_low"] > 1.1
    assert by_rmse >= 10, "by the RMSE alone every tenth is a false alarm"
    assert surely == 0


def test_a_doubled_error_is_sure_after_a_hundred_pairs() -> None:
    """93 labelled records have 14 in the hold-out part, and 93 cross-validated residuals, which decide."""
    generator, found = np.random.default_rng(2), 0
    for _ in range(50):
        judged = reference(drawn(generator, 93)).judge(
            np.abs(np.concatenate([drawn(generator, 400), 2 * drawn(generator, 100)]))
        )
        found += judged["error_ratio_low"] > 1.1
        assert judged["error_ratio_low"] < judged["rmse_relative"] * 1.6
    assert found >= 45


def test_one_decimal_slip_in_five_hundred_is_named_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    generator, window, watch = np.random.default_rng(3), ErrorWindow(500), ChangeWatch()
    for place, error in enumerate(drawn(generator, 500)):
        window.add(WindowPair(100.0, 100.0 + error, float(place), f"key-{place}"))
    by = reference(drawn(generator, 93))
    before = by.judge(window.errors)
    window.add(WindowPair(1000.0, 100.0, 500.0, "slip"))
    after = by.judge(window.errors)
    assert after["rmse_relative"] > 10
    assert after["error_ratio_low"] == pytest.approx(before["error_ratio_low"], rel=0.01)
    with caplog.at_level(logging.WARNING):
        assert [each.key for each in watch.outliers(window, by)] == ["slip"]
        assert [each.key for each in watch.outliers(window, by)] == ["slip"]
    (line,) = caplog.messages
    assert line.startswith("Record slip is an outlier: measured 1000, predicted 100.")


def test_the_time_since_which_the_error_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, window, watch = np.random.default_rng(4), ErrorWindow(500), ChangeWatch()
    watch.prepare()
    by = reference(drawn(generator, 93))

    def joined(begin: int, errors: Errors) -> None:
        for place, error in enumerate(errors, begin):
            pair = Pair(float(place), error, 0.0, CHAMPION, "", f"key-{place}")
            window.add(WindowPair(pair.truth, pair.prediction, pair.at, pair.key))
            watch.joined(pair, by)

    def changed_for(at: float) -> float:
        return watch.changed_for(at, CHAMPION, window, by, by.judge(window.errors)["error_ratio_low"])

    joined(1, drawn(generator, 1000, 0.01))
    assert changed_for(1000) == 0
    joined(1001, 2 * drawn(generator, 80))
    assert not watch.changes, "ADWIN has not noticed it yet, so the place in the window counts"
    assert changed_for(1080) == pytest.approx(80, abs=20)
    joined(1081, 2 * drawn(generator, 320))
    assert [change.rose for change in watch.changes] == [True]
    assert changed_for(1400) == pytest.approx(400, abs=50)
    joined(1401, drawn(generator, 1000))
    assert [change.rose for change in watch.changes] == [True, False]
    assert changed_for(2400) == 0


def test_where_cross_validation_decided_its_residuals_are_the_reference() -> None:
    cv = ScoresWithInterval(rmse=7.0, mae=5.0, r2=0.9)
    model = compared("lab", "1", 3.0, cv=cv, residuals=Residuals(count=93, quantiles=(1.0, 2.0)))
    for ranked_by, rmse in (("cross-validation", 7.0), ("hold-out", 3.0)):
        kept = KeptComparison.of(comparison(model, ranked_by=ranked_by), None)
        found = kept.reference(CHAMPION)
        assert found is not None
        assert (found.rmse, found.count, found.residuals) == (rmse, 93, model.residuals)
        stays = KeptComparison.of(comparison(compared("lab", "1", 30.0)), kept)
        assert stays.reference(CHAMPION) == found, "a champion that stays is judged by what it was crowned with"
        assert stays.holdout_rmse(CHAMPION) == 3.0


def test_a_comparison_of_an_earlier_release_has_its_rmse_and_the_holdout_size() -> None:
    kept = KeptComparison.of(comparison(compared("lab", "1", 1.0), holdout=14), None)
    found = kept.reference(CHAMPION)
    assert found is not None
    live = np.abs(np.random.default_rng(5).standard_normal(200))
    assert found.judge(1.3 * live)["error_ratio_low"] < 1.0 < found.judge(1.3 * live)["error_ratio"]
    many = KeptComparison.of(comparison(compared("lab", "1", 1.0), holdout=5000), None).reference(CHAMPION)
    assert many is not None
    assert many.judge(2 * live)["error_ratio_low"] > 1.3


def test_errors_of_zero_are_like_errors_of_zero() -> None:
    """Whole grades, mostly predicted exactly."""
    generator = np.random.default_rng(6)
    grades = reference(generator.choice([0.0, 0.0, 0.0, 1.0], 60))
    assert grades.judge(generator.choice([0.0, 0.0, 0.0, 1.0], 300))["error_ratio_low"] < 1
    assert grades.judge(np.ones(300))["error_ratio_low"] > 1
    assert reference(np.zeros(20)).judge(np.zeros(100))["error_ratio_low"] < 1


def test_errors_of_a_group_that_are_alike_count_as_fewer() -> None:
    generator = np.random.default_rng(7)
    groups = [f"batch {place // 8}" for place in range(400)]
    batches = np.repeat(generator.exponential(1.0, 50), 8)
    assert residuals_of(generator.standard_normal(400), groups).alike == pytest.approx(1.0, abs=0.3)
    assert residuals_of(batches, groups).alike == pytest.approx(8.0, abs=0.1)
    assert residuals_of(batches * generator.standard_normal(400), groups).alike > 1.5
    assert residuals_of(batches, [str(place) for place in range(400)]).alike == 1.0


def test_one_error_of_a_model_of_an_earlier_release_proves_nothing_and_can_be_judged() -> None:
    window, watch, by = ErrorWindow(500), ChangeWatch(), ErrorReference(rmse=1.0, count=14)
    for place in range(3):
        window.add(WindowPair(0.0, 9.0, float(place), f"key-{place}"))
        low = by.judge(window.errors)["error_ratio_low"]
        assert low < 2.0, "seen: 9, because a single error does not vary"
        assert watch.changed_for(10.0, CHAMPION, window, by, 9.0) <= 10.0
    for place in range(3, 60):
        window.add(WindowPair(0.0, 9.0, float(place), f"key-{place}"))
    assert by.judge(window.errors)["error_ratio_low"] > 3


class Joined:
    """A champion whose pairs come one a second."""

    def __init__(self) -> None:
        self.generator, self.watch, self.window = np.random.default_rng(4), ChangeWatch(), ErrorWindow(500)
        self.watch.prepare()
        self.by = reference(drawn(self.generator, 93))
        self.at = 0.0

    def joined(self, pairs: int, times: float = 1.0) -> None:
        for error in times * drawn(self.generator, pairs):
            self.at += 1.0
            pair = Pair(self.at, float(error), 0.0, CHAMPION, "", f"key-{self.at:.0f}")
            self.window.add(WindowPair(pair.truth, pair.prediction, pair.at, pair.key))
            self.watch.joined(pair, self.by)

    def changed_for(self) -> float:
        low = self.by.judge(self.window.errors)["error_ratio_low"]
        return self.watch.changed_for(self.at, CHAMPION, self.window, self.by, low)


def test_a_change_that_fills_the_window_began_before_it() -> None:
    """Seen: 12 to 497 s, by chance, for a change of half an hour ago."""
    plant = Joined()
    plant.joined(1000)
    for _ in range(4):
        plant.joined(500, 2.0)
        assert plant.changed_for() == pytest.approx(plant.at - 1000, abs=30)
    plant.joined(300, 6.0)  # and again, before ADWIN's place of it is known
    assert plant.changed_for() > 250


def test_the_end_of_a_change_is_noticed_by_the_next_process_too() -> None:
    plant = Joined()
    plant.joined(1000)
    plant.joined(600, 2.0)
    restarted = ChangeWatch()
    restarted.prepare()
    restarted.changes = plant.watch.changes
    comparison_of = comparison(compared("lab", "1", 1.0, residuals=plant.by.residuals))
    restarted.replay([(CHAMPION, plant.window.pairs)], KeptComparison.of(comparison_of, None))
    plant.watch = restarted
    assert plant.changed_for() == pytest.approx(600, abs=30)
    plant.joined(1000)
    assert [change.rose for change in restarted.changes] == [True, False]
    assert plant.changed_for() == 0, "seen: it went on for ever"


@pytest.mark.parametrize("known", [True, False])
def test_the_estimate_is_of_the_pairs_that_the_bound_is_of(known: bool) -> None:
    """Seen: "1.2 times as wrong, and surely 2 times", for the estimate was of the whole window."""
    generator = np.random.default_rng(8)
    by = reference(drawn(generator, 300))
    if not known:
        by = ErrorReference(rmse=by.rmse, count=by.count)
    found = by.judge(np.abs(np.concatenate([drawn(generator, 450), 4 * drawn(generator, 50)])))
    assert 1.5 < found["error_ratio_low"] < found["error_ratio"]
    assert found["error_ratio"] == pytest.approx(4.0, rel=0.3)
    calm = by.judge(np.abs(drawn(generator, 500)))
    assert calm["error_ratio_low"] < 1.0 < 1.2 * calm["error_ratio"]
