"""A data plane of real processes that a test breaks: a broker, a database, the services between them, and who watches."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import MAX_PAGE_ROWS, processed_schema
from complex_system.errors import ComplexSystemError
from complex_system.local.processes import Child
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_COUNTS, RecordCounts
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat
from complex_system.settings import Settings
from support import eventually

FULL = int(os.environ.get("FAULT_RECORDS", "0"))
"""Records of a run at full size; 0 for the short one."""
NO_VERSION = "none"
"""No pipeline has this version, so every raw record is unprocessed for it."""
PATIENCE = 900.0 if FULL else 240.0


def kill(child: Child | None) -> None:
    """``kill -9`` of a process and of all that it started."""
    assert child is not None
    assert child.alive
    child.signal_group(signal.SIGKILL)
    child.stop(0)


def shifted_clock(folder: Path) -> Path:
    """Compile the library that shifts the wall clock of a process."""
    library = folder / "shifted_clock.so"
    if not library.exists():
        source = Path(__file__).with_name("shifted_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
    return library


async def all_raw(database: DatabaseClient) -> list[dict[str, Any]]:
    """Every raw record, by key, however many there are."""
    raw: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = await database.unprocessed(NO_VERSION, MAX_PAGE_ROWS, after)
        raw += page.table.to_pylist()
        if (after := page.next) is None:
            return raw


class Plant:
    """Services as processes, and a client on the broker that hears how they are.

    Attributes:
        marks: What happened when, in seconds, for the report.
    """

    def __init__(self, folder: Path, environment: dict[str, str], client: SystemClient, records: int, seed: int) -> None:
        self.client = client
        self.database = DatabaseClient(client)
        self.records = records
        self.marks: dict[str, float] = {}
        self.children: dict[str, Child] = {}
        self.told = 0
        self._folder = folder
        self._environment = {
            **environment,
            "COMPLEX_SYSTEM_RECORDS": str(records),
            "COMPLEX_SYSTEM_SEED": str(seed),
            "COMPLEX_SYSTEM_LIVE_RATE": "0",
        }
        self._seed = seed
        self._beats: dict[str, Heartbeat] = {}
        self._killed: set[str] = set()
        self._pids: RecordCounts = {}

    @property
    def settings(self) -> Settings:
        """Settings of a service of this plant."""
        return Settings.of(self._environment)

    # Processes

    def start(self, service: str, replica: str = "", *, clock: float = 0.0) -> Child:
        """Starts a service, again if it was killed; its clock may be some seconds ahead."""
        name = f"{service}{replica}"
        env = {**self._environment, "FASTIOT_SERVICE_ID": name}
        if clock:
            env |= {"LD_PRELOAD": str(shifted_clock(self._folder)), "CLOCK_SHIFT": str(int(clock))}
        argv = [sys.executable, "-m", f"complex_system_services.{service}.run"]
        child = Child(name, argv, self._folder / f"{name}.log", env=env)
        child.start()
        assert child.pid is not None
        self.children[name], self._pids[name] = child, child.pid
        self._beats.pop(name, None)
        return child

    def kill(self, name: str) -> None:
        """``kill -9`` of a service."""
        kill(self.children.pop(name))
        self._beats.pop(name, None)

    def stop(self) -> None:
        """Ends what runs."""
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            child.stop(15.0)

    def log(self, name: str) -> str:
        """What a service has said so far."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def says(self, name: str, words: str) -> Callable[[], bool]:
        """Whether a service has said something from now on."""
        already = len(self.log(name))
        return lambda: re.search(words, self.log(name)[already:]) is not None

    def processed_by(self, name: str) -> int:
        """How many records a replica of data_processing says that it has processed."""
        return sum(int(count) for count in re.findall(r"Processed (\d+) records", self.log(name)))

    # How it goes

    async def hear(self, beat: Heartbeat) -> None:
        """A heartbeat came."""
        if self._pids.get(beat.replica) == beat.pid:
            self._beats[beat.replica] = beat
            if found := re.match(r"(\d+) of \d+ records saved", beat.detail):
                self.told = max(self.told, int(found[1]))

    def state(self, name: str) -> str:
        """The last state that a service has told of."""
        return self._beats[name].state if name in self._beats else ""

    def detail(self, name: str) -> str:
        """What the service says about its state."""
        return self._beats[name].detail if name in self._beats else ""

    async def counts(self) -> RecordCounts | None:
        """Numbers of records; None while nobody tells."""
        try:
            # A short wait: the question may have gone to a replica that has just been killed.
            return await self.client.ask(GET_COUNTS, Empty(), 10.0 if FULL else 3.0)
        except ComplexSystemError:
            return None

    async def until(self, reached: Callable[[RecordCounts], bool], seconds: float = PATIENCE) -> RecordCounts:
        """Waits for numbers of records."""

        async def looked() -> RecordCounts | None:
            await asyncio.sleep(0.05)  # whoever asks all the time slows down what he waits for
            counts = await self.counts()
            return counts if counts is not None and reached(counts) else None

        found: RecordCounts = await eventually(looked, seconds)
        return found

    async def flowing(self, share: float = 0.1) -> RecordCounts:
        """Waits until so much of the raw records is there."""
        return await self.until(lambda counts: counts.raw >= share * self.records)

    async def disturbed(self, fault: Callable[[], Awaitable[None]]) -> RecordCounts:
        """Brings a fault about while records flow; measures from its end to the next record and to the last one.

        Args:
            fault: Returns when all that was broken has been started again.

        Returns:
            How many records there were when the fault began.
        """
        before = await self.flowing()
        began = time.monotonic()
        await fault()
        over = time.monotonic()
        self.marks["fault"] = over - began
        there: RecordCounts | None = None

        def moves(counts: RecordCounts) -> bool:
            nonlocal there
            there = there or counts
            done = counts.raw + counts.processed
            return done > there.raw + there.processed or done == 2 * self.records

        await self.until(moves)
        self.marks["recovery"] = time.monotonic() - over
        await self.finished()
        self.marks["finished"] = time.monotonic() - over
        return before

    async def finished(self, source: str = "dummy_data_generation") -> None:
        """Waits until the source has been told of every record that it is saved, and each has its processed record."""
        if source in self.children:
            done = re.compile(f"{self.records} of {self.records} records (saved|published)")

            def saved() -> bool:
                assert self.children[source].alive, f"{source} has ended:\n{self.log(source)[-2000:]}"
                return self.state(source) == "ready" and done.fullmatch(self.detail(source)) is not None

            try:
                await eventually(saved, PATIENCE)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{source} is {self.state(source)}:\n{self.log(source)[-2000:]}") from error
        await self.until(lambda counts: counts.processed >= self.records)

        async def nothing_left() -> bool:
            # A processed record may be there a moment before its raw record is noted as processed.
            try:
                page = await self.database.unprocessed(Dataset.load().version, 1)
            except ComplexSystemError:
                return False
            return page.table.num_rows == 0 and page.next is None

        await eventually(nothing_left, 60)

    async def verify(self, dataset: Dataset) -> None:
        """Everything is there once, raw and processed, equal field by field; and whoever was not killed still lives."""
        records = list(Laboratory(self._seed).records(self.records))
        raw = await all_raw(self.database)
        assert len(raw) == self.records
        assert raw == records
        expected = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
        pages = [page.table async for page in self.database.processed_pages(version=dataset.version, limit=MAX_PAGE_ROWS)]
        found = pa.concat_tables(pages)
        assert found.num_rows == self.records
        assert found.equals(expected) or found.to_pylist() == expected.to_pylist()
        assert (await self.database.counts()).rejected == 0
        await self.recovered()

    async def recovered(self) -> None:
        """Every service that was not killed is the process that it was, and ready again."""

        def well() -> bool:
            return all(child.alive and self.state(name) == "ready" for name, child in self.children.items())

        try:
            await eventually(well, 60)
        except AssertionError:
            states = {name: (child.alive, self.state(name), self.detail(name)) for name, child in self.children.items()}
            raise AssertionError(f"Not all are well: {states}") from None


@asynccontextmanager
async def plant(
    folder: Path, nats: Server, database: Server, variables: dict[str, str], records: int, seed: int
) -> AsyncIterator[Plant]:
    """A plant without a service yet; what was started is stopped at the end."""
    environment = {**nats.environment(), **database.environment(), **variables}
    # The services' short time-out shortens the faults; a test reads thousands of records, which takes longer on a busy machine.
    settings = Settings.of({name: value for name, value in environment.items() if name != "FASTIOT_NATS_DEFAULT_TIMEOUT"})
    async with await SystemClient.open(settings, "tester") as client:
        made = Plant(folder, environment, client, records, seed)
        await client.hear(SERVICE_HEARTBEAT, made.hear)
        await client.broker.settle()
        try:
            yield made
        finally:
            await asyncio.to_thread(made.stop)
