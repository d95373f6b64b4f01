"""The three hosts of docs/three-hosts as real processes in namespaces: brokers, a database, services, and clients on each host."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from certificates import write_certificates
from complex_system.domain.records import Record
from complex_system.local.processes import Child
from complex_system.local.servers import HOST, MariaServer, MlflowServer, MongoServer, Server, program, reachable
from complex_system.local.servers.ray import RayHead, RayNode, RayWorker
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.users import authorization, broker_users
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat
from complex_system.settings import Settings
from namespaces import Network, enter
from support import eventually

T = TypeVar("T")

EXAMPLE = Path(__file__).parents[1] / "docs" / "three-hosts"
HOSTS = ("data", "training", "serving")
CLIENTS, ROUTES = 4222, 6222
USER, PASSWORD, CLUSTER_PASSWORD = "operator", "k3Jd92hsYq", "c7Gs63kQpa"


class HostThread:
    """An event loop whose sockets are on a host."""

    def __init__(self, namespace: str) -> None:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()

        def run() -> None:
            enter(namespace)
            started.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, name=namespace)
        self._thread.start()
        started.wait()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there."""
        return await asyncio.wrap_future(self.submit(work))

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _OnHost(Server):
    """A database server on a host that the others reach."""

    network: Network
    host: str

    @override
    def command(self) -> list[str]:
        argv = [each.replace(HOST, "0.0.0.0") for each in super().command()]
        return self.network.command(self.host, argv)

    @override
    def is_ready(self) -> bool:
        return self.network.at(self.host, lambda: reachable(HOST, self.port))

    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment(), self.host_variable: self.network.address(self.host)}


class _HostMaria(_OnHost, MariaServer):
    @override
    def _accounts(self) -> str:
        return super()._accounts().replace(f"'@'{HOST}'", "'@'%'")


class _HostMongo(_OnHost, MongoServer):
    pass


class _HostMlflow(_OnHost, MlflowServer):
    """The server as MLflow's own command starts it, which other hosts may ask."""

    @override
    def command(self) -> list[str]:
        python, *_, folder = MlflowServer.command(self)
        return self.network.command(self.host, [
            str(Path(python).with_name("mlflow")), "server", "--host", "0.0.0.0", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts",
            "--allowed-hosts", f"{HOST}:*,{self.network.address(self.host)}:*",
        ])  # fmt: skip

    @override
    def is_ready(self) -> bool:
        return self.network.at(self.host, lambda: MlflowServer.is_ready(self))

    @override
    def environment(self) -> dict[str, str]:
        return {self.host_variable: f"http://{self.network.address(self.host)}:{self.port}"}


class _RayOnHost(RayNode):
    """A node of a Ray cluster on a host, at the host's address."""

    patience = 300.0
    network: Network
    host: str

    @override
    def command(self) -> list[str]:
        argv = [each.replace(f"node-ip-address={HOST}", f"node-ip-address={self._address}") for each in super().command()]
        return self.network.command(self.host, argv)

    @override
    def secrets(self) -> dict[str, str]:
        return {name: value for name, value in super().secrets().items() if name != "RAY_START_HOOK"}

    @override
    def is_ready(self) -> bool:
        return self.network.at(self.host, lambda: reachable(self._address, self.port))

    @property
    @override
    def url(self) -> str:
        return f"{self._address}:{self.port}"

    @property
    def _address(self) -> str:
        return self.network.address(self.host)


class _HostRayHead(_RayOnHost, RayHead):
    @override
    def trainer_environment(self, workers: int) -> dict[str, str]:
        return {**super().trainer_environment(workers), "COMPLEX_SYSTEM_RAY_ADDRESS": self.url}


class _HostRayWorker(_RayOnHost, RayWorker):
    pass


DATABASES: dict[str, type[_OnHost]] = {"maria": _HostMaria, "mongo": _HostMongo}


class ThreeHosts:
    """Hosts, their brokers, the services, and what each host hears of them.

    Attributes:
        network: The hosts and their links.
        clients: A client on each host, of a user without limits.
        children: The processes of the services by replica.
    """

    def __init__(self, network: Network, folder: Path, kind: str) -> None:
        self.network = network
        self.kind = kind
        self.clients: dict[str, SystemClient] = {}
        self.threads: dict[str, HostThread] = {}
        self.brokers: dict[str, Child] = {}
        self.children: dict[str, Child] = {}
        self.heard: dict[str, dict[str, tuple[float, Heartbeat]]] = {host: {} for host in HOSTS}
        self._folder = folder
        self._certificates = folder / "certificates"
        self.database = DATABASES[kind](folder / kind, port=0, asks=True)
        self.database.network, self.database.host = network, "data"
        self.ray: list[_RayOnHost] = []
        self.mlflow = _HostMlflow(folder / "mlflow", port=0)
        self.mlflow.network, self.mlflow.host = network, "training"

    # Start and end

    def start_servers(self) -> None:
        """Start brokers and database."""
        self._certificates.mkdir()
        write_certificates(self._certificates, *map(self.network.address, HOSTS))
        for host in HOSTS:
            self.brokers[host] = child = self._broker(host)
            child.start()
        self.database.start()
        self.database.wait_ready()
        deadline = time.monotonic() + 60
        for host, child in self.brokers.items():
            while not self.network.at(host, lambda: reachable(HOST, CLIENTS)):
                assert child.alive, f"the broker of {host} ended:\n{child.tail()}"
                assert time.monotonic() < deadline, f"the broker of {host} does not listen:\n{child.tail()}"
                time.sleep(0.05)

    def start_mlflow(self) -> None:
        """Start MLflow's server."""
        self.mlflow.start()
        self.mlflow.wait_ready()

    def start_ray(self) -> dict[str, str]:
        """Start a Ray cluster with a worker on each of two hosts; return the variables of a trainer."""
        folder = self._folder
        head = _HostRayHead(folder / "ray", folder)
        workers = [_HostRayWorker(folder / f"ray-{i}", folder, head=head, number=i) for i in (1, 2)]
        for node, host in zip((head, *workers), ("training", "training", "serving"), strict=True):
            node.network, node.host = self.network, host
            self.ray.append(node)
            node.start()
            node.wait_ready()
        return head.trainer_environment(len(workers))

    def ray_workers(self) -> dict[str, int]:
        """How many processes have worked for Ray, by host."""
        return {node.host: len(list(node.directory.glob("session_2*/logs/worker-*.out"))) for node in self.ray[1:]}

    async def connect(self) -> None:
        """Connect a client on each host."""
        for host in HOSTS:
            self.threads[host] = thread = HostThread(self.network.namespace(host))
            self.clients[host] = await thread.run(self._client(host))

    def start(self, host: str, service: str, **variables: str) -> None:
        """Start a service on a host; its replica is called ``<service>@<host>``."""
        name = f"{service}@{host}"
        env = {**self.environment(service), "FASTIOT_SERVICE_ID": name, **variables}
        argv = self.network.command(host, [sys.executable, "-m", f"complex_system_services.{service}.run"])
        self.children[name] = child = Child(name, argv, self._folder / f"{name}.log", env=env)
        child.start()

    async def stop(self) -> None:
        """End everything."""
        for host, client in self.clients.items():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.threads[host].run(client.close()), 20)
        for thread in self.threads.values():
            thread.stop()
        children = [*self.children.values(), *self.brokers.values()]
        for child in children:
            child.terminate()
        for child in children:
            await asyncio.to_thread(child.stop, 15.0)
        for server in (*self.ray, self.mlflow, self.database):
            await asyncio.to_thread(server.stop)

    def environment(self, user: str) -> dict[str, str]:
        """Variables of a program that connects to its host's broker."""
        return {
            **self.database.environment(),
            **self.mlflow.environment(),
            "FASTIOT_NATS_HOST": HOST,
            "FASTIOT_NATS_PORT": str(CLIENTS),
            "FASTIOT_NATS_USER": user,
            "FASTIOT_NATS_PASSWORD": PASSWORD,
            "FASTIOT_NATS_TLS_CA": str(self._certificates / "ca.pem"),
            "FASTIOT_NATS_DEFAULT_TIMEOUT": "5",
            "COMPLEX_SYSTEM_INGEST_REPLICAS": "3",
            "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
            "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.2",
        }

    # How it goes

    def log(self, name: str) -> str:
        """What a service, or the broker of a host, has said so far."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def ready(self, seconds: float = 180.0) -> float:
        """Wait until each host hears from now on that every service is ready, the processes being those that were started.

        Returns:
            Seconds until then.
        """
        began = time.monotonic()

        def well() -> bool:
            assert all(child.alive for child in (*self.brokers.values(), *self.children.values())), self.states()
            return all(
                name in heard and heard[name][0] > began and heard[name][1].state in ("ready", "working")
                for heard in self.heard.values()
                for name in self.children
            )

        try:
            await eventually(well, seconds)
        except AssertionError:
            raise AssertionError(f"Not all are well after {seconds:g} s: {self.states()}") from None
        return time.monotonic() - began

    async def save(self, records: list[Record]) -> None:
        """Save raw records from the data host."""
        await DatabaseClient(self.clients["data"]).save_raw(records)

    async def counts(self) -> RecordCounts:
        """Numbers of records, as the data host is told."""
        return await DatabaseClient(self.clients["data"]).counts()

    def states(self) -> str:
        """What each host knows of each service, for an error."""
        lines = []
        for name, child in (*self.children.items(), *self.brokers.items()):
            known = {
                host: (f"{time.monotonic() - at:.1f} s ago", beat.state, beat.detail)
                for host, heard in self.heard.items()
                for at, beat in [heard[name]]
            } if child in self.children.values() and all(name in heard for heard in self.heard.values()) else ""  # fmt: skip
            lines.append(f"{name} (alive: {child.alive}): {known}\n{child.tail(8)}")
        return "\n".join(lines)

    # Inside

    async def _client(self, host: str) -> SystemClient:
        settings = Settings.of(self.environment(USER))
        client = await SystemClient.open(settings, f"tester-{host}")
        heard = self.heard[host]

        async def hear(beat: Heartbeat) -> None:
            child = self.children.get(beat.replica)
            if child is not None and child.pid == beat.pid:
                heard[beat.replica] = (time.monotonic(), beat)

        await client.hear(SERVICE_HEARTBEAT, hear)
        await client.broker.settle()
        return client

    def _broker(self, host: str) -> Child:
        """The broker as the example configures it; only its folders are elsewhere."""
        folder = self._folder / f"nats-{host}"
        folder.mkdir()
        text = (EXAMPLE / host / "nats.conf").read_text(encoding="utf-8")
        for old, new in {'"/data"': f'"{folder / "data"}"', "/etc/nats/certs": str(self._certificates)}.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "nats.conf").write_text(text, encoding="utf-8")
        users = broker_users(SERVICES)
        (folder / "users.conf").write_text(authorization(users), encoding="utf-8")
        first, second = (self.network.address(other) for other in HOSTS if other != host)
        environment = {
            "NATS_SERVER_NAME": host,
            "FASTIOT_NATS_USER": USER,
            **dict.fromkeys(("FASTIOT_NATS_PASSWORD", *(user.variable for user in users)), PASSWORD),
            "NATS_CLUSTER_PASSWORD": CLUSTER_PASSWORD,
            "NATS_ROUTE_1": f"nats-route://complex_system:{CLUSTER_PASSWORD}@{first}:{ROUTES}",
            "NATS_ROUTE_2": f"nats-route://complex_system:{CLUSTER_PASSWORD}@{second}:{ROUTES}",
        }
        binary = program("nats-server")
        assert binary is not None
        argv = self.network.command(host, [binary, "-c", str(folder / "nats.conf")])
        return Child(host, argv, self._folder / f"{host}.log", env=environment)


@contextmanager
def network() -> Iterator[Network]:
    """Three hosts and nothing on them."""
    with Network(HOSTS) as made:
        yield made


@asynccontextmanager
async def three_hosts(folder: Path, kind: str) -> AsyncIterator[ThreeHosts]:
    """Three hosts with brokers, a database and clients, and no service yet; what was started is ended in every case."""
    with network() as made:
        hosts = ThreeHosts(made, folder, kind)
        try:
            await asyncio.to_thread(hosts.start_servers)
            await hosts.connect()
            yield hosts
        finally:
            made.heal_all()
            await hosts.stop()
