"""The broker's disk fills while messages flow: publishers are told, nothing is lost, and all goes on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from nats.aio.client import Client
from nats.errors import Error as NatsError
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.local.plan import Plan
from complex_system.local.servers import HOST, NatsServer, Server, free_port
from complex_system.local.state import Process, RunState
from complex_system.local.supervisor import Supervisor
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_COUNTS, GET_INGEST_COUNTS
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from plant import FULL, all_raw
from small_disk import SmallDisk, needs_root, small_disk
from support import TesterService, eventually, running, started

BATCH = 50
RECORDS = FULL or 3_000
LEFT = 64 * 1024
"""Bytes that the messages themselves fill."""
FULL_SECONDS = 6.0

pytestmark = [needs_root, pytest.mark.timeout(1800 if FULL else 300)]


class Publisher:
    """Publishes batches, each until it is acknowledged."""

    def __init__(self, client: IngestClient) -> None:
        self._client = client
        self.acknowledged: list[Record] = []
        self.told: list[str] = []

    async def publish(self, records: list[Record]) -> None:
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            while True:
                try:
                    await self._client.publish(batch)
                except ComplexSystemError as error:
                    self.told.append(error.message)
                    await asyncio.sleep(0.2)  # its pause before it repeats the batch
                else:
                    self.acknowledged += batch
                    break


def supervised(server: NatsServer, folder: Path) -> Supervisor:
    """Keeps the broker running, as ``fiot run`` does."""
    plan = Plan("here", folder, (server,), (), (), Settings(), Dataset.load())
    state = RunState("here", infrastructure={server.name: Process(server.name, url=server.url)})
    supervisor = Supervisor(plan, state)
    supervisor.start()
    return supervisor


@pytest.mark.long
async def test_the_disk_of_the_broker_is_full(
    tmp_path: Path, mongo_server: Server, make_settings: Callable[..., Settings], report: Any
) -> None:
    records = list(Laboratory(seed=5).records(RECORDS))
    with small_disk(tmp_path / "disk", 128) as disk:
        broker = NatsServer(disk.folder / "nats", tmp_path, port=0)
        supervisor = supervised(broker, tmp_path)
        try:
            await eventually(broker.is_ready, 60)
            name = f"d{uuid.uuid4().hex[:10]}"
            # Reserved by JetStream, which takes three quarters of the disk at most.
            small = {"ingest_bytes": 50_000_000, "ingest_dead_bytes": 5_000_000, "request_timeout": 60.0}
            settings = make_settings(broker, mongo_server, mongo_name=name, **small)
            async with running(DatabaseMongoService, settings) as service, running(TesterService, settings) as tester:
                await eventually(lambda: service.ingest is not None and not service.ingest.problem, 60)
                await disturbed(tester, Publisher(IngestClient(tester.broker, settings, "Test")), disk, records, report)
        finally:
            await supervisor.stop()


class MonitoredNatsServer(NatsServer):
    """A broker with the monitoring port that a container's health check asks."""

    monitoring = 0

    @override
    def prepare(self) -> None:
        super().prepare()
        self.monitoring = self.monitoring or free_port()
        with (self.directory / "nats.conf").open("a") as configuration:
            configuration.write(f'http: "{HOST}:{self.monitoring}"\n')


WGET = """#!{python}
import sys, urllib.request
urllib.request.urlopen(sys.argv[-1], timeout=5).read()
"""
NC = """#!{python}
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    connection.sendall(sys.stdin.buffer.read())
    while part := connection.recv(65536):
        sys.stdout.buffer.write(part)
"""
"""What busybox's programs of these names do for the health check, which the public image has and a Debian may lack."""


@pytest.mark.long
async def test_a_containers_broker_that_stopped_writing_is_ended_by_its_health_check_when_there_is_room(
    tmp_path: Path,
) -> None:
    from complex_system.infrastructure import NatsBroker  # registers itself with FastIoT's command line

    for name, text in (("wget", WGET), ("nc", NC)):
        (tmp_path / name).write_text(text.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    [check] = [each for each in NatsBroker().compose_extras if each.option_name == "healthcheck"]
    [_, command] = yaml.safe_load(check.default_value)["test"]

    with small_disk(tmp_path / "disk", 256) as disk:
        broker = MonitoredNatsServer(disk.folder / "nats", tmp_path, port=0)

        async def healthy() -> bool:
            assert broker.child is not None
            here = {
                "$$": "$",
                "8222": str(broker.monitoring),
                "/data": str(broker.directory),
                "kill 1;": f"kill {broker.child.pid};",
            }
            text = command
            for there, place in here.items():
                assert there in text
                text = text.replace(there, place)
            # The fallback for images with bash is not what is tested.
            program = text.rpartition("bash -c")[0] + "false"
            environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", program, env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            return await process.wait() == 0

        with started(broker):
            async with nats_client(broker) as client:
                context = client.jetstream()
                await context.add_stream(name="KEPT", subjects=["kept"], max_bytes=20_000_000)
                await context.publish("kept", bytes(10_000))
                assert await healthy()
                disk.fill(LEFT)
                acknowledged = 1
                with contextlib.suppress(NatsError, TimeoutError):
                    for _ in range(100):
                        await context.publish("kept", bytes(10_000), timeout=2)
                        acknowledged += 1
                assert acknowledged < 100
                assert not await healthy()
                assert broker.child is not None
                assert broker.child.alive  # while there is no room, a restart would not help
                disk.make_room()
                assert not await healthy()
                await eventually(lambda: broker.child is not None and not broker.child.alive)
            broker.start_process()  # as `restart: always` does
            await asyncio.to_thread(broker.wait_ready)
            async with nats_client(broker) as client:
                await client.jetstream().publish("kept", bytes(10_000))
                assert (await client.jetstream().stream_info("KEPT")).state.messages > acknowledged
            assert await healthy()


@asynccontextmanager
async def nats_client(server: Server) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(server.url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def disturbed(
    tester: TesterService, publisher: Publisher, disk: SmallDisk, records: list[Record], report: Any
) -> None:
    third = RECORDS // 3
    await publisher.publish(records[:third])
    assert not publisher.told
    publishing = asyncio.create_task(publisher.publish(records[third:]))
    began = time.monotonic()
    disk.fill(LEFT)
    await eventually(lambda: publisher.told, 60)
    refused_at = len(publisher.acknowledged)
    await asyncio.sleep(FULL_SECONDS)  # the fault lasts so long
    assert len(publisher.acknowledged) == refused_at
    # Requests do not need the disk.
    assert (await tester.ask(GET_COUNTS, Empty())).raw <= refused_at
    disk.make_room()
    over = time.monotonic()
    await eventually(lambda: len(publisher.acknowledged) > refused_at, 60)
    recovery = time.monotonic() - over
    await asyncio.wait_for(publishing, 120)

    async def settled() -> bool:
        try:
            counts = await tester.ask(GET_INGEST_COUNTS, Empty())
        except ComplexSystemError:
            return False
        return (counts.waiting, counts.in_flight) == (0, 0)

    await eventually(settled, 120)
    assert publisher.acknowledged == records
    assert await all_raw(DatabaseClient(tester)) == records
    assert (await tester.ask(GET_INGEST_COUNTS, Empty())).dead == 0
    report({"fault": over - began, "recovery": recovery, "finished": time.monotonic() - over})
