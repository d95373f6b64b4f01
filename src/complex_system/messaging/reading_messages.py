"""Readings and labels from messages: FastIoT Things, and JSON on ``things.<machine>.<name>`` or on the labels' own subject."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from nats.aio.msg import Msg

from complex_system.collection.readings import Readings
from complex_system.domain.collecting import LabelRule
from complex_system.domain.things import covers, thing_name
from complex_system.errors import InvalidRequestError
from complex_system.messaging.ingest.publisher import order_of
from complex_system.messaging.readings import FASTIOT, PLAIN
from complex_system.protocol.database import Value

_LONGEST = 200
"""Characters of a state, a measurement id, a key, and of what is said of a message that is none of these."""
_FROM_1970 = 1e11
"""Larger numbers are milliseconds since 1970: as seconds, this is the year 5138."""

_LATEST = 253_370_764_800.0
"""Begin of the year 9999."""

_thing = msgspec.msgpack.Decoder(dict[str, Any])
_json = msgspec.json.Decoder()

_Row = tuple[str, str, Any, float, float, int, str, str]
"""Machine, name, value, time and time of storage in seconds since 1970, sequence number, unit, measurement id."""


class Label(msgspec.Struct, frozen=True):
    """A value that comes later than its record.

    Attributes:
        key: Names the label: a message that is read again has the same.
        record: The key of its record.
        value: The value.
        at: When it was measured, seconds since 1970: the order in which labels of a record replace each other.
        stored: When the broker stored it.
    """

    key: str
    record: str
    value: Value
    at: float
    stored: float


@dataclass(frozen=True)
class Decoded:
    """What messages hold.

    Attributes:
        faults: Why messages are neither readings nor labels.
        last: Sequence number of the last message; 0 without any.
    """

    readings: Readings
    labels: list[Label]
    faults: list[str]
    last: int = 0


class Decoder:
    """Tells readings from labels, as declared."""

    def __init__(self, label: LabelRule | None) -> None:
        self._label = label
        self._kind, self._from = label.source if label else ("thing", "")
        self._labels: dict[tuple[str, str], bool] = {}

    def decode(self, messages: Sequence[Msg], after: int = 0) -> Decoded:
        """Return readings and labels in the order of the stream; a message that is neither costs itself only.

        Args:
            messages: What was read.
            after: Labels and faults of messages up to this sequence number are left out, because they were returned before.
        """
        rows: list[_Row] = []
        labels: list[Label] = []
        faults: list[str] = []
        for message in messages:
            try:
                more_rows, more_labels = self._read(message)
            except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, InvalidRequestError) as error:
                more_rows, more_labels, problem = [], [], [f"{message.subject}: {error}"[:_LONGEST]]
            else:
                problem = []
            rows += more_rows
            if message.metadata.sequence.stream > after:
                labels += more_labels
                faults += problem
        machines, names, values, at, stored, sequences, units, measurements = zip(*rows, strict=True) if rows else [()] * 8
        readings = Readings(
            machines, names, values, _microseconds(at), _microseconds(stored), np.array(sequences, dtype=np.int64), units,
            measurements,
        )  # fmt: skip
        return Decoded(readings, labels, faults, messages[-1].metadata.sequence.stream if messages else 0)

    def _read(self, message: Msg) -> tuple[list[_Row], list[Label]]:
        metadata = message.metadata
        sequence, stored = metadata.sequence.stream, metadata.timestamp.timestamp()
        taken = order_of(message)  # of what came by MQTT, before it was in this stream
        own = self._kind == "subject" and message.subject == self._from
        machine, name = ("", "") if own else _names_of(message.subject)
        rows: list[_Row] = []
        labels: list[Label] = []
        for position, fields in enumerate(_items_of(message.data)):
            at = _seconds_of(fields.get("timestamp"), taken)
            sensor = str(fields.get("machine") or machine), str(fields.get("name") or name)
            if not own and thing_name(*sensor) != f"{machine}.{name}":
                # Devices have permission for subjects, so a payload cannot speak for another one.
                raise InvalidRequestError(
                    f"the payload names '{thing_name(*sensor)[:_LONGEST]}', and the subject another thing"
                )
            if own or self._is_label(*sensor):
                labels.append(self._label_of(fields, f"{int(stored * 1000):x}-{sequence}-{position}", at, stored))
            else:
                unit, measurement = str(fields.get("unit") or ""), str(fields.get("measurement_id") or "")
                rows.append((*sensor, fields.get("value"), at, stored, sequence, unit, measurement[:_LONGEST]))
        return rows, labels

    def _is_label(self, machine: str, name: str) -> bool:
        if self._kind != "thing" or not self._from:
            return False
        known = self._labels.get((machine, name))
        if known is None:
            known = self._labels[machine, name] = covers(self._from, thing_name(machine, name))
        return known

    def _label_of(self, fields: dict[str, Any], key: str, at: float, stored: float) -> Label:
        """Return a label: its record is named beside the value, or in a mapping that is the value."""
        assert self._label is not None
        if isinstance(fields.get("value"), dict):
            fields = {**fields, **fields["value"]}
        record, column = fields.get(self._label.match), self._label.column
        value = fields.get(column, fields.get("value"))
        if isinstance(record, bool) or not isinstance(record, str | int) or not 0 < len(str(record)) <= _LONGEST:
            raise InvalidRequestError(f"a label needs '{self._label.match}', which names its record")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidRequestError(f"a label needs '{column}', a number")
        return Label(key, str(record), value, at, stored)


def _names_of(subject: str) -> tuple[str, str]:
    """Return machine and name that a subject names: ``things.<machine>.<name>``, or FastIoT's ``v1.thing.<machine>.<name>``."""
    prefix = PLAIN if subject.startswith(f"{PLAIN}.") else FASTIOT
    machine, _, name = subject.removeprefix(f"{prefix}.").partition(".")
    return machine, name


def _items_of(data: bytes) -> list[dict[str, Any]]:
    """Return the readings of a message: a Thing in msgpack, or JSON: an object, a list of them, or a value alone.

    What is not JSON at all is the text itself, as many devices send a state: ``ON``.
    """
    if not data:
        raise InvalidRequestError("the message is empty")
    if 0x80 <= data[0] < 0x90 or data[0] in (0xDE, 0xDF):  # a mapping in msgpack; no text in UTF-8 begins so
        return [_thing.decode(data)]
    data = data.removeprefix(BOM_UTF8).strip()
    try:
        content = _json.decode(data)
    except msgspec.DecodeError:
        if data[:1] in (b"{", b"[") or len(data) > _LONGEST:
            raise
        content = data.decode()
    items = content if isinstance(content, list) else [content]
    return [each if isinstance(each, dict) else {"value": each} for each in items]


def _seconds_of(value: Any, stored: float) -> float:
    """Return a time as seconds since 1970: a time of msgpack, an ISO text, or seconds or milliseconds; without a time zone in UTC.

    Args:
        value: None for the time at which the broker stored the message.
        stored: That time.
    """
    if value is None:
        return stored
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    seconds = math.nan
    if isinstance(value, datetime):
        seconds = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if value > _FROM_1970 else float(value)
    if not 0 <= seconds < _LATEST:
        raise InvalidRequestError(f"'{str(value)[:40]}' is not a time: an ISO text, or seconds since 1970")
    return seconds


def _microseconds(seconds: Iterable[float]) -> Any:
    return np.round(np.array(list(seconds), dtype=np.float64) * 1e6).astype(np.int64)
