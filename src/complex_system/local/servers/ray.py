"""A Ray cluster on this machine, for ``fiot run --cluster``: a head without CPUs of its own, and workers with one each."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from complex_system.errors import StartError, how_to_install
from complex_system.local.servers.base import HOST, Server, free_port, program, reachable

_OBJECT_STORE = 512 * 1024 * 1024
"""Bytes of shared memory that a node may use; it is taken when objects come, and beyond it Ray writes them to the disk."""
_LONGEST = 107 - len("/session_2026-11-30_12-00-00_000000_4194304/sockets/plasma_store.1")
"""Length of a node's folder beyond which its sockets have longer names than Linux allows."""


class RayNode(Server):
    """``ray start``: the processes of one node, which listen on 127.0.0.1 only and ask for a token."""

    scheme = "ray"
    host_variable, port_variable, default_port = "", "", 0
    patience = 120.0

    def __init__(self, directory: Path, log_dir: Path, port: int) -> None:
        """Prepare a node.

        Args:
            directory: Its folder.
            log_dir: Folder of its log file.
            port: Where its node manager listens, or the head for nodes and drivers.
        """
        super().__init__(directory, log_dir, port)
        self._folder = self.directory if len(str(self.directory)) <= _LONGEST else _link(self.directory)

    @property
    def url(self) -> str:
        """Host and port, as Ray writes addresses."""
        return f"{HOST}:{self.port}"

    @override
    def environment(self) -> dict[str, str]:
        return {}

    @override
    def prepare(self) -> None:
        if self._folder != self.directory:
            with suppress(FileNotFoundError):
                self._folder.unlink()
            self._folder.symlink_to(self.directory)
        latest = self.directory / "session_latest"
        newest = latest.readlink().name if latest.is_symlink() else ""
        for old in self.directory.glob("session_2*"):
            if old.name != newest:
                shutil.rmtree(old, ignore_errors=True)

    @override
    def stop(self) -> None:
        super().stop()
        for sockets in self.directory.glob("session_2*/sockets"):
            shutil.rmtree(sockets, ignore_errors=True)
        if self._folder != self.directory:
            with suppress(OSError):
                self._folder.unlink()

    def _start(self, *options: str) -> list[str]:
        found = program("ray")
        if found is None:
            raise StartError(f"Ray is missing: {how_to_install('cluster')}.")
        # Its workers take any ports: the range that Ray prefers is the same for every node, and these share a machine.
        common = {
            "node-ip-address": HOST,
            "num-gpus": "0",
            "object-store-memory": str(_OBJECT_STORE),
            "temp-dir": str(self._folder),
            "min-worker-port": "0",
            "max-worker-port": "0",
            "dashboard-agent-listen-port": str(free_port()),
        }
        return [found, "start", *options, *(f"--{name}={value}" for name, value in common.items()), "--block"]


class RayHead(RayNode):
    """The node that the others and the trainers find each other by."""

    name = "ray"
    after = "mlflow"  # whose start takes longest, and before which nothing is trained

    def __init__(self, directory: Path, log_dir: Path) -> None:
        """Prepare the head, on any free ports."""
        super().__init__(directory, log_dir, 0)
        self._node_port = free_port()

    @override
    def command(self) -> list[str]:
        ports = (f"--port={self.port}", f"--node-manager-port={self._node_port}")
        return self._start("--head", *ports, "--num-cpus=0", "--include-dashboard=false")

    @override
    def secrets(self) -> dict[str, str]:
        return {**self.token, "RAY_START_HOOK": f"{__name__}.prepare_node"}

    @override
    def is_ready(self) -> bool:
        return super().is_ready() and reachable(HOST, self._node_port)

    @property
    def token(self) -> dict[str, str]:
        """The variables that let nodes and drivers in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.password, "RAY_USAGE_STATS_ENABLED": "0"}

    def trainer_environment(self, workers: int) -> dict[str, str]:
        """Return the variables that make a trainer use the cluster."""
        return {
            "COMPLEX_SYSTEM_RAY_ADDRESS": f"{HOST}:{self.port}",
            "COMPLEX_SYSTEM_RAY_WORKERS": str(workers),
            # Otherwise Ray takes 127.0.0.1 for the machine's address on the network, on Linux only.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **self.token,
        }


class RayWorker(RayNode):
    """A node with one CPU that trains."""

    def __init__(self, directory: Path, log_dir: Path, *, head: RayHead, number: int) -> None:
        """Prepare worker ``number`` of a cluster, on a free port."""
        self.name = f"{head.name}-{number}"
        super().__init__(directory, log_dir, 0)
        self._head = head
        # One after the other: a node whose processes start too slowly gives up, and many starts at the same time are slow.
        self.after = head.name if number == 1 else f"{head.name}-{number - 1}"

    @override
    def command(self) -> list[str]:
        return self._start(f"--address={self._head.url}", f"--node-manager-port={self.port}", "--num-cpus=1")

    @override
    def secrets(self) -> dict[str, str]:
        return self._head.secrets()


def ray_cluster(directory: Path, log_dir: Path, workers: int) -> tuple[RayHead, tuple[RayNode, ...]]:
    """Return the head, and all nodes of a cluster whose folders are in a directory."""
    head = RayHead(directory / "ray", log_dir)
    numbers = range(1, workers + 1)
    return head, (head, *(RayWorker(directory / f"ray-{each}", log_dir, head=head, number=each) for each in numbers))


def prepare_node(parameters: Any, head: bool) -> None:
    """Make a node small and private; ``ray start`` calls what ``RAY_START_HOOK`` names before it starts anything.

    On Linux Ray would take the machine's address on the network where 127.0.0.1 is asked for, and listen there. And it would start
    what belongs to the dashboard wherever its packages happen to be installed.
    """
    from ray._private import services, utils

    services.resolve_ip_for_localhost = lambda host: host
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")
    parameters.node_ip_address = HOST
    parameters.ray_client_server_port = None  # for drivers outside of the cluster, of which there are none


def _link(directory: Path) -> Path:
    """Return where a link with a short name leads to the folder; the name is the same in every run."""
    digest = hashlib.sha256(str(directory).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"ray-{os.geteuid()}-{digest}"
