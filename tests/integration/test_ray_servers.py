"""The Ray cluster of ``fiot run --cluster``: who reaches it, what it computes, and that it ends as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from complex_system.local.servers.ray import RayHead, RayNode, ray_cluster
from ray_nodes import wait_for

DRIVER = """
import logging, os, sys
from complex_system.training.cluster import ClusterParameters, connected
with connected(ClusterParameters(os.environ["COMPLEX_SYSTEM_RAY_ADDRESS"])) as ray:
    @ray.remote(num_cpus=1)
    def place():
        return os.getpid(), ray.util.get_node_ip_address()
    print(*ray.get(place.remote(), timeout=120))
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayHead, tuple[RayNode, ...]]]:
    """A head and a worker."""
    folder = tmp_path_factory.mktemp("ray")
    head, nodes = ray_cluster(folder, folder / "logs", 1)
    with ExitStack() as stopping:
        for node in nodes:
            stopping.callback(node.stop)
            node.start()
            node.wait_ready()
        yield head, nodes


def _processes(nodes: tuple[RayNode, ...]) -> list[psutil.Process]:
    groups = {node.child.pid for node in nodes if node.child}
    return [each for each in psutil.process_iter() if _group(each) in groups]


def _group(process: psutil.Process) -> int:
    """The process group; 0 of one that has ended: other processes of the machine do so at any moment."""
    try:
        return 0 if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0


def _listening(nodes: tuple[RayNode, ...]) -> set[tuple[str, str]]:
    """Addresses on which processes of the nodes listen, with the processes' names."""
    found = set()
    for process in _processes(nodes):
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections("tcp")
            found |= {(each.laddr.ip, process.name()) for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def _drive(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_cluster_computes_on_loopback_for_whoever_has_the_token_and_ends_as_a_whole(
    nodes: tuple[RayHead, tuple[RayNode, ...]],
) -> None:
    head, both = nodes
    given = head.trainer_environment(1)
    done = _drive(given)
    assert done.returncode == 0, done.stderr[-2000:]
    pid, address = done.stdout.split()
    assert int(pid) != os.getpid()
    assert address == "127.0.0.1"

    listening = _listening(both)
    assert len(listening) > 3
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}, listening

    refused = _drive({**given, "RAY_AUTH_TOKEN": "k" + "0" * 48})
    assert refused.returncode != 0
    assert refused.stdout == ""

    for node in both:
        assert given["RAY_AUTH_TOKEN"] not in node.log_file.read_text()
        node.stop()
    wait_for(lambda: not _processes(both))  # what was killed is gone a moment later
    assert not any(path.is_socket() for path in Path(head.directory.parent).rglob("*") if not path.is_symlink())
