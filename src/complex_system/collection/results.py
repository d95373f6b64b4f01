"""What a collector gives: records, records that wait, the state of sensors, and where it can begin again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from complex_system.domain.columns import ID

SECOND = 1_000_000
"""Microseconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class CollectedRecord:
    """A complete record.

    Attributes:
        key: Its ``_id``: the same whenever the stream is read again.
        time: Of the reading that made it, or the end of the period or measurement.
        machine: Machine of that reading; empty where records are of several machines.
        measurement_id: Of that reading; empty for a period.
        values: By raw column; None where no reading gives one.
        missing: Collected columns that are None.
        sequence: Stream sequence of the reading that made it.
    """

    key: str
    time: datetime
    machine: str
    measurement_id: str
    values: dict[str, Any]
    missing: tuple[str, ...]
    sequence: int

    @property
    def record(self) -> dict[str, Any]:
        """The raw record as the database service takes it."""
        return {ID: self.key, **self.values}


@dataclass(frozen=True, slots=True)
class WaitingRecord:
    """A record that is not complete yet.

    Attributes:
        key: Its ``_id``.
        time: Of the reading that made it, or the end of the period, or the newest reading of the measurement.
        machine: Machine of that reading; empty where records are of several machines.
        until: Time on the stream's clock after which it is returned, unless a measurement gets more readings.
        missing: Columns that have no reading so far.
    """

    key: str
    time: datetime
    machine: str
    until: datetime
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SensorState:
    """A sensor as it is now.

    Attributes:
        machine: Its machine.
        name: Its name.
        unit: Unit of ``value``: the declared one, else that of the newest reading.
        value: Newest value as it is used; None where there is no usable one.
        time: Timestamp of that reading.
        age: Seconds on the stream's clock since its arrival; None where none came.
        rate: Readings a second over about the last minute.
        silent: Whether a column needs it and no usable reading came for as long as the column looks back.
        readings: Usable readings since the start.
        late: Those of them that came later than ``wait`` after their own time, so that a record may have missed them.
        refused: Readings that could not be used.
        problem: Why the last one of these could not; empty where all could.
        columns: Columns that are made of it.
    """

    machine: str
    name: str
    unit: str
    value: float | str | None
    time: datetime | None
    age: float | None
    rate: float
    silent: bool
    readings: int
    late: int
    refused: int
    problem: str
    columns: tuple[str, ...]


class Earlier(msgspec.Struct, frozen=True, array_like=True):
    """What later records need of a record that was returned.

    Attributes:
        time: Of the record, microseconds since 1970.
        key: Of the record.
        machine: Of the record.
        values: Of the columns that lags are declared of.
    """

    time: int
    key: str
    machine: str
    values: tuple[float | str | bool | None, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a collector can begin again, to be kept after the records that were returned are saved. JSON by ``msgspec``.

    Attributes:
        sequence: Stream sequence of the first message to read again.
        forgotten: By machine, the time of its newest record that was returned and is not among ``returned``, microseconds since 1970;
            what is not newer is not returned again.
        returned: Records that were returned, so that none is returned twice, and lags go on.
        endless: Measurements that were given up and go on, with the stream's clock at their last reading.
    """

    sequence: int
    forgotten: dict[str, int] = {}
    returned: tuple[Earlier, ...] = ()
    endless: dict[str, int] = {}


def datetime_of(microseconds: int) -> datetime:
    """Return a time as a datetime in UTC."""
    return _EPOCH + _MICROSECOND * int(microseconds)


def microseconds_of(time: datetime) -> int:
    """Return a datetime as microseconds since 1970; one without a time zone is UTC, as FastIoT's are."""
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * SECOND)
