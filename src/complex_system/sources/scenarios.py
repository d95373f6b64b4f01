"""Scenarios of the lab: sensors that drift, get noisy or fail, a material that behaves differently, an unknown material.

A scenario changes the records of a laboratory after they were measured. The target stays what the lab measured, so the truth comes
with the record and nobody needs to know the function behind it:

- ``normal``: nothing changes.
- ``shift``: sensor 2 gradually loses sensitivity and reads half in the end. Inputs drift, the error rises; a new model learns it.
- ``noise``: sensor 2 gets a random error of 4 (one standard deviation), within its range. The error rises; a new model gains little.
- ``missing``: sensor 2 gives no value in 60 % of the measurements. The fill stands in; without the value there is no target.
- ``concept``: the material behaves differently, the target rises by 3 (15 - r2). Inputs stay, the error rises; a new model learns it.
- ``new_category``: every fifth measurement is of a material that is not declared. Those records are rejected.

``shift`` and ``concept`` leave the best possible error as it is: r1 is known to its bin as before, and r2 follows from the reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from complex_system.domain.records import Record
from complex_system.errors import InvalidRequestError
from complex_system.protocol.operations import ScenarioState

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
TARGET_SLOPE = 3.0
NEW_SHARE = 0.2


@dataclass(frozen=True)
class Scenario:
    """A scenario that runs.

    Attributes:
        began: When it began, epoch seconds.
        ramp: Seconds until ``shift`` has its full extent; the others have it immediately.
    """

    name: Name = "normal"
    began: float = 0.0
    ramp: float = 300.0

    @classmethod
    def named(cls, name: str, began: float, ramp: float) -> Scenario:
        """Return a scenario that was asked for.

        Raises:
            InvalidRequestError: No scenario has that name, or the ramp is not a number of seconds.
        """
        known = next((each for each in SCENARIOS if each == name), None)
        if known is None:
            raise InvalidRequestError(f"There is no scenario {name!r:.60}; there are {', '.join(SCENARIOS)}.")
        if not 0 <= ramp < 1e9:
            raise InvalidRequestError(f"'ramp' must be a number of seconds of at least 0, not {ramp}.")
        return cls(known, began, ramp)

    def extent(self, at: float) -> float:
        """Return how far it has come at a time in epoch seconds, 0 to 1."""
        if self.name != "shift" or self.ramp <= 0:
            return 1.0 if at >= self.began else 0.0
        return min(max((at - self.began) / self.ramp, 0.0), 1.0)

    def state(self, at: float) -> ScenarioState:
        """Return the scenario as a message that is sent at a time in epoch seconds."""
        return ScenarioState(scenario=self.name, began=self.began, ramp=self.ramp, age=at - self.began)


class Disturbance:
    """Applies scenarios to lab records; the same seed and the same calls make the same records."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - test data, no secret

    def apply(self, record: Record, scenario: Scenario, at: float) -> Record:
        """Return the record as it is measured under a scenario at a time in epoch seconds; the given one stays as it is."""
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
                changed = {TARGET: target + TARGET_SLOPE * extent * (15.0 - value)}
            case "new_category" if self._random.random() < NEW_SHARE * extent:
                changed = {MATERIAL: NEW_MATERIAL}
        return {**record, **changed}
