"""MongoDB, or what takes its place."""

from __future__ import annotations

import re
import shutil
import signal
import time
from typing import Any

from typing_extensions import override

from complex_system.errors import StartError, how_to_install
from complex_system.local.credentials import USER
from complex_system.local.processes import Child
from complex_system.local.servers.base import HOST, Server, free_port, program, reachable

STAND_IN = "MongoDB is not installed: secantusdb stands in for it, for trying out. For good, install mongod, or run maria."


class MongoServer(Server):
    """``mongod`` where it is installed, else ``secantusd-py``, which speaks MongoDB's wire protocol."""

    name = scheme = "mongodb"
    host_variable, port_variable = "FASTIOT_MONGO_DB_HOST", "FASTIOT_MONGO_DB_PORT"
    default_port = 27017
    gave_up = re.compile(rb"WT_PANIC")  # of the stand-in, which then answers a ping and nothing else; mongod ends itself

    @override
    def command(self) -> list[str]:
        return self._command(self.port, asks=self.asks)

    @property
    @override
    def note(self) -> str:
        return "" if shutil.which("mongod") else STAND_IN

    @override
    def prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)
        made = self.directory / "user-made"
        if self.asks and not made.exists():
            self._make_user()
            made.touch()

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("", "")
        return {
            **super().environment(),
            "FASTIOT_MONGO_DB_USER": user,
            "FASTIOT_MONGO_DB_PASSWORD": password,
            "FASTIOT_MONGO_DB_AUTH_SOURCE": "admin",
        }

    def _command(self, port: int, *, asks: bool) -> list[str]:
        data = str(self.directory / "data")
        auth = ["--auth"] if asks else []
        if binary := shutil.which("mongod"):
            return [binary, "--bind_ip", HOST, "--port", str(port), "--dbpath", data, *auth]
        if binary := program("secantusd-py"):
            return [binary, "--host", HOST, "--port", str(port), "--storage-path", data, "--standalone", *auth]
        raise StartError(f"No MongoDB server: install mongod, or secantusdb: {how_to_install('local')}.")

    def _make_user(self) -> None:
        """Make the first user, which only a server that does not ask yet permits; it runs for that moment, on a port of its own."""
        port = free_port()
        durable = [] if shutil.which("mongod") else ["--sync-on-commit"]
        command = [*self._command(port, asks=False), *durable]
        child = Child(self.name, command, self.log_file, cwd=self.directory)
        child.start()
        try:
            deadline = time.monotonic() + self.patience
            while not reachable(HOST, port):
                if not child.alive or time.monotonic() > deadline:
                    raise StartError(f"{self.name} did not start. Its last log lines:\n{child.tail()}")
                time.sleep(0.05)
            _create_only_user(port, USER, self.password)
        finally:
            # The user is on disk. To end by itself takes the stand-in two seconds, now and then ten.
            child.signal_group(signal.SIGKILL)
            child.stop()


def _create_only_user(port: int, user: str, password: str) -> None:
    """Give a server that does not ask for accounts yet its only user, who may use all databases and manages no users."""
    from pymongo import MongoClient  # takes a moment, and is needed once in the life of a folder
    from pymongo.errors import PyMongoError

    try:
        with MongoClient[dict[str, Any]](HOST, port, serverSelectionTimeoutMS=10_000, directConnection=True) as client:
            # Nobody else can have one: the server never asked before. So this is whoever came first on this machine.
            for found in client.admin.command("usersInfo", {"forAllDBs": True})["users"]:
                client[found["db"]].command("dropUser", found["user"])
            roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase"]
            client.admin.command("createUser", user, pwd=password, roles=roles, writeConcern={"w": 1, "j": True})
    except PyMongoError as error:
        raise StartError(f"MongoDB at {HOST}:{port} makes no user: {error}") from error
