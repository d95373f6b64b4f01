"""The Ray cluster that trains, where one is set. Ray is imported when the cluster is first needed.

Ray's client is one per process: :func:`connected` is entered by one training at a time. What runs on the cluster ends with the
connection, so a training that is cancelled, or whose service stops, leaves nothing there.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from complex_system.errors import ClusterUnavailableError, TrainingFailedError, how_to_install
from complex_system.training.executor import Executor, Look, Tasks, never
from complex_system.training.ray_head import (
    CONNECT_SECONDS,
    PATIENCE,
    HeadWatch,
    Report,
    say_nothing,
    told_when_late,
    wait_for_head,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_RETRIES = 3
"""How often a task is repeated whose worker was lost."""
_LOOK_PAUSE = 0.1
"""Seconds between two looks at whether tasks that are waited for shall end."""
_OBJECT_STORE = 512 * 1024 * 1024
"""Bytes of shared memory that the node of a driver may use; more is written to its folder."""
_NODE_SECONDS, _STOP_SECONDS = 150.0, 10.0
"""How long the node of a driver may take to start, and to stop."""
_STARTED, _TOO_SLOW = "runtime started", "timed out during startup"
"""What Ray says of a node that runs, and of one that it has given up after 30 s. Where several trainers start theirs at the same time
on a busy machine, it gives up some: they are started again."""
_JOIN_SECONDS = 15.0
"""Nothing is said of a connection that is made so soon."""
_NODE = """
import atexit, os, shutil, signal, sys, threading

def end_with_the_trainer(folder):
    os.read(0, 1)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)

threading.Thread(target=end_with_the_trainer, args=[sys.argv.pop(1)], daemon=True).start()
from ray.scripts.scripts import main
main()
"""
"""``ray start`` that ends when its standard input does: a trainer that is killed leaves no node."""


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


def imported() -> Any:
    """Return the module ``ray``; usage statistics are off.

    Raises:
        ClusterUnavailableError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would start a cluster in this process for a call that comes after the connection has ended.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # Ray would end this process when the head has not answered for a minute; HeadWatch ends the training instead.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "3600")
    # Ray would set CUDA_VISIBLE_DEVICES to nothing in workers without GPUs, and says in a warning that it stops doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray 2.55 is the last with pydantic 1, which FastIoT needs; it says so at every connection.
    warnings.filterwarnings("ignore", message="Pydantic v1 is deprecated", category=FutureWarning)
    try:
        import ray
    except ImportError as error:
        raise ClusterUnavailableError(
            f"COMPLEX_SYSTEM_RAY_ADDRESS is set, and Ray is not installed here. Install it ({how_to_install('cluster')}; with Docker, "
            "the image whose name ends in -cluster), or leave the address empty to train in the service."
        ) from error
    return ray


@contextmanager
def connected(
    cluster: ClusterParameters, patience: float | None = None, look: Look = never, report: Report = say_nothing
) -> Iterator[Any]:
    """Connect this process to the cluster while the block runs, and yield the module ``ray``.

    A block inside of it uses the same connection, unless the head has been replaced since: then it connects to the new one.

    Args:
        cluster: Where it is.
        patience: Seconds for which a head that does not let us in is waited for: it may be starting. None for ``PATIENCE``.
        look: Called often while it is waited for.
        report: Told what is waited for, and what to check, when that takes long; with an empty text when it is over.

    Raises:
        ClusterUnavailableError: Ray is not installed, the address does not answer, TLS differs, or the cluster refuses the token.
    """
    ray = imported()
    if ray.is_initialized():
        if _is_known(ray):
            yield ray
            return
        log.warning("The head of the Ray cluster at %s has been replaced; connecting again", cluster.address)
        ray.shutdown()
    wait_for_head(cluster.address, PATIENCE if patience is None else patience, look, report)
    late = (
        f"Joining the Ray cluster at {cluster.address} takes long. Check that all ports are open between this machine and the "
        "cluster's, in both directions, and with TLS that each certificate has its machine's address (docs/cluster.md)."
    )
    with ExitStack() as ending:
        joining = ending.enter_context(ExitStack())
        joining.enter_context(told_when_late(report, late, _JOIN_SECONDS))
        folder = None if _is_here(cluster.address) else ending.enter_context(_own_node(cluster.address, look))
        try:
            ray.init(
                address=cluster.address,
                _temp_dir=folder,  # of several nodes on this machine, the one that has it
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
        ending.callback(ray.shutdown)
        joining.close()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        log.info(
            "Connected to Ray at %s: %s nodes, %g CPUs, %g GPUs",
            cluster.address,
            len(nodes),
            total.get("CPU", 0),
            total.get("GPU", 0),
        )
        yield ray


def _is_known(ray: Any) -> bool:
    """Whether the head is the one that this process is connected to: another one at its address refuses what it did not begin."""
    try:
        ray._private.worker.global_worker.gcs_client.internal_kv_get(b"complex-system", None, timeout=CONNECT_SECONDS)
    except ray.exceptions.RayError:
        return False
    return True


def _is_here(address: str) -> bool:
    """Whether the head is on this machine, so that there is a node to connect to."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        family, _, _, _, found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(found)
    except OSError:
        return False
    return True


@contextmanager
def _own_node(address: str, look: Look = never) -> Iterator[str]:
    """Make this machine a node of the cluster, without CPUs, while the block runs, and yield the node's folder.

    A driver talks to the cluster through its node. The nodes of several trainers on one machine take any ports. Ray's client for
    drivers elsewhere (``ray://``) is not made for Ray Train, and would run our code on the head.
    """
    folder = tempfile.mkdtemp(prefix="ray-")
    output = Path(folder, "ray_start.log")
    options = [
        f"--address={address}",
        "--num-cpus=0",
        "--num-gpus=0",
        f"--object-store-memory={_OBJECT_STORE}",
        f"--temp-dir={folder}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
    ]
    command = [sys.executable, "-c", _NODE, folder, "start", *options, "--block"]
    deadline = time.monotonic() + _NODE_SECONDS
    node = _begun(command, output)
    try:
        while _STARTED not in (said := output.read_text(errors="replace")):
            if node.poll() is not None and _TOO_SLOW in said and time.monotonic() < deadline:
                _end(node)
                node = _begun(command, output)
            elif node.poll() is not None or time.monotonic() > deadline:
                last = " ".join(said.splitlines()[-2:])
                raise ClusterUnavailableError(f"This machine could not join the Ray cluster at {address}: {last}")
            look()
            time.sleep(0.1)
        yield folder
    finally:
        _end(node)
        shutil.rmtree(folder, ignore_errors=True)


def _begun(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a node as a group of processes."""
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.PIPE, process_group=0)  # noqa: S603


def _end(node: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        node.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()
    assert node.stdin is not None
    node.stdin.close()


class RayExecutor(Executor):
    """Spreads tasks over the cluster, one CPU each: a fit of a search or of a fold has one thread, wherever it runs.

    Ray repeats a task whose worker is lost. The connection is made with the first tasks and stays until :meth:`close`, and with it the
    workers' processes, which have imported the framework.
    """

    def __init__(
        self, cluster: ClusterParameters, prepare: Callable[[], None], *, on_gpus: bool = False, report: Report = say_nothing
    ) -> None:
        """Make an executor.

        Args:
            cluster: Where the tasks run.
            prepare: Called once in every process of a worker, before its first task.
            on_gpus: Whether each task gets as many GPUs as a worker of a fit.
            report: As in :func:`connected`.
        """
        self._cluster = cluster
        self._prepare = prepare
        self._report = report
        self._options = {"num_cpus": 1.0, **({"num_gpus": cluster.gpus} if on_gpus and cluster.gpus else {})}
        self._connection = ExitStack()

    @override
    @contextmanager
    def tasks(self, function: Callable[[T, Look], R], look: Look = never) -> Iterator[Tasks[T, R]]:
        ray = self._connection.enter_context(connected(self._cluster, look=look, report=self._report))
        remote = ray.remote(**self._options, max_retries=_RETRIES)(_carry_out)
        work = ray.put((self._prepare, function))
        begun: set[Any] = set()
        head = HeadWatch(self._cluster.address, partial(_is_known, ray))

        def run(items: Iterable[T], look: Look) -> Generator[R, None, None]:
            waiting = [remote.remote(work, item) for item in items]
            begun.update(waiting)
            return results(waiting, look)

        def results(waiting: list[Any], look: Look) -> Generator[R, None, None]:
            try:
                for each in waiting:
                    look()
                    while not ray.wait([each], timeout=_LOOK_PAUSE)[0]:
                        look()
                        head.look()
                    begun.remove(each)
                    yield _result(ray, each)
            finally:
                give_up(waiting)

        def give_up(refs: Iterable[Any]) -> None:
            for each in begun.intersection(refs):
                begun.remove(each)
                ray.cancel(each)

        try:
            yield run
        finally:
            give_up(begun)

    @override
    def close(self) -> None:
        self._connection.close()


def _result(ray: Any, task: Any) -> Any:
    """Return the result of a task that is done, or raise its exception."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise TrainingFailedError(f"The Ray cluster lost a task {_RETRIES + 1} times, and gave it up: {error}") from error


_prepared: set[str] = set()
"""What has been prepared in this process of a worker."""


def _carry_out(work: tuple[Callable[[], None], Callable[[T, Look], R]], item: T) -> R:
    """Run one task; in a worker."""
    prepare, function = work
    if not imported().get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU that Ray has not given belongs to somebody else
    name = f"{prepare.__module__}.{prepare.__qualname__}"
    if name not in _prepared:
        prepare()
        _prepared.add(name)
    return function(item, never)
