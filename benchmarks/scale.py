"""What grows with the number of records: ``python -m benchmarks.scale [--records N] [--grown N] [--parts N] [MariaDB | MongoDB]``.

Records go through source, broker, database service and data processing; for each part of them the program prints the processor time a
record of every process, the most memory that a process had in the part, and how long requests took meanwhile.

``--grown`` copies the first half of the records in the database under later keys, inside MariaDB with SQL, until so many are there;
the second half goes the whole way again. So the tenth million can be compared with the first one without waiting for those between.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import psutil

from benchmarks.drivers import MongoDriver
from benchmarks.plant import DATABASES, DATASET, Plant
from benchmarks.run import keep_tables, write_page
from benchmarks.tables import Table
from complex_system.background import run_concurrently
from complex_system.domain.dataset import ID
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import free_port
from complex_system.messaging.clients import SystemClient
from complex_system.monitoring.reference import RAW_SAMPLE
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_COUNTS, GET_PROCESSED, ColumnsRequest
from complex_system.storage.maria.pool import MariaConnections, change, select
from complex_system.storage.maria.sql import RECEIVED
from complex_system.training.data import SampleCollector
from complex_system.training.split import Part
from complex_system.training.training_set import MAX_LISTED

START = datetime(2025, 1, 1)  # noqa: DTZ001 - as Laboratory has it; its keys rise by a millisecond
PATIENCE = 600.0
"""Seconds without a new record after which the program gives up."""
SAMPLES = 20
PAUSE = 15.0
"""Seconds between two samples of the requests, which cost processor time, too."""
PAGES = ("/health", "/api/overview", "/api/data", "/metrics", "/")
NOTE = (
    "{database}. Processor time in µs a record, most memory in MB (`VmHWM`, for the part alone), and the median and the longest of "
    "the times in ms that requests took while the part was written and processed, one of each every fifteen seconds."
)

READING = (
    "As a trainer does it before it learns. Processor time in µs a row; `source` is the reader. Its memory is the most that it took "
    "beyond what it had before."
)


@dataclass
class Watch:
    """How long requests take, by name, in seconds."""

    times: dict[str, list[float]] = field(default_factory=dict)

    async def timed(self, name: str, work: Awaitable[Any]) -> Any:
        """Wait for a request and remember its time, also of one that fails."""
        began = time.perf_counter()
        try:
            return await work
        finally:
            self.times.setdefault(name, []).append(time.perf_counter() - began)

    def text(self, name: str) -> str:
        """Return the median and the longest time in ms."""
        found = [1000 * each for each in self.times.get(name, [])]
        return f"{median(found):,.0f}, {max(found):,.0f}" if found else "-"

    def __str__(self) -> str:
        return f"median, longest in ms: { ({name: self.text(name) for name in self.times}) }"


@dataclass(frozen=True)
class Usage:
    """Processor seconds so far and the most memory in MB, by process."""

    seconds: dict[str, float]
    peak: dict[str, float]

    @classmethod
    def of(cls, pids: dict[str, int]) -> Usage:
        """Read both; the memory is that since the last :func:`begin_part`."""
        seconds, peak = {}, {}
        for name, pid in pids.items():
            times = psutil.Process(pid).cpu_times()
            seconds[name] = times.user + times.system
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found = (int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
            peak[name] = next(found, math.nan)  # of a process that has ended
        return cls(seconds, peak)


class Scale:
    """A plant that records flow through, part by part."""

    def __init__(self, plant: Plant, database: str, page: str, there: int = 0) -> None:
        self._plant = plant
        self._database = database
        self._page = page
        self._there = there
        self._first: float | None = None
        self.table = Table(
            f"Scale, {database}", NOTE.format(database=database), ["records", "records/s", *self.pids, "all", ""]
        )
        self.reading = Table(
            f"Reading all labelled records, {database}", READING, ["records", "rows", "s", "rows/s", *self.pids]
        )
        self.reading.head += ["memory of the reader, MB", "its arrays, MB", "memory of the database service, MB"]
        self.table.head += ["a batch saved", "counts", "page in the middle", *PAGES, "memory in MB"]

    @property
    def pids(self) -> dict[str, int]:
        """Processes by name."""
        children = {**self._plant.servers, **self._plant.children}
        return {name: child.pid for name, child in children.items() if child.pid is not None} | {"source": os.getpid()}

    async def part(self, count: int) -> None:
        """Have so many records saved and processed, and add a row about it."""
        _forget_peaks(self.pids.values())
        before, began, watch = Usage.of(self.pids), time.monotonic(), Watch()
        records = Laboratory(self._there + 1, START + timedelta(milliseconds=self._there)).records(count)
        batches = iter(lambda: list(islice(records, self._plant.settings.batch_size)), [])
        sending = (self._send(batches, watch) for _ in range(self._plant.settings.batches_in_flight))
        await self.watched(watch, self._written(count, run_concurrently(*sending)))
        self._add(count, time.monotonic() - began, before, watch)

    async def watched(self, watch: Watch, work: Awaitable[None]) -> None:
        """Ask and look again and again while some work is done."""
        watching = [asyncio.create_task(self._watch(watch, each)) for each in (self._ask, self._look)]
        try:
            await work
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def grow(self, until: int, seconds: float) -> None:
        """Copy the records that are there until there are so many; with MongoDB, no further copy begins after so many seconds."""
        part, began = self._there, time.monotonic()
        if self._database == "MongoDB":
            driver = MongoDriver(self._plant.settings)
            self._there = driver.copy(part, until, _shifted, seconds)
            driver.close()
            return

        def copy(connection: Any) -> None:
            [(last,)] = select(connection, f"SELECT MAX({ID}) FROM KIOptiPackRaw", ())
            for table in ("KIOptiPackRaw", "KIOptiPackProcessed"):
                rows = select(
                    connection,
                    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? "
                    "ORDER BY ordinal_position",
                    (table,),
                )
                names = [f"`{name}`" for (name,) in rows if name not in (ID, RECEIVED)]
                for shift in range(part, until, part):
                    millis = f"LPAD(HEX(CONV(CONCAT(LEFT({ID}, 8), SUBSTR({ID}, 10, 4)), 16, 10) + {shift}), 12, '0')"
                    key = f"LOWER(CONCAT(LEFT({millis}, 8), '-', RIGHT({millis}, 4), SUBSTR({ID}, 14)))"
                    columns = ", ".join(names)
                    change(
                        connection,
                        f"INSERT INTO {table} ({ID}, {columns}) SELECT {key}, {columns} FROM {table} WHERE {ID} <= ? ORDER BY {ID}",
                        (last,),
                    )
                    connection.commit()
                    print(f"{table}: {shift + part:,} rows after {time.monotonic() - began:.0f} s", flush=True)

        connections = MariaConnections(self._plant.settings)
        connections.open()
        try:
            self._plant.run(connections.alone(copy))
        finally:
            connections.close()
        self._there = until

    async def read(self) -> None:
        """Read all labelled records as a trainer does before it learns, and add a row about it to :attr:`reading`."""
        _forget_peaks(self.pids.values())
        before, began = Usage.of(self.pids), time.monotonic()
        collector = SampleCollector(DATASET, [Part.TRAIN, Part.VALIDATION], keys=RAW_SAMPLE, timed=True, listed=MAX_LISTED)
        pages = self._plant.database.processed_pages(
            collector.columns, labelled=True, version=DATASET.version, raw=collector.raw
        )
        rows = 0
        async for page in pages:
            await asyncio.to_thread(collector.add, page.table)
            rows += page.table.num_rows
        collected = time.monotonic() - began
        data = await asyncio.to_thread(collector.training_data)
        now = Usage.of(self.pids)
        each = [f"{(now.seconds[name] - before.seconds[name]) / rows * 1e6:.1f}" for name in self.pids]
        kept = sum(array.nbytes for part in (data.train, data.validation) for array in (part.x, part.y)) / 1e6
        grown = now.peak["source"] - before.peak["source"]
        row = [f"{self._there:,}", f"{rows:,}", f"{collected:.0f}", f"{rows / collected:,.0f}", *each, f"{grown:.0f}"]
        self.reading.rows.append(
            [*row, f"{kept:.0f}", f"{now.peak['database_maria' if 'mariadb' in self.pids else 'database_mongo']:.0f}"]
        )
        print(" | ".join(self.reading.rows[-1]), flush=True)

    async def _written(self, count: int, sending: Awaitable[object]) -> None:
        await sending
        self._there += count
        await self._until_processed()

    async def _send(self, batches: Iterator[list[Record]], watch: Watch) -> None:
        for records in batches:
            while True:
                try:
                    await watch.timed("a batch saved", self._plant.database.save_raw(records))
                    break
                except ComplexSystemError as error:
                    print(f"sent again: {error.message}", flush=True)
                    await asyncio.sleep(1.0)

    async def _until_processed(self) -> None:
        last, since = -1, time.monotonic()
        while True:
            with suppress(ComplexSystemError):
                counts = await self._plant.database.counts()
                if (counts.raw, counts.processed, counts.rejected) == (self._there, self._there, 0):
                    waiting = await self._plant.database.unprocessed(DATASET.version, 1)
                    if waiting.table.num_rows == 0:  # marks come after what is counted, and --grown copies them
                        return
                if counts.processed != last:
                    last, since = counts.processed, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise SystemExit(f"{self._there:,} records were sent, and {last:,} are said to be processed")
            await asyncio.sleep(0.5)

    async def _watch(self, watch: Watch, look: Callable[[Watch], Awaitable[None]]) -> None:
        while True:
            with suppress(ComplexSystemError, OSError):
                await look(watch)
            await asyncio.sleep(PAUSE)

    async def _ask(self, watch: Watch) -> None:
        client: SystemClient = self._plant.client
        await watch.timed("counts", client.ask(GET_COUNTS, Empty()))
        asked = ColumnsRequest(labelled=True, after=self._middle_key())
        await watch.timed("page in the middle", client.ask(GET_PROCESSED, asked))

    def _middle_key(self) -> str:
        milliseconds = int((START - datetime(1970, 1, 1)).total_seconds() * 1000)  # noqa: DTZ001
        return _shifted(f"{milliseconds:012x}"[:8] + "-" + f"{milliseconds:012x}"[8:], self._there // 2)

    async def _look(self, watch: Watch) -> None:
        for path in PAGES:
            await watch.timed(path, asyncio.to_thread(_read, self._page + path))

    def _add(self, count: int, seconds: float, before: Usage, watch: Watch) -> None:
        now = Usage.of(self.pids)
        each = {name: (now.seconds[name] - before.seconds[name]) / count * 1e6 for name in self.pids}
        total = sum(each.values())
        self._first = self._first or total
        row = [f"{self._there:,}", f"{count / seconds:,.0f}", *(f"{value:.0f}" for value in each.values()), f"{total:.0f}"]
        row += [
            f"{total / self._first:.2f} x",
            watch.text("a batch saved"),
            watch.text("counts"),
            watch.text("page in the middle"),
        ]
        row += [*map(watch.text, PAGES), ", ".join(f"{name} {peak:.0f}" for name, peak in now.peak.items())]
        self.table.rows.append(row)
        print(" | ".join(row), flush=True)

    async def quiet(self) -> str:
        """Return the times of requests while nothing is written, and what a sample of all of them costs."""
        watch, before = Watch(), Usage.of(self.pids)
        for _ in range(SAMPLES):
            await self._ask(watch)
            await self._look(watch)
        now = Usage.of(self.pids)
        cost = {name: f"{(now.seconds[name] - before.seconds[name]) / SAMPLES * 1000:.0f}" for name in self.pids}
        return f"nothing is written: {watch}; a sample costs {cost} ms"


def _forget_peaks(pids: Iterable[int]) -> None:
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _shifted(key: str, milliseconds: int) -> str:
    """Return a key that begins so much later."""
    made = f"{int(key[:8] + key[9:13], 16) + milliseconds:012x}"
    return f"{made[:8]}-{made[8:]}{key[13:]}"


def _read(address: str) -> bytes:
    with urlopen(address, timeout=60.0) as answer:
        return bytes(answer.read())


def measure(database: str, records: int, parts: int, grown: int, folder: Path | None, seconds: float) -> list[Table]:
    """Have records flow and return tables of their parts, and of reading them."""
    port, started = free_port(), time.monotonic()
    variables = {"COMPLEX_SYSTEM_MONITORING_PORT": str(port)}
    with Plant(database, ("data_processing", "ml_monitoring"), folder=folder, **variables) as plant:
        scale = Scale(plant, database, f"http://127.0.0.1:{port}", plant.run(plant.database.counts()).processed)
        print(" | ".join(scale.table.head), flush=True)
        for number in range(parts):
            if time.monotonic() - started > seconds:
                print(f"no part after {seconds:.0f} s", flush=True)
                break
            if grown and number == parts // 2:
                began = time.monotonic()
                scale.grow(grown - records // 2, seconds - (time.monotonic() - started))
                print(f"grown in {time.monotonic() - began:.0f} s", flush=True)
                print(f"the database service is ready after {plant.restart(DATABASES[database][1]):.1f} s", flush=True)
            for name in plant.start_ended():
                print(f"{name} had ended, and was started again", flush=True)
            plant.run(scale.part(records // parts))
            print(f"{time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.0f}", flush=True)
            if number == parts // 2 - 1 and grown and database == "MariaDB":
                plant.run(scale.read())
        if folder is None:
            plant.run(scale.read())
        print(plant.run(scale.quiet()), flush=True)
        return [scale.table, scale.reading]


def main() -> None:
    """Run it as a program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the plant is stopped, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split(":")[0])
    parser.add_argument("database", nargs="?", default="MariaDB", choices=[*DATABASES])
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--parts", type=int, default=6)
    parser.add_argument("--grown", type=int, default=0, help="records in all, most of them copied in the database")
    parser.add_argument("--folder", type=Path, help="where the database stays, for benchmarks.full_round, and goes on")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no further part begins")
    parser.add_argument("--keep", action="store_true", help="leave the tables for docs/benchmarks.md")
    chosen = parser.parse_args()
    tables = measure(chosen.database, chosen.records, chosen.parts, chosen.grown, chosen.folder, chosen.seconds)
    for table in tables:
        print(table.markdown())
    if chosen.keep:
        keep_tables("scale", tables, quick=False)
        write_page()


if __name__ == "__main__":
    main()
