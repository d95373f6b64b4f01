"""Live coverage of intervals: the exact test beside SciPy's, few records raise nothing, and the way to the alert and the page."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.alerts.evaluation import AlertRules
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.coverage import LEVEL, MAX_MODELS, Coverage, chance
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.page.formatting import Viewer, number
from complex_system.monitoring.page.reading import PERIODS, Facts, take
from complex_system.monitoring.page.views.predictions import VIEW
from complex_system.monitoring.points import Figures
from complex_system.protocol.serving import PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.training.conformal import intervals_of

NOW = 1_800_000_000.0
SERVED = Served(CHAMPIONS_SERVICE, "lab-lightgbm", "1", origin="live")


@pytest.mark.parametrize("calibrated", [0, 9, 19, 50, 1000])
@pytest.mark.parametrize(("within", "of"), [(0, 1), (0, 50), (30, 50), (44, 50), (50, 50), (420, 500), (10, 500)])
def test_the_probability_is_that_of_scipy(within: int, of: int, calibrated: int) -> None:
    r = math.ceil(LEVEL * (calibrated + 1) - 1e-9)
    oracle = stats.betabinom(of, r, calibrated + 1 - r) if calibrated else stats.binom(of, LEVEL)
    assert chance(within, of, calibrated) == pytest.approx(oracle.cdf(within), rel=1e-6, abs=1e-300)


def told(half_width: float | None, calibrated: int = 0, version: str = "1") -> PredictionMade:
    return PredictionMade(
        service=SERVED.service, model=SERVED.model, version=version, half_width=half_width, calibrated=calibrated
    )


def test_few_records_prove_nothing_on_either_side() -> None:
    coverage = Coverage()
    coverage.told(told(1.0, 1000))
    rule = next(rule for rule in load_rules() if rule.name == "coverage")
    few = coverage.judge(SERVED, np.array([0.5] * 3 + [2.0] * 3), 1.0)
    assert (few["coverage"], few["half_width"]) == (0.5, 1.0)
    assert few["coverage_p"] > rule.threshold
    errors = np.array([0.5] * 75 + [2.0] * 25)
    assert coverage.judge(SERVED, errors, 1.0)["coverage_p"] < rule.threshold
    assert coverage.judge(SERVED, errors, 5.0)["coverage_p"] > rule.threshold, "five that are alike count as one"
    coverage.told(told(1.0, 19))
    assert coverage.judge(SERVED, errors, 1.0)["coverage_p"] > rule.threshold, "19 calibration records leave more open"


def test_a_change_is_found_before_it_fills_the_window_and_good_intervals_are_none() -> None:
    coverage = Coverage()
    coverage.told(told(1.0, 1000))
    errors = np.tile([0.5] * 9 + [2.0], 40)
    assert coverage.judge(SERVED, errors, 1.0)["coverage_p"] > 0.1
    changed = np.concatenate([errors, np.tile([0.5, 2.0], 50)])
    assert coverage.judge(SERVED, changed, 1.0)["coverage_p"] < 1e-10


def test_a_model_without_intervals_has_no_coverage_and_models_are_bounded() -> None:
    coverage = Coverage()
    coverage.told(told(None))
    assert coverage.judge(SERVED, np.ones(10), 1.0) == {}
    for version in range(MAX_MODELS + 1):
        coverage.told(told(1.0, version=str(version)))
    assert coverage.judge(SERVED._replace(version="0"), np.ones(10), 1.0) == {}
    assert coverage.judge(SERVED, np.ones(0), 1.0) == {}
    assert coverage.judge(SERVED, np.ones(10), 1.0)["coverage"] == 1.0


def test_looking_again_and_again_at_good_intervals_hardly_ever_raises_an_alarm() -> None:
    """Windows of 500 of 3,000 pairs, judged every 20, for 60 models that were calibrated with 20 to 300 records."""
    alarms = 0
    for seed in range(60):
        draw, coverage = np.random.default_rng(seed), Coverage()
        calibrated = int(draw.integers(20, 300))
        half = intervals_of(draw.standard_t(4, calibrated), None, "calibration records").half_width(LEVEL)
        coverage.told(told(half, calibrated))
        errors = np.abs(draw.standard_t(4, 3000))
        looks = (coverage.judge(SERVED, errors[max(0, end - 500) : end], 1.0)["coverage_p"] for end in range(50, 3000, 20))
        alarms += any(p < 0.0003 for p in looks)
    assert alarms <= 2


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_from_the_events_to_the_alert_and_the_page(factor: float) -> None:
    dataset, clock = Dataset.load(), [NOW]
    monitor = Monitor(dataset, 200, History(seed=1), now=lambda: clock[0], monotonic=lambda: clock[0])
    monitor.history.loaded = True
    rules = AlertRules(load_rules(), dataset)
    draw, raised = np.random.default_rng(3), []
    for step in range(40):
        clock[0] += 5.0
        keys = [f"{step}-{i}" for i in range(10)]
        predictions = tuple(
            PredictedRecord(id=key, record={"_id": key}, prediction=100.0, distance=2.0 if i == 0 else 0.5)
            for i, key in enumerate(keys)
        )
        monitor.predicted(
            PredictionMade(
                service=SERVED.service,
                model=SERVED.model,
                version="1",
                predictions=predictions,
                half_width=1.645,
                calibrated=500,
                pipeline_version=dataset.version,
            )
        )
        monitor.measured(TruthKnown(truths=tuple(Truth(id=key, truth=100 + factor * draw.normal()) for key in keys)))
        raised += [each.alert for each in rules.evaluate(clock[0], monitor.point(Figures(), None))]
    figures = monitor.figures
    assert figures.number("performance/half_width") == 1.645
    assert figures.number("performance/coverage", SERVED.service) == figures.number("performance/coverage")
    assert figures.number("data/far") == pytest.approx(0.1)
    coverage = figures.number("performance/coverage")
    assert coverage is not None
    shown = str(VIEW.fill(take(monitor, Facts(dataset, version="1"), PERIODS["1h"], clock[0]), Viewer()))
    assert f"{coverage:.1%}" in shown
    assert f"prediction ± {number(1.645)} in " in shown
    assert "Far from the training data" in shown
    assert shown.count("'fill': 'tonexty'") == 2
    if factor == 1.0:
        assert coverage == pytest.approx(0.9, abs=0.06)
        assert not raised
    else:
        [alert] = raised
        assert (alert.rule, alert.severity, alert.retrain) == ("coverage", "warning", False)
        assert alert.sentence.startswith("Only 3")
        assert "lie within the 90 % intervals" in alert.sentence
