"""The ingest for publishers that do not wait: what JetStream keeps is written, then acknowledged.

Several published messages become one write. Nothing is acknowledged before the database has it, and a write may be repeated, so
whoever ends in the middle (service, database, broker) costs a second delivery and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from complex_system.background import side_by_side
from complex_system.errors import ComplexSystemError, NobodyListensError, StoreUnavailableError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.pull import Pull
from complex_system.messaging.ingest.streams import IngestStreams
from complex_system.messaging.ingest.writer import BatchWriter, Check, Save
from complex_system.settings import Settings

log = logging.getLogger(__name__)

WORKERS = 2
"""Each fetches while another writes."""

_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STOP_SECONDS, _STOP_SECONDS_IDLE = 8.0, 1.0

Ping = Callable[[], Awaitable[Any]]


class Ingest:
    """Reads the stream until it is stopped; one in each replica of the database service.

    Attributes:
        writer: Settles the messages, and counts.
        problem: Why nothing is read at the moment; empty when all is well.
    """

    def __init__(self, connection: ServiceConnection, settings: Settings, *, check: Check, save: Save, ping: Ping) -> None:
        """Prepares the ingest; nothing is asked of the broker yet.

        Args:
            connection: The service's connection.
            settings: Limits.
            check: Returns the records of a message with every declared field, or raises what is wrong with them.
            save: Writes records; returns when the database has them; leaves keys that exist as they are.
            ping: Raises ``StoreUnavailableError`` while the database is away.
        """
        self._connection = connection
        self._client = connection.client
        self._settings = settings
        self._ping = ping
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None
        self.streams = IngestStreams(self._client, settings)
        dead = DeadLetters(self._client, settings)
        self.writer = BatchWriter(
            dead, check, save, records=settings.ingest_batch, max_payload=lambda: self._connection.max_payload
        )
        self._writing = 0
        self._failures = 0
        self.problem = ""

    async def run(self) -> None:
        """Works until :meth:`stop`; a JetStream that is not there, or goes away, is waited for and said once."""
        self._running = asyncio.current_task()
        pause = _PAUSE
        while not self._stopping.is_set():
            try:
                await self.streams.ensure()
                if self.problem:
                    log.info("The ingest is at work")
                self.problem, pause = "", _PAUSE
                await side_by_side(*(self._worker() for _ in range(WORKERS)))
                continue
            except ComplexSystemError as error:
                self._say(error.message)
            except Exception as error:
                log.exception("The ingest failed and begins anew")
                self.problem = f"{type(error).__name__}: {error}"
            await self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def stop(self) -> None:
        """Ends after the write that is at work, if that ends in time; what was fetched and not written goes to the others."""
        self._stopping.set()
        if self._running is not None:
            # One that waits for the broker writes nothing.
            await asyncio.wait({self._running}, timeout=_STOP_SECONDS if self._writing else _STOP_SECONDS_IDLE)
            if not self._running.done():
                self._running.cancel()
                await asyncio.wait({self._running}, timeout=_STOP_SECONDS_IDLE)

    async def report(self) -> dict[str, Any]:
        """What the streams hold, as far as they can be asked, and what this replica has done."""
        counts: dict[str, int | None] = {"waiting": None, "in_flight": None, "dead": None}
        problem = self.problem
        try:
            counts = asdict(await self.streams.counts())
        except NobodyListensError as error:
            problem = problem or error.message
        return {"on": True, "problem": problem, **counts, "saved": self.writer.saved, "refused": self.writer.refused}

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("The ingest waits: %s", problem)
        self.problem = problem

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # One worker

    async def _worker(self) -> None:
        # Two messages of any size fit, so that none is too large to be fetched.
        pull = Pull(self._client, self._settings.ingest_messages, 2 * self._connection.max_payload)
        await pull.open()
        try:
            while not self._stopping.is_set():
                try:
                    messages = await pull.next(self._stopping)
                except NatsError as error:
                    raise self.streams.explained(error) from error
                if messages:
                    self._writing += 1
                    try:
                        await self._handle(messages)
                    finally:
                        self._writing -= 1
        finally:
            await pull.close()

    async def _handle(self, messages: list[Msg]) -> None:
        try:
            await self.writer.handle(messages)
            self._failures = 0
        except StoreUnavailableError as error:
            self._say(error.message)
            await self._until_the_database_is_back()
        except NatsError as error:
            raise self.streams.explained(error) from error

    async def _until_the_database_is_back(self) -> None:
        """Fetches nothing meanwhile: the stream keeps everything, and nothing is delivered in vain."""
        while not self._stopping.is_set():
            # Counted until a write works: a database may answer and still take nothing.
            await self._sleep(min(_PAUSE * 2**self._failures, _LONGEST_PAUSE))
            self._failures = min(self._failures + 1, 10)
            try:
                await self._ping()
            except StoreUnavailableError as error:
                self._say(error.message)
            else:
                if self.problem:
                    log.info("The database is back, and the ingest goes on")
                self.problem = ""
                return
