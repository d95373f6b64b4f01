"""Full disks: the data of a database lie on a small file system, which fills while records flow and has room again later."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import HOST, MariaServer, MongoServer, NatsServer, Server, reachable
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts
from plant import FULL, Plant, plant
from runs import fiot_run
from small_disk import SmallDisk, needs_root, small_disk
from support import eventually, started

RECORDS = {"mongo": FULL or 5_000, "maria": FULL or 6_000}
QUICK = {} if FULL else {
    "FASTIOT_NATS_DEFAULT_TIMEOUT": "5",
    "COMPLEX_SYSTEM_BATCH_SIZE": "25",
    "COMPLEX_SYSTEM_BATCHES_IN_FLIGHT": "2",
    "COMPLEX_SYSTEM_PROCESSING_BATCH": "500",
    "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
    "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.2",
}  # fmt: skip
SERVERS: dict[str, type[Server]] = {"mongo": MongoServer, "maria": MariaServer}
SOURCE, PROCESSING = "dummy_data_generation", "data_processing"
LEFT = 512 * 1024
"""Bytes that the records themselves fill."""
MEGABYTES = 1000 if FULL else 300
FULL_SECONDS = 12.0 if FULL else 5.0

LONG = pytest.mark.timeout(1800) if FULL else pytest.mark.long

pytestmark = [needs_root, pytest.mark.timeout(1800 if FULL else 300)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    """A broker of the test's own: records that a failed test left in the stream would come into the database of the next one."""
    with started(NatsServer(tmp_path / "broker", port=0)) as server:
        yield server


@asynccontextmanager
async def on_small_disk(
    kind: str, folder: Path, broker: Server, variables: dict[str, str]
) -> AsyncIterator[tuple[Plant, SmallDisk, Server]]:
    """A plant whose database has a small disk, and is started again when it ends, as by `fiot run` and the compose stack."""
    with (
        small_disk(folder / "disk", MEGABYTES) as disk,
        started(SERVERS[kind](disk.folder / kind, folder, port=0)) as database,
    ):
        name = f"d{uuid.uuid4().hex[:10]}"
        own = {**QUICK, "FASTIOT_MONGO_DB_NAME": name, "COMPLEX_SYSTEM_MARIA_NAME": name, **variables}
        async with plant(folder, broker, database, own, RECORDS[kind], uuid.uuid4().int % 2**31) as system:
            supervisor = asyncio.create_task(supervise(database))
            try:
                yield system, disk, database
            finally:
                supervisor.cancel()


async def supervise(server: Server) -> None:
    """Starts a server again when it ended or must be. With a full disk MariaDB may end: "Out of disk space in rollback"."""
    while True:
        await asyncio.sleep(0.5)
        if server.child is not None and (not server.child.alive or server.needs_restart()):
            server.stop()
            server.start()


async def ingest_counts(system: Plant) -> IngestCounts | None:
    try:
        return await system.client.ask(GET_INGEST_COUNTS, Empty(), 3.0)
    except ComplexSystemError:
        return None


async def fills(system: Plant, disk: SmallDisk, service: str, reason: str) -> None:
    """Starts the services, takes the room on the disk, and has records take the rest, until the database service says why it fails."""
    for name in (service, PROCESSING):
        system.start(name)
    await eventually(lambda: system.state(service) == "ready", 60)
    disk.fill(LEFT)
    told = system.says(service, f"failing: .*{reason}")
    system.start(SOURCE)
    await eventually(told, 120)


async def stays_failing(system: Plant, disk: SmallDisk, service: str) -> None:
    """The service says so while the disk is full, and is ready in between only where a part of the records found room."""
    before, ready = await system.counts(), system.says(service, " ready")
    disk.fill()
    await asyncio.sleep(FULL_SECONDS)  # the fault lasts so long
    if ready():
        after = await eventually(system.counts, 30)
        assert before is None or after.raw + after.processed > before.raw + before.processed, system.log(service)[-4000:]
    else:
        assert system.state(service) == "failing"


async def goes_on(system: Plant, dataset: Dataset, report: Any) -> None:
    """Everything is there in the end, and nothing was refused."""
    over = time.monotonic()
    await system.finished()
    await system.verify(dataset)
    counts = await eventually(lambda: ingest_counts(system), 60)
    assert (counts.refused, counts.dead) == (0, 0)
    report({"full": FULL_SECONDS, "finished": time.monotonic() - over})


@pytest.mark.long
@pytest.mark.parametrize("sends", ["messages", "requests"] if FULL else ["messages"])
async def test_the_disk_of_mariadb_is_full(
    tmp_path: Path, broker: NatsServer, dataset: Dataset, report: Any, sends: str
) -> None:
    service = "database_maria"
    async with on_small_disk("maria", tmp_path, broker, {"COMPLEX_SYSTEM_SOURCE_SENDS": sends}) as (system, disk, _):
        # Where it finds no room even to undo a write it ends, and has none to start again.
        await fills(system, disk, service, r"is full \(error 1114\)|does not answer")
        await stays_failing(system, disk, service)
        disk.make_room()
        await goes_on(system, dataset, report)


@LONG
async def test_the_disk_of_the_stand_in_for_mongodb_is_full(
    tmp_path: Path, broker: NatsServer, dataset: Dataset, report: Any
) -> None:
    """Its storage engine gives up until it is started again, as by `fiot run` when there is room; what it acknowledged is there."""
    service = "database_mongo"
    async with on_small_disk("mongo", tmp_path, broker, {"COMPLEX_SYSTEM_SOURCE_SENDS": "messages"}) as (
        system,
        disk,
        server,
    ):
        await fills(system, disk, service, r"internal server error \(code 1\)")
        first = server.child
        await stays_failing(system, disk, service)
        assert server.child is first  # not before there is room
        disk.make_room()
        await goes_on(system, dataset, report)


@LONG
def test_a_run_survives_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1000) as disk, fiot_run(disk.folder, "integration_test") as run:

        def all_answer() -> bool:
            addresses = [urlsplit(server["url"]) for server in run.status()["infrastructure"].values()]
            return len(addresses) == 4 and all(reachable(HOST, each.port or 0) for each in addresses)

        def brokers() -> set[int]:
            found = set()
            for each in run.processes():
                with suppress(psutil.NoSuchProcess):  # it has ended since it was found
                    if each.name() == "nats-server":
                        found.add(each.pid)
            return found

        run.eventually(all_answer, 120)
        [broker] = brokers()
        disk.fill()
        # What the run says goes to this disk, too, and not even a line finds room in the last page of the file.
        page = os.sysconf("SC_PAGE_SIZE")
        with run.output.open("ab") as output:
            output.write(bytes(-output.tell() % page))
        os.kill(broker, signal.SIGKILL)  # something to write about, and to start without room
        time.sleep(FULL_SECONDS)  # the fault lasts so long
        assert run.process.poll() is None, run.said
        disk.make_room()
        run.eventually(lambda: all_answer() and brokers() not in (set(), {broker}), 120)
        run.eventually(lambda: "status.json is written again" in run.said)
        run.process.send_signal(signal.SIGINT)
        assert run.wait(60) == 0, run.said
        assert run.processes() == []
