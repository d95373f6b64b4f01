"""Writes a batch of published messages at once, then acknowledges, returns or refuses each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header

from complex_system import tracing
from complex_system.domain.dataset import ID
from complex_system.domain.records import Record, faults_message
from complex_system.errors import (
    ComplexSystemError,
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    RecordFault,
    StoreUnavailableError,
    TooLargeError,
)
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.publisher import give_keys, order_of, published_records
from complex_system.messaging.ingest.streams import ACK_WAIT, ROOM_FOR_REASON, NoRoomError, source_of
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.protocol.operations import RecordTrace

log = logging.getLogger(__name__)

_LONG = 10_000  # bytes; longer messages are decoded in a thread
_AGAIN = 1.0  # seconds until a returned message is delivered again
_AGAIN_LATE, _AGAIN_LATEST = 10.0, 300.0

Check = Callable[[Any], list[Record]]
Save = Callable[[list[Record], list[str], list[float]], Awaitable[Any]]
Traced = Callable[[list[RecordTrace]], Awaitable[None]]


@dataclass(frozen=True)
class _Checked:
    """A message with its records, checked and with keys."""

    message: Msg
    records: list[Record]
    began: int
    """When the work on it began, nanoseconds since 1970."""


class BatchWriter:
    """Acknowledges every message, returns it to the stream, or keeps it as a dead letter.

    Attributes:
        saved: Records written so far, including those that existed already.
        refused: Messages that became dead letters.
    """

    def __init__(
        self,
        dead: DeadLetters,
        check: Check,
        save: Save,
        *,
        records: int,
        max_payload: Callable[[], int],
        traced: Traced,
        is_copy: Callable[[Msg], bool],
    ) -> None:
        """Make a writer.

        Args:
            dead: Keeps refused messages.
            check: Returns the records of a message with every declared field, or raises an error.
            save: Writes records, their sources and their orders, and returns when the database has them. Raises
                ``InvalidRecordError``, which names the records, only if these can never be stored; then none was written.
            records: Maximum records in one write, unless one message has more.
            max_payload: Maximum bytes of one message.
            traced: Told the traces of records that were saved, while traces are recorded.
            is_copy: Whether the stream gets a message once more, for certain; this one then goes without being written.
        """
        self._dead, self._check, self._save, self._traced, self._is_copy = dead, check, save, traced, is_copy
        self._max_records, self._max_payload = records, max_payload
        self.saved = 0
        self.refused = 0

    async def handle(self, messages: list[Msg]) -> None:
        """Write, acknowledge, refuse or return every message.

        Raises:
            StoreUnavailableError: The database is unavailable; messages not written were returned.
            NatsError: The broker does not respond; messages not written were returned.
        """
        left = {id(message): message for message in messages}
        progress = asyncio.create_task(_report_progress(left))
        try:
            batch: list[_Checked] = []
            size = 0
            for message in messages:
                checked = await self._checked(message, left)
                if checked is None:
                    continue
                # Bounded by records as well: decoded, they take several times the memory.
                if batch and size + len(checked.records) > self._max_records:
                    await self._write(batch, left)
                    batch, size = [], 0
                batch.append(checked)
                size += len(checked.records)
            await self._write(batch, left)
        finally:
            progress.cancel()
            await _return(left)

    async def _checked(self, message: Msg, left: dict[int, Msg]) -> _Checked | None:
        """Return the records of a message; None if it was refused, or is a copy."""
        if self._is_copy(message):
            await message.ack()
            del left[id(message)]
            return None
        began = time.time_ns()
        try:
            self._refuse_large(message)
            if len(message.data) < _LONG:
                await asyncio.sleep(0)  # hundreds of messages must not block requests
                records = self._records(message)
            else:
                records = await asyncio.to_thread(self._records, message)
        except (InvalidRequestError, InvalidRecordError, TooLargeError) as error:
            await self._dead_letter(message, error, left)
            return None
        except MemoryError:
            raise
        except Exception as error:
            # Reading depends on nothing but the message, so it would fail again, and hold up the others.
            log.exception("A published message could not be read")
            reason = InternalError(
                f"The database service failed at reading the message ({type(error).__name__}); see its log."
            )
            await self._dead_letter(message, reason, left)
            return None
        message_id = (message.headers or {}).get(Header.MSG_ID.value, "")
        metadata = message.metadata
        give_keys(records, source_of(message.subject), message_id, metadata.sequence.stream, metadata.timestamp)
        return _Checked(message, records, began)

    def _records(self, message: Msg) -> list[Record]:
        return self._check(published_records(message.data))

    def _refuse_large(self, message: Msg) -> None:
        most = self._max_payload() - ROOM_FOR_REASON
        if len(message.data) > most:
            raise TooLargeError(
                f"The message has {len(message.data)} bytes; publish the records in messages of at most {most}."
            )

    async def _write(self, batch: list[_Checked], left: dict[int, Msg]) -> None:
        while batch:
            began = time.time_ns()
            try:
                sources = [source for each in batch for source in [source_of(each.message.subject)] * len(each.records)]
                orders = [order for each in batch for order in [order_of(each.message)] * len(each.records)]
                await self._save([record for checked in batch for record in checked.records], sources, orders)
                break
            except InvalidRecordError as error:
                good = await self._refuse(batch, error, left)
                if len(good) == len(batch):
                    raise StoreUnavailableError(error.message) from error
                batch = good
            except StoreUnavailableError as error:
                if error.explained:
                    raise
                await self._write_apart(batch, error, left)
                return
        self.saved += sum(len(checked.records) for checked in batch)
        for checked in batch:
            await checked.message.ack()
            del left[id(checked.message)]
        if tracing.is_on():
            saved = time.time_ns()
            await self._traced([_record_trace(checked, (began, saved)) for checked in batch])

    async def _write_apart(self, batch: list[_Checked], error: StoreUnavailableError, left: dict[int, Msg]) -> None:
        """Write by halves what fails for an unknown reason, while other things can be written: it holds up only itself."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle], left)
            await self._write(batch[middle:], left)
            return
        log.warning("A published message waits: %s", error.message)
        await batch[0].message.nak(delay=_AGAIN_LATE)
        del left[id(batch[0].message)]

    async def _refuse(self, batch: list[_Checked], error: InvalidRecordError, left: dict[int, Msg]) -> list[_Checked]:
        """Make dead letters of the messages whose records an error names; return the others."""
        good, first = [], 0
        for checked in batch:
            last = first + len(checked.records)
            faults = [
                RecordFault(**{**fault, "record": fault["record"] - first})
                for fault in error.faults
                if first <= fault["record"] < last
            ]
            if faults:
                await self._dead_letter(checked.message, InvalidRecordError(faults_message(faults), faults), left)
            else:
                good.append(checked)
            first = last
        return good

    async def _dead_letter(self, message: Msg, error: ComplexSystemError, left: dict[int, Msg]) -> None:
        """Keep the message as a dead letter, then remove it from the stream; without room for it, it waits there."""
        with tracing.received(INGEST_RAW.name, message.headers, tracing.NATS, kind="consumer"):
            tracing.failed(error)
            await self._keep_dead_letter(message, error)
        del left[id(message)]

    async def _keep_dead_letter(self, message: Msg, error: ComplexSystemError) -> None:
        try:
            await self._dead.keep(message, error)
        except NoRoomError:
            # The longer the more often it was delivered: thousands of a source may wait like this.
            deliveries = message.metadata.num_delivered or 1
            await message.nak(delay=min(_AGAIN_LATE * 2 ** min(deliveries - 1, 10), _AGAIN_LATEST))
        except NobodyListensError as unavailable:
            # It stays in the stream and blocks nothing else.
            log.warning("A dead letter could not be kept and is retried: %s", unavailable.message)
            await message.nak(delay=_AGAIN_LATE)
        else:
            self.refused += 1
            key = error.faults[0]["id"] if isinstance(error, InvalidRecordError) and error.faults else None
            log.warning(
                "Refused a message on '%s', kept as a dead letter: %s",
                message.subject,
                error.message,
                extra={"record_key": key},
            )
            await message.term()


def _record_trace(checked: _Checked, saving: tuple[int, int]) -> RecordTrace:
    """Record the trace of a message that was saved together with others, and return that of its records."""
    parts, keys = {"records": len(checked.records)}, tuple(str(record[ID]) for record in checked.records)
    times = (checked.began, time.time_ns())
    message = tracing.record(INGEST_RAW.name, "consumer", checked.message.headers, times, tracing.NATS)
    return RecordTrace(headers=tracing.record("save", "internal", message, saving, parts), keys=keys)


async def _return(left: dict[int, Msg]) -> None:
    """Return messages to the stream, to be delivered again after a moment."""
    for key, message in list(left.items()):
        with contextlib.suppress(NatsError):  # without a connection, ACK_WAIT expires
            await message.nak(delay=_AGAIN)
        del left[key]


async def _report_progress(left: dict[int, Msg]) -> None:
    """Keep messages from being delivered to another replica while a slow database writes them."""
    while True:
        await asyncio.sleep(ACK_WAIT / 3)
        with contextlib.suppress(NatsError):
            for message in list(left.values()):
                await message.in_progress()
