"""The ingest for publishers that do not wait: what JetStream keeps is written, then acknowledged.

Several published messages become one write. Nothing is acknowledged before the database has it, and a write may be repeated, so
whoever ends in the middle (service, database, broker) costs a second delivery and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header

from complex_system.domain.records import Record
from complex_system.errors import (
    ComplexSystemError,
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    StoreUnavailableError,
    TooLargeError,
)
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.dead_letters import ROOM_FOR_REASON, DeadLetters
from complex_system.messaging.ingest_payload import give_keys, published_records
from complex_system.messaging.ingest_pull import Pull
from complex_system.messaging.ingest_streams import ACK_WAIT, IngestStreams
from complex_system.settings import Settings

log = logging.getLogger(__name__)

WORKERS = 2
"""Each fetches while another writes."""
TRIES = 5
"""Deliveries after which a message that fails inside, alone and with the database there, becomes a dead letter."""

_LONG = 10_000  # bytes from which on a message is decoded in a thread
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STOP_SECONDS, _STOP_SECONDS_IDLE = 8.0, 1.0
_AGAIN = 1.0  # seconds until a message that was given back is delivered again

Check = Callable[[Any], list[Record]]
Save = Callable[[list[Record]], Awaitable[Any]]
Ping = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class _Taken:
    """A message with its records, checked and with keys."""

    message: Msg
    records: list[Record]


class Ingest:
    """Reads the stream until it is stopped; one in each replica of the database service.

    Attributes:
        saved: Records written since the start, those that were there already included.
        refused: Messages that became dead letters since the start.
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
        self._check, self._save, self._ping = check, save, ping
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None
        self.streams = IngestStreams(self._client, settings)
        self._dead = DeadLetters(self._client, settings)
        self._writing = 0
        self._failures = 0
        self.saved = 0
        self.refused = 0
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
                await self._work()
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
        return {"on": True, "problem": problem, **counts, "saved": self.saved, "refused": self.refused}

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("The ingest waits: %s", problem)
        self.problem = problem

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # One worker

    async def _work(self) -> None:
        """Runs the workers until one fails or all are stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._worker())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

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
        """Writes, acknowledges, refuses or gives back every one of the messages."""
        left = {id(message): message for message in messages}
        keeping = asyncio.create_task(self._say_at_work(left))
        try:
            batch: list[_Taken] = []
            size = 0
            for message in messages:
                taken = await self._taken(message, left)
                if taken is None:
                    continue
                # Bounded by records, too: decoded they take several times the memory.
                if batch and size + len(taken.records) > self._settings.ingest_batch:
                    await self._write(batch, left)
                    batch, size = [], 0
                batch.append(taken)
                size += len(taken.records)
            await self._write(batch, left)
        except StoreUnavailableError:
            await self._give_back(left)
            await self._until_the_database_is_back()
        except NatsError as error:
            raise self.streams.explained(error) from error
        finally:
            keeping.cancel()
            await self._give_back(left)

    async def _taken(self, message: Msg, left: dict[int, Msg]) -> _Taken | None:
        """The records of a message; None when it was refused."""
        try:
            self._refuse_large(message)
            if len(message.data) < _LONG:
                await asyncio.sleep(0)  # some hundred of them are not to hold up requests
                records = self._records(message)
            else:
                records = await asyncio.to_thread(self._records, message)
        except (InvalidRequestError, InvalidRecordError, TooLargeError) as error:
            await self._refuse(message, error, left)
            return None
        message_id = (message.headers or {}).get(Header.MSG_ID.value, "")
        give_keys(records, message_id, message.metadata.sequence.stream, message.metadata.timestamp)
        return _Taken(message, records)

    def _records(self, message: Msg) -> list[Record]:
        return self._check(published_records(message.data))

    def _refuse_large(self, message: Msg) -> None:
        most = self._connection.max_payload - ROOM_FOR_REASON
        if len(message.data) > most:
            raise TooLargeError(
                f"The message has {len(message.data)} bytes; publish the records in messages of at most {most}."
            )

    async def _write(self, batch: list[_Taken], left: dict[int, Msg]) -> None:
        if not batch:
            return
        try:
            await self._save([record for taken in batch for record in taken.records])
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - logged where it is settled
            if len(batch) > 1:
                # One of them is the cause; alone, the others are none the worse for it.
                for taken in batch:
                    await self._write([taken], left)
                return
            await self._failed(batch[0].message, error, left)
            return
        self._failures = 0
        self.saved += sum(len(taken.records) for taken in batch)
        for taken in batch:
            await taken.message.ack()
            del left[id(taken.message)]

    async def _failed(self, message: Msg, error: Exception, left: dict[int, Msg]) -> None:
        """A message that cannot be written though the database is there: later again, and in the end a dead letter."""
        delivered = message.metadata.num_delivered
        log.error("A published message could not be written (delivery %d)", delivered, exc_info=error)
        if delivered < TRIES:
            await message.nak(delay=_AGAIN * 2 ** (delivered - 1))
            del left[id(message)]
        else:
            reason = InternalError(f"The database service failed inside ({type(error).__name__}); its log says more.")
            await self._refuse(message, reason, left)

    async def _refuse(self, message: Msg, error: ComplexSystemError, left: dict[int, Msg]) -> None:
        """Keeps the message among the dead letters, then takes it off the stream."""
        try:
            await self._dead.keep(message, error)
        except NobodyListensError as away:
            # It stays in the stream, and nothing else waits for it.
            log.warning("A dead letter could not be kept, it is tried again: %s", away.message)
            await message.nak(delay=_LONGEST_PAUSE)
        else:
            self.refused += 1
            log.warning("A message on '%s' is a dead letter: %s", message.subject, error.message)
            await message.term()
        del left[id(message)]

    async def _give_back(self, left: dict[int, Msg]) -> None:
        """Hands what was not settled to whoever fetches next, after a moment."""
        for key, message in list(left.items()):
            with contextlib.suppress(NatsError):  # without a connection the time that it may take runs out
                await message.nak(delay=_AGAIN)
            del left[key]

    async def _say_at_work(self, left: dict[int, Msg]) -> None:
        """Keeps messages from going to somebody else while a slow database writes them."""
        while True:
            await asyncio.sleep(ACK_WAIT / 3)
            with contextlib.suppress(NatsError):
                for message in list(left.values()):
                    await message.in_progress()

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
