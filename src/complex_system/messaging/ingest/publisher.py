"""Messages of the ingest: publishing them from our own services, reading their payload, and keys for records without one.

Any other NATS client publishes with one call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from codecs import BOM_UTF8
from datetime import datetime
from typing import Any

import msgspec
from fastiot.msg import Thing
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header

from complex_system import tracing
from complex_system.domain.columns import ORDER
from complex_system.domain.dataset import ID
from complex_system.domain.keys import uuid7
from complex_system.domain.records import Record
from complex_system.errors import InvalidRequestError, TooLargeError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.streams import ROOM_FOR_REASON, IngestStreams
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.messaging.things import serialize_to_bin, to_thing
from complex_system.settings import Settings

ORDER_HEADER = "Record-Revision"
"""Header with the order of a message's records, where they have no own: a number."""


class IngestClient:
    """Publishes records and waits until the stream has them, not the database."""

    def __init__(self, connection: ServiceConnection, settings: Settings, sender: str, source: str = "") -> None:
        """Make a client.

        Args:
            connection: The connection.
            settings: The broker's address, for error messages.
            sender: Class name of the service.
            source: Last part of the subject, which names the source; may be empty.
        """
        self._connection = connection
        self._streams = IngestStreams(connection.client, settings)
        self._sender = sender
        self._subject = ".".join(part for part in (INGEST_RAW.name, source) if part)

    async def publish(self, records: list[Record], made: float | None = None) -> bool:
        """Publish records; return whether they were new to the stream. Repeating it changes nothing.

        Args:
            records: The records.
            made: When their source made them, seconds since 1970; by default now.

        Raises:
            TooLargeError: The records do not fit into one message.
            NobodyListensError: No stream accepted them; they may be published again.
        """
        payload = serialize_to_bin(Thing, to_thing(records, self._sender))
        most = self._connection.max_payload - ROOM_FOR_REASON
        if len(payload) > most:
            raise TooLargeError(
                f"{len(records)} records have {len(payload)} bytes, more than the {most} of one message; publish them in smaller "
                "batches."
            )
        keys = [record.get(ID) for record in records]
        headers = tracing.headers() or {}
        if all(keys):
            headers[Header.MSG_ID.value] = hashlib.sha256("\n".join([*map(str, keys), str(made)]).encode()).hexdigest()
        if made is not None:
            headers[ORDER_HEADER] = str(made)
        try:
            acknowledged = await self._streams.context.publish(self._subject, payload, headers=headers)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error
        return not acknowledged.duplicate


class _Envelope(msgspec.Struct):
    """The part of a FastIoT Thing that is needed here."""

    value: Any


_thing = msgspec.msgpack.Decoder(_Envelope)
_json = msgspec.json.Decoder()


def published_records(payload: bytes) -> list[Any]:
    """Return the records of a message, unchecked.

    A message is a FastIoT ``Thing`` in msgpack whose value is a record or a list of them, or the same as plain JSON. The two
    cannot be confused: no msgpack mapping begins with a brace, a bracket or white space. JSON may have a byte order mark, NaN where a
    sensor has no value, and several records in as many lines.

    Raises:
        InvalidRequestError: The payload is neither.
    """
    payload = payload.removeprefix(BOM_UTF8)
    try:
        value = _json_of(payload) if payload[:1] in b"{[ \t\r\n" else _thing.decode(payload).value
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"Neither JSON (a record or a list of records) nor a FastIoT Thing as msgpack: {error}"
        ) from error
    return value if isinstance(value, list) else [value]


def order_of(message: Msg) -> float:
    """Return the order of a message's records: its header's, else when the stream took it; each delivery has the same."""
    if message.headers and (sent := message.headers.get(ORDER_HEADER)) is not None:
        with contextlib.suppress(ValueError):
            order = float(sent)
            if math.isfinite(order):
                return order
    return message.metadata.timestamp.timestamp()


def _json_of(payload: bytes) -> Any:
    try:
        return _json.decode(payload)
    except msgspec.DecodeError:
        if b"NaN" not in payload and b"\n" not in payload.strip():
            raise
        lines = payload.splitlines() if b"\n" in payload.strip() else []
        try:
            return json.loads(payload)  # Python's reader knows NaN; the check of the records makes it a missing value
        except ValueError:
            read = [json.loads(line) for line in lines if line.strip()]
            if not read or not all(isinstance(each, dict) for each in read):
                raise
            return read


def give_keys(records: list[Record], source: str, message_id: str, sequence: int, taken: datetime) -> None:
    """Give a key to every record without one, in place; every delivery of the message gives the same keys.

    Args:
        records: Checked records, in the order of the message.
        source: The part of its subject that names the source; another device's id is another id.
        message_id: Its ``Nats-Msg-Id``, or empty. With one, publishing again gives the same keys. The content is part of the keys, so
            a publisher that restarts its counter loses nothing.
        sequence: Its sequence number in the stream.
        taken: When the stream accepted it; a new stream counts from 1 again.
    """
    if all(record.get(ID) is not None for record in records):
        return
    milliseconds = int(taken.timestamp() * 1000)
    if message_id:
        # Without the order where there is none: the keys are those of earlier releases.
        content = [{n: v for n, v in record.items() if n != ORDER or v is not None} for record in records]
        identity = msgspec.msgpack.encode((source, message_id, content))
        seed = hashlib.sha256(identity).digest()
        milliseconds = int.from_bytes(seed[:6])
    else:
        seed = hashlib.sha256(f"{sequence} {taken.isoformat()}".encode()).digest()
    for position, record in enumerate(records):
        if record.get(ID) is None:
            digest = hashlib.sha256(seed + position.to_bytes(4)).digest()
            record[ID] = uuid7(milliseconds, int.from_bytes(digest[:16]))
