"""Readings become records: windows, aggregates, lateness, silence, keys, units, lags, measurements and periods."""

from __future__ import annotations

import pytest

from collecting import PRESS, Reading, at, collected, collector, dataset, readings


def test_a_part_gets_what_its_sensors_said_before_it_and_waits_for_late_readings() -> None:
    one = collector(dataset())
    one.add(
        readings(
            [
                Reading("temperature", 100.0, 0.0),  # 10 s before: not in the window, which is open at its begin
                Reading("temperature", 60.0, 4.0),
                Reading("temperature", 62.0, 10.0),
                Reading("pressure", 7.5, 1.0),
                Reading("torque", 1.0, 2.0),
                Reading("torque", 3.0, 6.0),
                Reading("mode", "stop", 1.0),
                Reading("mode", "run", 5.0),
                Reading("part_done", "P-1", 10.0),
                Reading("temperature", 70.0, 11.0),  # after the part
                Reading("temperature", 64.0, 8.0, arrived=14.0),  # late
            ]
        )
    )
    assert one.due(at(14.9)) == []
    (waiting,) = one.waiting()
    assert (waiting.key, waiting.until, waiting.missing) == ("P-1", at(15), ())
    (made,) = one.due(at(15))
    assert (made.key, made.time, made.machine, made.sequence) == ("P-1", at(10), "press-4", 9)
    assert made.values == {
        "temp_mean": 62.0, "pressure": 7.5, "slope": 0.5, "running": pytest.approx(5 / 9), "mode": "run", "parts": 3,
        "temp_before": None, "temp_hour": None,
    }  # fmt: skip
    assert made.missing == ("temp_before", "temp_hour")
    assert one.due(at(99)) == []
    assert one.waiting() == []


def test_a_silent_sensor_is_missing_and_no_old_value() -> None:
    rows = [Reading("pressure", 7.5, 0.0), Reading("temperature", 60.0, 25.0), Reading("part_done", 1, 31.0)]
    one = collector(dataset())
    one.add(readings(rows))
    states = {state.name: state for state in one.sensors(at(34))}
    assert states["pressure"].silent
    assert states["pressure"].age == 34.0
    assert not states["temperature"].silent
    assert states["torque"].silent
    assert states["torque"].age is None
    (made,) = one.due(at(60))
    assert made.record == {
        "_id": "1", "temp_mean": 60.0, "pressure": None, "slope": None, "running": None, "mode": None, "parts": 1,
        "temp_before": None, "temp_hour": None,
    }  # fmt: skip


PERIODS = """
collect:
  things: "*.*"
  columns:
    temp_mean: {machine: press-4, name: temperature, over: 10s, take: mean}
  record: {on: every 10s, wait: 2s}
"""


def test_periods_are_whole_and_one_without_readings_makes_no_record() -> None:
    made = collected(
        dataset(PERIODS),
        [Reading("temperature", float(value), value) for value in (1, 2, 10, 11, 35)]
        + [Reading("temperature", 0.0, 3.0, arrived=36)],
    )
    assert [(each.time, each.values["temp_mean"]) for each in made] == [(at(10), 13 / 3), (at(20), 11.0), (at(40), 35.0)]
    assert sorted(each.key for each in made) == [each.key for each in made]


MEASUREMENTS = """
collect:
  things: ">"
  columns:
    temp_mean: {name: temperature, take: mean}
    pressure: {name: pressure, take: max}
  record: {on: measurement_id, wait: 5s, longest: 100s}
"""


def test_a_measurement_is_complete_when_no_reading_of_it_comes_for_the_waiting_time() -> None:
    rows = [
        Reading("temperature", 1.0, 0, measurement_id="a"), Reading("temperature", 5.0, 1, measurement_id="b"),
        Reading("pressure", 9.0, 4, measurement_id="a"), Reading("temperature", 3.0, 8.9, measurement_id="a"),
        Reading("temperature", 9.0, 20, measurement_id="a"), Reading("temperature", 9.0, 21),
    ]  # fmt: skip
    one = collector(dataset(MEASUREMENTS.replace('">"', '"press-4.>"')))
    one.add(readings(rows))
    made = {each.key: each for each in one.due(at(60))}
    assert {key: each.values for key, each in made.items()} == {
        "a": {"temp_mean": 2.0, "pressure": 9.0},
        "b": {"temp_mean": 5.0, "pressure": None},
    }
    assert any("measurement_id cannot be a key" in text for text in one.warnings())


def test_a_measurement_id_of_a_process_makes_no_record_and_a_warning() -> None:
    one = collector(dataset(MEASUREMENTS.replace('">"', '"press-4.>"')))
    for second in range(150):
        one.add(readings([Reading("temperature", 1.0, second, measurement_id="process")], first=second + 1))
        assert one.due(at(second)) == []
    assert any("measurement_id 'process' goes on and on" in text for text in one.warnings())
    assert one.due(at(1000)) == []


def test_readings_in_another_unit_are_converted_or_refused_with_both_units() -> None:
    one = collector(dataset())
    one.add(
        readings(
            [
                Reading("temperature", 212.0, 1.0, unit="degF"),
                Reading("temperature", 101.0, 2.0, unit="degC"),
                Reading("temperature", 5.0, 3.0, unit="bar"),
                Reading("temperature", 102.0, 3.0),
                Reading("part_done", "x", 5.0),
            ]
        )
    )
    (made,) = one.due(at(60))
    assert made.values["temp_mean"] == pytest.approx(101.0)
    (warning,) = one.warnings()
    assert "press-4.temperature: 1 readings are not used" in warning
    assert "the unit is 'bar', and the declared one is 'degC'" in warning


def test_lags_are_of_earlier_parts_whatever_comes_first() -> None:
    def part(number: int, time: float, arrived: float) -> list[Reading]:
        return [
            Reading("temperature", float(number), time, arrived=arrived),
            Reading("part_done", number, time, arrived=arrived),
        ]

    rows = [*part(1, 0, 0), *part(3, 102, 102), *part(2, 100, 104), *part(4, 5000, 5000)]
    made = {each.key: each.values for each in collected(dataset(), rows)}
    assert [made[key]["temp_before"] for key in "1234"] == [None, 1.0, 2.0, 2.5]
    assert [made[key]["temp_hour"] for key in "1234"] == [None, 1.0, 1.5, None]


def test_an_undeclared_time_column_is_filled() -> None:
    text = PRESS.replace(
        "  - {name: strength", '  - {name: made, type: datetime, format: "%d.%m.%Y %H:%M"}\n  - {name: strength'
    )
    made = collected(
        dataset(PERIODS + "time: {column: made, zone: Europe/Berlin}\n", text), [Reading("temperature", 1.0, 1)]
    )
    assert made[0].values["made"] == "01.03.2026 07:00"
