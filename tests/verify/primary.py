"""The primary of a real replica set is lost while records flow. ``make verify`` runs this against three members in containers."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import HOST, MongoServer, NatsServer
from given import Containers, GivenServer, given_server
from plant import Plant, plant
from support import eventually

RECORDS = 20_000
SERVICES = ("database_mongo", "data_processing", "dummy_data_generation")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def members() -> Iterator[GivenServer]:
    """The replica set; what a test has broken runs again at its end."""
    server = given_server(MongoServer)
    assert server is not None, "the variable COMPLEX_SYSTEM_TEST_MONGO names no replica set: `make verify ARGS=replica-set`"
    yield server
    server.start()
    server.wait_ready()


@pytest.fixture
async def system(members: GivenServer, tmp_path: Path) -> AsyncIterator[Plant]:
    broker = given_server(NatsServer)
    assert broker is not None
    variables = {"FASTIOT_MONGO_DB_NAME": f"p{uuid.uuid4().hex[:10]}"}
    async with plant(tmp_path, broker, members, variables, RECORDS, uuid.uuid4().int % 2**31) as made:
        yield made


def asked(port: int) -> dict[str, Any]:
    with MongoClient[Any](HOST, port, directConnection=True, serverSelectionTimeoutMS=2000) as client:
        hello: dict[str, Any] = client.admin.command("hello")
        return hello


def member(port: int) -> Containers:
    """The container of the member at that port; its name ends with it."""
    found = given_server(MongoServer)
    assert found is not None
    return Containers(tuple(name for name in found.child.names if name.endswith(f"-{port}")))


async def primary_beside(hello: dict[str, Any], lost: int | None = None) -> int:
    """Return the port of the primary, another one than that which was lost."""
    ports = [int(host.rpartition(":")[2]) for host in hello["hosts"]]

    def found() -> int | None:
        for port in ports:
            if port != lost and asked(port)["isWritablePrimary"]:
                return port
        return None

    port: int = await eventually(lambda: asyncio.to_thread(found), 60)
    return port


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_another_primary_takes_over_and_nothing_is_lost(
    members: GivenServer, system: Plant, dataset: Dataset, fault: str, record_property: Any
) -> None:
    hello = asked(members.port)
    assert len(hello["hosts"]) >= 3
    for service in SERVICES:
        system.start(service)

    async def lose_the_primary() -> None:
        port = await primary_beside(hello)
        lost = member(port)
        lost.signal_group(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        try:
            await primary_beside(hello, port)
            there = await system.counts()
            assert there is not None or await system.until(lambda _: True)
            await system.until(lambda counts: counts.raw > (there.raw if there else 0) or counts.raw == RECORDS)
        finally:
            if fault == "killed":
                lost.start()
            else:
                lost.signal_group(signal.SIGCONT)

    await system.disturbed(lose_the_primary)
    await system.verify(dataset)
    record_property(f"primary {fault}", ", ".join(f"{mark} {value:.1f} s" for mark, value in system.marks.items()))
