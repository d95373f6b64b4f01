"""The payload of a published message, and keys for records that were published without one."""

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
    """The part of a FastIoT Thing that is needed here."""

    value: Any


_thing = msgspec.msgpack.Decoder(_Envelope)
_json = msgspec.json.Decoder()


def published_records(payload: bytes) -> list[Any]:
    """Return the records of a message, unchecked.

    A message is a FastIoT ``Thing`` in msgpack whose value is a record or a list of them, or the same as plain JSON. The two
    cannot be confused: no msgpack mapping begins with a brace, a bracket or white space.

    Raises:
        InvalidRequestError: The payload is neither.
    """
    try:
        value = _json.decode(payload) if payload[:1] in b"{[ \t\r\n" else _thing.decode(payload).value
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"Neither JSON (a record or a list of records) nor a FastIoT Thing as msgpack: {error}"
        ) from error
    return value if isinstance(value, list) else [value]


def give_keys(records: list[Record], message_id: str, sequence: int, taken: datetime) -> None:
    """Give a key to every record without one, in place; every delivery of the message gives the same keys.

    Args:
        records: Checked records, in the order of the message.
        message_id: Its ``Nats-Msg-Id``, or empty. With one, publishing again gives the same keys, even after the duplicate window.
            The content is part of the keys, so a publisher that restarts its counter loses nothing.
        sequence: Its sequence number in the stream.
        taken: When the stream accepted it; a new stream counts from 1 again.
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
