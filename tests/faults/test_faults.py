"""Nothing lost, nothing twice: servers and services are killed, frozen and slowed down while records flow.

By default with few records and short time-outs, so that the suite stays short. ``make faults`` takes 50,000 records and the
settings as they come.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import MariaServer, MongoServer, NatsServer, Server
from complex_system.testing.proxy import proxied
from given import DIRECT, server_of
from plant import FULL, Plant, kill, plant
from support import eventually

RECORDS = {"mongo": FULL or 3_000, "maria": FULL or 6_000}
TIMEOUT = 30.0 if FULL else 5.0
QUICK = {} if FULL else {
    "FASTIOT_NATS_DEFAULT_TIMEOUT": str(TIMEOUT),
    "COMPLEX_SYSTEM_BATCH_SIZE": "25",
    "COMPLEX_SYSTEM_BATCHES_IN_FLIGHT": "2",
    "COMPLEX_SYSTEM_PROCESSING_BATCH": "500",
    "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
    "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.2",
}  # fmt: skip
SERVERS: dict[str, type[Server]] = {"mongo": MongoServer, "maria": MariaServer}
SOURCE, PROCESSING = "dummy_data_generation", "data_processing"

pytestmark = pytest.mark.timeout(1800 if FULL else 300)

ANY_DATABASE = pytest.mark.parametrize("servers", [pytest.param("mongo", marks=pytest.mark.long), "maria"], indirect=True)
"""One of the two is enough for ``make test``; ``make test-long`` and ``make faults`` take both."""


class Servers:
    """A broker and a database of this module's own, for they are killed."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.nats = server_of(NatsServer, folder / "nats")
        self.database = server_of(SERVERS[kind], folder / kind)
        for server in (self.nats, self.database):
            server.start()
        for server in (self.nats, self.database):
            server.wait_ready()

    def stop(self) -> None:
        for server in (self.nats, self.database):
            server.stop()

    @property
    def service(self) -> str:
        return f"database_{self.kind}"


@pytest.fixture(scope="module", params=["mongo", "maria"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(request.param, tmp_path_factory.mktemp("faults"))
    try:
        yield servers
    finally:
        servers.stop()


def variables(servers: Servers) -> dict[str, str]:
    name = f"f{uuid.uuid4().hex[:10]}"
    return {**QUICK, "FASTIOT_MONGO_DB_NAME": name, "COMPLEX_SYSTEM_MARIA_NAME": name}


@pytest.fixture
async def system(servers: Servers, tmp_path: Path) -> AsyncIterator[Plant]:
    seed = uuid.uuid4().int % 2**31
    async with plant(tmp_path, servers.nats, servers.database, variables(servers), RECORDS[servers.kind], seed) as made:
        yield made


async def again(server: Server) -> None:
    """Starts a server that was killed, on the same port and the same data."""
    server.start_process()
    await asyncio.to_thread(server.wait_ready)


def start_all(system: Plant, *services: str) -> None:
    for service in services:
        system.start(service)


@pytest.mark.long
@ANY_DATABASE
async def test_the_database_service_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    start_all(system, servers.service, PROCESSING, SOURCE)

    async def fault() -> None:
        said = system.says(SOURCE, "waiting: No (reply|service)")
        system.kill(servers.service)
        await eventually(said, TIMEOUT + 30)
        system.start(servers.service)
        await eventually(lambda: system.state(servers.service) == "ready", 60)

    await system.disturbed(fault)
    await system.verify(dataset)
    report(system.marks)


@ANY_DATABASE
async def test_the_database_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    start_all(system, servers.service, PROCESSING, SOURCE)

    async def fault() -> None:
        said = system.says(servers.service, "failing: .* does not answer")
        heard = system.says(SOURCE, "waiting: .* does not answer")
        kill(servers.database.child)
        await eventually(lambda: said() and heard(), 60)
        await again(servers.database)

    await system.disturbed(fault)
    await system.verify(dataset)
    report(system.marks)


@ANY_DATABASE
async def test_the_broker_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    services = (servers.service, PROCESSING, SOURCE)
    start_all(system, *services)

    async def fault() -> None:
        said = [system.says(name, "Waiting for the broker at") for name in services]
        back.extend(system.says(name, "is back") for name in services)
        kill(servers.nats.child)
        await eventually(lambda: all(each() for each in said), 60)
        await again(servers.nats)

    back: list[Callable[[], bool]] = []
    await system.disturbed(fault)
    await system.verify(dataset)
    assert all(each() for each in back)
    report(system.marks)


@pytest.mark.long
@ANY_DATABASE
async def test_data_processing_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    start_all(system, servers.service, PROCESSING, SOURCE)

    async def fault() -> None:
        await system.until(lambda counts: counts.processed > 0)
        system.kill(PROCESSING)
        system.start(PROCESSING)

    await system.disturbed(fault)
    await system.verify(dataset)
    report(system.marks)


@pytest.mark.long
@ANY_DATABASE
async def test_the_source_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    start_all(system, servers.service, PROCESSING, SOURCE)

    async def fault() -> None:
        await eventually(lambda: system.told > 0, 60)
        system.kill(SOURCE)
        told = system.told
        # What it was told of as saved is there before it comes back.
        counts = await system.until(lambda _: True)
        assert counts.raw >= told > 0
        system.start(SOURCE)

    await system.disturbed(fault)
    await system.verify(dataset)
    report(system.marks)


@pytest.mark.long
async def test_one_of_two_replicas_is_killed(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    for service in (servers.service, PROCESSING):
        for replica in ("_a", "_b"):
            system.start(service, replica)
    await eventually(lambda: all(system.state(name) == "ready" for name in system.children), 60)
    system.start(SOURCE)

    async def fault() -> None:
        for service in (servers.service, PROCESSING):
            system.kill(f"{service}_a")

    await system.disturbed(fault)
    await system.verify(dataset)
    assert "share 1 of 1" in system.log(f"{PROCESSING}_b")
    report(system.marks)


@pytest.mark.long
async def test_the_broker_is_frozen(servers: Servers, system: Plant, dataset: Dataset, report: Any) -> None:
    start_all(system, servers.service, PROCESSING, SOURCE)

    async def fault() -> None:
        broker = servers.nats.child
        assert broker is not None
        broker.signal_group(signal.SIGSTOP)
        try:
            await asyncio.sleep(20)  # the fault lasts so long
        finally:
            broker.signal_group(signal.SIGCONT)

    await system.disturbed(fault)
    await system.verify(dataset)
    report(system.marks)


@pytest.mark.long
async def test_the_database_answers_slowly(servers: Servers, tmp_path: Path, dataset: Dataset, report: Any) -> None:
    seed = uuid.uuid4().int % 2**31
    async with proxied(servers.database.port) as proxy:
        [host, port] = [name for name in servers.database.environment() if name.endswith(("_HOST", "_PORT"))]
        address = DIRECT if servers.kind == "mongo" else "127.0.0.1"
        values = {**variables(servers), host: address, port: str(proxy.port)}
        async with plant(tmp_path, servers.nats, servers.database, values, RECORDS[servers.kind], seed) as system:
            start_all(system, servers.service, PROCESSING, SOURCE)

            async def fault() -> None:
                # First so slow that requests run into their time-out, then slow.
                said = system.says(SOURCE, "waiting: ")
                proxy.delay = TIMEOUT + 2
                await eventually(said, TIMEOUT + 60)
                proxy.delay = 0.01

            await system.disturbed(fault)
            await system.verify(dataset)
            report(system.marks)


@pytest.mark.long
async def test_two_replicas_of_data_processing_share_the_work(
    servers: Servers, system: Plant, dataset: Dataset, report: Any
) -> None:
    replicas = [f"{PROCESSING}_{letter}" for letter in "ab"]
    start_all(system, servers.service)
    for letter in "ab":
        system.start(PROCESSING, f"_{letter}")
    await eventually(lambda: all(system.state(name) == "ready" for name in system.children), 60)
    system.start(SOURCE)
    await system.finished()
    await system.verify(dataset)

    def done() -> list[int]:
        return [system.processed_by(name) for name in replicas]

    # A sweep is told of when it ends, which may be after the last record was written.
    await eventually(lambda: sum(done()) >= system.records)
    assert min(done()) > 0.2 * system.records
    assert sum(done()) <= 1.25 * system.records
    report({"share of a": done()[0] / system.records, "done twice": sum(done()) / system.records - 1})


@pytest.mark.long
async def test_services_that_start_first_wait_and_say_for_what(
    servers: Servers, tmp_path: Path, dataset: Dataset, report: Any
) -> None:
    services = (servers.service, PROCESSING, SOURCE)
    async with plant(tmp_path, servers.nats, servers.database, variables(servers), 500, 3) as system:
        kill(servers.nats.child)
        kill(servers.database.child)
        start_all(system, PROCESSING, SOURCE)
        for name in (PROCESSING, SOURCE):
            await eventually(
                lambda name=name: f"Waiting for the broker at 127.0.0.1:{servers.nats.port}" in system.log(name), 60
            )
        await again(servers.nats)
        for name, subject in ((PROCESSING, "get-unprocessed-page"), (SOURCE, "save-many-raw-datapoints")):
            said = ("waiting", f"No service answers '{subject}' at the moment.")
            await eventually(lambda name=name, said=said: (system.state(name), system.detail(name)) == said, 60)
        system.start(servers.service)
        await eventually(lambda: system.state(servers.service) == "waiting", 60)
        assert f"at 127.0.0.1:{servers.database.port} does not answer" in system.detail(servers.service)
        await again(servers.database)
        await system.finished()
        await system.verify(dataset)
        assert set(system.children) == set(services)
