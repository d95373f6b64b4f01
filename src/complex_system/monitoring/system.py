"""What the host is doing, by psutil, under the names that MLflow gives its own system metrics."""

from __future__ import annotations

import os

import psutil

_MEGABYTE = 1e6


class SystemMetrics:
    """Reads the metrics of the host.

    MLflow's own monitor (``mlflow.system_metrics``) ends for good at the first request that MLflow does not answer, and its
    points cannot be kept until MLflow is back; so the host is read here, under MLflow's names and in its units.
    """

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only sets the beginning of the next one's interval
        network = psutil.net_io_counters()
        self._received, self._sent = network.bytes_recv, network.bytes_sent

    def read(self) -> dict[str, float]:
        """The metrics of this moment; CPU is the mean since the last call, network traffic the sum since the start."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(os.sep)
        network = psutil.net_io_counters()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system/system_memory_usage_percentage": memory.used / memory.total * 100,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_usage_megabytes": disk.used / _MEGABYTE,
            "system/disk_available_megabytes": disk.free / _MEGABYTE,
            "system/network_receive_megabytes": (network.bytes_recv - self._received) / _MEGABYTE,
            "system/network_transmit_megabytes": (network.bytes_sent - self._sent) / _MEGABYTE,
        }
