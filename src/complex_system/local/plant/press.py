"""The simulated press: what its sensors read, and how strong its parts become.

A hot press cures thermosetting parts. Two relations of materials science make the strength of a part:

- the degree of cure ``1 - exp(-k t)`` after a curing time ``t`` at the mould's temperature ``T``, with first-order kinetics after
  Arrhenius, ``k = A exp(-E / (R T))``;
- the loss by pores, ``exp(-b P)`` with the porosity ``P`` (Duckworth, J. Am. Ceram. Soc. 36, 1953, on Ryshkewitch's measurements).
  Pressure closes pores; moisture of the material and a ram that comes down fast make them.

``strength = 120 MPa (1 - exp(-k t)) exp(-6 P)``, and the laboratory measures it with a standard deviation of 1 MPa. Sensors have noise
of their own, so no model can predict the laboratory's value better than ``NOISE_FLOOR``. Oil temperature, vibration and humidity have
no effect of their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

LAB_NOISE = 1.0
"""Standard deviation of the laboratory's value, in MPa."""
NOISE_FLOOR = 1.05
"""RMSE in MPa with which the relations themselves predict the laboratory's value from what the sensors read in the time of a part,
five readings a sensor (over 20,000 parts; a test repeats it). The values themselves have a standard deviation of 8 MPa."""

FULL_STRENGTH = 120.0  # MPa, of a cured part without pores
_ACTIVATION = 70_000.0  # J/mol, as epoxy and phenolic resins have it
_GAS = 8.314  # J/(mol K)
_RATE_160 = 2.0 / 90.0  # 1/s at 160 degC: 86 % cured after 90 s
_PORE_LOSS = 6.0
_KELVIN = 273.15

NOISE: Mapping[str, float] = {
    "temperature": 0.5, "pressure": 1.5, "ram_speed": 0.3, "oil_temperature": 0.2, "curing_time": 0.1, "vibration": 0.3,
    "moisture": 0.005, "humidity": 0.5,
}  # fmt: skip
"""Standard deviation of a single reading of each sensor, in its unit."""
UNITS: Mapping[str, str] = {
    "temperature": "degC", "pressure": "bar", "ram_speed": "mm/s", "oil_temperature": "degC", "curing_time": "s",
    "vibration": "mm/s", "moisture": "%", "humidity": "%",
}  # fmt: skip
BY_MQTT: Mapping[str, str] = {"moisture": "dryer-2", "humidity": "hall-1"}
"""Machines of the sensors that speak MQTT; the others are the press's own, on OPC UA."""
PRESS = "press-4"

PARTS_IN_BATCH = 5
"""Parts after which the settings change."""


@dataclass
class Conditions:
    """What is true of a part, whatever the sensors read.

    Attributes:
        temperature: Of the mould, in degC.
        pressure: In bar.
        ram_speed: In mm/s.
        oil_temperature: In degC.
        curing_time: In s. The scenario runs faster than a press: a part takes half a second in it.
        vibration: In mm/s.
        moisture: Of the material, in % of its mass.
        humidity: Of the hall, relative, in %.
    """

    temperature: float = 160.0
    pressure: float = 110.0
    ram_speed: float = 25.0
    oil_temperature: float = 45.0
    curing_time: float = 90.0
    vibration: float = 2.0
    moisture: float = 0.2
    humidity: float = 45.0


def strength(temperature: float, pressure: float, ram_speed: float, curing_time: float, moisture: float) -> float:
    """Return the strength of a part in MPa, before the laboratory measures it."""
    warmth = _ACTIVATION / _GAS * (1 / (160 + _KELVIN) - 1 / (temperature + _KELVIN))
    cured = 1 - math.exp(-_RATE_160 * math.exp(warmth) * curing_time)
    porosity = 0.1 * math.exp(-pressure / 60) + 0.1 * moisture + 0.0006 * ram_speed
    return FULL_STRENGTH * cured * math.exp(-_PORE_LOSS * porosity)


class Press:
    """The press over time; the same seed makes the same parts."""

    def __init__(self, seed: int) -> None:
        self.conditions = Conditions()
        self._random = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self._parts = 0

    def next_part(self) -> Conditions:
        """Return the conditions of the next part: settings change with the batch, the rest drifts."""
        now, rand = self.conditions, self._random
        if self._parts % PARTS_IN_BATCH == 0:
            now.temperature = rand.uniform(150, 170)
            now.pressure = rand.uniform(80, 140)
            now.curing_time = rand.uniform(70, 110)
            now.ram_speed = rand.uniform(15, 40)
        self._parts += 1
        now.temperature += rand.gauss(0, 0.3)
        now.humidity = _drifted(now.humidity, 45, 1.0, rand)
        now.moisture = min(0.45, max(0.05, _drifted(now.moisture, 0.2 + 0.004 * (now.humidity - 45), 0.02, rand)))
        now.oil_temperature = _drifted(now.oil_temperature, 45 + 0.1 * (now.pressure - 110), 0.5, rand)
        now.vibration = 1.5 + 0.02 * now.ram_speed
        return now

    def reading(self, sensor: str) -> float:
        """Return what a sensor reads at the moment."""
        return round(float(getattr(self.conditions, sensor)) + self._random.gauss(0, NOISE[sensor]), 4)

    def lab_value(self) -> float:
        """Return the strength of the present part as the laboratory will measure it, in MPa."""
        now = self.conditions
        true = strength(now.temperature, now.pressure, now.ram_speed, now.curing_time, now.moisture)
        return round(true + self._random.gauss(0, LAB_NOISE), 2)


def _drifted(value: float, towards: float, step: float, rand: random.Random) -> float:
    return value + 0.05 * (towards - value) + rand.gauss(0, step)
