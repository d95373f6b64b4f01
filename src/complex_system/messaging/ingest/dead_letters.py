"""Dead letters: published messages that could not be accepted, kept as they came, with the reason beside them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header
from nats.js.errors import NotFoundError

from complex_system.errors import ComplexSystemError
from complex_system.messaging.ingest.streams import DEAD_STREAM, IngestStreams
from complex_system.messaging.subjects import DEAD_RAW_DATAPOINTS, INGEST_RAW_DATAPOINTS
from complex_system.settings import Settings

REASON, CODE, SUBJECT, SEQUENCE, TIME, MESSAGE_ID, CUT = (
    "Ingest-Reason",
    "Ingest-Code",
    "Ingest-Subject",
    "Ingest-Sequence",
    "Ingest-Time",
    "Ingest-Msg-Id",
    "Ingest-Cut",
)

ROOM_FOR_REASON = 16 * 1024
"""Bytes that a published message must leave below the broker's limit, so that it fits into a dead letter with all headers."""
_LONGEST_REASON = 2000
_LONGEST_HEADER = 500


@dataclass(frozen=True)
class DeadLetter:
    """One that is kept.

    Attributes:
        number: Its place in the stream of dead letters.
        subject: Where it was published.
        sequence: Its place in the ingest's stream.
        time: When it was published, ISO 8601.
        code: Code of the error, see ``errors``.
        cut: Bytes that the message had, when it was too large to be kept whole; else 0.
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
    """Keeps, reads and publishes dead letters again."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._streams = IngestStreams(client, settings)
        self._context = self._streams.context

    async def keep(self, message: Msg, error: ComplexSystemError) -> None:
        """Keeps a message; returns when the stream has it. Keeping it twice changes nothing.

        Raises:
            NobodyListensError: The stream does not take it.
        """
        metadata = message.metadata
        headers = {
            REASON: _header(error.message, _LONGEST_REASON),
            CODE: error.code,
            SUBJECT: _header(message.subject),
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
        source = message.subject.removeprefix(INGEST_RAW_DATAPOINTS.name)
        try:
            await self._context.publish(DEAD_RAW_DATAPOINTS.name + source[:_LONGEST_HEADER], payload, headers=headers)
        except (NatsError, TimeoutError) as away:
            raise self._streams.explained(away) from away

    async def read(self, limit: int, only: int | None = None) -> AsyncGenerator[DeadLetter, None]:
        """The oldest dead letters.

        Args:
            limit: Most letters.
            only: Number of the one that is wanted.

        Raises:
            NobodyListensError: There is no JetStream, or no stream.
        """
        try:
            state = (await self._context.stream_info(DEAD_STREAM)).state
            number, seen = only or state.first_seq, 0
            while seen < min(limit, state.messages) and number <= state.last_seq:
                try:
                    raw = await self._context.get_msg(DEAD_STREAM, number, subject=">", next=True)
                except NotFoundError:
                    return
                if only not in (None, raw.seq):
                    return
                yield _letter(raw.seq or number, raw.headers or {}, raw.data or b"")
                seen, number = seen + 1, (raw.seq or number) + 1
                if only is not None:
                    return
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error

    async def replay(self, letter: DeadLetter) -> None:
        """Publishes a dead letter again where it came from, and forgets it when the ingest's stream has it.

        Raises:
            NobodyListensError: The stream does not take it.
        """
        headers = {Header.MSG_ID.value: f"replayed-{letter.number}-{letter.time}"}
        try:
            await self._context.publish(letter.subject, letter.payload, headers=headers)
            await self._context.delete_msg(DEAD_STREAM, letter.number)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error

    async def remove(self, letter: DeadLetter) -> None:
        """Forgets a dead letter."""
        try:
            await self._context.delete_msg(DEAD_STREAM, letter.number)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error


def _letter(number: int, headers: dict[str, str], payload: bytes) -> DeadLetter:
    return DeadLetter(
        number=number,
        subject=headers.get(SUBJECT, INGEST_RAW_DATAPOINTS.name),
        sequence=int(headers.get(SEQUENCE, 0)),
        time=headers.get(TIME, datetime.now(UTC).isoformat()),
        code=headers.get(CODE, ""),
        reason=headers.get(REASON, ""),
        message_id=headers.get(MESSAGE_ID, ""),
        payload=payload,
        cut=int(headers.get(CUT, 0)),
    )


def _header(text: str, longest: int = _LONGEST_HEADER) -> str:
    """A text as a header may have it: one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()[:longest]
