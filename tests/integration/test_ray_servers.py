"""The Ray cluster of ``fiot run --cluster``: who reaches it, what it computes, and that it ends as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from complex_system.local.servers.ray import RayHead, RayNode, ray_cluster

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
    return [each for each in psutil.process_iter() if each.status() != psutil.STATUS_ZOMBIE and _group(each) in groups]


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


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

    listening = {
        (each.laddr.ip, process.name())
        for process in _processes(both)
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 3
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}, listening

    refused = _drive({**given, "RAY_AUTH_TOKEN": "k" + "0" * 48})
    assert refused.returncode != 0
    assert refused.stdout == ""

    for node in both:
        assert given["RAY_AUTH_TOKEN"] not in node.log_file.read_text()
        node.stop()
    assert _processes(both) == []
    assert not any(path.is_socket() for path in Path(head.directory.parent).rglob("*") if not path.is_symlink())
