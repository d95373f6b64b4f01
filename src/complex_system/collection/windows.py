"""Records that are made of windows of time, for each reading of a thing or for each period."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from complex_system.collection.aggregates import is_text, look_back, of_readings
from complex_system.collection.readings import Times
from complex_system.collection.results import SECOND, datetime_of
from complex_system.collection.returned import Returned
from complex_system.collection.sensors import Batch, Sensor, Sensors, has_text
from complex_system.collection.series import Series, Values
from complex_system.domain.collecting import CollectedColumn, Collecting
from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import MAX_KEY, uuid7

OF_PROCESS = "FastIoT gives all values of a process the same measurement_id unless the producer sets it for each measurement"
NO_TIMES: Times = np.empty(0, dtype=np.int64)
NO_VALUES: Values = np.empty(0, dtype=np.float64)


@dataclass(slots=True)
class Opened:
    """A record that is not complete yet.

    Attributes:
        key: Its ``_id``.
        time: Its time, microseconds since 1970.
        due: Stream's clock at which it is complete, microseconds since 1970.
        machine: Its machine; empty where it is of several.
        measurement_id: Of the reading that made it.
        sequence: Of that reading.
        clock: Stream's clock at that reading.
    """

    key: str
    time: int
    due: int
    machine: str
    measurement_id: str
    sequence: int
    clock: int


class Made(NamedTuple):
    """A record that is complete but for its lags.

    Attributes:
        opened: What it is of.
        values: Of the columns that are made of readings.
    """

    opened: Opened
    values: dict[str, Any]


class Windowed(NamedTuple):
    """A column that is made of readings.

    Attributes:
        name: Of the column.
        column: Its declaration.
        text: Whether it takes readings as texts.
        back: Microseconds that it looks back; None for all of a measurement.
        window: Microseconds of its window; None for all of a measurement.
    """

    name: str
    column: CollectedColumn
    text: bool
    back: int | None
    window: int | None


def windowed(collecting: Collecting, dataset: Dataset) -> list[Windowed]:
    """Return the columns that are made of readings."""
    return [
        Windowed(name, each, is_text(each, dataset.column(name)), _microseconds(look_back(each)), _microseconds(each.window))
        for name, each in collecting.columns.items()
        if each.name
    ]


class Windows:
    """Keeps the newest readings, and makes a record of each trigger when its waiting time is over.

    Readings are handled as if they came one by one, so records do not depend on how the stream is cut into batches.

    Attributes:
        refused: Readings that should make a record and cannot.
        problem: Why the last of them could not.
        endless: None: only measurements can go on and on.
    """

    endless: Mapping[str, int] = MappingProxyType({})

    def __init__(self, collecting: Collecting, dataset: Dataset, sensors: Sensors, returned: Returned) -> None:
        self._rule, self._sensors, self._returned = collecting.record, sensors, returned
        self._columns = windowed(collecting, dataset)
        self._per_machine, self._dataset = collecting.per_machine, dataset.name
        self._wait = round(float(collecting.record.wait) * SECOND)
        self._every = round(collecting.record.trigger.seconds * SECOND)
        self._series: dict[tuple[int, bool], Series] = {}
        self._open: dict[str, Opened] = {}
        self._heap: list[tuple[int, int, str]] = []
        self._coming: deque[Opened] = deque()
        self._by_time: dict[str, list[tuple[int, str]]] = {}
        self._pruned = 0
        self.refused = 0
        self.problem = ""

    def add(self, batch: Batch, clock: int) -> Iterator[Made]:
        """Take readings and yield the records that are complete before the last of them, in order.

        Args:
            batch: In the order of the stream.
            clock: Stream's clock after it.
        """
        for opened in self._opened_by(batch):
            self._open[opened.key] = opened
            heapq.heappush(self._heap, (opened.due, opened.time, opened.key))
            if self._returned.has_lags:
                self._coming.append(opened)
        taken = 0
        while self._heap and self._heap[0][0] < clock:
            upto = int(np.searchsorted(batch.clocks, self._heap[0][0], "right"))
            self._take(batch, taken, upto)
            taken = max(taken, upto)
            yield from self._close()
        self._take(batch, taken, len(batch.clocks))
        self._prune(clock)

    def due(self, clock: int) -> Iterator[Made]:
        """Yield the records that are complete before a time on the stream's clock, in order: more readings may have that time."""
        while self._heap and self._heap[0][0] < clock:
            yield from self._close()
        self._prune(clock)

    @property
    def open(self) -> int:
        """How many records are open."""
        return len(self._open)

    def waiting(self, limit: int) -> list[tuple[Opened, dict[str, Any]]]:
        """Return the open records that are due first, with their values so far."""
        first = heapq.nsmallest(limit, self._open.values(), key=lambda each: each.due)
        return [(opened, self._values(opened, opened.clock)) for opened in first]

    def first_sequence(self) -> int | None:
        """Return the stream sequence of the first reading that an open or a later record may need; None where there is none."""
        needed = [opened.sequence for opened in self._open.values()]
        needed += [first for series in self._series.values() if (first := series.first_sequence()) is not None]
        return min(needed, default=None)

    def warnings(self, clock: int) -> list[str]:
        """Return what people have to know of open records; windows always end."""
        return []

    def _opened_by(self, batch: Batch) -> Iterator[Opened]:
        found: dict[str, int] = {}
        for opened in self._things(batch) if self._rule.trigger.by == "thing" else self._periods(batch):
            key, open_now = opened.key, self._open.get(opened.key)
            before = found.get(key, self._returned.time_of(key) if open_now is None else open_now.time)
            if before is None and not self._returned.is_forgotten(opened.machine, opened.time):
                found[key] = opened.time
                yield opened
            elif before is not None and before != opened.time:
                self._refuse_twice(opened, before)

    def _refuse_twice(self, opened: Opened, before: int) -> None:
        of_process = f"; {OF_PROCESS}" if self._rule.key == "measurement_id" else ""
        self.refused += 1
        at = f"{datetime_of(before):%d.%m.%Y %H:%M:%S}"
        self.problem = f"its {self._rule.key} '{opened.key}' is the key of the record of {at}{of_process}"

    def _things(self, batch: Batch) -> Iterator[Opened]:
        makes = np.array([each.makes_records for each in self._sensors.all])
        for row in np.flatnonzero(makes[batch.sensors]).tolist():
            sensor, time, clock = self._sensors.all[batch.sensors[row]], int(batch.times[row]), int(batch.clocks[row])
            given = {"value": batch.texts[row], "measurement_id": batch.measurement_ids[row]}
            key = (
                _key(self._dataset, sensor.machine, sensor.name, time) if self._rule.key == "time" else given[self._rule.key]
            )
            if problem := problem_of_key(key):
                self.refused += 1
                self.problem = f"the {self._rule.key} of {sensor.machine}.{sensor.name} cannot be a key: {problem}"
                continue
            due = max(time, clock) + self._wait
            yield Opened(key, time, due, sensor.machine, batch.measurement_ids[row], int(batch.sequences[row]), clock)

    def _periods(self, batch: Batch) -> Iterator[Opened]:
        opens = np.array([each.opens_periods for each in self._sensors.all])
        rows = np.flatnonzero(opens[batch.sensors])
        ends = -(-batch.times[rows] // self._every) * self._every
        machines = np.unique([each.machine for each in self._sensors.all], return_inverse=True)[1]
        groups = machines[batch.sensors[rows]] if self._per_machine else np.zeros(len(rows), dtype=np.int64)
        _, firsts = np.unique(np.stack([groups, ends]), axis=1, return_index=True)
        for place in np.sort(firsts).tolist():
            row, end = int(rows[place]), int(ends[place])
            machine = self._sensors.all[batch.sensors[row]].machine if self._per_machine else ""
            behind = max(0, int(batch.clocks[row] - batch.times[row]))
            sequence, clock = int(batch.sequences[row]), int(batch.clocks[row])
            yield Opened(_key(self._dataset, machine, "", end), end, end + behind + self._wait, machine, "", sequence, clock)

    def _take(self, batch: Batch, begin: int, end: int) -> None:
        """Add the readings of some rows to their series."""
        if end > begin:
            add_readings(self._series, self._sensors, batch, np.arange(begin, end), keep=self._keep)

    def _keep(self, sensor: Sensor) -> int:
        # A reading and the one that makes the record may each come as late as the waiting time.
        return round(sensor.look_back * SECOND) + 2 * self._wait

    def _close(self) -> Iterator[Made]:
        """Yield the record that is due first, unless it has to wait for an earlier one because of lags."""
        due, time, key = self._heap[0]
        opened = self._open[key]
        if self._returned.has_lags and (first := self._first(opened.machine, due)) is not None and first.time < time:
            opened.due = max(due, first.due)
            heapq.heapreplace(self._heap, (opened.due, time, key))
            return
        heapq.heappop(self._heap)
        del self._open[key]
        if not self._returned.is_forgotten(opened.machine, time):
            yield Made(opened, self._values(opened, due))

    def _first(self, machine: str, clock: int) -> Opened | None:
        """Return the earliest open record of a machine that is known at a time on the stream's clock."""
        while self._coming and self._coming[0].clock <= clock:
            coming = self._coming.popleft()
            heapq.heappush(self._by_time.setdefault(coming.machine, []), (coming.time, coming.key))
        known = self._by_time.get(machine, [])
        while known and known[0][1] not in self._open:
            heapq.heappop(known)
        return self._open[known[0][1]] if known else None

    def _prune(self, clock: int) -> None:
        """Forget readings that are too old, about once a second; what a record is made of is pruned at that very time."""
        if clock >= self._pruned + SECOND:
            self._pruned = clock
            for series in self._series.values():
                series.prune(clock)

    def _values(self, opened: Opened, clock: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, column, text, back, window in self._columns:
            sensor = self._sensors.by_name.get((column.machine or opened.machine, column.name), -1)
            series = self._series.get((sensor, text))
            if series is None or back is None or window is None:
                times, values = NO_TIMES, NO_VALUES
            else:
                series.prune(clock)
                times, values = series.window(opened.time - back, opened.time)
            begin = opened.time - (window or 0)
            made[name] = of_readings(column, times, values, begin, opened.time)
        return made


def add_readings(
    kept: dict[tuple[int, bool], Series],
    sensors: Sensors,
    batch: Batch,
    rows: npt.NDArray[np.int64],
    *,
    keep: Callable[[Sensor], int],
) -> None:
    """Add readings to the series of their sensors.

    Args:
        kept: The series by the sensor's position, and whether they hold texts.
        sensors: The sensors.
        batch: Readings in the order of the stream.
        rows: Those that are added.
        keep: Gives the microseconds for which a sensor's readings are kept.
    """
    order = rows[np.argsort(batch.sensors[rows], kind="stable")]
    for part in np.split(order, np.flatnonzero(np.diff(batch.sensors[order])) + 1):
        place = int(batch.sensors[part[0]])
        sensor = sensors.all[place]
        for text in [each for each in (False, True) if (sensor.text if each else sensor.number)]:
            usable = has_text(batch.texts[part]) if text else np.isfinite(batch.numbers[part])
            taken = part if usable.all() else part[usable]
            if not len(taken):
                continue
            series = kept.get((place, text))
            if series is None:
                series = kept[place, text] = Series(keep=keep(sensor), text=text)
            values = batch.texts[taken] if text else batch.numbers[taken]
            series.add(batch.times[taken], values, batch.clocks[taken], batch.sequences[taken])


def problem_of_key(key: str | None) -> str:
    """Return why a text cannot be a record's key; empty where it can."""
    if not key:
        return "there is none"
    if len(key) > MAX_KEY:
        return f"it has more than {MAX_KEY} characters"
    return "" if key.isprintable() else "it has control characters"


def _key(dataset: str, machine: str, name: str, time: int) -> str:
    """Return the key of a record by its time: keys rise with time, and the same trigger always gives the same one."""
    digest = hashlib.sha256(f"{dataset}\0{machine}\0{name}\0{time}".encode()).digest()
    return uuid7(time // 1000, int.from_bytes(digest[:10]))


def _microseconds(seconds: float) -> int | None:
    return None if seconds == float("inf") else round(seconds * SECOND)
