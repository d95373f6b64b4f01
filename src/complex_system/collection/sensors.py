"""The sensors that readings come from: which columns need them, whether their readings can be used, and how they are now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from complex_system.collection.aggregates import is_text, look_back
from complex_system.collection.readings import Readings, Times
from complex_system.collection.results import SECOND, SensorState, datetime_of
from complex_system.collection.units import SAME, Conversion, conversion
from complex_system.domain.collecting import Collecting
from complex_system.domain.dataset import Dataset
from complex_system.domain.things import covers, thing_name

MAX_SENSORS = 10_000
"""Different sensors, and units of them, that are told apart; readings of further ones are counted and not used."""
AHEAD = 60 * SECOND
"""How far a reading's time may be ahead of the broker's; nothing is measured in the future, so a clock that is further is wrong."""
_MINUTE = 60.0
_KNOWN_TYPES = {float, int, bool}


class Sensor:
    """One sensor, identified by machine and name."""

    def __init__(self, machine: str, name: str) -> None:
        self.machine = machine
        self.name = name
        self.columns: tuple[str, ...] = ()
        self.unit = ""
        self.number = self.text = self.makes_records = self.opens_periods = False
        self.look_back = 0.0
        self.shown_unit = ""
        self.value: float | str | None = None
        self.time = self.clock = 0
        self.rate = 0.0
        self.readings = self.late = self.refused = 0
        self.problem = ""

    @property
    def used(self) -> bool:
        """Whether a record can depend on its readings."""
        return bool(self.columns) or self.makes_records

    def refuse(self, count: int, problem: str) -> None:
        """Count readings that cannot be used."""
        self.refused += count
        self.problem = problem


class _Channel(NamedTuple):
    """Readings of one sensor in one unit."""

    sensor: int
    conversion: Conversion


class _Table:
    """What applies to the readings of each channel."""

    def __init__(self, channels: Sequence[_Channel], sensors: Sequence[Sensor]) -> None:
        of = [sensors[channel.sensor] for channel in channels]
        self.sensors = np.array([channel.sensor for channel in channels], dtype=np.int64)
        self.factors = np.array([channel.conversion.factor for channel in channels])
        self.offsets = np.array([channel.conversion.offset for channel in channels])
        self.refused = np.array([bool(channel.conversion.problem) for channel in channels])
        self.used = np.array([each.used for each in of])
        self.text = np.array([each.text or each.makes_records for each in of])
        self.makes_records = np.array([each.makes_records for each in of])
        self.number = np.array([each.number for each in of])


class Batch(NamedTuple):
    """Readings that can be used, in the order of the stream.

    Attributes:
        sensors: Positions of their sensors.
        times: By the sensor, microseconds since 1970.
        clocks: Stream's clock: the newest time of the broker so far, microseconds since 1970.
        numbers: Values as numbers; NaN for texts.
        texts: Values as texts, of sensors that columns need the texts of; None for others.
        sequences: In the stream.
        measurement_ids: What they were measured for.
    """

    sensors: npt.NDArray[np.int64]
    times: Times
    clocks: Times
    numbers: npt.NDArray[np.float64]
    texts: npt.NDArray[np.object_]
    sequences: Times
    measurement_ids: Sequence[str]


class Sensors:
    """All sensors that readings came from, and those that columns name."""

    def __init__(self, collecting: Collecting, dataset: Dataset) -> None:
        self._collecting, self._dataset = collecting, dataset
        self._wait = round(float(collecting.record.wait) * SECOND)
        self._channels: dict[tuple[str, str, str], int] = {}
        self._made: list[_Channel] = []
        self._made_table: _Table | None = None
        self.all: list[Sensor] = []
        self.by_name: dict[tuple[str, str], int] = {}
        self.unknown = 0
        for each in collecting.columns.values():
            if each.machine:
                self._sensor(each.machine, each.name)

    def read(self, readings: Readings, clock: int) -> Batch:
        """Return the readings that can be used and that columns or records need; others are counted.

        Args:
            readings: A batch in the order of the stream.
            clock: Stream's clock before it.
        """
        units = readings.units or [""] * len(readings)
        ids = readings.measurement_ids or [""] * len(readings)
        known = self._channels
        keys = zip(readings.machines, readings.names, units, strict=True)
        places = np.array([known[key] if key in known else self._channel(key) for key in keys], dtype=np.int64)
        clocks = np.maximum(np.maximum.accumulate(readings.arrived), clock)
        table = self._table
        sensors = table.sensors[places]
        numbers, texts = self._values(readings.values, places)
        numbers = numbers * table.factors[places] + table.offsets[places]
        good = self._good(places, sensors, readings.timestamps, clocks, numbers, texts)
        self._note(sensors, readings, units, clocks, numbers, texts, good)
        rows = np.flatnonzero(good & table.used[places])
        return Batch(
            sensors[rows],
            readings.timestamps[rows],
            clocks[rows],
            numbers[rows],
            texts[rows],
            readings.sequences[rows],
            [ids[row] for row in rows.tolist()],
        )

    def states(self, clock: int) -> list[SensorState]:
        """Return all sensors as they are at a time on the stream's clock."""
        return [self._state(each, clock) for each in self.all]

    def _sensor(self, machine: str, name: str) -> int:
        place = self.by_name.get((machine, name))
        if place is not None:
            return place
        sensor, trigger = Sensor(machine, name), self._collecting.record.trigger
        needed = [
            (column, each)
            for column, each in self._collecting.columns.items()
            if name and each.name == name and each.machine in ("", machine)
        ]
        sensor.columns = tuple(column for column, _ in needed)
        for column, each in needed:
            declared = self._dataset.column(column)
            sensor.unit = each.reading_unit(declared) or sensor.unit
            sensor.text |= is_text(each, declared)
            sensor.number |= not is_text(each, declared)
            sensor.look_back = max(sensor.look_back, look_back(each))
        sensor.makes_records = bool(trigger.thing) and covers(trigger.thing, thing_name(machine, name))
        sensor.opens_periods = any(not each.machine or not self._collecting.per_machine for _, each in needed)
        self.by_name[machine, name] = place = len(self.all)
        self.all.append(sensor)
        return place

    def _channel(self, key: tuple[str, str, str]) -> int:
        if len(self._made) >= MAX_SENSORS:
            self.unknown += 1
            return -1
        machine, name, unit = key
        sensor = self._sensor(machine, name)
        declared = self.all[sensor].unit
        self._channels[key] = place = len(self._made)
        self._made.append(_Channel(sensor, conversion(unit, declared) if self.all[sensor].number else SAME))
        self._made_table = None
        return place

    @property
    def _table(self) -> _Table:
        if self._made_table is None:
            self._made_table = _Table(self._made, self.all)
        return self._made_table

    def _values(
        self, values: Sequence[Any], places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.object_]]:
        texts = np.full(len(values), None, dtype=object)
        try:
            plain = {*map(type, values)} <= _KNOWN_TYPES
            numbers = np.array(values if plain else [_number(value) for value in values], dtype=np.float64)
        except OverflowError:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
        as_texts = self._table.text[places] | (np.isnan(numbers) & ~self._table.number[places])
        for row in np.flatnonzero(as_texts).tolist():
            texts[row] = text_of(values[row])
        for row in np.flatnonzero(self._table.makes_records[places]).tolist():
            texts[row] = texts[row] or ""  # its coming makes the record, whatever it says
        return numbers, texts

    def _good(
        self, places: npt.NDArray[np.int64], sensors: npt.NDArray[np.int64], times: Times, clocks: Times,
        numbers: npt.NDArray[np.float64], texts: npt.NDArray[np.object_],
    ) -> npt.NDArray[np.bool_]:  # fmt: skip
        """Return which readings can be used, and count the others at their sensors."""
        known = places >= 0
        refused_units = self._table.refused[places]
        wrong = (times > clocks + AHEAD) | (times < 0)
        finite = np.isfinite(numbers) | has_text(texts)
        good: npt.NDArray[np.bool_] = known & ~refused_units & ~wrong & finite
        for row in np.flatnonzero(known & ~good).tolist():
            sensor = self.all[sensors[row]]
            if refused_units[row]:
                problem = self._made[places[row]].conversion.problem
            elif wrong[row]:
                problem = f"its time is {_distance(int(times[row]), int(clocks[row]))}; set its clock"
            else:
                problem = "its value is not a finite number"
            sensor.refuse(1, problem)
        return good

    def _note(
        self, sensors: npt.NDArray[np.int64], readings: Readings, units: Sequence[str], clocks: Times,
        numbers: npt.NDArray[np.float64], texts: npt.NDArray[np.object_], good: npt.NDArray[np.bool_],
    ) -> None:  # fmt: skip
        rows = np.flatnonzero(good)
        if not len(rows):
            return
        found, counts = np.unique(sensors[rows], return_counts=True)
        newest = dict(zip(sensors[rows].tolist(), rows.tolist(), strict=True))
        late = np.bincount(sensors[rows], weights=(clocks - readings.timestamps > self._wait)[rows], minlength=len(self.all))
        for place, count in zip(found.tolist(), counts.tolist(), strict=True):
            sensor, row = self.all[place], newest[place]
            elapsed = (int(clocks[row]) - sensor.clock) / SECOND if sensor.readings else 0.0
            sensor.rate = sensor.rate * math.exp(-elapsed / _MINUTE) + count / _MINUTE
            sensor.readings += count
            sensor.late += int(late[place])
            sensor.value = float(numbers[row]) if np.isfinite(numbers[row]) else texts[row]
            sensor.time, sensor.clock = int(readings.timestamps[row]), int(clocks[row])
            sensor.shown_unit = sensor.unit or units[row]

    def _state(self, sensor: Sensor, clock: int) -> SensorState:
        age = max(0.0, (clock - sensor.clock) / SECOND) if sensor.readings else None
        return SensorState(
            machine=sensor.machine,
            name=sensor.name,
            unit=sensor.shown_unit or sensor.unit,
            value=sensor.value,
            time=datetime_of(sensor.time) if sensor.readings else None,
            age=age,
            rate=sensor.rate * math.exp(-(age or 0.0) / _MINUTE),
            silent=bool(sensor.columns)
            and (age is None or age > min(sensor.look_back, float(self._collecting.record.longest))),
            readings=sensor.readings,
            late=sensor.late,
            refused=sensor.refused,
            problem=sensor.problem,
            columns=sensor.columns,
        )


def _distance(time: int, clock: int) -> str:
    return "before 1970" if time < 0 else f"{(time - clock) / SECOND:.0f} s ahead of the broker's"


def has_text(texts: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Return which entries are texts, and not None."""
    return np.fromiter((each is not None for each in texts), dtype=np.bool_, count=len(texts))


def text_of(value: object) -> str | None:
    """Return a value as a text: whole numbers without a fraction, true and false as JSON writes them; None for what is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if float(value).is_integer() else str(value)
    return None


def _number(value: object) -> float:
    """Return a value as a number, also one that is written as a text; NaN for what is none."""
    try:
        if isinstance(value, str):
            return math.nan if "_" in value else float(value)
        return float(value) if isinstance(value, int | float) else math.nan
    except (ValueError, OverflowError):
        return math.nan
