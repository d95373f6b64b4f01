"""Keeps the history of monitoring in the database: read at the start, written as it changes, deleted when it is old.

Also the clock of the history, and the look at what the collection of readings says of itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from complex_system.domain.documents import Document
from complex_system.errors import ComplexSystemError, InvalidRequestError, NobodyListensError, ReplyTimeoutError
from complex_system.messaging.clients import DatabaseClient, DocumentClient, Requester
from complex_system.monitoring.aggregates import HOUR
from complex_system.monitoring.flow import RecordFlow
from complex_system.monitoring.monitor import Monitor
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION

log = logging.getLogger(__name__)

MAX_DEVIATION = 1.0
"""Seconds by which two clocks may differ before that is taken for more than the time that an answer takes."""
DELETE_PAUSE = 600.0
"""Seconds between two deletions of what is too old."""
LOOK_SECONDS = 2.0
"""Seconds between two looks at the sensors."""


def collection_look(requester: Requester, flow: RecordFlow) -> Callable[[], Awaitable[None]]:
    """Return what asks the collection of readings how its sensors are; where it does not answer, nothing is known of them."""

    async def look() -> None:
        try:
            flow.collection = await requester.ask(GET_COLLECTION, Empty(), 5.0)
        except (NobodyListensError, ReplyTimeoutError):  # its alert is that of a silent service
            flow.collection = None

    return look


class DatabaseClock:
    """Seconds since 1970 by the database's clock; by this host's until the database has told its own.

    The history outlives the process that wrote it, and the next one may run on another host: with the database's clock, the times of
    both are of one clock.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.time() + self._ahead

    async def ask(self, database: DatabaseClient) -> None:
        """Ask the database how far its clock is ahead.

        Raises:
            ComplexSystemError: The database is away.
        """
        sent = time.time()
        try:
            told = await database.now()
        except NobodyListensError:  # so nobody keeps the history either; or the database service is of an earlier release
            return
        ahead = told - (sent + time.time()) / 2
        if abs(ahead - self._ahead) > MAX_DEVIATION:  # less is the way of the messages
            log.info("The database's clock differs by %+.1f s from this host's; its time counts", ahead)
            self._ahead = ahead


class HistoryKeeper:
    """Moves the history between memory and the database. The database may be away: what changes meanwhile is written later."""

    def __init__(
        self, monitor: Monitor, documents: DocumentClient, waiting_hours: float, check: Callable[[], None] = lambda: None
    ) -> None:
        """Make a keeper; nothing is read yet.

        Args:
            monitor: Whose history it is.
            documents: The database.
            waiting_hours: Hours that predictions wait for their truth.
            check: Called directly before every write; raises where this process must no longer write.
        """
        self._check = check
        self._monitor = monitor
        self._documents = documents
        self._waiting = waiting_hours * HOUR
        self._deleted = time.monotonic()
        self._one = asyncio.Lock()

    async def load(self) -> bool:
        """Read what an earlier process wrote, once; return whether it did so now.

        Raises:
            ComplexSystemError: The database is away; call it again.
        """
        if self._monitor.history.loaded:
            return False
        now = self._monitor.now
        await self._monitor.join.load(self._documents, now, self._waiting)
        await self._monitor.history.load(self._documents, now)
        self._monitor.restore()
        return True

    async def keep(self) -> None:
        """Write what has changed, once the history is loaded.

        Raises:
            ComplexSystemError: The database is away; nothing is lost.
        """
        async with self._one:
            history = self._monitor.history
            if not history.loaded:
                return
            self._check()
            await self._monitor.join.save(self._documents, self._monitor.now)
            changed = history.changed()
            try:
                storable = await asyncio.to_thread(_storable, changed)
                self._check()
                await self._documents.save(storable)
            except BaseException:
                history.unsaved(changed)
                raise
            self._check()
            await self._monitor.log.save(self._documents, self._monitor.now)
            if time.monotonic() - self._deleted > DELETE_PAUSE:
                self._check()
                self._deleted = time.monotonic()
                await history.delete_old(self._documents, self._monitor.now)
                await self._monitor.join.delete_old(self._documents, self._monitor.now - self._waiting)

    async def ask_targets(self) -> None:
        """Ask for the truth of records that wait for it, where the database has it by now."""
        if self._monitor.history.loaded:
            await self._monitor.join.ask_targets(self._documents, self._monitor.now)

    async def close(self, seconds: float) -> str:
        """Write for the last time; return why that did not work, or an empty text."""
        try:
            async with asyncio.timeout(seconds):
                await self.keep()
        except ComplexSystemError as error:
            return error.message
        except TimeoutError:
            return "the database did not answer in time"
        return ""


def _storable(documents: list[Document]) -> list[Document]:
    """Leave out those that no database takes, the drift of thousands of columns for instance: they must not hold up the others."""
    storable = []
    for document in documents:
        try:
            document.encoded_body()
        except InvalidRequestError as error:
            log.warning("A part of the history is not kept: %s", error.message)
        else:
            storable.append(document)
    return storable
