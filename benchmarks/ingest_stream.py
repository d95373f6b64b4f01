"""Ingest by JetStream beside the request path, in turn, both databases. ``python -m benchmarks.ingest_stream [--quick]``.

The database service is a process of its own, as it is deployed. Both ways bring the same batches, four on the way at once, and the
clock stops when the database has the last record.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plant import quick
from benchmarks.tables import Table

TITLE = "Ingest by JetStream beside requests"
NOTE = (
    "Records a second until the database has them all. A request is acknowledged when the database has its records, a published "
    "message when the stream has it; how fast the publisher was rid of them stands beside it. Devices publish one record a message."
)
BATCH, IN_FLIGHT = 500, 4


def measure(servers: object = None, *, quick: bool = False) -> Table:
    """The table; the servers of the other programs are not used."""
    return asyncio.run(_measure(4_000 if quick else 50_000, 2 if quick else 5))


async def _measure(count: int, rounds: int) -> Table:
    table = Table(TITLE, NOTE, ["database", "way", "records/s", "spread", "publisher, records/s", "times requests"])
    for name in ("MongoDB", "MariaDB"):
        with tempfile.TemporaryDirectory() as place, _servers(Path(place), name) as environment:
            async with _asker(environment) as asker:
                await _compare(asker, environment, name, count, rounds, table)
    return table


async def _compare(asker: Any, environment: dict[str, str], name: str, count: int, rounds: int, table: Table) -> None:
    from complex_system.domain.keys import new_key
    from complex_system.domain.records import Record
    from complex_system.messaging.clients import DatabaseClient
    from complex_system.messaging.ingest.publisher import IngestClient
    from complex_system.protocol.base import Empty
    from complex_system.protocol.database import GET_INGEST_COUNTS
    from complex_system.settings import Settings

    database = DatabaseClient(asker)
    settings = Settings.of(environment)
    stream = IngestClient(asker.broker, settings, "Benchmark", "benchmark")
    made = await asyncio.to_thread(_records, count)
    written: int = (await database.counts()).raw

    async def run(
        send: Callable[[list[Record]], Awaitable[Any]], batch: int, in_flight: int, number: int
    ) -> tuple[float, float]:
        """Seconds until all are sent, and until the database has them."""
        nonlocal written
        records = [{**record, "_id": new_key()} for record in made[:number]]
        batches = iter([records[start : start + batch] for start in range(0, number, batch)])
        began = time.perf_counter()

        async def work() -> None:
            for records in batches:
                await send(records)

        await asyncio.gather(*(work() for _ in range(in_flight)))
        sent = time.perf_counter() - began
        written += number
        # The stream is asked, not the database: counting costs it as much as writing.
        while (left := await asker.ask(GET_INGEST_COUNTS, Empty())).waiting or left.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        done = time.perf_counter() - began
        there = (await database.counts()).raw
        if there != written:
            raise SystemExit(f"{name} has {there} records where {written} were sent")
        return sent, done

    ways: dict[str, tuple[Callable[[list[Record]], Awaitable[Any]], int, int, int]] = {
        "requests of 500": (database.save_raw, BATCH, IN_FLIGHT, count),
        "JetStream, messages of 500": (stream.publish, BATCH, IN_FLIGHT, count),
        "requests of 1": (database.save_raw, 1, 64, count // 20),
        "JetStream, devices": (stream.publish, 1, 64, count // 20),
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, (send, batch, in_flight, size) in ways.items():
            sent, done = await run(send, batch, in_flight, size)
            if number:  # the first round warms up
                found[way].append((size / sent, size / done))
    rates = {way: median(done for _, done in runs) for way, runs in found.items()}
    for way, runs in found.items():
        base = rates["requests of 1" if way in ("requests of 1", "JetStream, devices") else "requests of 500"]
        done = [rate for _, rate in runs]
        table.rows.append(
            [
                name,
                way,
                f"{rates[way]:,.0f}",
                f"{min(done):,.0f} to {max(done):,.0f}",
                f"{median(sent for sent, _ in runs):,.0f}",
                f"{rates[way] / base:.2f}",
            ]
        )


def _records(count: int) -> list[dict[str, Any]]:
    from complex_system.domain.laboratory import Laboratory

    return list(islice(Laboratory(seed=1).records(count), count))


@contextmanager
def _servers(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Broker, database and database service; yields the environment that names them."""
    from complex_system.local.processes import Child
    from complex_system.local.servers import MariaServer, MongoServer, NatsServer

    kind, module = (MongoServer, "database_mongo") if name == "MongoDB" else (MariaServer, "database_maria")
    servers = [NatsServer(folder / "nats", port=0), kind(folder / "database", port=0)]
    environment = {"FASTIOT_CONFIG_DIR": str(folder)}
    started: list[Any] = []
    try:
        for server in servers:
            server.start()
            started.append(server)
            server.wait_ready()
            environment |= server.environment()
        service = Child(
            module, [sys.executable, "-m", f"complex_system_services.{module}.run"], folder / "service.log", env=environment
        )
        service.start()
        started.append(service)
        yield environment
    finally:
        for each in reversed(started):
            each.stop()


@asynccontextmanager
async def _asker(environment: dict[str, str]) -> AsyncIterator[Any]:
    """A client, once the service answers and its streams are there."""
    os.environ["FASTIOT_CONFIG_DIR"] = environment["FASTIOT_CONFIG_DIR"]  # FastIoT would read a deployment's otherwise
    from complex_system.errors import ComplexSystemError
    from complex_system.messaging.clients import SystemClient
    from complex_system.protocol.base import Empty
    from complex_system.protocol.database import GET_INGEST_COUNTS
    from complex_system.settings import Settings

    async with await SystemClient.open(Settings.of(environment), "benchmark") as asker:
        deadline = time.monotonic() + 120
        while True:
            try:
                if (await asker.ask(GET_INGEST_COUNTS, Empty())).waiting == 0:
                    break
            except ComplexSystemError as error:
                if time.monotonic() > deadline:
                    raise SystemExit(f"The database service did not start: {error}") from error
            await asyncio.sleep(0.2)
        yield asker


if __name__ == "__main__":
    print(measure(quick=quick()).markdown())
