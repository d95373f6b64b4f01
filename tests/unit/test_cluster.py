"""The connection to a Ray cluster: what is said where there is none. Clusters themselves are in tests/integration/test_cluster.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from complex_system.errors import ClusterUnavailableError
from complex_system.settings import Settings
from complex_system.training import cluster
from complex_system.training.cluster import ClusterParameters, connected
from complex_system.training.distributed import _Desk


def test_without_an_address_there_is_no_cluster() -> None:
    assert not ClusterParameters.of(Settings()).is_set


def test_a_worker_asks_for_what_is_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ClusterParameters.of(Settings()).resources == {"CPU": 1.0}
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_CPUS", "2")
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_GPUS", "0.5")
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_MEMORY", "1000000")
    cluster = ClusterParameters.of(Settings())
    assert cluster.resources == {"CPU": 2.0, "GPU": 0.5, "memory": 1_000_000.0}


@pytest.mark.parametrize(
    ("address", "message"),
    [("auto", "host:port of the cluster's head is expected"), ("127.0.0.1:1", "Nothing answers at 127.0.0.1:1")],
)
def test_an_address_that_leads_nowhere_is_an_error_that_names_the_setting(address: str, message: str) -> None:
    with pytest.raises(ClusterUnavailableError, match=message) as caught, connected(ClusterParameters(address), patience=0):
        pass
    assert "COMPLEX_SYSTEM_RAY_ADDRESS" in str(caught.value)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterUnavailableError, match=r"complex_system.*whl\[cluster\]"),
        connected(ClusterParameters("127.0.0.1:1")),
    ):
        pass


def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, complex_system.training.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_search_and_a_cross_validation_in_the_service_import_nothing_of_ray() -> None:
    code = """
import sys
import numpy as np
import complex_system.service_layer.training.service
from complex_system.training.base import TrainingParameters
from complex_system.training.cross_validation import Keyed, TrainerFit, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
x = np.random.default_rng(1).normal(size=(120, 2)).astype(np.float32)
samples = Samples(x, x[:, 0])
data = TrainingData(("a", "b"), "y", samples, samples)
trainer = LightGBMTrainer(TrainingParameters(boosting_rounds=3, lightgbm_trials=2)).tuned(data, None)
out_of_fold(TrainerFit.of(trainer, data), Keyed(tuple(f"key {i}" for i in range(120)), samples))
sys.exit(any(name.partition(".")[0] == "ray" for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_head_that_has_ended_is_lost_also_when_another_one_is_started_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_HEAD_PAUSE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watch = cluster.HeadWatch(ClusterParameters(address=address))
        watch.look()
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_a_time_in_which_nobody_looked_is_not_one_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now)
    monkeypatch.setattr(cluster, "_wait_for", _times_out)
    watch = cluster.HeadWatch(ClusterParameters(address="head:6379"))
    now += 100.0
    watch.look()
    now += 2.0
    watch.look()
    now += 24.0
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_a_head_that_was_replaced_while_nobody_looked_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now)
    monkeypatch.setattr(cluster, "_wait_for", lambda address, patience: None)
    watch = cluster.HeadWatch(ClusterParameters(address="head:6379"), lambda: False)
    now += 2.0
    watch.look()
    now += 100.0
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_waiting_for_a_cluster_ends_with_the_training() -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), connected(ClusterParameters("127.0.0.1:1"), look=look):
        pass


async def test_calls_of_workers_that_were_lost_end_when_those_that_replace_them_call() -> None:
    desk = _Desk()
    lost = [asyncio.create_task(desk.gather("first", 1, index, 3, index)) for index in (0, 1)]
    await asyncio.sleep(0)
    found = await asyncio.gather(*(desk.gather("second", 1, index, 3, index) for index in range(3)))
    assert found == [[0, 1, 2]] * 3
    assert await asyncio.wait_for(asyncio.gather(*lost), 60) == [None, None]


def _times_out(address: str, patience: float) -> None:
    raise ClusterUnavailableError("Nothing answers") from TimeoutError()
