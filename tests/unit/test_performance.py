"""The error over a moving window, latencies, points that wait for MLflow, and the host's metrics."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.history import Pair
from complex_system.monitoring.mlflow_log import PointBuffer
from complex_system.monitoring.performance import (
    LIVE_FOR,
    MAX_MODELS,
    MIN_LIVE_PAIRS,
    ErrorWindow,
    KeptWindows,
    LatencyWindow,
    ModelWindows,
    WindowPair,
)
from complex_system.monitoring.points import Figures
from complex_system.monitoring.services import Host
from complex_system.protocol.base import to_wire


def test_the_window_scores_its_newest_pairs() -> None:
    window = ErrorWindow(2)
    assert window.metrics() == {"count": 0.0}
    window.add(WindowPair(100.0, 0.0))
    assert "r2" not in window.metrics()
    window.add(WindowPair(1.0, 3.0))
    window.add(WindowPair(5.0, 4.0))
    metrics = window.metrics()
    assert metrics["count"] == 2
    assert metrics["rmse"] == pytest.approx((5 / 2) ** 0.5)
    assert metrics["mae"] == pytest.approx(1.5)
    assert metrics["bias"] == pytest.approx(0.5)
    assert metrics["r2"] == pytest.approx(1 - 5 / 8)


def test_a_record_that_is_drawn_again_counts_once() -> None:
    window = ErrorWindow(3)
    assert [window.add(WindowPair(1.0, 2.0, 0.0, key)) for key in "aba"] == [True, True, False]
    assert window.metrics()["count"] == 2
    assert not window.add(WindowPair(5.0, 2.0, 9.0, "b")), "predicted again, with a corrected truth: the newer figures count"
    assert window.metrics()["bias"] == pytest.approx(-1.0)
    assert all(window.add(WindowPair(1.0, 2.0, 0.0, key)) for key in "cda")


def test_latencies_and_the_rate_since_the_last_look() -> None:
    now = 100.0
    window = LatencyWindow(100, lambda: now)
    assert window.metrics() == {}
    for milliseconds in range(1, 101):
        window.answered(float(milliseconds), 2)
    now = 110.0
    metrics = window.metrics()
    assert metrics["predictions_per_second"] == 20
    assert metrics["latency_ms_mean"] == 50.5
    assert metrics["latency_ms_p95"] == pytest.approx(95.05)
    assert metrics["latency_ms_p99"] == pytest.approx(99.01)
    now = 111.0
    assert window.metrics()["predictions_per_second"] == 0


OLD, NEW = Served("champion", "lab", "1"), Served("champion", "lab", "2")
OTHER = Served("wandb", "net", "a")
SHADOW = Served("champion", "challenger", "1", True)


def pair(served: Served, prediction: float, truth: float = 0.0) -> Pair:
    return Pair(1.0, prediction, truth, served, "")


def test_models_and_services_are_not_mixed_and_the_one_that_answered_last_counts() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    assert windows.metrics() == {}
    assert windows.answered(OLD, 5.0, 2)
    assert windows.answered(OTHER, 50.0, 2)
    windows.joined(pair(OLD, 10.0))
    windows.joined(pair(OTHER, 100.0))
    assert windows.metrics()["champion"].performance["rmse"] == 10
    assert windows.metrics()["wandb"].performance["rmse"] == 100
    assert windows.metrics()["wandb"].latency["latency_ms_mean"] == 50
    assert not windows.answered(OLD, 5.0, 0)
    assert windows.answered(NEW, 7.0, 1)
    assert windows.metrics()["champion"].served == NEW
    assert windows.metrics()["champion"].performance == {"count": 0.0}
    windows.joined(pair(OLD, 10.0))  # predicted by the old one
    windows.joined(pair(NEW, 1.0))
    assert windows.metrics()["champion"].performance["rmse"] == 1
    assert windows.metrics()["champion"].latency["latency_ms_p50"] == 7


def test_a_challenger_stands_beside_the_champion_and_is_no_change_of_model() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    windows.answered(OLD, 5.0, 1)
    assert not windows.answered(SHADOW, 9.0, 1)
    assert not windows.answered(OLD, 5.0, 1)
    windows.joined(pair(SHADOW, 3.0))
    assert windows.metrics()["champion"].served == OLD
    (shadow,) = windows.shadows()
    assert (shadow.served, shadow.performance["bias"]) == (SHADOW, 3.0)


def test_several_challengers_are_read_newest_first_and_looking_changes_nothing() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    windows.answered(OLD, 5.0, 1)
    others = [SHADOW._replace(model=name) for name in ("a", "b", "c")]
    for other in others:
        windows.answered(other, 9.0, 1)
    for _ in range(2):
        assert [each.served for each in windows.shadows()] == others[::-1]
        assert windows.metrics()["champion"].served == OLD


def test_windows_outlive_a_restart_and_go_on_before_what_has_come_since() -> None:
    windows = ModelWindows(3, lambda: 0.0)
    windows.answered(OLD, 5.0, 1)
    for prediction in (1.0, 2.0):
        windows.joined(pair(OLD, prediction))
    kept = msgspec.convert(json.loads(json.dumps(to_wire(windows.kept()))), KeptWindows)
    restarted = ModelWindows(3, lambda: 0.0)
    restarted.joined(pair(OLD, 6.0))
    restarted.restore(kept)
    assert restarted.metrics()["champion"].performance["bias"] == pytest.approx(3.0)
    restarted.joined(pair(OLD, 7.0))
    assert restarted.metrics()["champion"].performance["bias"] == pytest.approx(5.0)


def test_clients_predictions_stand_for_the_model_where_there_are_enough_and_not_for_ever() -> None:
    now = 0.0
    windows = ModelWindows(500, lambda: now)
    live, own = OLD._replace(origin="live"), OLD._replace(origin="own")
    assert windows.answered(own, 5.0, 1)
    assert not windows.answered(live, 5.0, 1)  # the same model
    for _ in range(200):
        windows.joined(pair(own, 9.0))
    for _ in range(MIN_LIVE_PAIRS - 1):
        windows.joined(pair(live, 2.0))
    few = windows.metrics()["champion"]
    assert (few.served, few.performance["rmse"], few.performance["count"]) == (own, 9, 200)
    assert few.by_origin["live"]["count"] == MIN_LIVE_PAIRS - 1
    windows.joined(pair(live, 2.0))
    enough = windows.metrics()["champion"]
    assert (enough.served, enough.performance["rmse"], enough.performance["count"]) == (live, 2, MIN_LIVE_PAIRS)
    assert enough.by_origin["own"]["rmse"] == 9
    restarted = ModelWindows(500, lambda: now)
    restarted.restore(msgspec.convert(json.loads(json.dumps(to_wire(windows.kept()))), KeptWindows))
    assert restarted.metrics()["champion"].by_origin == enough.by_origin
    now = LIVE_FOR + 1.0
    assert windows.metrics()["champion"].served == own


def test_windows_of_an_earlier_release_did_not_tell_origins_apart() -> None:
    kept = msgspec.convert(
        {"newest": [["champion", "lab", "1", False]], "pairs": [[["champion", "lab", "1", False], [[1, 3]]]]}, KeptWindows
    )
    windows = ModelWindows(3, lambda: 0.0)
    windows.restore(kept)
    assert windows.metrics()["champion"].by_origin == {"": windows.metrics()["champion"].performance}


def test_only_so_many_models_have_windows() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    windows.answered(OTHER, 1.0, 0)
    for version in range(100):
        windows.answered(Served("champion", "lab", str(version)), 1.0, 0)
    assert set(windows.metrics()) == {"champion"}
    assert len(windows._windows) == MAX_MODELS


def test_points_wait_in_order_up_to_a_bound_and_only_written_ones_go() -> None:
    buffer = PointBuffer(3)
    for i in range(4):
        buffer.add(Figures.of_flat({"i": float(i)}), datetime(2025, 1, 1, 0, 0, i, tzinfo=UTC))
    oldest = buffer.oldest(2)
    assert [point.figures.number("i") for point in oldest] == [1, 2]
    buffer.add(Figures.of_flat({"i": 4.0}))  # pushes the point 1 out while it is on its way
    buffer.drop(oldest)
    assert [point.figures.number("i") for point in buffer.oldest(10)] == [3, 4]


def test_the_hosts_metrics_have_mlflows_own_names_and_units() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs: dict[str, float] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics()
    ours = Host().figures().flat()
    assert set(ours) == {f"system/{name}" for name in theirs}
    for name in ("system_memory_usage_megabytes", "disk_usage_megabytes", "disk_usage_percentage"):
        assert ours[f"system/{name}"] == pytest.approx(theirs[name], rel=0.1)
