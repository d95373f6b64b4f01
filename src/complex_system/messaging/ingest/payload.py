"""What a published message may hold, and the keys of records that were published without one."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from complex_system.domain.dataset import ID
from complex_system.domain.keys import uuid7
from complex_system.domain.records import Record
from complex_system.errors import InvalidRequestError


class _Envelope(msgspec.Struct):
    """A FastIoT Thing; the rest of it is not needed here."""

    value: Any


_thing = msgspec.msgpack.Decoder(_Envelope)
_json = msgspec.json.Decoder()


def published_records(payload: bytes) -> list[Any]:
    """The records of a message, not checked yet.

    A message is a FastIoT ``Thing`` in msgpack whose value is a record or a list of them, or the same as plain JSON. The two
    cannot be confused: no msgpack mapping begins with a brace, a bracket or white space.

    Raises:
        InvalidRequestError: It is neither.
    """
    try:
        value = _json.decode(payload) if payload[:1] in b"{[ \t\r\n" else _thing.decode(payload).value
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"Neither JSON (a record or a list of records) nor a FastIoT Thing as msgpack: {error}"
        ) from error
    return value if isinstance(value, list) else [value]


def give_keys(records: list[Record], message_id: str, sequence: int, taken: datetime) -> None:
    """Gives a key to every record without one, in place: the same each time that the message is delivered.

    Args:
        records: Checked records, in the order of the message.
        message_id: Its ``Nats-Msg-Id``, or empty. With one, a repeated publish gets the same keys, even when the stream has
            forgotten the first; the records count too, so that a publisher who begins to count anew loses nothing.
        sequence: Its place in the stream.
        taken: When the stream took it; a stream that was made anew counts from 1 again.
    """
    if all(record.get(ID) is not None for record in records):
        return
    milliseconds = int(taken.timestamp() * 1000)
    if message_id:
        seed = hashlib.sha256(message_id.encode() + b"\0" + msgspec.msgpack.encode(records)).digest()
        milliseconds = int.from_bytes(seed[:6])
    else:
        seed = hashlib.sha256(f"{sequence} {taken.isoformat()}".encode()).digest()
    for position, record in enumerate(records):
        if record.get(ID) is None:
            digest = hashlib.sha256(seed + position.to_bytes(4)).digest()
            record[ID] = uuid7(milliseconds, int.from_bytes(digest[:16]))
