"""Dead letters: published messages that were refused, kept as they came with the reason."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, Header, RawStreamMsg
from nats.js.errors import NotFoundError

from complex_system.errors import ComplexSystemError, NobodyListensError
from complex_system.messaging.ingest.streams import (
    DEAD_STREAM,
    DUPLICATE_WINDOW,
    ROOM_FOR_REASON,
    IngestStreams,
    NoRoomError,
    source_of,
)
from complex_system.messaging.subjects import DEAD_RAW, INGEST_RAW
from complex_system.settings import Settings

log = logging.getLogger(__name__)

REASON, CODE, SUBJECT, SEQUENCE, TIME, MESSAGE_ID, CUT = (
    "Ingest-Reason",
    "Ingest-Code",
    "Ingest-Subject",
    "Ingest-Sequence",
    "Ingest-Time",
    "Ingest-Msg-Id",
    "Ingest-Cut",
)

SHARES = 8
"""So many sources may fill the bytes of the dead letters."""

_SIZE = "Nats-Msg-Size"
_LONGEST_REASON = 2000
_LONGEST_HEADER = 500
_LONGEST_SUBJECT = 4096  # of a line of the protocol, so of a subject
_LONGEST_SOURCE = 500  # of a dead letter's subject, whose line has a reply's subject as well
_STOPPED_SECONDS = 10.0
_STOPPED_KEPT = 1000
_MAX_DIGITS = 20
_TRIES = 10
_PATIENCE = 5.0


@dataclass(frozen=True)
class DeadLetter:
    """A refused message.

    Attributes:
        number: Sequence number in the stream of dead letters.
        subject: The subject it was published on.
        sequence: Sequence number in the ingest's stream.
        time: When it was published, ISO 8601.
        code: Code of the error, see ``errors``.
        cut: Original size in bytes if it was too large to be kept whole, else 0.
    """

    number: int
    subject: str
    sequence: int
    time: str
    code: str
    reason: str
    message_id: str
    payload: bytes
    cut: int


class DeadLetters:
    """Keeps dead letters, reads them, and publishes them again."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._streams = IngestStreams(client, settings)
        self._context = self._streams.context
        self._share, self._share_bytes = settings.ingest_dead_share, settings.ingest_dead_bytes // SHARES
        self._turn = asyncio.Lock()
        self._stopped: dict[str, tuple[float, NoRoomError]] = {}

    @property
    def stopped(self) -> dict[str, str]:
        """The sources that had no room for another dead letter at the last attempt on this connection, with the reason."""
        return {source: error.message for source, (_, error) in self._stopped.items()}

    async def keep(self, message: Msg, error: ComplexSystemError) -> None:
        """Keep a message and return when the stream has it. Keeping it twice changes nothing.

        A source without room is stopped: for some seconds its messages are refused without asking the stream.

        Raises:
            NoRoomError: There is no room for a message of this source.
            NobodyListensError: The stream does not accept it.
        """
        source = source_of(message.subject)[:_LONGEST_SOURCE]
        since, full = self._stopped.get(source, (0.0, None))
        if full is not None and time.monotonic() - since < _STOPPED_SECONDS:
            raise full
        try:
            await self._publish(message, source, error)
        except NoRoomError as no_room:
            if self._stopped.pop(source, None) is None:  # the other worker may have tried at the same time
                log.error(
                    "No room for another dead letter of '%s': its refused messages wait in the stream. %s",
                    source,
                    no_room.message,
                )
            self._stopped[source] = time.monotonic(), no_room
            if len(self._stopped) > _STOPPED_KEPT:
                del self._stopped[next(iter(self._stopped))]
            raise
        if self._stopped.pop(source, None) is not None:
            log.info("There is room for dead letters of '%s' again", source)

    async def _publish(self, message: Msg, source: str, error: ComplexSystemError) -> None:
        metadata = message.metadata
        headers = {
            REASON: _header(error.message, _LONGEST_REASON),
            CODE: error.code,
            SUBJECT: _header(message.subject, _LONGEST_SUBJECT),
            SEQUENCE: str(metadata.sequence.stream),
            TIME: metadata.timestamp.astimezone(UTC).isoformat(),
            Header.MSG_ID.value: f"{metadata.stream}-{metadata.sequence.stream}-{metadata.timestamp.timestamp()}",
        }
        if own := (message.headers or {}).get(Header.MSG_ID.value):
            headers[MESSAGE_ID] = _header(own)
        payload = message.data
        most = int(self._client.max_payload) - ROOM_FOR_REASON
        if len(payload) > most:
            headers[CUT] = str(len(payload))
            payload = payload[:most]
        # Cut, a subject may end with a dot, which no subject may.
        subject = f"{DEAD_RAW.name}.{source}".rstrip(".")
        try:
            async with self._turn:  # what one worker keeps counts for the other
                await self._refuse_beyond_share(subject, len(payload))
                await self._context.publish(subject, payload, headers=headers)
        except (NatsError, TimeoutError) as unavailable:
            raise self._streams.explained(unavailable) from unavailable

    async def _refuse_beyond_share(self, subject: str, size: int) -> None:
        """Refuse a large letter beyond its source's share in bytes; JetStream counts letters, which is enough for small ones.

        Raises:
            NoRoomError: There is no room for it.
        """
        if size <= self._share_bytes // self._share:
            return
        used = await self._bytes_of(subject)
        if used and used + size > self._share_bytes:
            raise NoRoomError(
                f"Its dead letters have {used} bytes, and one source may have {self._share_bytes} "
                f"(COMPLEX_SYSTEM_INGEST_DEAD_BYTES divided by {SHARES}).",
                share=True,
            )

    async def _bytes_of(self, subject: str) -> int:
        """Return the bytes of a source's dead letters: JetStream tells their number, and the size of each without its payload."""
        subjects = (await self._context.stream_info(DEAD_STREAM, subjects_filter=subject)).state.subjects or {}
        total, left = 0, subjects.get(subject, 0)
        if not left:
            return 0
        sizes = ConsumerConfig(ack_policy=AckPolicy.NONE, headers_only=True, inactive_threshold=_PATIENCE)
        letters = await self._context.subscribe(subject, stream=DEAD_STREAM, config=sizes)
        try:
            while left:
                letter = await letters.next_msg(timeout=_PATIENCE)
                total += _number((letter.headers or {}).get(_SIZE, ""))
                left = letter.metadata.num_pending  # some may be removed meanwhile
        finally:
            await letters.unsubscribe()
        return total

    async def read(self, limit: int, only: int | None = None, source: str | None = None) -> AsyncGenerator[DeadLetter, None]:
        """Yield the oldest dead letters.

        Args:
            limit: Maximum number of letters.
            only: Number of a single letter.
            source: Only those of this source; None for all.

        Raises:
            NobodyListensError: JetStream or the stream is missing.
        """
        subject = ">" if source is None else f"{DEAD_RAW.name}.{source}".rstrip(".")
        try:
            state = (await self._context.stream_info(DEAD_STREAM)).state
            number, seen = only or state.first_seq, 0
            while seen < min(limit, state.messages) and number <= state.last_seq:
                try:
                    raw = await self._context.get_msg(DEAD_STREAM, number, subject=subject, next=True)
                except NotFoundError:
                    return
                if only not in (None, raw.seq):
                    return
                yield _letter(raw)
                seen, number = seen + 1, (raw.seq or number) + 1
                if only is not None:
                    return
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error

    async def replay(self, letter: DeadLetter) -> None:
        """Publish a dead letter again on its subject, and delete it when the ingest's stream has it.

        Raises:
            NobodyListensError: The stream does not accept it.
        """
        # With its own id, records without keys get the keys that they get when the device publishes them again.
        headers = {Header.MSG_ID.value: letter.message_id or f"replayed-{letter.number}-{letter.time}"}
        try:
            # The stream may have met the id in another message a moment ago.
            for _ in range(_TRIES):
                if not (await self._context.publish(letter.subject, letter.payload, headers=headers)).duplicate:
                    break
                await asyncio.sleep(2 * DUPLICATE_WINDOW)
            else:
                raise NobodyListensError(f"Another message with the id of dead letter {letter.number} keeps arriving.")
            await self._context.delete_msg(DEAD_STREAM, letter.number)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error

    async def remove(self, letter: DeadLetter) -> None:
        """Delete a dead letter."""
        try:
            await self._context.delete_msg(DEAD_STREAM, letter.number)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error


def _letter(raw: RawStreamMsg) -> DeadLetter:
    """Return a dead letter; whatever its headers hold, it is listed, and its subject is one of the ingest's."""
    headers = {name: _header(str(value), _LONGEST_SUBJECT) for name, value in (raw.headers or {}).items()}
    subject = f"{INGEST_RAW.name}.{source_of(raw.subject or '')}".rstrip(".")
    named = headers.get(SUBJECT, "")
    return DeadLetter(
        number=raw.seq or 0,
        # The header has more where the source was cut; nothing else of it is believed.
        subject=named if named.startswith(subject) and len(source_of(subject)) > _LONGEST_SOURCE - 2 else subject,
        sequence=_number(headers.get(SEQUENCE, "")),
        time=headers.get(TIME, "")[:_LONGEST_HEADER],
        code=headers.get(CODE, "")[:_LONGEST_HEADER],
        reason=headers.get(REASON, "")[:_LONGEST_REASON],
        message_id=headers.get(MESSAGE_ID, "")[:_LONGEST_HEADER],
        payload=raw.data or b"",
        cut=_number(headers.get(CUT, "")),
    )


def _number(text: str) -> int:
    """Return a number of a header; 0 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS else 0


def _header(text: str, longest: int = _LONGEST_HEADER) -> str:
    """Return a text as a header value: one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()[:longest]
