"""The consumer of the ingest: reads what JetStream keeps, writes it to the database, then acknowledges it.

Several messages become one write. Nothing is acknowledged before the database has it, and writes may be repeated, so a service,
database or broker that fails in the middle causes a second delivery and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import Header, StatusCode

from complex_system.background import run_concurrently
from complex_system.errors import ComplexSystemError, NobodyListensError, StoreUnavailableError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.streams import CONSUMER, STREAM, IngestStreams
from complex_system.messaging.ingest.writer import BatchWriter, Check, Save, Traced
from complex_system.protocol.database import IngestCounts
from complex_system.settings import Settings

log = logging.getLogger(__name__)

WORKERS = 2
"""One fetches while the other writes."""

_NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}"
_EXPIRES = 3.0
_PATIENCE = 2.0
"""Seconds to wait for the broker beyond the time of the request."""
_ENDS = {StatusCode.NO_MESSAGES.value, StatusCode.REQUEST_TIMEOUT.value}
_GONE = ("Consumer Deleted", "Stream Deleted", "Leadership Change", "Server Shutdown")

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
        self.writer = BatchWriter(
            self._dead,
            check,
            save,
            records=settings.ingest_batch,
            max_payload=lambda: self._connection.max_payload,
            traced=traced,
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
                if self.problem:
                    log.info("The ingest is running")
                self.problem, pause = "", _PAUSE
                await run_concurrently(*(self._worker() for _ in range(WORKERS)))
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
        report = IngestCounts(
            replica=replica, on=True, problem=self.problem, saved=self.writer.saved, refused=self.writer.refused
        )
        try:
            counts = await self.streams.counts()
        except NobodyListensError as error:
            return replace(report, problem=self.problem or error.message)
        stopped = sorted({*counts.stopped, *self._dead.stopped})
        return replace(
            report,
            waiting=counts.waiting,
            in_flight=counts.in_flight,
            dead=counts.dead,
            stopped=tuple(stopped[:_SOURCES_NAMED]),
            problem=self.problem or (NO_ROOM.format(count=len(stopped), first=stopped[0]) if stopped else ""),
        )

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


class Pull:
    """An inbox for batches, requested one after the other and bounded by messages and by bytes.

    The fetch of nats-py has no bound in bytes: hundreds of messages of the largest size would not fit into memory.
    """

    def __init__(
        self,
        client: Client,
        messages: int,
        max_bytes: int,
        subject: str = _NEXT,
        *,
        expires: float = _EXPIRES,
        acknowledged: bool = True,
    ) -> None:
        """Prepare the inbox without contacting the broker.

        Args:
            client: The connection.
            messages: Maximum messages of a batch.
            max_bytes: Maximum bytes of a batch; must exceed the largest message, which would never arrive otherwise.
            subject: Where the consumer takes requests for batches; by default the ingest's.
            expires: Seconds to wait for the first message where none is there.
            acknowledged: Whether the consumer's messages are acknowledged, so that those that arrive too late go back.
        """
        self._client = client
        self._messages = messages
        self._max_bytes = max_bytes
        self._subject, self._expires, self._acknowledged = subject, expires, acknowledged
        self._inbox = client.new_inbox()
        self._asked = 0
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Subscribe the inbox."""
        self._subscription = await self._client.subscribe(
            f"{self._inbox}.*", cb=self._arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def close(self) -> None:
        """Unsubscribe the inbox, and return messages that arrived too late to the stream."""
        if self._subscription is None or self._client.is_closed:
            return
        with contextlib.suppress(NatsError):
            # Also without a connection: after a reconnect the inbox would fill again, unread.
            await self._subscription.unsubscribe()
            while self._acknowledged and not self._arrived.empty():
                late = self._arrived.get_nowait()
                if _status(late) is None:
                    await late.nak()

    async def next(self, stopping: asyncio.Event) -> list[Msg]:
        """Return the next batch: what is there, or what arrives within a few seconds; may be empty.

        Raises:
            NatsError: The consumer does not answer or is gone.
        """
        found = await self._collect({"batch": self._messages, "no_wait": True}, stopping)
        if not found and not stopping.is_set():
            found = await self._collect({"batch": 1, "expires": int(self._expires * 1e9)}, stopping)
            if found and self._messages > 1:
                with contextlib.suppress(NatsError):  # the next batch reports it; these messages are here
                    found += await self._collect({"batch": self._messages - 1, "no_wait": True}, stopping)
        return found

    async def _collect(self, wanted: dict[str, int | bool], stopping: asyncio.Event) -> list[Msg]:
        self._asked += 1
        reply = f"{self._inbox}.{self._asked}"
        asked = json.dumps({**wanted, "max_bytes": self._max_bytes}).encode()
        await self._client.publish(self._subject, asked, reply=reply)
        found: list[Msg] = []
        ended = asyncio.create_task(stopping.wait())
        try:
            while len(found) < wanted["batch"]:
                message = await self._message(_PATIENCE + (self._expires if "expires" in wanted else 0), ended)
                if message is None:
                    # A broker that is gone says nothing at all.
                    if not found and not ended.done():
                        raise NatsError("the broker does not deliver")
                    break
                status = _status(message)
                if status is None:
                    found.append(message)
                elif message.subject != reply:
                    continue  # belongs to an earlier batch
                elif found or status in _ENDS:
                    break
                elif status == StatusCode.SERVICE_UNAVAILABLE.value:
                    raise NoRespondersError
                elif any(word in _description(message) for word in _GONE):
                    raise NatsError(_description(message))
                else:
                    break
        finally:
            ended.cancel()
        return found

    async def _message(self, seconds: float, ended: asyncio.Task[bool]) -> Msg | None:
        """Return the next message; None if none arrives in time, or after the stop."""
        if not self._arrived.empty():
            return self._arrived.get_nowait()
        came = asyncio.create_task(self._arrived.get())
        try:
            await asyncio.wait({came, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return came.result() if came.done() else None
        finally:
            came.cancel()


def _status(message: Msg) -> str | None:
    """Return the status of a message of the broker itself; None for one of the stream."""
    if message.headers is None or message.reply:
        return None
    return message.headers.get(Header.STATUS.value)


def _description(message: Msg) -> str:
    return (message.headers or {}).get(Header.DESCRIPTION.value, "")
