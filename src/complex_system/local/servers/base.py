"""What all servers of a local run have in common: a free port, a folder, a password, a child process."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import socket
import stat
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

from complex_system.errors import StartError
from complex_system.local.credentials import kept_secret
from complex_system.local.processes import Child

HOST = "127.0.0.1"
ANY_PORT = dict.fromkeys(
    (
        "FASTIOT_NATS_PORT",
        "FASTIOT_MONGO_DB_PORT",
        "FASTIOT_MARIA_DB_PORT",
        "COMPLEX_SYSTEM_MLFLOW_PORT",
        "COMPLEX_SYSTEM_SERVING_PORT",
        "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT",
        "COMPLEX_SYSTEM_MONITORING_PORT",
    ),
    "0",
)
"""Environment of a run that takes any free ports, so that it can run beside others."""
_ANY = range(20_000, 30_000)
"""Below the range from which Linux takes ports of outgoing connections, so that none of these sits on a server's port."""
_TRIES = 100
_ROOM = 16 * 1024 * 1024
"""Bytes that must be free before a server that met a full disk is started again."""
_MAX_HELD = 64
_held: dict[int, int] = {}
"""Lock files of this process by port, oldest first; the kernel frees them when the process ends."""


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it is free on the loopback interface, else a port that is.

    Until a server listens there, the port looks free to everybody, so this process keeps a lock on it that other runs of the same
    user respect, and it lies below those that the kernel hands to whoever asks for any.

    Raises:
        StartError: No port is free.
    """
    anything = (port for port in random.sample(_ANY, _TRIES) if port not in _held)
    for port in (preferred, *anything) if preferred else anything:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                if _reserve(port):
                    return port
    raise StartError("No free port is left on this machine.")


def _reserve(port: int) -> bool:
    """Whether this process holds the port's lock, from now on or already."""
    if port in _held:
        return True
    lock = os.open(_lock_folder() / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _held[port] = lock
    if len(_held) > _MAX_HELD:  # by now something listens on the oldest
        os.close(_held.pop(next(iter(_held))))
    return True


@cache
def _lock_folder() -> Path:
    """Return the folder of the locks: below one that only this user can write to, so that nobody else can prepare it."""
    runtime, cached = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("XDG_CACHE_HOME")
    with suppress(OSError, RuntimeError):  # no home folder, or none that can be written to
        for place in (Path(runtime) if runtime else None, Path(cached) if cached else Path.home() / ".cache"):
            if place is None:
                continue
            folder = place / "complex-system-ports"
            with suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _only_ours(place) and _only_ours(folder):
                    return folder
    # Locks that other runs of this user do not see, but nobody else either.
    return Path(tempfile.mkdtemp(prefix="complex-system-ports-"))


def _only_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


class FreePorts:
    """Gives out free ports, none twice, with a note for each that is not the preferred one."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self.notes: list[str] = []

    def take(self, owner: str, preferred: int) -> int:
        """Return the preferred port if it is free, else another one."""
        port = free_port(0 if preferred in self._given else preferred)
        while port in self._given:
            port = free_port()
        self._given.add(port)
        if preferred and port != preferred:
            self.notes.append(f"Port {preferred} of {owner} is taken; it uses {port}.")
        return port


def reachable(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def program(name: str) -> str | None:
    """Return the path of a program of this Python environment or of the system, or None."""
    own = Path(sysconfig.get_path("scripts")) / name
    return str(own) if own.is_file() else shutil.which(name)


class Server(ABC):
    """A server as a child process with a data directory and a port of its own.

    Attributes:
        host_variable: The variable that names the host of such a server which runs elsewhere.
        port_variable: The variable that names its preferred port.
        asks: Whether it lets clients in with user and password only.
        port: Where it listens, on 127.0.0.1: the preferred port, or another one where that is taken.
    """

    name: str
    scheme: ClassVar[str]
    host_variable: ClassVar[str]
    port_variable: ClassVar[str]
    default_port: ClassVar[int]
    patience: ClassVar[float] = 60.0
    after: str = ""
    """Name of a server of the same run that this one waits for, for ``patience`` seconds at most."""
    gave_up: ClassVar[re.Pattern[bytes] | None] = None
    """What its log says when it writes nothing more until it is started again, as after a full disk."""
    _read = 0
    _has_given_up = False

    def __init__(self, directory: Path, log_dir: Path | None = None, port: int | None = None, *, asks: bool = False) -> None:
        """Prepare the server; nothing is started yet.

        Args:
            directory: Folder of its data.
            log_dir: Folder of its log file; the data directory when None.
            port: Preferred port; the protocol's default when None; 0 for any.
            asks: Whether it lets clients in with user and password only.
        """
        self.directory = directory.resolve()
        preferred = self.default_port if port is None else port
        self.port = free_port(preferred)
        self.log_file = (log_dir.resolve() if log_dir else self.directory) / f"{self.name}.log"
        self.asks = asks
        self.child: Child | None = None

    @cached_property
    def password(self) -> str:
        """The password of its user, generated once and kept beside its data."""
        return kept_secret(self.directory / "password")

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def note(self) -> str:
        """What the person who starts the run should know of it; mostly nothing."""
        return ""

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments.

        Raises:
            StartError: The program is not installed; the message names the package.
        """

    def environment(self) -> dict[str, str]:
        """Return the variables that point a service to this server."""
        return {self.host_variable: HOST, self.port_variable: str(self.port)}

    def secrets(self) -> dict[str, str]:
        """Return variables that only its own process gets."""
        return {}

    def prepare(self) -> None:  # noqa: B027 - most servers need nothing here
        """Make the data directory ready."""

    def make_ready(self) -> None:
        """Create directories and initial data; may take seconds, and may be repeated.

        Raises:
            StartError: The program is not installed, or the initial data could not be created.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        command = self.command()
        self.prepare()
        self._read = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._has_given_up = False
        self.child = Child(self.name, command, self.log_file, env=self.secrets(), cwd=self.directory)

    def start_process(self) -> None:
        """Start the process that :meth:`make_ready` prepared, without waiting for it."""
        assert self.child is not None
        self.child.start()

    def start(self) -> None:
        """Make ready and start."""
        self.make_ready()
        self.start_process()

    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        return reachable(HOST, self.port)

    def wait_ready(self) -> None:
        """Wait until it accepts connections.

        Raises:
            StartError: It ended, or was not ready within ``patience`` seconds; with its last log lines.
        """
        deadline = time.monotonic() + self.patience
        while not self.is_ready():
            if self.child is None or not self.child.alive:
                tail = self.child.tail() if self.child else ""
                raise StartError(f"{self.name} did not start. Its last log lines:\n{tail}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready after {self.patience:.0f} s:\n{self.child.tail()}")
            time.sleep(0.05)

    def needs_restart(self) -> bool:
        """Whether it runs and writes nothing more unless it is started again, although there is room again."""
        if self.gave_up is None:
            return False
        with suppress(OSError), self.log_file.open("rb") as log_file:
            if log_file.seek(0, os.SEEK_END) < self._read:  # it was rotated
                self._read = 0
            log_file.seek(self._read)
            new = log_file.read()
            self._read += len(new)
            self._has_given_up |= self.gave_up.search(new) is not None
        return self._has_given_up and shutil.disk_usage(self.directory).free > _ROOM

    def stop(self) -> None:
        """Stop the process and all of its children."""
        if self.child is not None:
            self.child.stop()
