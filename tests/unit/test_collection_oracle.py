"""Any order, repetition, cut into batches and restart gives the records of a plain computation, each once."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collecting import Reading, at, collector, dataset, readings
from complex_system.collection import Checkpoint, CollectedRecord
from complex_system.domain.dataset import Dataset

WAIT = 5.0
COLUMNS = """
name: press
target: strength
columns:
  - {name: last, type: number, optional: true}
  - {name: first, type: number, optional: true}
  - {name: mean, type: number, optional: true}
  - {name: median, type: number, optional: true}
  - {name: min, type: number, optional: true}
  - {name: max, type: number, optional: true}
  - {name: std, type: number, optional: true}
  - {name: slope, type: number, optional: true}
  - {name: count, type: integer, optional: true}
  - {name: share, type: number, optional: true}
  - {name: mode, type: category, categories: [run, stop], optional: true}
  - {name: before, type: number, optional: true}
  - {name: three, type: number, optional: true}
  - {name: minute, type: number, optional: true}
  - {name: strength, type: number, optional: true}
pipeline:
  - {step: keep, column: heat}
""".replace(
    "  - {name: strength", "  - {name: heat, type: number, range: [0, 1], optional: true, fill: 0}\n  - {name: strength"
)
OVER = {"last": 4, "first": 10, "mean": 10, "median": 6, "min": 10, "max": 3, "std": 10, "slope": 8, "count": 10}
_DECLARED = "\n".join(
    f"    {take}: {{machine: press-4, name: heat, take: {take}, over: {over}s}}" for take, over in OVER.items()
)
WINDOWS = f"""
collect:
  things: "press-4.*"
  columns:
{_DECLARED}
    share: {{machine: press-4, name: mode, take: share, state: run, over: 10s, not_older: 15s}}
    mode: {{machine: press-4, name: mode, not_older: 7s}}
    before: {{column: mean, lag: 1}}
    three: {{column: mean, records: 3, take: max}}
    minute: {{column: last, over: 20s, take: mean}}
  record: {{on: thing "press-4.done", id: value, wait: {WAIT}s}}
"""
PERIODS = WINDOWS.replace('on: thing "press-4.done", id: value', "on: every 7s")
MEASUREMENTS = (
    WINDOWS.replace('on: thing "press-4.done", id: value', "on: measurement_id")
    .replace("    before: {column: mean, lag: 1}\n", "")
    .replace("    three: {column: mean, records: 3, take: max}\n", "")
    .replace("    minute: {column: last, over: 20s, take: mean}\n", "")
)


def one_of(take: str, found: list[tuple[float, Any]]) -> Any:
    """An aggregate of (time, value), sorted, as the documentation says it."""
    values = [value for _, value in found]
    if take == "count":
        return len(values)
    if not values or (take == "std" and len(values) < 2) or (take == "slope" and len({time for time, _ in found}) < 2):
        return None
    if take == "slope":
        return statistics.linear_regression(*zip(*found, strict=True)).slope
    by_name: dict[str, Callable[[list[Any]], Any]] = {
        "last": lambda each: each[-1], "first": lambda each: each[0], "mean": statistics.fmean, "median": statistics.median,
        "min": min, "max": max, "std": statistics.stdev,
    }  # fmt: skip
    return by_name[take](values)


def share_of(found: list[tuple[float, str]], begin: float, end: float) -> float | None:
    known = in_state = 0.0
    for (time, value), (until, _) in itertools.pairwise([*found, (end, "")]):
        span = max(0.0, min(until, end) - max(time, begin))
        known += span
        in_state += span if value == "run" else 0.0
    return in_state / known if known else None


def values_at(rows: list[Reading], end: float) -> dict[str, Any]:
    def within(name: str, seconds: float) -> list[tuple[float, Any]]:
        return sorted({(row.time, row.value) for row in rows if row.name == name and end - seconds < row.time <= end})

    modes = within("mode", 15)
    return {
        **{take: one_of(take, within("heat", over)) for take, over in OVER.items()},
        "share": share_of(modes, end - 10, end),
        "mode": one_of("last", within("mode", 7)),
    }


def with_lags(records: dict[str, tuple[float, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    ordered = sorted(records.items(), key=lambda each: (each[1][0], each[0]))
    made = {}
    for key, (time, values) in ordered:
        before = [(then, earlier) for _, (then, earlier) in ordered if then < time]
        means = [(then, earlier["mean"]) for then, earlier in before]
        three = [each for each in means[-3:] if each[1] is not None]
        hour = [(then, earlier["last"]) for then, earlier in before if then >= time - 20 and earlier["last"] is not None]
        made[key] = {
            **values,
            "before": means[-1][1] if means else None,
            "three": one_of("max", three),
            "minute": one_of("mean", hour),
        }
    return made


def of_things(rows: list[Reading]) -> dict[str, dict[str, Any]]:
    return with_lags({str(row.value): (row.time, values_at(rows, row.time)) for row in rows if row.name == "done"})


def of_periods(rows: list[Reading]) -> list[dict[str, Any]]:
    start = at(0).timestamp()
    ends = {math.ceil((start + row.time) / 7) * 7 - start for row in rows if row.name != "done"}
    made = with_lags({f"{end:09}": (end, values_at(rows, end)) for end in ends})
    return [made[key] for key in sorted(made)]


def of_measurements(rows: list[Reading]) -> dict[str, dict[str, Any]]:
    made: dict[str, list[Reading]] = {}
    closed = set()
    last: dict[str, float] = {}
    for row in rows:
        if row.name == "done":
            continue
        assert row.arrived is not None
        key = row.measurement_id
        if key in last and row.arrived - last[key] > WAIT:
            closed.add(key)
        if key not in closed:
            last[key] = row.arrived
            made.setdefault(key, []).append(row)
    return {key: values_at(found, max(row.time for row in found)) for key, found in made.items()}


half_seconds = st.integers(0, 80).map(lambda n: n / 2)
delays = st.integers(0, 10).map(lambda n: n / 2)  # at most the waiting time
later = st.lists(st.integers(0, 60).map(float), max_size=2)


@st.composite
def streams(draw: st.DrawFn) -> list[Reading]:
    """Readings in the order in which they arrive: late by at most the waiting time at first, and perhaps again at any time later."""
    numbers = st.integers(0, 5).map(float)
    sensors = st.one_of(st.tuples(st.just("heat"), numbers), st.tuples(st.just("mode"), st.sampled_from(["run", "stop"])))
    rows: list[Reading] = []
    for (name, value), time, delay, again, part in draw(
        st.lists(st.tuples(sensors, half_seconds, delays, later, st.sampled_from("abc")), max_size=40)
    ):
        for extra in [0.0, *again]:
            rows.append(Reading(name, value, time, arrived=time + delay + extra, measurement_id=part))
    parts = draw(st.lists(st.tuples(half_seconds, delays, later), max_size=8))
    for number, (time, delay, again) in enumerate(parts):
        for extra in [0.0, *again]:
            rows.append(Reading("done", number, time, arrived=time + delay + extra))
    rows = draw(st.permutations(rows))
    return sorted(rows, key=lambda row: row.arrived)


def run(made: Dataset, rows: list[Reading], draw: Callable[[int], int]) -> list[CollectedRecord]:
    """The records of a collector that gets the rows in pieces, and is begun again now and then at a checkpoint that may be old."""
    kept = msgspec.json.encode(Checkpoint(sequence=1))
    one, place = collector(made, checkpoint=Checkpoint(sequence=1)), 0
    restarts = 0
    found: dict[str, CollectedRecord] = {}

    def keep(new: list[CollectedRecord]) -> None:
        for record in new:
            before = found.setdefault(record.key, record)
            assert before == record

    while place < len(rows):
        end = min(len(rows), place + 1 + draw(12))
        one.add(readings(rows[place:end], first=place + 1))
        place = end
        what = draw(3)
        if what == 0:
            continue
        assert rows[place - 1].arrived is not None
        keep(one.due(at(rows[place - 1].arrived or 0.0)))
        if what == 2:  # saved, and kept
            kept = msgspec.json.encode(one.checkpoint())
        if what == 3 and restarts < 3:  # ended before the checkpoint was kept
            restarts += 1
            checkpoint = msgspec.json.decode(kept, type=Checkpoint)
            one, place = collector(made, checkpoint=checkpoint), min(place, checkpoint.sequence - 1)
    keep(one.due(at(10_000)))
    assert one.waiting() == []
    assert one.checkpoint().sequence == len(rows) + 1
    return sorted(found.values(), key=lambda record: (record.time, record.key))


def same(made: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {key: value for key, value in made.items() if key in expected} == {
        key: pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
        for key, value in expected.items()
    }


THINGS, EVERY, IDS = dataset(WINDOWS, COLUMNS), dataset(PERIODS, COLUMNS), dataset(MEASUREMENTS, COLUMNS)


PROPERTIES = {"things": (THINGS, of_things), "periods": (EVERY, of_periods), "measurements": (IDS, of_measurements)}


def check(kind: str, rows: list[Reading], data: st.DataObject) -> None:
    declared, plainly = PROPERTIES[kind]
    made = run(declared, rows, lambda most: data.draw(st.integers(0, most)))
    expected = plainly(rows)
    by_key = expected if isinstance(expected, dict) else dict(zip([record.key for record in made], expected, strict=True))
    assert {record.key for record in made} == by_key.keys()
    for record in made:
        same(record.values, by_key[record.key])


@pytest.mark.parametrize("kind", PROPERTIES)
@settings(max_examples=60, deadline=None)
@given(rows=streams(), data=st.data())
def test_records_are_those_of_a_plain_computation(kind: str, rows: list[Reading], data: st.DataObject) -> None:
    check(kind, rows, data)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", PROPERTIES)
@settings(max_examples=3000, deadline=None)
@given(rows=streams(), data=st.data())
def test_many_more_records_are_those_of_a_plain_computation(kind: str, rows: list[Reading], data: st.DataObject) -> None:
    check(kind, rows, data)
