"""The consumer of the ingest: reads what JetStream keeps, writes it to the database, then acknowledges it.

Several messages become one write. Nothing is acknowledged before the database has it, and writes may be repeated, so a service,
database or broker that fails in the middle causes a second delivery and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from complex_system.background import run_concurrently
from complex_system.errors import ComplexSystemError, NobodyListensError, StoreUnavailableError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.streams import CONSUMER, STREAM, IngestStreams
from complex_system.messaging.ingest.writer import BatchWriter, Check, Save, Traced
from complex_system.messaging.mqtt import MqttForwarder
from complex_system.messaging.pull import Pull, batches_of
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.protocol.database import IngestCounts
from complex_system.settings import Settings

log = logging.getLogger(__name__)

WORKERS = 2
"""One fetches while the other writes."""

_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STOP_SECONDS, _STOP_SECONDS_IDLE = 8.0, 1.0

_SOURCES_NAMED = 100
NO_ROOM = (
    "{count} source(s) have no room for another dead letter, such as '{first}': their refused messages wait. "
    "`fiot extras dead-letters` shows the dead letters, publishes them again, or removes them."
)

Probe = Callable[[], Awaitable[Any]]


class Ingest:
    """Reads the stream until it is stopped; each replica of the database service has one.

    Attributes:
        writer: Writes and acknowledges the messages, and counts them.
        problem: Why nothing is read at the moment; empty if everything works.
    """

    def __init__(
        self, connection: ServiceConnection, settings: Settings, *, check: Check, save: Save, probe: Probe, traced: Traced
    ) -> None:
        """Prepare the ingest without contacting the broker.

        Args:
            connection: The service's connection.
            settings: Limits.
            check: Returns the records of a message with every declared field, or raises an error.
            save: Writes records, their sources and their orders, and returns when the database has them. Raises
                ``InvalidRecordError``, which names the records, only if these can never be stored; then none was written.
            probe: Writes to the database and raises ``StoreUnavailableError`` while that fails.
            traced: Told the traces of records that were saved, while traces are recorded.
        """
        self._connection = connection
        self._client = connection.client
        self._settings = settings
        self._probe = probe
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None
        self.streams = IngestStreams(self._client, settings)
        self._dead = DeadLetters(self._client, settings)
        ingested = (INGEST_RAW.name, f"{INGEST_RAW.name}.>")
        self._mqtt = MqttForwarder(connection, settings, CONSUMER, ingested) if settings.mqtt_port else None
        self.writer = BatchWriter(
            self._dead,
            check,
            save,
            records=settings.ingest_batch,
            max_payload=lambda: self._connection.max_payload,
            traced=traced,
            is_copy=self._is_copy,
        )
        self._writing = 0
        self._failures = 0
        self.problem = ""

    async def run(self) -> None:
        """Work until :meth:`stop`; wait for a JetStream that is missing or disappears, and log that once."""
        self._running = asyncio.current_task()
        pause = _PAUSE
        while not self._stopping.is_set():
            try:
                await self.streams.ensure()
                if self._mqtt:
                    await self._mqtt.ensure()
                if self.problem:
                    log.info("The ingest is running")
                self.problem, pause = "", _PAUSE
                forwarding = [self._mqtt.run(self._stopping)] if self._mqtt else []
                await run_concurrently(*(self._worker() for _ in range(WORKERS)), *forwarding)
                continue
            except ComplexSystemError as error:
                self._report_problem(error.message)
            except Exception as error:
                log.exception("The ingest failed and starts again")
                self.problem = f"{type(error).__name__}: {error}"
            await self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def stop(self) -> None:
        """Stop after the write in progress, if that ends in time; messages fetched and not written go to other replicas."""
        self._stopping.set()
        if self._running is not None:
            # Without a write in progress there is nothing to wait for.
            await asyncio.wait({self._running}, timeout=_STOP_SECONDS if self._writing else _STOP_SECONDS_IDLE)
            if not self._running.done():
                self._running.cancel()
                await asyncio.wait({self._running}, timeout=_STOP_SECONDS_IDLE)

    async def report(self, replica: str) -> IngestCounts:
        """Return the state of the streams, as far as the broker answers, and what this replica has done."""
        try:
            # Along the way of a message, and what was done with it last: what moves on meanwhile is counted where it is by then.
            not_forwarded = await self._mqtt.waiting() if self._mqtt else 0
            counts = await self.streams.counts()
        except NobodyListensError as error:
            return replace(self._done(replica), problem=self.problem or error.message)
        stopped = sorted({*counts.stopped, *self._dead.stopped})
        return replace(
            self._done(replica),
            waiting=counts.waiting + not_forwarded,
            in_flight=counts.in_flight,
            dead=counts.dead,
            stopped=tuple(stopped[:_SOURCES_NAMED]),
            problem=self.problem
            or (NO_ROOM.format(count=len(stopped), first=stopped[0]) if stopped else "")
            or (self._mqtt.problem if self._mqtt else ""),
        )

    def _done(self, replica: str) -> IngestCounts:
        return IngestCounts(
            replica=replica, on=True, problem=self.problem, saved=self.writer.saved, refused=self.writer.refused
        )

    def _is_copy(self, message: Msg) -> bool:
        return self._mqtt is not None and self._mqtt.is_copy(message)

    def _report_problem(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("The ingest waits: %s", problem)
        self.problem = problem

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # One worker

    async def _worker(self) -> None:
        # Room for two messages of the largest size, so that none is too large to be fetched.
        pull = Pull(
            self._client, self._settings.ingest_messages, 2 * self._connection.max_payload, batches_of(STREAM, CONSUMER)
        )
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
            self._report_problem(error.message)
            await self._wait_for_database()
        except NatsError as error:
            raise self.streams.explained(error) from error

    async def _wait_for_database(self) -> None:
        """Fetch nothing until the database writes again: the stream keeps everything."""
        while not self._stopping.is_set():
            # Reset by a write of records only: with the last room on a disk a small probe may be written and a batch not.
            await self._sleep(min(_PAUSE * 2**self._failures, _LONGEST_PAUSE))
            self._failures = min(self._failures + 1, 10)
            try:
                await self._probe()
            except StoreUnavailableError as error:
                self._report_problem(error.message)
            else:
                if self.problem:
                    log.info("The database writes again; the ingest continues")
                self.problem = ""
                return
