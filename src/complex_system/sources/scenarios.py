"""What can happen to the lab: sensors that drift, get noisy or fail, another law, another material.

A scenario changes the records of a laboratory after they were measured. The target stays what the lab measured, so that the truth
comes with the record and nobody needs to know the law:

- ``normal``: nothing.
- ``shift``: sensor 2 loses sensitivity by degrees and reads half in the end. Inputs drift, the error rises; a new model learns it.
- ``noise``: sensor 2 gets a random error of 4 (one standard deviation), within its range. The error rises; a new model gains little.
- ``missing``: sensor 2 gives no value in 60 % of the measurements. The fill stands in; without the value there is no target.
- ``concept``: the material behaves otherwise, the target rises by 3 (15 - r2). Inputs stay, the error rises; a new model learns it.
- ``new_category``: every fifth measurement is of a material that is not declared. Those records are rejected.

``shift`` and ``concept`` leave the best possible error as it is: r1 is known to its bin as before, and r2 follows from the reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from complex_system.domain.records import Record
from complex_system.errors import InvalidRequestError

Name = Literal["normal", "shift", "noise", "missing", "concept", "new_category"]
SCENARIOS: tuple[Name, ...] = get_args(Name)

SENSOR = "rohwert_2_labormessung"
TARGET = "aufbereiteter_wert"
MATERIAL = "material_id"
NEW_MATERIAL = "44444444"
RANGE = (0.0, 30.0)
GAIN_LOST = 0.5
NOISE = 4.0
FAILING_SHARE = 0.6
LAW_CHANGE = 3.0
NEW_SHARE = 0.2


@dataclass(frozen=True)
class Scenario:
    """A scenario that is at work.

    Attributes:
        began: Epoch seconds since when.
        ramp: Seconds until ``shift`` has its full extent; the others have it at once.
    """

    name: Name = "normal"
    began: float = 0.0
    ramp: float = 300.0

    @classmethod
    def named(cls, name: object, began: float, ramp: object) -> Scenario:
        """A scenario from outside.

        Raises:
            InvalidRequestError: There is none of that name, or the ramp is no number of seconds.
        """
        known = next((each for each in SCENARIOS if each == name), None)
        if known is None:
            raise InvalidRequestError(f"There is no scenario {name!r:.60}; there are {', '.join(SCENARIOS)}.")
        if isinstance(ramp, bool) or not isinstance(ramp, int | float) or not 0 <= ramp < 1e9:
            raise InvalidRequestError(f"'ramp' must be a number of seconds of at least 0, not {ramp!r:.60}.")
        return cls(known, began, float(ramp))

    def extent(self, at: float) -> float:
        """How far it has come at a time in epoch seconds, 0 to 1."""
        if self.name != "shift" or self.ramp <= 0:
            return 1.0 if at >= self.began else 0.0
        return min(max((at - self.began) / self.ramp, 0.0), 1.0)

    def as_dict(self) -> dict[str, Any]:
        """The scenario as messages have it."""
        return {"scenario": self.name, "began": self.began, "ramp": self.ramp}


class Disturbance:
    """Applies scenarios to lab records; seeded, so that the same calls make the same records."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - test data, no secret

    def apply(self, record: Record, scenario: Scenario, at: float) -> Record:
        """The record as it is measured under a scenario at a time in epoch seconds; the given one stays as it is."""
        extent = scenario.extent(at)
        value, target = record[SENSOR], record[TARGET]
        changed: Record = {}
        match scenario.name:
            case "shift" if value is not None:
                changed = {SENSOR: value * (1 - GAIN_LOST * extent)}
            case "noise" if value is not None:
                noisy = value + self._random.gauss(0, NOISE * extent)
                changed = {SENSOR: min(max(noisy, RANGE[0]), RANGE[1])}
            case "missing" if self._random.random() < FAILING_SHARE * extent:
                changed = {SENSOR: None, TARGET: None}
            case "concept" if target is not None and value is not None:
                changed = {TARGET: target + LAW_CHANGE * extent * (15.0 - value)}
            case "new_category" if self._random.random() < NEW_SHARE * extent:
                changed = {MATERIAL: NEW_MATERIAL}
        return {**record, **changed}
