"""The numbers that steps take and make: how small and large they can be, by the declared ranges and beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from complex_system.domain.columns import Column
from complex_system.domain.steps import Arithmetic, BoxCox, Interval, Log, Ratio, Scale, Step

_LARGEST = 3.4e38  # models take float32
_BOUNDED: dict[type[Arithmetic], int] = {Log: 0, BoxCox: 0, Ratio: 1}
"""Positions of inputs that may have no result beyond their interval: the nearer end is taken instead."""


class Intervals(NamedTuple):
    """What is known of the numbers.

    Attributes:
        known: The smallest and largest value by name: a column's range, and of a result what follows from the ranges.
        beyond: Names of those that may lie beyond that, because a column declares ``outside: warn``.
        faults: By position of the step.
    """

    known: dict[str, Interval]
    beyond: frozenset[str]
    faults: list[tuple[int, str]]

    def clipped(self, step: Arithmetic) -> dict[int, Interval]:
        """Return the inputs of a step that are clipped to their intervals, by position."""
        names = {place: step.inputs[place] for place in [_BOUNDED.get(type(step))] if place is not None}
        return {place: self.known[name] for place, name in names.items() if name in self.beyond}


def intervals(pipeline: Iterable[Step], columns: Mapping[str, Column]) -> Intervals:
    """Return the intervals of all numbers, by interval arithmetic."""
    known = {name: column.limits for name, column in columns.items() if column.limits}
    reached = {name: columns[name].accepted if columns[name].outside == "warn" else each for name, each in known.items()}
    faults: list[tuple[int, str]] = []
    for place, step in enumerate(pipeline):
        if not isinstance(step, Arithmetic) or not all(name in known for name in step.inputs):
            continue  # an unknown input is a fault of its own
        inputs = [known[name] for name in step.inputs]
        try:
            low, high = step.interval(inputs)
            least, most = _reach(step, inputs, [reached[name] for name in step.inputs])
        except (ValueError, OverflowError) as error:
            faults.append((place, str(error)))
            continue
        if not -_LARGEST < low <= high < _LARGEST:
            faults.append((place, f"the step {step.step} makes numbers beyond what models take ({low:g} to {high:g})"))
        elif not -_LARGEST < least <= most < _LARGEST:
            problem = (
                f"the step {step.step} makes numbers beyond what models take ({least:g} to {most:g}) of values outside of the range; "
                "declare 'outside: clip' for a column with 'outside: warn' that it is made of"
            )
            faults.append((place, problem))
        elif step.as_ and step.as_ not in columns:
            known[step.as_], reached[step.as_] = (low, high), (least, most)
    return Intervals(known, frozenset(name for name in known if known[name] != reached[name]), faults)


def _reach(step: Arithmetic, inputs: list[Interval], reached: list[Interval]) -> Interval:
    """Return the smallest and largest result where inputs lie within ``reached``, which is wider than their intervals."""
    if isinstance(step, Scale):
        (low, high), (begin, end) = inputs[0], step.to
        ends = [(each - low) * ((end - begin) / (high - low)) + begin for each in reached[0]]
        return min(ends), max(ends)
    bounded = _BOUNDED.get(type(step))
    return step.interval([inputs[i] if i == bounded else each for i, each in enumerate(reached)])
