"""Sends rows to the database until it has them: batches in flight, refusals one by one, halves of what is too large."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from complex_system.background import run_concurrently
from complex_system.domain.dataset import Dataset
from complex_system.domain.documents import Document
from complex_system.domain.records import Record
from complex_system.errors import (
    ComplexSystemError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    SourceFileError,
    SourceTableError,
    TooLargeError,
)
from complex_system.protocol.database import Saved
from complex_system.protocol.operations import Heartbeat, State
from complex_system.settings import Settings
from complex_system.sources.progress import Progress
from complex_system.sources.rows import Row, fault_text

log = logging.getLogger(__name__)

B = TypeVar("B")
T = TypeVar("T")

_PAUSE, _MAX_PAUSE = 0.5, 10.0
_PROGRESS_INTERVAL = 0.5
_LOGGED_REFUSALS = 100
_FINAL = (InvalidRecordError, InvalidRequestError, TooLargeError, SourceFileError, SourceTableError)
"""Errors that come again however often the same is done."""


class Host(Protocol):
    """What a source uses of the service that runs it."""

    @property
    def settings(self) -> Settings:
        """The settings of the service."""

    @property
    def dataset(self) -> Dataset:
        """The declared data set of the deployment."""

    async def until_it_may_act(self) -> bool:
        """Wait while another replica may act; return False if the service ends before."""

    async def set_state(self, state: State, detail: str = "") -> None:
        """Set the state of the service."""

    async def wait_for_shutdown(self, timeout: float = 0.0) -> bool:
        """Wait for so many seconds; return True if the service ends before."""

    def health(self) -> Heartbeat:
        """Return the state of the service."""


class Documents(Protocol):
    """Where a source keeps what it has read: in the database, so that a restored backup has records and place of one moment."""

    async def save(self, documents: Sequence[Document]) -> None:
        """Write documents; one of the same kind and key is replaced."""

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """Return the documents of a kind that have one of the keys."""


class Delivery:
    """Sends records of one source, each batch until it is acknowledged, and counts what became of them.

    Attributes:
        progress: Of the present reading.
        made: When the records were made, seconds since 1970; None for the time of sending.
        name: What log lines call the source of the rows.
        without_keys: Whether a key was made for a row that had none.
        busy_state: State of the service while records are sent.
    """

    def __init__(self, host: Host, send: Callable[[list[Record], float | None], Awaitable[Any]], sent: str) -> None:
        """Prepare it.

        Args:
            host: The service.
            send: Sends records that were made at a time; returns what became of them, if that is known.
            sent: ``saved`` or ``published``, in texts.
        """
        self._host = host
        self._send = send
        self._reported = float("-inf")
        self.progress = Progress(host.settings.records, sent)
        self.made: float | None = None
        self.name = ""
        self.without_keys = False
        self.busy_state: State = "working"

    def begin(self, name: str, wanted: int, made: float | None) -> None:
        """Begin a reading: count anew.

        Args:
            name: What log lines call the source of the rows.
            wanted: Rows of the reading.
            made: When its records were made, seconds since 1970; None for the time of sending.
        """
        self.progress = Progress(wanted, self.progress.sent)
        self.name, self.made = name, made

    def continue_with(self, name: str, more: int, made: float) -> None:
        """Go on with another file: its rows are counted with those before, and their keys are not known yet."""
        self.progress.wanted += more
        self.name, self.made, self.without_keys = name, made, False

    async def send_all(self, batches: Iterator[B], send: Callable[[B], Awaitable[bool]]) -> bool:
        """Send ``batches_in_flight`` batches at a time; only these are in memory. End when ``send`` returns False, and return that."""
        turn, all_sent = asyncio.Lock(), True

        async def next_batch() -> B | None:
            async with turn:
                return await asyncio.to_thread(next, batches, None)

        async def work() -> None:
            nonlocal all_sent
            while all_sent and (batch := await next_batch()) is not None:
                all_sent = await send(batch) and all_sent

        await run_concurrently(*(work() for _ in range(self._host.settings.batches_in_flight)))
        return all_sent

    async def save_rows(self, rows: list[Row]) -> bool:
        """Save the rows that are not refused; return False if the service ends before."""
        for row in rows:
            if row.fault:
                self._refuse(row, row.fault)
        left = [row for row in rows if not row.fault]
        self.without_keys = self.without_keys or any(row.key_made for row in left)
        while left:
            try:
                saved = await self._deliver([row.record for row in left])
                if saved:
                    self._count_outside(left)
                    await self.count(len(left))
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
                return await self.save_rows(left[:middle]) and await self.save_rows(left[middle:])
        return True

    async def save(self, records: list[Record]) -> bool:
        """Save records of which none may be refused, in halves when they are too many for one message."""
        try:
            return await self._deliver(records)
        except TooLargeError:
            if len(records) == 1:
                raise
            middle = len(records) // 2
            return await self.save(records[:middle]) and await self.save(records[middle:])

    async def count(self, saved: int) -> None:
        """Count saved records, and say now and then how far the source is."""
        self.progress.saved += saved
        if time.monotonic() - self._reported >= _PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            await self._host.set_state(self.busy_state, str(self.progress))

    async def repeated(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do what others must answer until they do; return None if the service ends before.

        Raises:
            ComplexSystemError: Doing it again would not help: a record is refused, a message is too large, a table is not as declared.
        """
        pause = _PAUSE
        while await self._host.until_it_may_act():
            try:
                return await work()
            except _FINAL:
                raise
            except ComplexSystemError as error:
                await self._host.set_state("waiting", error.message)
                # A request that nobody listens to fails immediately and costs nothing, so the pause stays short.
                pause = _PAUSE if isinstance(error, NobodyListensError) else min(2 * pause, _MAX_PAUSE)
            await self._host.wait_for_shutdown(pause)
        return None

    async def _deliver(self, records: list[Record]) -> bool:
        """Send records until they are acknowledged; return False if the service ends before."""

        async def send() -> bool:
            reply = await self._send(records, self.made)
            if isinstance(reply, Saved):
                self.progress.add(reply)
            return True

        return await self.repeated(send) is not None

    def _count_outside(self, rows: list[Row]) -> None:
        for column in self._host.dataset.columns:
            if column.outside != "refuse" and (count := sum(column.is_outside(row.record[column.name]) for row in rows)):
                self.progress.outside[column.name] += count

    def _refuse(self, row: Row, why: str) -> None:
        self.progress.refused += 1
        if self.progress.refused <= _LOGGED_REFUSALS:
            log.warning("%s, %s is refused: %s", self.name, row, why)
        if self.progress.refused == _LOGGED_REFUSALS:
            log.warning("%s: further refused rows are only counted", self.name)


def source_name(settings: Settings) -> str:
    """Return the name of the folder or table that the settings name: the same as long as its place is."""
    if settings.source_name:
        return settings.source_name
    if settings.source_folder:
        return settings.source_folder
    # What stands behind the last @ holds neither user nor password.
    address = settings.source_table_url.rpartition("@")[2].rpartition("://")[2].partition("?")[0]
    return f"{address}/{settings.source_table}"
