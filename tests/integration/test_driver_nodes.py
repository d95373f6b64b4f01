"""Trainers beside a Ray cluster: each has a node of its own, which ends with it however it ends, and a new head is connected to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from complex_system.local.servers.ray import RayNode, ray_cluster
from ray_nodes import ray_nodes, wait_for
from runs import lives

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ELSEWHERE = """
import os, sys
from complex_system.training import cluster
cluster._is_here = lambda address: False
with cluster.connected(cluster.ClusterParameters(os.environ["COMPLEX_SYSTEM_RAY_ADDRESS"])) as ray:
    here = ray.get_runtime_context().get_node_id()
    print(next(node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here), flush=True)
    sys.stdin.readline()
    print(ray.get(ray.remote(num_cpus=1)(lambda: os.getpid()).remote(), timeout=120), flush=True)
"""
TWICE = """
import os, sys
from complex_system.training.cluster import ClusterParameters, RayExecutor
from complex_system.training.executor import never
def squared(item, look):
    return item**2
executor = RayExecutor(ClusterParameters(os.environ["COMPLEX_SYSTEM_RAY_ADDRESS"]), never)
for _ in range(2):
    with executor.tasks(squared) as run:
        print(*run(range(3), never), flush=True)
    sys.stdin.readline()
executor.close()
"""

Drive = Callable[[str, dict[str, str]], "subprocess.Popen[str]"]


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Start drivers; what is left of them ends with the test."""
    with ExitStack() as ending:

        def start(program: str, environment: dict[str, str]) -> subprocess.Popen[str]:
            driver = subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            ending.enter_context(driver)
            ending.callback(driver.kill)
            return driver

        yield start


def begin(node: RayNode) -> None:
    node.start()
    node.wait_ready()


def line(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def tell(driver: subprocess.Popen[str]) -> None:
    assert driver.stdin is not None
    driver.stdin.write("\n")
    driver.stdin.flush()


def test_trainers_of_one_machine_have_nodes_of_their_own_that_end_with_them_also_when_they_are_killed(drive: Drive) -> None:
    with ray_nodes() as nodes:
        nodes.use(1)
        address = {"COMPLEX_SYSTEM_RAY_ADDRESS": nodes.parameters.address}
        first, second = drive(ELSEWHERE, address), drive(ELSEWHERE, address)
        folders = [Path(line(each)).parents[2] for each in (first, second)]
        assert len({*folders, Path(nodes.cluster.head_node.get_temp_dir_path())}) == 3
        node = psutil.Process(first.pid).children(recursive=True)
        assert len(node) > 1
        first.kill()
        wait_for(lambda: not any(map(lives, node)))
        wait_for(lambda: not folders[0].exists())
        tell(second)
        assert line(second).isdecimal()  # its own node is still there
        assert second.wait(60) == 0
        assert not folders[1].exists()


def test_tasks_after_the_head_was_replaced_run_on_the_new_one(drive: Drive, tmp_path: Path) -> None:
    head, nodes = ray_cluster(tmp_path, tmp_path / "logs", 1)
    with ExitStack() as stopping:
        for node in nodes:
            stopping.callback(node.stop)
            begin(node)
        driver = drive(TWICE, head.trainer_environment(1))
        assert line(driver) == "0 1 4"
        for node in nodes:
            node.stop()
        for node in nodes:
            begin(node)
        tell(driver)
        assert line(driver) == "0 1 4"
        tell(driver)
        assert driver.wait(60) == 0
