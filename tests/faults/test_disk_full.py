"""Full disks: the data of a database lie on a small file system, which fills while records flow and has room again later."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import MariaServer, MongoServer, NatsServer, Server
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts
from plant import FULL, Plant, plant
from small_disk import SmallDisk, needs_root, small_disk
from support import eventually, started

RECORDS = {"mongo": FULL or 3_000, "maria": FULL or 6_000}
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
FULL_SECONDS = 8.0

pytestmark = [needs_root, pytest.mark.timeout(1800 if FULL else 300)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with started(NatsServer(tmp_path_factory.mktemp("broker"), port=0)) as server:
        yield server


@asynccontextmanager
async def on_small_disk(
    kind: str, folder: Path, broker: Server, variables: dict[str, str]
) -> AsyncIterator[tuple[Plant, SmallDisk, Server]]:
    """A plant whose database has a disk of 300 MB."""
    with small_disk(folder / "disk", 300) as disk, started(SERVERS[kind](disk.folder / kind, folder, port=0)) as database:
        name = f"d{uuid.uuid4().hex[:10]}"
        own = {**QUICK, "FASTIOT_MONGO_DB_NAME": name, "COMPLEX_SYSTEM_MARIA_NAME": name, **variables}
        async with plant(folder, broker, database, own, RECORDS[kind], uuid.uuid4().int % 2**31) as system:
            yield system, disk, database


async def ingest_counts(system: Plant) -> IngestCounts | None:
    try:
        return await system.client.ask(GET_INGEST_COUNTS, Empty(), 3.0)
    except ComplexSystemError:
        return None


@pytest.mark.parametrize("sends", ["requests", "messages"])
async def test_the_disk_of_mariadb_is_full(
    tmp_path: Path, broker: NatsServer, dataset: Dataset, report: Any, sends: str
) -> None:
    service = "database_maria"
    variables = {"COMPLEX_SYSTEM_SOURCE_SENDS": sends}
    async with on_small_disk("maria", tmp_path, broker, variables) as (system, disk, _):
        for name in (service, PROCESSING, SOURCE):
            system.start(name)

        async def fault() -> None:
            disk.fill(LEFT)
            await eventually(lambda: system.state(service) == "failing", 60)
            assert re.search(r"fails: .* is full \(error 1114\)", system.detail(service))
            ready = system.says(service, " ready")
            await asyncio.sleep(FULL_SECONDS)  # the fault lasts so long
            assert not ready()
            assert "is full" in system.detail(service)
            disk.make_room()

        await system.disturbed(fault)
        await system.verify(dataset)
        counts = await eventually(lambda: ingest_counts(system), 10)
        assert (counts.refused, counts.dead) == (0, 0)
        report(system.marks)
