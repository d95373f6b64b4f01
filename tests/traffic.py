"""Clients on each host that save, publish and read records while links break; what they did becomes a history."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, processed_schema
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS
from history import PROCESSED, RAW, UNKNOWN, History, Read, Way, Write
from namespaces import KINDS, Network
from plant import NO_VERSION
from three_hosts import HOSTS, ThreeHosts

TARGET = "aufbereiteter_wert"
BATCH = 12
"""Records of a batch, at most."""
PAGE = 150
"""Rows of a page: a walk has many."""
_FIRST = datetime(2040, 1, 1, tzinfo=UTC).replace(tzinfo=None)
"""Keys of later schedules are larger, and all are larger than those that a source makes now."""


@dataclass(frozen=True)
class Fault:
    """A link that breaks and is repaired.

    Attributes:
        begin: Seconds from the start of the schedule.
        end: When it is repaired.
        link: The two hosts.
        kind: How it breaks.
    """

    begin: float
    end: float
    link: tuple[str, str]
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} {'-'.join(self.link)} {self.begin:.1f}..{self.end:.1f} s"


def random_schedule(seed: int, links: tuple[tuple[str, str], ...], seconds: float = 15.0) -> list[Fault]:
    """Faults of random kinds, links and lengths; those of different links overlap, so that a host may be alone."""
    draw = random.Random(seed)
    faults = []
    for link in links:
        now = draw.uniform(0, 5)
        while now < seconds - 1:
            end = min(seconds, now + draw.choice((draw.uniform(0.3, 2), draw.uniform(2, 10))))
            faults.append(Fault(now, end, link, draw.choice(KINDS)))
            now = end + draw.uniform(0.5, 6)
    return sorted(faults, key=lambda fault: fault.begin)


def in_turn(links: tuple[tuple[str, str], ...], seconds: float) -> list[Fault]:
    """Each kind of fault on each link, one after the other."""
    every = [(link, kind) for link in links for kind in KINDS]
    return [Fault(1.2 * i * seconds, (1.2 * i + 1) * seconds, link, kind) for i, (link, kind) in enumerate(every)]


async def bring_about(network: Network, faults: list[Fault]) -> None:
    """Break and repair links when it is time."""
    began = time.monotonic()
    steps = [(fault.begin, True, fault) for fault in faults] + [(fault.end, False, fault) for fault in faults]
    try:
        for moment, breaks, fault in sorted(steps, key=lambda step: (step[0], step[1])):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            if breaks:
                await asyncio.to_thread(network.fail, fault.link, fault.kind)
            else:
                await asyncio.to_thread(network.heal, fault.link)
    finally:
        network.heal_all()


class Traffic:
    """Records of one schedule, and all that is done with them.

    Attributes:
        history: What the clients did.
        errors: Failed requests by the class of their error.
        answered: How often which replica of the database service said who it is.
    """

    def __init__(self, hosts: ThreeHosts, dataset: Dataset, seed: int, number: int, pause: float = 0.05) -> None:
        """Prepare; nothing runs yet.

        Args:
            hosts: Where the clients run.
            dataset: What records are.
            seed: Of records and pauses.
            number: Of the schedule: its records come after those of the ones before.
            pause: Seconds that a client waits between two operations, more or less.
        """
        self._pause = pause
        self.history = History()
        self.errors: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._hosts, self._dataset, self._seed = hosts, dataset, seed
        self._start = _FIRST + timedelta(days=number)
        self._before = next(Laboratory(0, self._start - timedelta(hours=1)).records(1))[ID]
        self._contents: dict[str, tuple[Record, ...]] = {}
        self._acknowledged: list[str] = []
        self._stop = threading.Event()
        self._running: list[concurrent.futures.Future[None]] = []

    def begin(self) -> None:
        """Start the clients."""
        works: tuple[Callable[[str, SystemClient, random.Random], object], ...] = (
            self._save,
            self._publish,
            self._read,
            self._walk,
        )
        for place, host in enumerate(HOSTS):
            for number, work in enumerate(works):
                draw = random.Random(self._seed * 100 + place * 10 + number)
                self._running.append(self._hosts.threads[host].submit(work(host, self._hosts.clients[host], draw)))  # type: ignore[arg-type]

    async def end(self, seconds: float = 180.0) -> None:
        """Have the clients finish what they are at: each batch is repeated until it is acknowledged."""
        self._stop.set()
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(asyncio.wrap_future, self._running))

    async def settled(self, seconds: float = 180.0) -> tuple[dict[str, int], dict[str, int]]:
        """Wait until everything published is saved and everything saved is processed.

        Returns:
            Keys and versions of the raw and of the processed records that are there then.
        """
        published = {key for write in self.history.writes if write.end < float("inf") for key in write.versions}
        client, host = DatabaseClient(self._hosts.clients["serving"]), self._hosts.threads["serving"]
        raw: dict[str, int] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        raw = await host.run(self._walk_raw("final", client))
                        waiting = (await host.run(client.unprocessed(self._dataset.version, 1, self._before))).table.num_rows
                        if not waiting and published <= raw.keys():
                            return raw, await host.run(self._walk_processed("final", client, full=True))
                    except ComplexSystemError as error:
                        self.errors[type(error).__name__] += 1
                    await asyncio.sleep(0.2)
        except TimeoutError:
            missing = sorted(published - raw.keys())
            raise AssertionError(
                f"{len(missing)} acknowledged records are missing, such as {missing[:3]}, or wait"
            ) from None

    # Clients

    async def _save(self, host: str, client: SystemClient, draw: random.Random) -> None:
        """Save batches, most of them without their label; it comes later for some, and then again for some more."""
        database, laboratory = DatabaseClient(client), Laboratory(draw.getrandbits(30), self._start)
        open_: list[Record] = []

        async def save(records: list[Record]) -> int:
            return (await database.save_raw(records)).inserted

        while not self._stop.is_set():
            records = [laboratory.measured_record() for _ in range(draw.randint(1, BATCH))]
            batch = self._known(records)
            await self._until_acknowledged("saved", f"saver@{host}", batch, 1, save)
            open_ += records
            if draw.random() < 0.5:
                labelled = [open_.pop(draw.randrange(len(open_))) for _ in range(min(len(open_), draw.randint(1, BATCH)))]
                await self._until_acknowledged("saved", f"saver@{host}", labelled, 2, save)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause))

    async def _publish(self, host: str, client: SystemClient, draw: random.Random) -> None:
        """Publish batches to the stream, until the stream says that it has them."""
        publisher = IngestClient(client.broker, client.settings, "Tester", host)
        laboratory = Laboratory(draw.getrandbits(30), self._start)

        async def publish(records: list[Record]) -> None:
            await publisher.publish(records)

        while not self._stop.is_set():
            batch = self._known([laboratory.measured_record() for _ in range(draw.randint(1, BATCH))])
            await self._until_acknowledged("published", f"publisher@{host}", batch, 1, publish)
            await asyncio.sleep(draw.uniform(0, 4 * self._pause))

    async def _read(self, host: str, client: SystemClient, draw: random.Random) -> None:
        """Read records by key that were acknowledged to somebody, the newest of them among them."""
        database, name = DatabaseClient(client), f"reader@{host}"
        while not self._stop.is_set():
            await asyncio.sleep(draw.uniform(0, 2 * self._pause))
            if not self._acknowledged:
                continue
            keys = [*self._acknowledged[-10:], *draw.sample(self._acknowledged, min(10, len(self._acknowledged)))]
            keys = sorted(set(keys))
            begin = time.monotonic()
            try:
                table = await database.raw_by_keys(keys)
                replica = (await client.ask(GET_INGEST_COUNTS, Empty())).replica
            except ComplexSystemError as error:
                self.errors[type(error).__name__] += 1
                continue
            self.answered[replica] += 1
            self.history.reads.append(Read(name, RAW, self._versions(table), begin, time.monotonic(), keys=keys))

    async def _walk(self, host: str, client: SystemClient, draw: random.Random) -> None:
        """Walk raw and processed records by key, page by page."""
        database, name = DatabaseClient(client), f"walker@{host}"
        while not self._stop.is_set():
            try:
                await self._walk_raw(name, database)
                await self._walk_processed(name, database)
            except ComplexSystemError as error:
                self.errors[type(error).__name__] += 1
            await asyncio.sleep(draw.uniform(0, 4 * self._pause))

    # Inside

    def _known(self, records: list[Record]) -> list[Record]:
        """Remember the versions of records that are about to be written: without their label, and with it."""
        for record in records:
            self._contents[record[ID]] = ({**record, TARGET: None}, record)
        return records

    async def _until_acknowledged(
        self, way: Way, client: str, records: list[Record], version: int, write: Callable[[list[Record]], object]
    ) -> None:
        """Write records, again and again until it is acknowledged; a request may be carried out without a reply."""
        sent = [self._contents[record[ID]][version - 1] for record in records]
        versions = {record[ID]: version for record in records}
        while True:
            begin = time.monotonic()
            try:
                inserted = await write(sent)  # type: ignore[misc]
            except ComplexSystemError as error:
                self.errors[type(error).__name__] += 1
                self.history.writes.append(Write(client, way, versions, begin))
                await asyncio.sleep(self._pause)
            else:
                counted = inserted if version == 1 else None
                self.history.writes.append(Write(client, way, versions, begin, time.monotonic(), counted))
                if way == "saved":
                    self._acknowledged += versions
                return

    async def _walk_raw(self, name: str, database: DatabaseClient) -> dict[str, int]:
        after, found = self._before, dict[str, int]()
        while True:
            begin = time.monotonic()
            page = await database.unprocessed(NO_VERSION, PAGE, after)
            versions = self._versions(page.table)
            self.history.reads.append(Read(name, RAW, versions, begin, time.monotonic(), after=after, until=page.next))
            found |= dict(versions)
            if page.next is None:
                return found
            after = page.next

    async def _walk_processed(self, name: str, database: DatabaseClient, *, full: bool = False) -> dict[str, int]:
        """Walk processed records; ``full`` compares them with the pipeline's results."""
        after, found, tables = self._before, dict[str, int](), list[pa.Table]()
        begin = last = time.monotonic()
        async for page in database.processed_pages(version=self._dataset.version, limit=PAGE, start=after):
            versions = self._processed_versions(page)
            # The next page was asked for before this one was handed out, so it is under way since the one before this came.
            read = Read(name, PROCESSED, versions, begin, time.monotonic(), after=after, until=page.next)
            self.history.reads.append(read)
            begin, last = last, read.end
            found |= dict(versions)
            tables.append(page.table)
            after = page.next or ""
        if full:
            self._compare(pa.concat_tables(tables), found)
        return found

    def _versions(self, table: pa.Table) -> list[tuple[str, int]]:
        return [(record[ID], self._version(record)) for record in table.to_pylist()]

    def _version(self, record: Record) -> int:
        contents = self._contents.get(record[ID], ())
        return contents.index(record) + 1 if record in contents else UNKNOWN

    def _processed_versions(self, page: Page) -> list[tuple[str, int]]:
        keys, targets = page.table.column(ID).to_pylist(), page.table.column(TARGET).to_pylist()
        return [(key, 1 if target is None else 2) for key, target in zip(keys, targets, strict=True)]

    def _compare(self, table: pa.Table, found: Mapping[str, int]) -> None:
        records = [self._contents[key][version - 1] for key, version in found.items()]
        expected = Pipeline(self._dataset).process(records).to_arrow().cast(processed_schema(self._dataset))
        assert table.equals(expected) or table.to_pylist() == expected.to_pylist(), (
            "processed records are not the pipeline's"
        )
