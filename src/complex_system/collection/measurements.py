"""Records that are made of all readings with one ``measurement_id``."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.collection.aggregates import of_readings
from complex_system.collection.readings import Times
from complex_system.collection.results import SECOND
from complex_system.collection.returned import Returned
from complex_system.collection.sensors import Batch, Sensors
from complex_system.collection.series import Series, Values
from complex_system.collection.windows import (
    NO_TIMES,
    NO_VALUES,
    OF_PROCESS,
    Made,
    Opened,
    add_readings,
    problem_of_key,
    windowed,
)
from complex_system.domain.collecting import Collecting
from complex_system.domain.dataset import Dataset

MAX_READINGS = 1_000_000
"""Readings of one measurement; one with more makes no record."""
_FOREVER = 2**62


@dataclass(slots=True)
class _Measurement:
    """Readings with one measurement_id that is not complete yet."""

    opened: Opened
    first_clock: int
    last_clock: int
    begin: int
    readings: int = 0
    machines: set[str] = field(default_factory=set)
    series: dict[tuple[int, bool], Series] = field(default_factory=dict)


class Measurements:
    """Keeps the readings of measurements that go on, and makes a record when no reading of one came for the waiting time.

    Attributes:
        refused: Readings and measurements that make no record.
        problem: Why the last of them does not.
        endless: Measurements that were given up and go on, with the stream's clock at their last reading.
    """

    def __init__(
        self, collecting: Collecting, dataset: Dataset, sensors: Sensors, returned: Returned, *, endless: Mapping[str, int]
    ) -> None:
        self._sensors, self._returned = sensors, returned
        self._columns = windowed(collecting, dataset)
        self._wait = round(float(collecting.record.wait) * SECOND)
        self._longest = round(float(collecting.record.longest) * SECOND)
        self._open: dict[str, _Measurement] = {}
        self.endless = dict(endless)
        self.refused = 0
        self.problem = ""

    def add(self, batch: Batch, clock: int) -> Iterator[Made]:
        """Take readings and yield the records that are complete before the last of them, in order.

        Args:
            batch: In the order of the stream.
            clock: Stream's clock after it.
        """
        rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(batch.measurement_ids):
            rows_of.setdefault(key, []).append(row)
        ended: list[_Measurement] = []
        for key, rows in rows_of.items():
            if problem := problem_of_key(key):
                self.refused += len(rows)
                self.problem = f"a reading's measurement_id cannot be a key: {problem}"
            elif (time := self._returned.time_of(key)) is None:
                ended += self._take(key, np.array(rows), batch)
            else:
                self._refuse_later(key, time, batch.times[rows])
        yield from self._complete(ended, clock - 1)

    def due(self, clock: int) -> Iterator[Made]:
        """Yield the records that are complete before a time on the stream's clock, in order: more readings may have that time."""
        yield from self._complete([], clock - 1)

    @property
    def open(self) -> int:
        """How many records are open."""
        return len(self._open)

    def waiting(self, limit: int) -> list[tuple[Opened, dict[str, Any]]]:
        """Return the open records that are due first, with their values so far."""
        first = heapq.nsmallest(limit, self._open.values(), key=lambda each: each.opened.due)
        return [(each.opened, self._values(each)) for each in first]

    def first_sequence(self) -> int | None:
        """Return the stream sequence of the first reading that an open record needs; None where there is none."""
        return min((each.opened.sequence for each in self._open.values()), default=None)

    def warnings(self, clock: int) -> list[str]:
        """Return the measurements that take too long, as sentences."""
        long = [key for key, each in self._open.items() if clock - each.first_clock > self._longest // 4]
        return [
            f"measurement_id '{key}' goes on and on. {OF_PROCESS}; otherwise declare 'record' on a thing or a period."
            for key in [*self.endless, *long]
        ]

    def _take(self, key: str, rows: npt.NDArray[np.int64], batch: Batch) -> list[_Measurement]:
        """Add readings to their measurement; return it where a gap among them says that it has ended."""
        clocks = batch.clocks[rows]
        if key in self.endless:
            gaps = self._gaps(clocks, self.endless[key])
            if not len(gaps):
                self.endless[key] = int(clocks[-1])
                return []
            del self.endless[key]
            rows, clocks = rows[gaps[0] :], clocks[gaps[0] :]
        made = self._open.get(key)
        if made is None:
            time, clock = int(batch.times[rows[0]]), int(clocks[0])
            opened = Opened(key, time, 0, "", key, int(batch.sequences[rows[0]]), clock)
            made = self._open[key] = _Measurement(opened, clock, clock, time)
        gaps = self._gaps(clocks, made.last_clock)
        taken = rows[: gaps[0]] if len(gaps) else rows
        if len(taken):
            self._add(made, taken, batch)
        if not len(gaps):
            return []
        if key not in self._open:
            return self._take(key, rows[gaps[0] :], batch)
        self._refuse_later(key, made.opened.time, batch.times[rows[gaps[0] :]])
        return [made]

    def _refuse_later(self, key: str, time: int, times: Times) -> None:
        """Count what a measurement went on with after its record was made; what was repeated only is older."""
        if later := int((times > time).sum()):
            self.refused += later
            self.problem = f"measurement_id '{key}' goes on after a pause longer than 'wait' made its record; {OF_PROCESS}"

    def _gaps(self, clocks: Times, before: int) -> npt.NDArray[np.intp]:
        """Return where readings come more than the waiting time after the one before."""
        return np.flatnonzero(np.diff(clocks, prepend=before) > self._wait)

    def _add(self, made: _Measurement, rows: npt.NDArray[np.int64], batch: Batch) -> None:
        add_readings(made.series, self._sensors, batch, rows, keep=lambda _: _FOREVER)
        times, opened = batch.times[rows], made.opened
        opened.time, made.begin = max(opened.time, int(times.max())), min(made.begin, int(times.min()))
        made.last_clock = int(batch.clocks[rows[-1]])
        opened.due = made.last_clock + self._wait
        made.readings += len(rows)
        made.machines |= {self._sensors.all[place].machine for place in np.unique(batch.sensors[rows]).tolist()}
        opened.machine = next(iter(made.machines)) if len(made.machines) == 1 else ""
        if made.last_clock - made.first_clock > self._longest or made.readings > MAX_READINGS:
            del self._open[opened.key]
            self.endless[opened.key] = made.last_clock
            self.refused += 1
            self.problem = (
                f"measurement_id '{opened.key}' takes longer than 'longest', or has more than {MAX_READINGS:,} readings"
            )

    def _complete(self, ended: list[_Measurement], clock: int) -> Iterator[Made]:
        due = {key: each for key, each in self._open.items() if each.opened.due <= clock}
        due |= {each.opened.key: each for each in ended}
        for each in sorted(due.values(), key=lambda one: (one.opened.due, one.opened.time, one.opened.key)):
            del self._open[each.opened.key]
            if not self._returned.is_forgotten(each.opened.machine, each.opened.time):
                yield Made(each.opened, self._values(each))
        for key in [key for key, last in self.endless.items() if last + self._wait <= clock]:
            del self.endless[key]

    def _values(self, measurement: _Measurement) -> dict[str, Any]:
        made: dict[str, Any] = {}
        end = measurement.opened.time
        for name, column, text, back, window in self._columns:
            found = [
                series.window(None if back is None else end - back, end)
                for (place, of_text), series in measurement.series.items()
                if of_text == text
                and self._sensors.all[place].name == column.name
                and column.machine in ("", self._sensors.all[place].machine)
            ]
            times, values = _merged(found)
            made[name] = of_readings(column, times, values, measurement.begin if window is None else end - window, end)
        return made


def _merged(found: list[tuple[Times, Values]]) -> tuple[Times, Values]:
    """Return the readings of several sensors as those of one."""
    if not found:
        return NO_TIMES, NO_VALUES
    if len(found) == 1:
        return found[0]
    both = Series(keep=_FOREVER, text=found[0][1].dtype == object)
    for times, values in found:
        if len(times):
            both.add(times, values, times, times)
    return both.window(None, None)
