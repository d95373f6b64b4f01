"""The Ray cluster that trains, where one is set. The only module that imports ``ray``, when the cluster is first needed.

Ray's client is one per process: :func:`connected` is entered by one training at a time. What runs on the cluster ends with the
connection, so a training that is cancelled, or whose service stops, leaves nothing there.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from complex_system.errors import ClusterUnavailableError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
"""How long the head may take to accept a connection: after that Ray itself would wait for minutes, or end the process."""


@dataclass(frozen=True)
class ClusterParameters:
    """Where the cluster is, and what one worker of it gets. ``memory`` is in bytes, 0 for no reservation."""

    address: str = ""
    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    @classmethod
    def of(cls, settings: Any) -> ClusterParameters:
        """Take the parameters from the settings ``ray_...``."""
        return cls(
            address=settings.ray_address,
            workers=settings.ray_workers,
            cpus=settings.ray_cpus,
            gpus=settings.ray_gpus,
            memory=settings.ray_memory,
        )

    @property
    def is_set(self) -> bool:
        """Whether there is a cluster; without one, everything is trained in the service's own process."""
        return bool(self.address)

    @property
    def resources(self) -> dict[str, float]:
        """Return what a worker needs, as ``resources_per_worker`` of Ray Train names it."""
        found = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in found.items() if amount or name == "CPU"}

    @property
    def task_options(self) -> dict[str, float]:
        """Return what a worker needs, as ``ray.remote`` and ``.options`` name it."""
        found = {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in found.items() if amount or name == "num_cpus"}


def imported() -> Any:
    """Return the module ``ray``; usage statistics are off.

    Raises:
        ClusterUnavailableError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would set CUDA_VISIBLE_DEVICES to nothing in workers without GPUs, and says in a warning that it stops doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray 2.55 is the last with pydantic 1, which FastIoT needs; it says so at every connection.
    warnings.filterwarnings("ignore", message="Pydantic v1 is deprecated", category=FutureWarning)
    try:
        import ray
    except ImportError as error:
        raise ClusterUnavailableError(
            "COMPLEX_SYSTEM_RAY_ADDRESS is set, and Ray is not installed here. Install it (pip install 'complex-system[cluster]', or "
            "the image whose name ends in -cluster), or leave the address empty to train in the service."
        ) from error
    return ray


@contextmanager
def connected(cluster: ClusterParameters) -> Iterator[Any]:
    """Connect this process to the cluster while the block runs, and yield the module ``ray``.

    Raises:
        ClusterUnavailableError: Ray is not installed, the address does not answer, or the cluster refuses the token.
    """
    ray = imported()
    if not ray.is_initialized():
        _check_answers(cluster.address)
        try:
            ray.init(
                address=cluster.address,
                namespace="complex-system",
                ignore_reinit_error=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterUnavailableError(
                f"The Ray cluster at {cluster.address} does not accept the connection: {error}"
            ) from error
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        log.info(
            "Connected to Ray at %s: %s nodes, %g CPUs, %g GPUs",
            cluster.address,
            len(nodes),
            total.get("CPU", 0),
            total.get("GPU", 0),
        )
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail where nothing listens at the address: Ray itself would try for a minute and more."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterUnavailableError(
            f"COMPLEX_SYSTEM_RAY_ADDRESS is {address!r}; host:port of the cluster's head is expected, such as ray-head:6379."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterUnavailableError(
            f"Nothing answers at {address}, the address of the Ray cluster in COMPLEX_SYSTEM_RAY_ADDRESS ({error}). Start the "
            "cluster, or leave the address empty to train in the service."
        ) from error
