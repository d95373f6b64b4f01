"""What the collection of readings says of itself: its sensors, the records and labels that wait, and what it has counted."""

from __future__ import annotations

from complex_system.protocol.base import Empty, Message, Request
from complex_system.protocol.database import Value


class Sensor(Message, frozen=True, kw_only=True):
    """A sensor as it is now.

    Attributes:
        name: ``machine.name``.
        value: The newest value; null before the first.
        unit: As its readings give it.
        at: Time of the newest reading, seconds since 1970 (UTC); null before the first.
        age: Seconds since then, on the broker's clock; null before the first.
        per_second: Readings a second over the last minute.
        silent: Whether it has been silent for longer than it should.
    """

    name: str
    value: Value = None
    unit: str = ""
    at: float | None = None
    age: float | None = None
    per_second: float = 0.0
    silent: bool = False


class OpenRecord(Message, frozen=True, kw_only=True):
    """A record that is not complete yet.

    Attributes:
        key: Its future key.
        at: Time of what began it, seconds since 1970 (UTC).
        waits_for: For what, for a person.
    """

    key: str
    at: float
    waits_for: str = ""


class OpenLabel(Message, frozen=True, kw_only=True):
    """A label whose record is not there.

    Attributes:
        record: The key of the record that it names.
        value: Its value.
        at: When it was measured, seconds since 1970 (UTC).
    """

    record: str
    value: Value
    at: float


class CollectionCounts(Message, frozen=True, kw_only=True):
    """Numbers since the collection began on its stream; a restart continues them.

    Attributes:
        records: Records that were made and saved.
        refused: Records that the database refused.
        predicted: Records for which a prediction was made as soon as they were complete.
        labels: Labels that were joined to their records. Joins of the last second before a kill may be counted twice, or not at all.
        unmatched: Labels that found no record in time.
        malformed: Messages that are not readings.
        unusable: Readings that cannot be used, such as those in a unit that cannot be converted; since the process began.
        dropped: Messages that the stream had dropped before they were read.
    """

    records: int = 0
    refused: int = 0
    predicted: int = 0
    labels: int = 0
    unmatched: int = 0
    malformed: int = 0
    unusable: int = 0
    dropped: int = 0


class CollectionState(Message, frozen=True, kw_only=True):
    """The live view.

    Attributes:
        at: Time on the broker's clock, seconds since 1970 (UTC).
        problem: Why nothing is collected at the moment; empty if everything works.
        notes: The newest messages about readings, records and labels that were refused, the newest last.
        behind: Messages in the stream that were not read yet.
        per_second: Readings a second over the last minute.
        sensors: All sensors, by name.
        open_records: The oldest records that are not complete, at most 50.
        waiting_records: How many there are, at most 100.
        open_labels: The oldest labels that wait for their record, at most 50.
        waiting_labels: How many there are.
        unmatched: The newest labels that found no record in time, at most 20.
        counts: What was counted.
    """

    at: float
    problem: str = ""
    notes: tuple[str, ...] = ()
    behind: int = 0
    per_second: float = 0.0
    sensors: tuple[Sensor, ...] = ()
    open_records: tuple[OpenRecord, ...] = ()
    waiting_records: int = 0
    open_labels: tuple[OpenLabel, ...] = ()
    waiting_labels: int = 0
    unmatched: tuple[OpenLabel, ...] = ()
    counts: CollectionCounts = CollectionCounts()


GET_COLLECTION = Request(
    "get-collection",
    Empty,
    CollectionState,
    "Return the sensors, and what waits for what; only where `collect` is declared.",
)
