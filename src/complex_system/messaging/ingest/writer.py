"""A batch of published messages: written as one, then acknowledged, and each settled in one way or another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from complex_system.messaging.ingest.dead_letters import ROOM_FOR_REASON, DeadLetters
from complex_system.messaging.ingest.payload import give_keys, published_records
from complex_system.messaging.ingest.streams import ACK_WAIT

log = logging.getLogger(__name__)

TRIES = 5
"""After so many failures inside, alone and with the database there, a message becomes a dead letter."""

_LONG = 10_000  # bytes from which on a message is decoded in a thread
_AGAIN = 1.0  # seconds until a message that was given back is delivered again
_AGAIN_LATE = 10.0
_FAILED_KEPT = 10_000

Check = Callable[[Any], list[Record]]
Save = Callable[[list[Record]], Awaitable[Any]]


@dataclass(frozen=True)
class _Taken:
    """A message with its records, checked and with keys."""

    message: Msg
    records: list[Record]


class BatchWriter:
    """Settles messages: every one is acknowledged, given back, or kept as a dead letter.

    Attributes:
        saved: Records written so far, those that were there already included.
        refused: Messages that became dead letters.
    """

    def __init__(self, dead: DeadLetters, check: Check, save: Save, *, records: int, max_payload: Callable[[], int]) -> None:
        """Makes a writer.

        Args:
            dead: Keeps what cannot be accepted.
            check: Returns the records of a message with every declared field, or raises what is wrong with them.
            save: Writes records; returns when the database has them; leaves keys that exist as they are.
            records: Most records of a write, unless one message has more.
            max_payload: Bytes that the broker takes in one message.
        """
        self._dead, self._check, self._save = dead, check, save
        self._most_records, self._max_payload = records, max_payload
        self._failed_before: dict[int, int] = {}
        self.saved = 0
        self.refused = 0

    async def handle(self, messages: list[Msg]) -> None:
        """Writes, acknowledges, refuses or gives back every one of the messages.

        Raises:
            StoreUnavailableError: The database is away; what was not written is given back.
            NatsError: The broker does not take what it is told; the same.
        """
        left = {id(message): message for message in messages}
        keeping = asyncio.create_task(_say_at_work(left))
        try:
            batch: list[_Taken] = []
            size = 0
            for message in messages:
                taken = await self._taken(message, left)
                if taken is None:
                    continue
                # Bounded by records, too: decoded they take several times the memory.
                if batch and size + len(taken.records) > self._most_records:
                    await self._write(batch, left)
                    batch, size = [], 0
                batch.append(taken)
                size += len(taken.records)
            await self._write(batch, left)
        finally:
            keeping.cancel()
            await _give_back(left)

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
        most = self._max_payload() - ROOM_FOR_REASON
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
        self.saved += sum(len(taken.records) for taken in batch)
        for taken in batch:
            await taken.message.ack()
            self._failed_before.pop(taken.message.metadata.sequence.stream, None)
            del left[id(taken.message)]

    async def _failed(self, message: Msg, error: Exception, left: dict[int, Msg]) -> None:
        """A message that cannot be written though the database is there: later again, and in the end a dead letter."""
        number = message.metadata.sequence.stream
        # Counted here: the broker's count has the deliveries in which the database was away, too.
        failed = self._failed_before.pop(number, 0) + 1
        log.error("A published message could not be written (%d of %d times)", failed, TRIES, exc_info=error)
        if failed < TRIES:
            self._failed_before[number] = failed
            if len(self._failed_before) > _FAILED_KEPT:  # those that another replica has written since
                del self._failed_before[next(iter(self._failed_before))]
            await message.nak(delay=_AGAIN * 2 ** (failed - 1))
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
            await message.nak(delay=_AGAIN_LATE)
        else:
            self.refused += 1
            log.warning("A message on '%s' is a dead letter: %s", message.subject, error.message)
            await message.term()
        del left[id(message)]


async def _give_back(left: dict[int, Msg]) -> None:
    """Hands what was not settled to whoever fetches next, after a moment."""
    for key, message in list(left.items()):
        with contextlib.suppress(NatsError):  # without a connection the time that it may take runs out
            await message.nak(delay=_AGAIN)
        del left[key]


async def _say_at_work(left: dict[int, Msg]) -> None:
    """Keeps messages from going to somebody else while a slow database writes them."""
    while True:
        await asyncio.sleep(ACK_WAIT / 3)
        with contextlib.suppress(NatsError):
            for message in list(left.values()):
                await message.in_progress()
