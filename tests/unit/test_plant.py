"""The simulated press: its physics, its noise floor, and declarations that fit each other."""

from __future__ import annotations

import math
import statistics
from importlib import resources
from pathlib import Path

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.things import covers, thing_name
from complex_system.local.plant.press import BY_MQTT, LAB_NOISE, NOISE_FLOOR, PRESS, UNITS, Press, strength
from complex_system.local.plant.simulator import READINGS_IN_PART, declaration
from complex_system.sources.opcua.declaration import OpcUaDeclaration

NORMAL = {"temperature": 160.0, "pressure": 110.0, "ram_speed": 25.0, "curing_time": 90.0, "moisture": 0.2}


def test_strength_follows_cure_and_porosity() -> None:
    # By hand: k t = 2, porosity 0.1 exp(-110 / 60) + 0.02 + 0.015 = 0.05099.
    assert strength(**NORMAL) == pytest.approx(120 * (1 - math.exp(-2)) * math.exp(-6 * 0.0509893), rel=1e-4)

    def changed(**to: float) -> float:
        return strength(**{**NORMAL, **to}) - strength(**NORMAL)

    assert changed(temperature=170) > 0
    assert changed(curing_time=110) > 0
    assert changed(pressure=140) > 0
    assert changed(moisture=0.4) < 0
    assert changed(ram_speed=40) < 0
    # 70 kJ/mol: from 150 to 160 degC the rate rises by exp(E / R (1/423.15 - 1/433.15)) = 1.58.
    slow, fast = (
        -math.log(1 - strength(**{**NORMAL, "temperature": t}) / strength(**{**NORMAL, "curing_time": 1e9}))
        for t in (150, 160)
    )
    assert fast / slow == pytest.approx(1.583, rel=1e-3)


def test_no_model_can_be_better_than_the_noise_floor() -> None:
    press, errors, values = Press(seed=1), [], []
    for _ in range(20_000):
        press.next_part()

        def mean(sensor: str) -> float:
            return statistics.fmean(press.reading(sensor) for _ in range(READINGS_IN_PART))

        sensed = {name: mean(name) for name in ("temperature", "pressure", "ram_speed")}
        value = press.lab_value()
        errors.append(
            value - strength(**sensed, curing_time=press.reading("curing_time"), moisture=press.reading("moisture"))
        )
        values.append(value)
    assert math.sqrt(statistics.fmean(error**2 for error in errors)) == pytest.approx(NOISE_FLOOR, abs=0.02)
    assert NOISE_FLOOR > LAB_NOISE
    assert statistics.pstdev(values) == pytest.approx(8, abs=0.5)


def test_the_declarations_name_all_sensors() -> None:
    dataset = Dataset.load(Path(str(resources.files("complex_system.local.plant") / "dataset.yaml")).parent)
    assert dataset.collect is not None
    sensors = OpcUaDeclaration.parse(declaration("opc.tcp://127.0.0.1:4840")).sensors
    read = {sensor.label: sensor.unit for sensor in sensors} | {
        f"{machine}.{name}": UNITS[name] for name, machine in BY_MQTT.items()
    }
    assert len(UNITS) == 8
    assert set(read) == {thing_name(BY_MQTT.get(name, PRESS), name) for name in (*UNITS, "part_done")}
    assert all(any(covers(pattern, name) for pattern in dataset.collect.things) for name in read)
    units = {column.name: column.unit for column in dataset.columns}
    for name, column in dataset.collect.columns.items():
        if column.name and column.name != "part_done":
            assert units[name] == read[f"{column.machine}.{column.name}"]
