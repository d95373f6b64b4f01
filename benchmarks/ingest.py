"""Ingest: source, broker, database service, acknowledged; against the driver alone. ``python -m benchmarks.ingest``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from benchmarks.drivers import open_driver
from benchmarks.plant import DATABASES, Plant, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record

NOTE = (
    "{count:,} records in batches of {batch}, made beforehand. Ours: sent over NATS, {flight} batches in flight as the source "
    "has them, checked, written idempotently, and acknowledged after the commit. The driver: the same batches by `{call}`, one "
    "commit each, in one process; nothing is checked and nothing may be repeated."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a database."""
    yield _measure("MariaDB", 50_000 if quick else 200_000, 3)
    yield _measure("MongoDB", 10_000 if quick else 200_000, 2)


def _measure(database: str, count: int, rounds: int) -> Table:
    records = list(Laboratory(seed=1).records(count))
    with Plant(database) as plant:
        driver = open_driver(database, plant.settings)
        size, flight = plant.settings.batch_size, plant.settings.batches_in_flight
        batches = [records[start : start + size] for start in range(0, count, size)]

        async def send() -> None:
            left = iter(batches)

            async def work() -> None:
                for batch in left:
                    reply = await plant.database.save_raw(batch)
                    assert (reply.acknowledged, reply.inserted) == (True, len(batch)), reply

            await asyncio.gather(*(work() for _ in range(flight)))

        def ours() -> float:
            return timed(lambda: plant.run(send()))

        def direct() -> float:
            return timed(lambda: write(batches))

        def write(batches: Sequence[Sequence[Record]]) -> None:
            for batch in batches:
                driver.save_raw(batch)

        def timed(work: object) -> float:
            driver.clear()
            began = time.perf_counter()
            work()  # type: ignore[operator]
            seconds = time.perf_counter() - began
            assert driver.counts() == (count, 0)
            return seconds

        name = f"the driver alone ({DATABASES[database][0].name})"
        seconds = rounds_of({"ours": ours, name: direct}, rounds)
        driver.close()
    call = "executemany" if database == "MariaDB" else "insert_many"
    note = NOTE.format(count=count, batch=size, flight=flight, call=call)
    return compared(f"Ingest, {database}", note, seconds, count=count, unit="records/s", aims={name: ">= 0.7 x"})


if __name__ == "__main__":
    main(["ingest"], quick=quick())
