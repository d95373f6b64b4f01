"""The source: makes a seeded stock of lab records and then a slow stream of new measurements, or replays a file."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from typing_extensions import override

from complex_system.background import run_concurrently
from complex_system.domain.dataset import ID
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory, has_known_function
from complex_system.domain.records import Record
from complex_system.errors import (
    ComplexSystemError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    SourceFileError,
    TooLargeError,
)
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Empty
from complex_system.protocol.database import Saved
from complex_system.protocol.operations import (
    GET_SCENARIO,
    SCENARIO_CHANGED,
    SET_SCENARIO,
    ScenarioRequest,
    ScenarioState,
    State,
)
from complex_system.service_layer.readings.opcua import OpcUaReadings
from complex_system.sources.progress import Progress
from complex_system.sources.replay import FileVersion, Replay, ReplayFile, Row, fault_text
from complex_system.sources.scenarios import Disturbance, Scenario

log = logging.getLogger(__name__)

B = TypeVar("B")

_PAUSE, _MAX_PAUSE = 0.5, 10.0
_PROGRESS_INTERVAL, _LOGGED_REFUSALS = 0.5, 100


class DummyDataGenerationService(SystemService):
    """A source that gives its records keys and sends a batch again, with the same keys, until the database has it.

    The same seed makes the same stock, and a file gives the same records each time, so a restart sends them again and changes
    nothing.
    """

    acts_alone: ClassVar[bool] = True
    file_interval: ClassVar[float] = 2.0
    """Seconds between two looks whether the file has changed; it is read again once two looks find the same."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._send: Callable[[list[Record], float | None], Awaitable[Any]] = DatabaseClient(self).save_raw
        self._progress = Progress(self.settings.records)
        if self.settings.source_sends == "messages":
            self._send = IngestClient(self.broker, self.settings, type(self).__name__, self.service_name()).publish
            self._progress.sent = "published"
        self._made: float | None = None
        self._without_keys = False
        self._reported = float("-inf")
        self._laboratory = Laboratory(secrets.randbits(64))
        self._disturbance = Disturbance(secrets.randbits(64))
        self._scenario = Scenario()
        self._due = self._next_batch_at = 0.0
        self._busy_state: State = "working"

    @override
    def lease_key(self) -> str:
        """Sources of other files, or with another seed, run beside each other."""
        settings = self.settings
        made = f"{self.dataset.name}\0{settings.opcua_file or settings.source_file or settings.seed}"
        return hashlib.sha256(made.encode()).hexdigest()[:16]

    @override
    async def on_start(self) -> None:
        if self.settings.opcua_file:
            self.run_task(self._until_refused(OpcUaReadings(self).run))
        elif self.settings.source_file:
            self.run_task(self._until_refused(self._replay))
        elif has_known_function(self.dataset):
            self.run_task(self._until_refused(self._make))

    @override
    def initial_state(self) -> tuple[State, str]:
        if self.settings.opcua_file or self.settings.source_file:
            return "working", f"reading {self.settings.opcua_file or self._path}"
        if has_known_function(self.dataset):
            return "working", str(self._progress)
        return "ready", (
            f"makes lab records only, and none for the data set '{self.dataset.name}'; name a file with COMPLEX_SYSTEM_SOURCE_FILE "
            "(a copy of the lab's declaration makes them with 'law: laboratory')"
        )

    @property
    def _path(self) -> Path:
        return Path(self.settings.config_dir) / self.settings.source_file

    async def _until_refused(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ComplexSystemError as error:
            log.critical("The source stops, no more records are made: %s", error.message)
            await self.set_state("failing", error.message)

    # Dummy data

    async def _make(self) -> None:
        records = Laboratory(self.settings.seed).records(self.settings.records)
        stock = iter(lambda: list(islice(records, self.settings.batch_size)), [])
        await self._send_all(stock, self._save_stock)
        if self.settings.scenario != "normal" and self._scenario.name == "normal":
            await self._begin(self.settings.scenario, self.settings.scenario_ramp)
        while not self._shutdown_event.is_set():
            scenario = "" if self._scenario.name == "normal" else f", scenario {self._scenario.name}"
            await self.set_state("ready", f"{self._progress}{scenario}")
            await self._measure()
            await self.wait_for_shutdown(1.0)

    async def _save_stock(self, records: list[Record]) -> bool:
        saved = await self._save(records)
        if saved:
            await self._count(len(records))
        return saved

    async def _measure(self) -> None:
        """Send the measurements of one second of the live stream, with keys and time of now."""
        self._due += self.settings.live_rate
        due = min(int(self._due), self.settings.batch_size)
        self._due %= 1
        now, local = time.time(), datetime.now().strftime("%d.%m.%Y, %H:%M:%S")  # noqa: DTZ005 - the lab writes local time
        measured = (self._disturbance.apply(record, self._scenario, now) for record in self._laboratory.records(due))
        batch = [{**record, ID: new_key(), "datum": local} for record in measured]
        if batch:
            await self._save(batch)

    @answers(SET_SCENARIO)
    async def _set_scenario(self, request: ScenarioRequest) -> ScenarioState:
        """Start a scenario with the live records."""
        if self.settings.source_file or not has_known_function(self.dataset):
            raise InvalidRequestError("Scenarios change lab records only, and this source makes none.")
        await self._begin(request.scenario, self.settings.scenario_ramp if request.ramp is None else request.ramp)
        return self._scenario.state(time.time())

    @answers(GET_SCENARIO)
    async def _get_scenario(self, _: Empty) -> ScenarioState:
        return self._scenario.state(time.time())

    async def _begin(self, name: str, ramp: float) -> None:
        self._scenario = Scenario.named(name, time.time(), ramp)
        log.info("Scenario '%s' begins", self._scenario.name)
        await self.announce(SCENARIO_CHANGED, self._scenario.state(time.time()))

    # A file

    async def _replay(self) -> None:
        while not await asyncio.to_thread(self._path.is_file):
            await self.set_state("waiting", f"the file {self._path} does not exist")
            if await self.wait_for_shutdown(1.0):
                return
        version = await asyncio.to_thread(FileVersion.of, self._path)
        await self._read_file(version)
        await self._follow(version)

    async def _follow(self, read: FileVersion | None) -> None:
        """Read the file again whenever it has changed and then rests: rows that are there already change nothing."""
        seen = read
        while not await self.wait_for_shutdown(self.file_interval):
            now = await asyncio.to_thread(FileVersion.of, self._path)
            if now is None or now == read or now != seen:
                seen = now
                continue
            read = now
            if self._without_keys:
                await self._leave_unread()
                continue
            log.info("%s has changed and is read again", self._path)
            try:
                await self._read_file(now)
            except SourceFileError as error:
                log.warning("The changed file is not read, what was read before stays: %s", error.message)
                await self.set_state("ready", f"the file has changed and cannot be read: {error.message}")

    async def _leave_unread(self) -> None:
        log.warning(
            "%s has changed and is not read again, because its rows have no keys: restart the source to read it", self._path
        )
        self._progress.note = "the file has changed and is not read again, because its rows have no keys"
        state = self.health().state
        if state == "ready":  # whoever watches hears of it when the service becomes ready again
            await self.set_state("working", f"{self._path} has changed")
        await self.set_state(state, str(self._progress))

    async def _read_file(self, version: FileVersion | None) -> None:
        """Read the file, and repeat it as the settings say; return before the next repetition where it has changed."""
        await self.set_state("working", f"reading {self._path}")
        file = await asyncio.to_thread(ReplayFile, self._path, self.dataset)
        for note in (*file.limits, *file.notes):
            log.info("%s: %s", self._path.name, note)
        self._progress = Progress(file.rows, self._progress.sent)
        self._made = version.modified if version else None
        settings = self.settings
        replay = Replay(file, self.dataset, settings.source_order, settings.seed)
        size = settings.batch_size
        if settings.source_rate:  # about a batch a second, so that the records come evenly
            size = max(1, min(size, math.ceil(settings.source_rate)))
        for number in count(1) if settings.source_repeat == 0 else range(1, settings.source_repeat + 1):
            now = await asyncio.to_thread(FileVersion.of, self._path)
            if number > 1 and now not in (None, version):
                if not self._without_keys:
                    return
                version = now
                await self._leave_unread()
            self._progress.wanted = file.rows * (number if settings.source_repeat == 0 else settings.source_repeat)
            self._progress.repetition = number
            # An endless repetition is a live stream: all records of the file are there after the first one.
            self._busy_state = "ready" if settings.source_repeat == 0 and number > 1 else "working"
            await self._send_all(replay.batches(size, number), self._save_at_rate)
            if self._shutdown_event.is_set():
                return
            if self._progress.refused >= number * file.rows:  # nothing to send, now and in every further repetition
                break
        await self.set_state("ready", str(self._progress))

    async def _save_at_rate(self, rows: list[Row]) -> bool:
        """Save rows when they are due; return False if the service ends before."""
        rate = self.settings.source_rate
        if rate:
            due = max(time.monotonic(), self._next_batch_at)
            self._next_batch_at = due + len(rows) / rate
            pause = due - time.monotonic()
            if pause > 0 and await self.wait_for_shutdown(pause):  # FastIoT takes 0 for no time-out
                return False
        return await self._save_rows(rows)

    async def _save_rows(self, rows: list[Row]) -> bool:
        """Save the rows that are not refused; return False if the service ends before."""
        for row in rows:
            if row.fault:
                self._refuse(row, row.fault)
        left = [row for row in rows if not row.fault]
        self._without_keys = self._without_keys or any(row.key_made for row in left)
        while left:
            try:
                saved = await self._deliver([row.record for row in left])
                if saved:
                    self._count_outside(left)
                    await self._count(len(left))
                return saved
            except InvalidRecordError as error:
                # The database names at most the first twenty, so more may follow.
                faults = {int(fault["record"]): fault_text(fault) for fault in error.faults}
                if not faults:
                    raise
                for place, why in faults.items():
                    self._refuse(left[place], why)
                left = [row for place, row in enumerate(left) if place not in faults]
            except TooLargeError as error:
                if len(left) == 1:
                    self._refuse(left[0], error.message)
                    return True
                middle = len(left) // 2
                return await self._save_rows(left[:middle]) and await self._save_rows(left[middle:])
        return True

    def _count_outside(self, rows: list[Row]) -> None:
        for column in self.dataset.columns:
            if column.outside != "refuse" and (count := sum(column.is_outside(row.record[column.name]) for row in rows)):
                self._progress.outside[column.name] += count

    def _refuse(self, row: Row, why: str) -> None:
        self._progress.refused += 1
        if self._progress.refused <= _LOGGED_REFUSALS:
            log.warning("%s, row %d is refused: %s", self._path.name, row.number, why)
        if self._progress.refused == _LOGGED_REFUSALS:
            log.warning("%s: further refused rows are only counted", self._path.name)

    # Sending

    async def _send_all(self, batches: Iterator[B], send: Callable[[B], Awaitable[bool]]) -> None:
        """Send ``batches_in_flight`` batches at a time until ``send`` returns False; only these are in memory."""
        turn = asyncio.Lock()

        async def next_batch() -> B | None:
            async with turn:
                return await asyncio.to_thread(next, batches, None)

        async def work() -> None:
            while (batch := await next_batch()) is not None and await send(batch):
                pass

        await run_concurrently(*(work() for _ in range(self.settings.batches_in_flight)))

    async def _save(self, records: list[Record]) -> bool:
        """Deliver records, in halves when they are too many for one message."""
        try:
            return await self._deliver(records)
        except TooLargeError:
            if len(records) == 1:
                raise
            middle = len(records) // 2
            return await self._save(records[:middle]) and await self._save(records[middle:])

    async def _deliver(self, records: list[Record]) -> bool:
        """Send records until they are acknowledged; return False if the service ends before.

        Raises:
            InvalidRecordError: The database refuses them; sending them again would not help.
            InvalidRequestError: The same.
            TooLargeError: They are too large for the broker.
        """
        pause = _PAUSE
        while await self.until_it_may_act():
            try:
                reply = await self._send(records, self._made)
                if isinstance(reply, Saved):
                    self._progress.add(reply)
                return True
            except (InvalidRecordError, InvalidRequestError, TooLargeError):
                raise
            except ComplexSystemError as error:
                await self.set_state("waiting", error.message)
                # A request that nobody listens to fails immediately and costs nothing, so the pause stays short.
                pause = _PAUSE if isinstance(error, NobodyListensError) else min(2 * pause, _MAX_PAUSE)
            await self.wait_for_shutdown(pause)
        return False

    async def _count(self, saved: int) -> None:
        self._progress.saved += saved
        if time.monotonic() - self._reported >= _PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            await self.set_state(self._busy_state, str(self._progress))
