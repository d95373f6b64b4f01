"""The error over a moving window, latencies, points that wait for MLflow, and the host's metrics."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from complex_system.monitoring.performance import MOST_MODELS, ErrorWindow, LatencyWindow, ModelWindows, ServedModel
from complex_system.monitoring.report import PointBuffer
from complex_system.monitoring.system import SystemMetrics


def test_truth_and_prediction_are_joined_in_either_order() -> None:
    window = ErrorWindow(10)
    window.predicted("a", 3.0)
    window.measured("b", 5.0)
    assert window.metrics() == {"count": 0.0}
    assert window.waiting == 2
    window.measured("a", 1.0)
    window.predicted("b", 4.0)
    metrics = window.metrics()
    assert metrics["count"] == 2
    assert metrics["rmse"] == pytest.approx((5 / 2) ** 0.5)
    assert metrics["mae"] == pytest.approx(1.5)
    assert metrics["bias"] == pytest.approx(0.5)
    assert metrics["r2"] == pytest.approx(1 - 5 / 8)
    assert window.waiting == 0


def test_a_truth_that_comes_much_later_still_finds_its_prediction() -> None:
    window = ErrorWindow(5)
    window.predicted("late", 2.0)
    for i in range(5000):
        window.predicted(str(i), 0.0)
    window.measured("late", 1.0)
    assert window.metrics()["bias"] == 1.0


def test_what_waits_is_bounded_and_the_oldest_goes_first() -> None:
    window = ErrorWindow(5, most_waiting=3)
    for key in "abcd":
        window.predicted(key, 1.0)
    assert window.waiting == 3
    window.measured("a", 1.0)
    assert window.metrics()["count"] == 0
    window.measured("b", 1.0)
    assert window.metrics()["count"] == 1


def test_the_window_moves_and_a_truth_counts_once() -> None:
    window = ErrorWindow(2)
    for i, prediction in enumerate((100.0, 1.0, 1.0)):
        window.predicted(str(i), prediction)
        window.measured(str(i), 0.0)
        window.measured(str(i), 0.0)
    assert window.metrics()["rmse"] == 1.0
    assert window.metrics()["count"] == 2


def test_one_pair_has_no_r2_and_what_is_no_number_is_left_out() -> None:
    window = ErrorWindow(2)
    window.predicted("nan", float("nan"))
    window.measured("nan", float("inf"))
    assert window.waiting == 0
    window.predicted("a", 1.0)
    window.measured("a", 1.0)
    assert "r2" not in window.metrics()


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


OLD, NEW = ServedModel("champion", "lab", "1"), ServedModel("champion", "lab", "2")
OTHER = ServedModel("wandb", "net", "a")


def test_models_and_services_are_not_mixed_and_the_one_that_answered_last_counts() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    assert windows.metrics() == {}
    assert windows.predicted(OLD, 5.0, [("a", 10.0), ("b", 10.0)])
    assert windows.predicted(OTHER, 50.0, [("a", 100.0), (None, 1.0)])
    windows.measured("a", 0.0)
    assert windows.metrics()["champion"].performance["rmse"] == 10
    assert windows.metrics()["wandb"].performance["rmse"] == 100
    assert windows.metrics()["wandb"].latency["latency_ms_mean"] == 50
    assert not windows.predicted(OLD, 5.0, [])
    assert windows.predicted(NEW, 7.0, [("c", 1.0)])
    assert windows.metrics()["champion"].served == NEW
    assert windows.metrics()["champion"].performance == {"count": 0.0}
    windows.measured("b", 0.0)  # predicted by the old one
    windows.measured("c", 0.0)
    assert windows.metrics()["champion"].performance["rmse"] == 1
    assert windows.metrics()["champion"].latency["latency_ms_mean"] == 7


def test_a_truth_that_came_first_counts_for_a_model_that_is_new() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    windows.measured("a", 1.0)
    for model in (OLD, OTHER):
        windows.predicted(model, 1.0, [("a", 3.0)])
    assert {metrics.performance["bias"] for metrics in windows.metrics().values()} == {2.0}


def test_only_so_many_models_have_windows() -> None:
    windows = ModelWindows(10, lambda: 0.0)
    windows.predicted(OTHER, 1.0, [])
    for version in range(100):
        windows.predicted(ServedModel("champion", "lab", str(version)), 1.0, [])
    assert set(windows.metrics()) == {"champion"}
    assert len(windows._windows) == MOST_MODELS


def test_points_wait_in_order_up_to_a_bound_and_only_written_ones_go() -> None:
    buffer = PointBuffer(3)
    for i in range(4):
        buffer.add({"i": float(i)}, datetime(2025, 1, 1, 0, 0, i, tzinfo=UTC))
    oldest = buffer.oldest(2)
    assert [point.metrics["i"] for point in oldest] == [1, 2]
    buffer.add({"i": 4.0})  # pushes the point 1 out while it is on its way
    buffer.drop(oldest)
    assert [point.metrics["i"] for point in buffer.oldest(10)] == [3, 4]


def test_the_hosts_metrics_have_mlflows_own_names_and_units() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs: dict[str, float] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics()
    ours = SystemMetrics().read()
    assert set(ours) == {f"system/{name}" for name in theirs}
    for name in ("system_memory_usage_megabytes", "disk_usage_megabytes", "disk_usage_percentage"):
        assert ours[f"system/{name}"] == pytest.approx(theirs[name], rel=0.1)
