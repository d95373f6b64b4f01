"""Servers that tests are given by address, instead of starting them: real databases in containers (``make verify``).

The variables in ``ADDRESSES`` name a server, such as ``mongodb://127.0.0.1:27018`` or ``mariadb://root:secret@127.0.0.1:3307``. With
``_CONTAINERS`` behind its name, a variable names the Docker containers of the server, which tests then kill, freeze and start again.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.servers import HOST, MlflowServer, MongoServer, NatsServer, Server

ADDRESSES = {
    "MongoServer": "COMPLEX_SYSTEM_TEST_MONGO",
    "MariaServer": "COMPLEX_SYSTEM_TEST_MARIA",
    "MlflowServer": "COMPLEX_SYSTEM_TEST_MLFLOW",
    "NatsServer": "COMPLEX_SYSTEM_TEST_NATS",
    "GuardedNatsServer": "COMPLEX_SYSTEM_TEST_NATS_WITH_USERS",
}
"""The variable that gives tests a server, by the class that would start it. Classes that are not here are always started."""
DIRECT = f"mongodb://{HOST}/?directConnection=true"
"""A host for MongoDB's driver behind a proxy: it does not go on to the addresses that a replica set says that it has."""


class Containers:
    """Docker containers that are killed, frozen and started together, as a ``Child`` is.

    Attributes:
        names: Their names.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @property
    def alive(self) -> bool:
        """Whether all of them run."""
        return self._states() == {"true"}

    def start(self) -> None:
        """Start those that do not run."""
        self._docker("start", *self.names)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the first process of each; do nothing where it is gone."""
        with suppress(StartError):
            self._docker("kill", "--signal", number.name, *self.names)

    def stop(self, grace: float = 10.0) -> None:
        """End them, and wait until they have ended."""
        self._docker("stop", "--time", str(int(grace)), *self.names)
        while "true" in self._states():
            time.sleep(0.05)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines that the first one said."""
        return self._docker("logs", "--tail", str(lines), self.names[0])

    def _states(self) -> set[str]:
        return set(self._docker("inspect", "--format", "{{.State.Running}}", *self.names).split())

    @staticmethod
    def _docker(*arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            raise StartError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stdout[-500:]}")
        return done.stdout


class GivenServer(Server):
    """A server that somebody else has started, and stops."""

    patience = 120.0

    def __init__(self, kind: type[Server], address: str, containers: tuple[str, ...] = ()) -> None:
        """Take a server.

        Args:
            kind: The class that starts such servers.
            address: ``scheme://[user:password@]127.0.0.1:port``.
            containers: The Docker containers that it runs in, if the tests may kill it.
        """
        parts = urlsplit(address)
        if parts.hostname != HOST or parts.port is None:
            raise StartError(f"'{address}' is not an address for tests: they take servers on {HOST}, with a port.")
        self.kind, self.name, self.port = kind, kind.name, parts.port
        self.user, self.secret = unquote(parts.username or ""), unquote(parts.password or "")
        self.child: Any = Containers(containers) if containers else None

    @property
    @override
    def url(self) -> str:
        return f"{self.kind.scheme}://{HOST}:{self.port}"

    @override
    def command(self) -> list[str]:
        raise StartError(f"{self.name} at port {self.port} was given to the tests, which do not start it.")

    @override
    def environment(self) -> dict[str, str]:
        if issubclass(self.kind, MlflowServer):
            return {
                "MLFLOW_TRACKING_URI": self.url,
                "MLFLOW_TRACKING_USERNAME": self.user,
                "MLFLOW_TRACKING_PASSWORD": self.secret,
            }
        prefix = self.kind.host_variable.removesuffix("_HOST")
        given = {"HOST": HOST, "PORT": str(self.port), "USER": self.user, "PASSWORD": self.secret}
        return {f"{prefix}_{name}": value for name, value in given.items()}

    @override
    def start(self) -> None:
        """Start it again, where a test has left it killed or frozen."""
        if self.child is not None:
            self.child.start()
            self.child.signal_group(signal.SIGCONT)

    @override
    def start_process(self) -> None:
        self.child.start()

    @override
    def stop(self) -> None:
        """Leave it to whoever started it."""

    @override
    def is_ready(self) -> bool:
        """Whether the server itself answers: Docker accepts connections before it does."""
        with suppress(OSError, http.client.HTTPException):
            if issubclass(self.kind, MlflowServer):
                return self._get("/health")
            if issubclass(self.kind, MongoServer):
                return self._has_primary()
            with socket.create_connection((HOST, self.port), timeout=2) as connection:
                said = connection.recv(100)  # both speak first
            return b"INFO" in said if issubclass(self.kind, NatsServer) else len(said) > 5
        return False

    @override
    def wait_ready(self) -> None:
        deadline = time.monotonic() + self.patience
        while not self.is_ready():
            if time.monotonic() > deadline:
                said = self.child.tail() if self.child else ""
                raise StartError(f"{self.name} at port {self.port} was not ready after {self.patience:.0f} s:\n{said}")
            time.sleep(0.1)

    def _get(self, path: str) -> bool:
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=2)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK

    def _has_primary(self) -> bool:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        account = {"username": self.user, "password": self.secret} if self.user else {}
        with suppress(PyMongoError), MongoClient[Any](HOST, self.port, serverSelectionTimeoutMS=1000, **account) as client:
            client.admin.command("ping")
            return True
        return False


def given_server(kind: type[Server]) -> GivenServer | None:
    """Return the server that the tests are given in place of one of that class; None where they start their own."""
    variable = ADDRESSES.get(kind.__name__, "")
    address = os.environ.get(variable)
    if not address:
        return None
    names = os.environ.get(f"{variable}_CONTAINERS", "")
    return GivenServer(kind, address, tuple(names.split(",")) if names else ())


def server_of(kind: type[Server], folder: Path) -> Any:
    """Return the server that the tests are given, or one of that class on a free port, not started yet."""
    return given_server(kind) or kind(folder, port=0)
