"""The collector: readings in the order of the stream in, records out, and the place at which it can begin again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from complex_system.collection.aggregates import fitting
from complex_system.collection.measurements import Measurements
from complex_system.collection.readings import Readings
from complex_system.collection.results import (
    Checkpoint,
    CollectedRecord,
    Earlier,
    SensorState,
    WaitingRecord,
    datetime_of,
    microseconds_of,
)
from complex_system.collection.returned import Returned
from complex_system.collection.sensors import Sensors
from complex_system.collection.windows import Made, Windows
from complex_system.domain.collecting import Collecting
from complex_system.domain.dataset import Dataset
from complex_system.domain.record_time import time_writer

MAX_SHOWN = 100
"""Waiting records and warnings that are listed."""


class Collector:
    """Makes records of readings. It keeps no more readings than its windows need, and is fed by one task at a time.

    The stream decides everything: the same readings in the same order give the same records, however they are cut into batches, and
    also when the collector begins again at a checkpoint.
    """

    def __init__(self, collecting: Collecting, dataset: Dataset, checkpoint: Checkpoint | None = None) -> None:
        """Make a collector.

        Args:
            collecting: The declaration.
            dataset: The data set that it is part of.
            checkpoint: Where an earlier collector stopped; :meth:`add` continues with the readings from its ``sequence`` on.
        """
        self._dataset = dataset
        earlier = checkpoint or Checkpoint(sequence=0)
        self._returned = Returned(collecting.columns, earlier.returned, earlier.forgotten)
        self._sensors = Sensors(collecting, dataset)
        self._maker: Measurements | Windows
        if collecting.record.trigger.by == "measurement_id":
            self._maker = Measurements(collecting, dataset, self._sensors, self._returned, endless=earlier.endless)
        else:
            self._maker = Windows(collecting, dataset, self._sensors, self._returned)
        self._columns = {name: dataset.column(name) for name in collecting.columns}
        self._of_machine = [name for name, each in collecting.columns.items() if each.take == "machine"]
        self._time_of = time_writer(dataset) if dataset.time and dataset.time.column not in self._columns else None
        self._next_sequence = earlier.sequence
        self._checkpoint = earlier
        self._clock = 0
        self._ready: list[CollectedRecord] = []

    def add(self, readings: Readings) -> None:
        """Take readings in the order of the stream. Late, repeated and disordered times are expected."""
        if not len(readings):
            return
        batch = self._sensors.read(readings, self._clock)
        self._clock = max(self._clock, int(readings.arrived.max()))
        self._next_sequence = int(readings.sequences[-1]) + 1
        for made in self._maker.add(batch, self._clock):
            self._finish(made)

    def due(self, now: datetime) -> list[CollectedRecord]:
        """Return the complete records that were not returned yet, in the order in which they were completed.

        Args:
            now: The stream's clock: the newest time of the broker up to which all readings were added. While there are more in the
                stream that is the time of the last one that was added; when there are none, the present time of the broker.
        """
        self._clock = max(self._clock, microseconds_of(now))
        for made in self._maker.due(self._clock):
            self._finish(made)
        ready, self._ready = self._ready, []
        return ready

    def checkpoint(self) -> Checkpoint:
        """Return where a collector can begin again, so that it returns what this one has not returned, and nothing twice.

        Call it after :meth:`due`, with no :meth:`add` in between, which would give an earlier one; keep it once the records are saved.
        """
        if not self._ready:
            first = self._maker.first_sequence()
            self._checkpoint = Checkpoint(
                sequence=self._next_sequence if first is None else first,
                forgotten=dict(self._returned.forgotten),
                returned=tuple(self._returned),
                endless=dict(self._maker.endless),
            )
        return self._checkpoint

    def sensors(self, now: datetime) -> list[SensorState]:
        """Return every sensor that a column names or that readings came from, as it is at a time on the stream's clock."""
        return self._sensors.states(max(self._clock, microseconds_of(now)))

    @property
    def open(self) -> int:
        """How many records are not complete yet."""
        return self._maker.open

    def waiting(self) -> list[WaitingRecord]:
        """Return the records that are not complete yet, those that are due first at the beginning, at most the first 100."""
        return [
            WaitingRecord(
                opened.key,
                datetime_of(opened.time),
                opened.machine,
                datetime_of(opened.due),
                tuple(name for name, value in values.items() if value is None),
            )
            for opened, values in self._maker.waiting(MAX_SHOWN)
        ]

    def warnings(self) -> list[str]:
        """Return what people have to know: readings that cannot be used, sensors whose clocks are wrong, keys that are none."""
        made = [
            f"{each.machine}.{each.name}: readings that are not used: {each.refused}; the last one because {each.problem}."
            for each in self._sensors.all
            if each.refused
        ]
        made += self._maker.warnings(self._clock)
        made = made[:MAX_SHOWN]
        if self._maker.refused:
            made.append(f"Readings that make no record: {self._maker.refused}; the last one because {self._maker.problem}.")
        if self._sensors.unknown:
            made.append(f"{self._sensors.unknown} readings are of more sensors than are told apart, and are not used.")
        return made

    def _finish(self, made: Made) -> None:
        """Add the lags, give every value its column's type, and remember the record."""
        opened = made.opened
        values: dict[str, Any] = {name: fitting(value, self._columns[name]) for name, value in made.values.items()}
        for name, value in self._returned.lags(opened.time, opened.machine).items():
            values[name] = fitting(value, self._columns[name])
        values |= dict.fromkeys(self._of_machine, opened.machine or None)
        missing = tuple(name for name in self._columns if values[name] is None)
        sources = tuple(values[name] for name in self._returned.sources)
        self._returned.add(Earlier(opened.time, opened.key, opened.machine, sources))
        if self._time_of is not None and self._dataset.time is not None:
            values[self._dataset.time.column] = self._time_of(opened.time)
        self._ready.append(
            CollectedRecord(
                opened.key, datetime_of(opened.time), opened.machine, opened.measurement_id, values, missing, opened.sequence
            )
        )
