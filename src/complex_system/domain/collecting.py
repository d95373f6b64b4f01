"""The declared collection of records: which readings of which sensors become which columns, and when a record is made of them.

Readings are FastIoT's ``Thing`` messages: one value of one sensor. ``docs/machines.md`` explains the declaration with examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    root_validator,
    validator,
)

from complex_system.domain.columns import Column, Declared
from complex_system.domain.partition import gap_seconds
from complex_system.domain.things import Trigger, covers, is_pattern, overlap, source_of, thing_name, trigger_of
from complex_system.domain.validation import FaultsError, suggestion
from complex_system.domain.yaml_reader import Fault

Take = Literal["last", "first", "mean", "median", "min", "max", "std", "slope", "count", "share", "machine"]
MAX_RECORDS = 1000
"""Earlier records that a lag or a rolling feature may go back."""


def _seconds(value: object) -> float | None:
    """Return a declared duration in seconds; None stays.

    Raises:
        ValueError: It is not a duration.
    """
    if value is None:
        return None
    seconds = gap_seconds(value) if isinstance(value, str | int | float) else None
    if seconds is None:
        raise ValueError(f"must be seconds, or a number with one of s, min, h, d, w, such as 10s; not '{value}'")
    return seconds


class CollectedColumn(Declared):
    """How one column of a record is made: of a sensor's readings (``name``), or of earlier records (``column``)."""

    machine: str = Field("", description="Machine of the sensor; by default the machine that the record is of")
    name: str = Field("", description="Name of the sensor")
    take: Take = Field(
        "last",
        description="How one value is made of several; share: the part of the time in a state; machine: the name of the record's",
    )
    over: float | str | None = Field(
        None, description="How far back the readings, or the earlier records, go: seconds, or a text such as 10s, 5 min, 1h"
    )
    not_older: float | str | None = Field(
        None, description="How old the newest reading may be; the value is missing where it is older"
    )
    unit: str = Field(
        "",
        description="Unit of the readings, by default that of the column; those in another unit are converted, or refused",
    )
    state: StrictBool | StrictInt | StrictFloat | StrictStr | None = Field(
        None, description="With take: share, the value of the sensor that is the state"
    )
    column: str = Field("", description="Another column of the record, whose values in earlier records are taken")
    lag: int | None = Field(
        None, ge=1, le=MAX_RECORDS, description="The value of so many records earlier: 1 is the previous"
    )
    records: int | None = Field(None, ge=1, le=MAX_RECORDS, description="Over how many earlier records the value is taken")

    _seconds_of = validator("over", "not_older", allow_reuse=True)(_seconds)

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        found: list[Fault] = []
        earlier = [key for key in ("lag", "records") if values[key] is not None]
        if values["take"] == "machine":
            if others := [key for key in values if key != "take" and values[key] not in (None, "")]:
                raise ValueError(f"take: machine is the name of the record's machine; leave {', '.join(others)} out")
            return values
        if bool(values["name"]) == bool(values["column"]):
            raise ValueError("needs either the name of a sensor, or the column whose earlier values are taken")
        found += [
            ((key,), f"'{values[key]}' names several; write one, or leave machine out for the machine that the record is of")
            for key in ("machine", "name")
            if {"*", ">"} & {*values[key].split(".")}
        ]
        if values["over"] == 0:
            found.append((("over",), "must be larger than 0"))
        if values["column"]:
            wrong = [key for key in ("machine", "unit") if values[key]] + ["not_older"] * (values["not_older"] is not None)
            found += [((key,), "is for readings of a sensor; leave it out beside 'column'") for key in wrong]
            if len(earlier) + (values["over"] is not None) != 1:
                found.append((("column",), "needs one of lag, records and over: which earlier records are taken"))
            if values["lag"] is not None and values["take"] != "last":
                found.append((("take",), "lag takes the value of one record; for several declare records or over"))
        else:
            found += [((key,), "is for earlier records; it needs 'column' in place of 'name'") for key in earlier]
        if (values["take"] == "share") != (values["state"] is not None):
            found.append(
                (("state",), "and take: share need each other: the part of the time in which the value is the state")
            )
        if values["take"] == "share" and values["column"]:
            found.append((("take",), "share is for readings of a sensor"))
        if found:
            raise FaultsError(found)
        return values

    def reading_unit(self, column: Column) -> str:
        """Return the unit in which readings are used; a slope, a count and a share are in another one than the readings.

        Args:
            column: The column that is made.
        """
        return self.unit or ("" if self.take in ("slope", "count", "share") else column.unit)

    @property
    def window(self) -> float:
        """How far back readings of the sensor go, in seconds; infinite where nothing says so (``on: measurement_id``)."""
        return float(self.over if self.over is not None else self.not_older if self.not_older is not None else "inf")

    @property
    def oldest(self) -> float:
        """How old the newest reading may be, in seconds."""
        return float(self.not_older if self.not_older is not None else "inf")


class RecordRule(Declared):
    """When a record is made, and which key it gets."""

    on: str = Field(
        description='measurement_id: of all readings with the same; every 10s: a period; thing "press-4.part_done": each reading of it'
    )
    id: Literal["measurement_id", "value", "time"] | None = Field(
        None,
        description="What the key is: the measurement_id, the value of the thing that makes the record, such as the part's number, or "
        "the time; by default measurement_id where records are made on it, else time",
    )
    wait: float | str = Field(5.0, description="How long late readings are waited for: seconds, or a text such as 5s")
    predict: bool = Field(False, description="Whether a prediction is asked for as soon as a record is complete")
    longest: float | str = Field(
        3600.0, description="With on: measurement_id, how long a measurement may take; one that takes longer makes no record"
    )

    _trigger: Trigger = PrivateAttr()
    _seconds_of = validator("wait", "longest", allow_reuse=True)(_seconds)

    def __init__(self, **content: Any) -> None:
        super().__init__(**content)
        self._trigger = trigger_of(self.on)

    @validator("on")
    def _known(cls, on: str) -> str:
        trigger_of(on)
        return on

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        by = trigger_of(values["on"]).by
        found: list[Fault] = []
        if by == "every" and values["id"] not in (None, "time"):
            found.append((("id",), "a record of a period has no other key than its time; leave it out"))
        if by == "measurement_id" and values["id"] not in (None, "measurement_id"):
            found.append((("id",), "a record of a measurement_id has it as its key; leave it out"))
        if by == "measurement_id" and not values["wait"]:
            found.append((("wait",), "must be larger than 0: a measurement ends when no reading of it came for so long"))
        if found:
            raise FaultsError(found)
        return values

    @property
    def trigger(self) -> Trigger:
        """What makes a record."""
        return self._trigger

    @property
    def key(self) -> Literal["measurement_id", "value", "time"]:
        """What the key of a record is."""
        return self.id or ("measurement_id" if self._trigger.by == "measurement_id" else "time")


class LabelRule(Declared):
    """Where the value to predict comes from, when it is known later than the record."""

    column: str = Field(description="The target that comes later")
    from_: str = Field(
        alias="from", description='thing "lab.strength": the readings of it; subject "lab.results": JSON with key and column'
    )
    match: Literal["measurement_id", "id"] = Field(
        description="measurement_id: the label's is the key of its record; id: the label is a mapping with id and column"
    )
    within: float | str = Field("7d", description="How long after its label or record the other one is waited for")

    _seconds_of = validator("within", allow_reuse=True, always=True)(_seconds)

    @validator("from_")
    def _known(cls, source: str) -> str:
        source_of(source)
        return source.strip()

    @property
    def source(self) -> tuple[Literal["thing", "subject"], str]:
        """Where labels come from: the pattern of things, or a subject of their own."""
        return source_of(self.from_)

    @property
    def thing(self) -> str:
        """Pattern of the things that are labels; empty where they come on a subject of their own."""
        kind, pattern = self.source
        return pattern if kind == "thing" else ""


class Collecting(Declared):
    """How single readings become records."""

    things: tuple[str, ...] = Field(
        description="Which things are kept: machine.name with the wildcards of NATS, * for one part and > for all further ones"
    )
    columns: dict[str, CollectedColumn] = Field(description="How each column is made, by its name")
    record: RecordRule = Field(description="When a record is made")
    label: LabelRule | None = Field(None, description="Where the value to predict comes from, when it comes later")

    @validator("things", pre=True)
    def _several(cls, things: object) -> object:
        return (things,) if isinstance(things, str) else things

    @validator("things")
    def _patterns(cls, things: tuple[str, ...]) -> tuple[str, ...]:
        if not things:
            raise ValueError("needs at least one thing, such as press-4.*")
        for place, each in enumerate(things):
            if not is_pattern(each):
                raise ValueError(
                    f"'{each}' is not a thing; write machine.name, with * for one part and > for all further ones"
                )
            if other := next((one for one in things[:place] if overlap(one, each)), None):
                raise ValueError(f"'{each}' and '{other}' name the same things; keep the wider one")
        return things

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        if found := _contradictions(values["things"], values["columns"], values["record"], values["label"]):
            raise FaultsError(found)
        return values

    @property
    def subscribed(self) -> tuple[str, ...]:
        """Patterns of all things that are needed, labels included; none of them names what another one does."""
        label = self.label.thing if self.label else ""
        return self.things if not label or any(covers(each, label) for each in self.things) else (*self.things, label)

    @property
    def per_machine(self) -> bool:
        """Whether each record is of one machine: a column names no machine, so it is of the machine that made the record."""
        return any(each.name and not each.machine for each in self.columns.values())


def _contradictions(
    things: tuple[str, ...], columns: Mapping[str, CollectedColumn], record: RecordRule, label: LabelRule | None
) -> list[Fault]:
    trigger, found = record.trigger, list[Fault]()
    if trigger.thing and not any(covers(each, trigger.thing) for each in things):
        found.append((("record", "on"), f"'things' does not include {trigger.thing}; add it"))
    for name, each in columns.items():
        at = ("columns", name)
        if each.column:
            found += [(at, problem) for problem in _problems_of_earlier(name, each, columns, label)]
            continue
        if each.take == "machine":
            if not trigger.thing and not any(one.name and not one.machine for one in columns.values()):
                found.append((at, "records are of several machines: every column names its own"))
            continue
        if each.machine and not any(covers(one, thing_name(each.machine, each.name)) for one in things):
            found.append((at, f"'things' does not include {each.machine}.{each.name}; add it"))
        if each.window == float("inf") and trigger.by != "measurement_id":
            needs = (
                "over or not_older: how old the value may be" if each.take == "last" else "over: the time that is looked at"
            )
            found.append((at, f"needs {needs}"))
        elif each.over is None and each.take != "last" and trigger.by != "measurement_id":
            found.append((at, f"take: {each.take} needs over: the time that is looked at"))
    if label and label.match == "measurement_id" and record.key != "measurement_id":
        problem = "measurement_id needs records with that key: declare id: measurement_id in 'record'"
        found.append((("label", "match"), problem))
    if label and label.match == "id" and record.key == "time":
        found.append((("label", "match"), "id needs a key that a label can name: declare id: value in 'record'"))
    if label and label.column in columns:
        found.append((("label", "column"), f"'{label.column}' comes later and is collected, too; keep one of the two"))
    if label and (
        clash := next((each for each in things if overlap(each, label.thing) and not covers(each, label.thing)), "")
    ):
        found.append(
            (("label", "from"), f"'{label.thing}' and '{clash}' of 'things' name some things in common; make one narrower")
        )
    return found


def _problems_of_earlier(
    name: str, each: CollectedColumn, columns: Mapping[str, CollectedColumn], label: LabelRule | None
) -> Iterator[str]:
    if label and each.column == label.column:
        yield f"'{each.column}' is the label: earlier ones may not be known yet, so training and serving would differ"
    elif each.column not in columns:
        yield f"'{each.column}' is not a collected column{suggestion(each.column, columns)}"
    elif columns[each.column].column:
        yield f"'{each.column}' is made of earlier records itself; name a column that is made of readings"
