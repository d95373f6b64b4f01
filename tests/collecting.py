"""A press with a declared collection, and readings of it, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from complex_system.collection import CollectedRecord, Collector, Readings
from complex_system.domain.dataset import Dataset

START = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
SECOND = 1_000_000

PRESS = """
name: press
target: strength
columns:
  - {name: temp_mean, type: number, unit: degC, optional: true, range: [0, 300], fill: 60}
  - {name: pressure, type: number, optional: true, range: [0, 20], fill: 5}
  - {name: slope, type: number, optional: true}
  - {name: running, type: number, optional: true}
  - {name: mode, type: category, categories: [run, stop], optional: true}
  - {name: parts, type: integer, optional: true}
  - {name: temp_before, type: number, optional: true}
  - {name: temp_hour, type: number, optional: true}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: scale, column: temp_mean}
  - {step: scale, column: pressure}
"""
COLLECT = """
collect:
  things: "press-4.*"
  columns:
    temp_mean: {machine: press-4, name: temperature, over: 10s, take: mean, unit: degC}
    pressure: {machine: press-4, name: pressure, take: last, not_older: 30s}
    slope: {machine: press-4, name: torque, over: 60s, take: slope}
    running: {machine: press-4, name: mode, over: 10s, take: share, state: run}
    mode: {machine: press-4, name: mode, over: 20s}
    parts: {machine: press-4, name: temperature, over: 10s, take: count}
    temp_before: {column: temp_mean, lag: 1}
    temp_hour: {column: temp_mean, over: 1h, take: mean}
  record: {on: thing "press-4.part_done", id: value, wait: 5s}
  label: {column: strength, from: thing "lab.strength", match: id, within: 7d}
"""


class Reading(NamedTuple):
    """A reading; times are seconds after START."""

    name: str
    value: Any
    time: float
    arrived: float | None = None
    machine: str = "press-4"
    unit: str = ""
    measurement_id: str = ""


def dataset(collect: str = COLLECT, columns: str = PRESS) -> Dataset:
    return Dataset.parse(columns + collect)


def collector(made: Dataset, **arguments: Any) -> Collector:
    assert made.collect is not None
    return Collector(made.collect, made, **arguments)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def microseconds(seconds: float) -> int:
    return round(START.timestamp() * SECOND) + round(seconds * SECOND)


def readings(rows: Iterable[Reading], first: int = 1) -> Readings:
    """The rows as a batch, in their order; a reading arrives when it is made unless it says otherwise."""
    rows = list(rows)
    return Readings(
        [row.machine for row in rows],
        [row.name for row in rows],
        [row.value for row in rows],
        np.array([microseconds(row.time) for row in rows], dtype=np.int64),
        np.array([microseconds(row.time if row.arrived is None else row.arrived) for row in rows], dtype=np.int64),
        np.arange(first, first + len(rows), dtype=np.int64),
        [row.unit for row in rows],
        [row.measurement_id for row in rows],
    )


def collected(made: Dataset, rows: Iterable[Reading], until: float = 1e6) -> list[CollectedRecord]:
    """The records of the rows, added as one batch, and all that is open until then."""
    one = collector(made)
    one.add(readings(rows))
    return one.due(at(until))
