"""Readings in columns, and Things read into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from complex_system.collection.results import microseconds_of

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Readings:
    """A batch of readings in the order of the stream, one entry a reading in each column.

    Attributes:
        machines: Machine of the sensor.
        names: Name of the sensor.
        values: Numbers, texts, true or false; others are refused.
        timestamps: Time of the reading by its sensor, microseconds since 1970 (UTC).
        arrived: Time at which the broker stored it, microseconds since 1970 (UTC).
        sequences: Its number in the stream, rising.
        units: Unit of the value; empty where the sensor does not say it.
        measurement_ids: What it was measured for.
    """

    machines: Sequence[str]
    names: Sequence[str]
    values: Sequence[Any]
    timestamps: Times
    arrived: Times
    sequences: Times
    units: Sequence[str] = field(default=())
    measurement_ids: Sequence[str] = field(default=())

    def __len__(self) -> int:
        return len(self.machines)


class _Thing(msgspec.Struct, gc=False):
    """A Thing as it is on the wire; further fields are ignored."""

    machine: str
    name: str
    value: Any
    timestamp: datetime
    measurement_id: str = ""
    unit: str = ""


class ThingReader:
    """Reads messages of Things into :class:`Readings`.

    Attributes:
        refused: Messages so far that are not a Thing.
        problem: What was wrong with the last one of them.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.problem = ""
        self._decode = msgspec.msgpack.Decoder(_Thing).decode
        self._decode_json = msgspec.json.Decoder(_Thing).decode

    def read(self, messages: Iterable[tuple[bytes, int, int]]) -> Readings:
        """Return the readings of messages; one that is not a Thing is counted and left out.

        Args:
            messages: Payload (msgpack, or JSON of the same fields), stream sequence, and broker's time in microseconds since 1970.
        """
        things: list[_Thing] = []
        timestamps: list[int] = []
        arrived: list[int] = []
        sequences: list[int] = []
        for payload, sequence, time in messages:
            try:
                thing = self._decode_json(payload) if payload[:1] == b"{" else self._decode(payload)
                timestamps.append(microseconds_of(thing.timestamp))
            except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, ValueError) as error:
                self.refused += 1
                self.problem = str(error)
                continue
            things.append(thing)
            arrived.append(time)
            sequences.append(sequence)
        return Readings(
            [thing.machine for thing in things],
            [thing.name for thing in things],
            [thing.value for thing in things],
            np.array(timestamps, dtype=np.int64),
            np.array(arrived, dtype=np.int64),
            np.array(sequences, dtype=np.int64),
            [thing.unit for thing in things],
            [thing.measurement_id for thing in things],
        )
