"""One and two replicas of services on hosts of their own, as namespaces: ``make replicas``, which needs root.

On one host are the broker, MariaDB, the source and the clients, on each of two others one replica. All hosts share the machine's
cores, so that two replicas cannot do twice as much here; the processor time of each process says what they would do on cores of
their own, and what of the work is not theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
from typing_extensions import override

from benchmarks.run import keep_tables, write_page
from benchmarks.scale import START, Usage
from benchmarks.tables import Table
from complex_system.background import run_concurrently
from complex_system.domain.laboratory import Laboratory
from complex_system.local.processes import Child
from complex_system.local.servers import HOST, MariaServer, MlflowServer, NatsServer, Server
from complex_system.messaging.clients import DatabaseClient, ServingClient, SystemClient
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat
from complex_system.settings import Settings
from namespaces import Network, enter, missing

T = TypeVar("T")

DATA, HOSTS = "data", ("one", "two")
SERVING = "ml_serving_mlflow"
TRAINED_BY = ("ml_lightgbm_regression_mlflow", "ml_consumer")
PREFIX = "complex-system-benchmark-"
ROUNDS, RECORDS, REQUESTS = 2, 60_000, 20_000
IN_FLIGHT = 8
"""Batches of the source, and, four times as many, requests of the client."""
NOTE = (
    "Hosts are network namespaces of one machine of {cores} cores: broker, MariaDB, source and clients in one, replicas in two. "
    "Processor time in µs, and bytes between the hosts, a record or request; medians of {rounds} rounds."
)


class _Open(Server):
    """A server that other hosts reach."""

    address: str

    @override
    def command(self) -> list[str]:
        return [each.replace(HOST, "0.0.0.0") for each in super().command()]

    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment(), self.host_variable: self.address}


class _Nats(_Open, NatsServer):
    @override
    def prepare(self) -> None:
        super().prepare()
        path = self.directory / "nats.conf"
        path.write_text(path.read_text().replace(f'"{HOST}:', '"0.0.0.0:'))


class _Maria(_Open, MariaServer):
    @override
    def _accounts(self) -> str:
        return super()._accounts().replace(f"'@'{HOST}'", "'@'%'")


class _Mlflow(_Open, MlflowServer):
    """The server as MLflow's own command starts it, which other hosts may ask."""

    @override
    def command(self) -> list[str]:
        python, *_, folder = MlflowServer.command(self)
        return [
            str(Path(python).with_name("mlflow")), "server", "--host", "0.0.0.0", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts",
            "--allowed-hosts", f"{HOST}:*,{self.address}:*",
        ]  # fmt: skip

    @override
    def environment(self) -> dict[str, str]:
        return {self.host_variable: f"http://{self.address}:{self.port}"}


class Hosts:
    """Servers on one host, replicas of services on the others, and a client; for the time of a block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._ready: dict[str, int] = {}
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
        self.network = self._stack.enter_context(Network((DATA, *HOSTS), PREFIX))
        enter(self.network.namespace(DATA))  # and whatever this thread starts from now on
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["FASTIOT_CONFIG_DIR"] = str(self._folder)
        environment = {
            "FASTIOT_NATS_DEFAULT_TIMEOUT": "300",
            "COMPLEX_SYSTEM_TRAINERS": "lightgbm",
            "COMPLEX_SYSTEM_BOOSTING_ROUNDS": "100",
            "COMPLEX_SYSTEM_STACK": "False",
            "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "0",
            "COMPLEX_SYSTEM_OUTBOX_DIR": str(self._folder / "outbox"),
        }
        for kind in (_Nats, _Maria, _Mlflow):
            server = kind(self._folder / kind.name, port=0, asks=kind is _Maria)
            server.address = self.network.address(DATA)
            server.start()
            self._stack.callback(server.stop)
            server.wait_ready()
            environment |= server.environment()
            assert server.child is not None
            self.servers[server.name] = server.child
        self._environment = environment
        self.settings = Settings.of(environment)
        self._runner = self._stack.enter_context(asyncio.Runner())
        self.client = self.run(SystemClient.open(self.settings, "benchmark"))
        self._stack.callback(lambda: self.run(self.client.close()))
        self.run(self.client.hear(SERVICE_HEARTBEAT, self._hear))
        self.database = DatabaseClient(self.client)
        return self

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``."""
        return self._runner.run(work)

    def start(self, service: str, host: str) -> None:
        """Start a service on a host."""
        name = f"{service}@{host}"
        argv = self.network.command(host, [sys.executable, "-m", f"complex_system_services.{service}.run"])
        child = Child(name, argv, self._folder / f"{name}.log", env={**self._environment, "FASTIOT_SERVICE_ID": name})
        child.start()
        self._stack.callback(child.stop)
        self.children[name] = child

    def wait(self, seconds: float = 300.0) -> None:
        """Wait until all services are ready; they start at the same time."""

        async def ready() -> None:
            async with asyncio.timeout(seconds):
                for name, child in self.children.items():
                    while self._ready.get(name) != child.pid:
                        if not child.alive:
                            raise SystemExit(f"{name} has ended:\n{child.tail()}")
                        await asyncio.sleep(0.1)

        self.run(ready())

    def stop(self, service: str, host: str) -> None:
        """Stop a service."""
        self.children.pop(f"{service}@{host}").stop()

    def traffic(self) -> int:
        """Bytes that the host of broker and database has sent and received so far; loopback, so source and clients, is not in them."""
        lines = self.network.at(DATA, Path("/proc/thread-self/net/dev").read_text).splitlines()
        counters = next(line for line in lines if line.strip().startswith("eth0:")).split(":")[1].split()
        return int(counters[0]) + int(counters[8])

    @property
    def pids(self) -> dict[str, int]:
        """Processes by name."""
        found = {name: child.pid for name, child in {**self.servers, **self.children}.items() if child.pid is not None}
        return found | {"client": os.getpid()}

    async def _hear(self, beat: Heartbeat) -> None:
        if beat.state in ("ready", "working"):
            self._ready[beat.replica] = beat.pid


class _Flow:
    """Records that go through database service and data processing."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._made = 0

    async def __call__(self, count: int) -> None:
        records = Laboratory(self._made + 1, START + timedelta(milliseconds=self._made)).records(count)
        size = self._hosts.settings.batch_size
        batches = iter(lambda: list(islice(records, size)), [])

        async def send() -> None:
            for batch in batches:
                await self._hosts.database.save_raw(batch)

        await run_concurrently(*(send() for _ in range(IN_FLIGHT)))
        self._made += count
        while (await self._hosts.database.counts()).processed < self._made:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.2)


async def _predict(hosts: Hosts, count: int, records: int) -> None:
    """Ask for predictions, many requests at the same time, each of one record, or of a page of columns."""
    serving, left = ServingClient(hosts.client), iter(range(count))
    made = list(Laboratory(seed=3).records(max(records, 100)))
    page = pa.Table.from_pylist(made)

    async def ask() -> None:
        for number in left:
            if records == 1:
                await serving.predict([made[number % len(made)]])
            else:
                await serving.predict_table(page, rows=records)

    await run_concurrently(*(ask() for _ in range(4 * IN_FLIGHT)))


class Measured:
    """Rounds of one work with one and with two replicas."""

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._bytes: dict[int, list[float]] = {1: [], 2: []}
        self._rates: dict[int, list[float]] = {1: [], 2: []}
        self._parts: dict[int, list[dict[str, float]]] = {1: [], 2: []}

    def add(self, hosts: Hosts, replicas: int, count: int, work: Coroutine[Any, Any, None]) -> None:
        """Do some work of so many units, and remember what it cost."""
        before, sent, began = Usage.of(hosts.pids), hosts.traffic(), time.monotonic()
        hosts.run(work)
        seconds, now = time.monotonic() - began, Usage.of(hosts.pids)
        self._rates[replicas].append(count / seconds)
        self._bytes[replicas].append((hosts.traffic() - sent) / count)
        self._parts[replicas].append({name: (now.seconds[name] - before.seconds[name]) / count * 1e6 for name in hosts.pids})
        print(self._title, replicas, f"{count / seconds:,.0f}/s", self._parts[replicas][-1], flush=True)

    def table(self, note: str) -> Table:
        """Return the medians."""
        names = sorted({name for rounds in self._parts.values() for part in rounds for name in part})
        table = Table(self._title, note, ["replicas", self._unit, *names, "all", "bytes"])
        for replicas, rounds in self._parts.items():
            cells = [[part[name] for part in rounds if name in part] for name in names]
            total = median(sum(part.values()) for part in rounds)
            row = [f"{replicas}", f"{median(self._rates[replicas]):,.0f}"]
            table.rows.append([*row, *(f"{median(each):.1f}" if each else "-" for each in cells), f"{total:.0f}"])
            table.rows[-1].append(f"{median(self._bytes[replicas]):,.0f}")
        return table


def measure(rounds: int, records: int, requests: int) -> list[Table]:
    """Measure records that flow, and predictions of single records and of pages, with one and two replicas."""
    flow = Measured("Replicas: records saved and processed", "records/s")
    single = Measured("Replicas: predictions over NATS, one record a request", "requests/s")
    pages = Measured("Replicas: predictions over NATS, 1,000 records a request", "requests/s")
    with Hosts() as hosts:
        put = _Flow(hosts)
        for replicas, host in enumerate(HOSTS, 1):
            for service in ("database_maria", "data_processing"):
                hosts.start(service, host)
            hosts.wait()
            hosts.run(put(records // 10))  # warms up
            for _ in range(rounds):
                flow.add(hosts, replicas, records, put(records))
        for service in TRAINED_BY:
            hosts.start(service, DATA)
        hosts.start(SERVING, HOSTS[0])
        hosts.wait()  # serving is ready when there is a champion
        for service in TRAINED_BY:
            hosts.stop(service, DATA)
        for replicas, host in enumerate(HOSTS, 1):
            if replicas > 1:
                hosts.start(SERVING, host)
                hosts.wait()
            hosts.run(_predict(hosts, requests // 10, 1))
            for _ in range(rounds):
                single.add(hosts, replicas, requests, _predict(hosts, requests, 1))
                pages.add(hosts, replicas, requests // 50, _predict(hosts, requests // 50, 1000))
    note = NOTE.format(cores=os.cpu_count(), rounds=rounds)
    return [each.table(note) for each in (flow, single, pages)]


def main() -> None:
    """Run it as a program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is stopped, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__.split(":")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the tables for docs/benchmarks.md")
    chosen = parser.parse_args()
    if why := missing():
        raise SystemExit(why)
    tables = measure(*((1, 10_000, 1_000) if chosen.quick else (ROUNDS, RECORDS, REQUESTS)))
    for table in tables:
        print(table.markdown())
    if chosen.keep:
        keep_tables("replicas", tables, quick=chosen.quick)
        write_page()


if __name__ == "__main__":
    main()
