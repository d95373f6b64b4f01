"""The data plane as it is deployed: broker, database and services as processes of their own, and a client in this one."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.local.processes import Child
from complex_system.local.servers import MariaServer, MlflowServer, MongoServer, NatsServer
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import health_request
from complex_system.settings import Settings

T = TypeVar("T")

DATABASES = {"MariaDB": (MariaServer, "database_maria"), "MongoDB": (MongoServer, "database_mongo")}
DATASET = Dataset.load()


class Plant:
    """Servers and services for the time of a block; :attr:`client` asks them, :meth:`run` waits for that."""

    def __init__(
        self,
        database: str | None = None,
        services: tuple[str, ...] = (),
        *,
        folder: Path | None = None,
        mlflow: bool = False,
        **variables: str,
    ) -> None:
        """Prepares a plant; nothing is started yet.

        Args:
            database: ``MariaDB`` or ``MongoDB``, with its service; None for none.
            services: Further services by their names.
            folder: Where the servers keep their data, which stay there; None for a folder that is removed at the end.
            mlflow: Whether MLflow's server is started, too.
            variables: What their environment says beyond where the servers are.
        """
        self._kept = folder
        self._mlflow = mlflow
        self._database = database
        self._services = list(services)
        self._variables = variables
        self._stack = ExitStack()
        self.children: dict[str, Child] = {}
        self.servers: dict[str, Child] = {}

    def __enter__(self) -> Self:
        try:
            return self._start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _start(self) -> Self:
        self.folder = self._kept or Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ["FASTIOT_CONFIG_DIR"] = str(self.folder)  # FastIoT would read a deployment's environment otherwise
        servers: list[Any] = [NatsServer(self.folder / "nats", port=0)]
        if self._database:
            kind, service = DATABASES[self._database]
            servers.append(kind(self.folder / "database", port=0))
            self._services.insert(0, service)
        if self._mlflow:
            servers.append(MlflowServer(self.folder / "mlflow", port=0))
        # A machine that does other work too shall make a figure worse and not fail the program.
        environment = {"FASTIOT_CONFIG_DIR": str(self.folder), "FASTIOT_NATS_DEFAULT_TIMEOUT": "300", **self._variables}
        for server in servers:
            server.start()
            self._stack.callback(server.stop)
            server.wait_ready()
            environment |= server.environment()
            self.servers[server.name] = server.child
        self.environment = environment
        self.settings = Settings.of(environment)
        for name in self._services:
            self.start_service(name)
        self._runner = self._stack.enter_context(asyncio.Runner())
        self.client = self.run(SystemClient.open(self.settings, "benchmark"))
        self._stack.callback(lambda: self.run(self.client.close()))
        self.database = DatabaseClient(self.client)
        for name in self._services:
            self.run(self.ready(name))
        return self

    def start_service(self, name: str, **variables: str) -> Child:
        """Starts a service as a process."""
        command = [sys.executable, "-m", f"complex_system_services.{name}.run"]
        child = Child(name, command, self.folder / f"{name}.log", env={**self.environment, **variables})
        child.start()
        self._stack.callback(child.stop)
        self.children[name] = child
        return child

    def start_ended(self) -> list[str]:
        """Starts services that have ended, as a supervisor does, waits until they are ready, and returns their names."""
        ended = [name for name, child in self.children.items() if not child.alive]
        for name in ended:
            self.start_service(name)
            self.run(self.ready(name))
        return ended

    def restart(self, name: str) -> float:
        """Starts a service again and waits until it is ready; returns the seconds that it took from its start."""
        self.children[name].stop()
        began = time.monotonic()
        self.start_service(name)
        self.run(self.ready(name))
        return time.monotonic() - began

    def also(self, at_end: Callable[[], Any]) -> None:
        """Calls something at the end of the block."""
        self._stack.callback(at_end)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for ``work``."""
        return self._runner.run(work)

    async def ready(self, name: str, seconds: float = 90.0) -> None:
        """Waits until a service says that it is."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if (await self.client.ask(health_request(name), Empty(), 2.0)).state in ("ready", "working"):
                    return
            except ComplexSystemError:
                pass
            if time.monotonic() > deadline or not self.children[name].alive:
                raise SystemExit(f"{name} is not ready:\n{self.children[name].tail()}")
            await asyncio.sleep(0.1)


def command_line() -> argparse.ArgumentParser:
    """The command line of the program that runs: its docstring as help, and ``--quick``, which ``QUICK=1`` says, too."""
    program = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        prog=f"python -m {program.__spec__.name}" if program.__spec__ else None,
        description=(program.__doc__ or "").replace("``", "`"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    is_quick = os.environ.get("QUICK", "0") not in ("", "0")
    parser.add_argument("--quick", action="store_true", default=is_quick, help="measure smaller sizes, as QUICK=1 does")
    return parser


def quick() -> bool:
    """Whether smaller sizes are wanted, for a program with no option but that; anything else on its command line ends it."""
    return bool(command_line().parse_args().quick)
