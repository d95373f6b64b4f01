"""Readings become records: windows, aggregates, lateness, silence, keys, units, lags, measurements and periods."""

from __future__ import annotations

import sys

import pytest

from collecting import COLLECT, PRESS, Reading, at, collected, collector, dataset, readings
from complex_system import __version__
from complex_system.collection.returned import REMEMBERED
from complex_system.collection.units import conversion


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
    assert one.due(at(15)) == []
    (waiting,) = one.waiting()
    assert (waiting.key, waiting.until, waiting.missing) == ("P-1", at(15), ())
    (made,) = one.due(at(15.000001))
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


OF_MEASUREMENT = [
    Reading("temperature", 1.0, 20, measurement_id="a"),
    Reading("pressure", 1.0, 25, measurement_id="b"),
    Reading("temperature", 3.0, 25, measurement_id="a"),
]
OF_PERIOD = [
    Reading("temperature", 1.0, 15),
    Reading("pressure", 1.0, 22),
    Reading("temperature", 3.0, 20, arrived=22),
]


@pytest.mark.parametrize(
    ("declared", "rows"), [(MEASUREMENTS.replace('">"', '"press-4.>"'), OF_MEASUREMENT), (PERIODS, OF_PERIOD)]
)
def test_a_record_is_complete_only_when_no_reading_can_come_at_its_last_moment(declared: str, rows: list[Reading]) -> None:
    """Messages may have the same time, and a batch may end between them."""
    one = collector(dataset(declared))
    one.add(readings(rows[:2]))
    assert one.due(at(rows[1].time)) == []
    one.add(readings(rows[2:], first=3))
    assert 2.0 in [each.values["temp_mean"] for each in one.due(at(100))]


def test_a_measurement_id_of_a_process_makes_no_record_and_a_warning() -> None:
    one = collector(dataset(MEASUREMENTS.replace('">"', '"press-4.>"')))
    for second in range(150):
        one.add(readings([Reading("temperature", 1.0, second, measurement_id="process")], first=second + 1))
        assert one.due(at(second)) == []
    assert any("measurement_id 'process' goes on and on" in text for text in one.warnings())
    assert one.due(at(1000)) == []


def test_a_key_that_comes_at_another_time_is_no_repetition_and_a_warning_says_so() -> None:
    one = collector(
        dataset(COLLECT.replace("id: value", "id: measurement_id").replace("match: id", "match: measurement_id"))
    )
    for second in (1, 1, 20, 40):
        one.add(readings([Reading("part_done", second, second, measurement_id="process")], first=second))
    assert [each.key for each in one.due(at(60))] == ["process"]
    (warning,) = one.warnings()
    assert warning.startswith(
        "Readings that make no record: 2; the last one because its measurement_id 'process' is the key of the record of "
    )
    assert "FastIoT gives all values of a process the same measurement_id unless the producer sets it" in warning


def test_a_measurement_that_goes_on_after_its_record_is_warned_of() -> None:
    one = collector(dataset(MEASUREMENTS.replace('">"', '"press-4.>"')))
    for second in (1, 1, 20, 40):
        one.add(readings([Reading("temperature", 1.0, second, measurement_id="process")], first=second))
    assert [each.values["temp_mean"] for each in one.due(at(60))] == [1.0]
    (warning,) = one.warnings()
    assert warning.startswith(
        "Readings that make no record: 2; the last one because measurement_id 'process' goes on after a pause"
    )


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
    assert "press-4.temperature: readings that are not used: 1;" in warning
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


def test_a_column_without_a_machine_is_of_the_machine_that_makes_the_record() -> None:
    hall = """
collect:
  things: "*.*"
  columns:
    mode: {take: machine}
    temp_mean: {name: temperature, over: 10s, take: mean}
    pressure: {machine: hall, name: pressure, not_older: 1 min}
    temp_before: {column: temp_mean, lag: 1}
  record: {on: thing "*.done", wait: 1s}
"""
    rows = [Reading("pressure", 3.0, 0, machine="hall")]
    for second, machine in enumerate(["a", "b", "a", "b"], start=1):
        rows += [Reading("temperature", float(second), second, machine=machine), Reading("done", 0, second, machine=machine)]
    made = collected(dataset(hall), rows)
    assert [(each.values["mode"], each.values["temp_mean"], each.values["temp_before"]) for each in made] == [
        ("a", 1.0, None), ("b", 2.0, None), ("a", 2.0, 1.0), ("b", 3.0, 2.0),
    ]  # fmt: skip
    assert {each.values["pressure"] for each in made} == {3.0}
    assert len({each.key for each in made}) == 4


def test_values_that_are_no_numbers_and_clocks_that_are_ahead_are_counted_and_not_used() -> None:
    one = collector(dataset())
    bad = ["warm", None, float("nan"), float("inf"), [1.0], {"a": 1}, "1_0", 10**400]
    rows = [Reading("temperature", value, 1.0) for value in bad]
    rows += [Reading("temperature", "62.5", 2.0), Reading("temperature", 9.0, -3e9, arrived=3.0)]
    rows += [Reading("temperature", 900.0, 100.0, arrived=3.0)]
    rows += [Reading("part_done", 17.0, 5.0), Reading("part_done", "", 6.0), Reading("part_done", "x" * 65, 6.0)]
    one.add(readings(rows))
    (made,) = one.due(at(60))
    assert (made.key, made.values["temp_mean"], made.values["parts"]) == ("17", 62.5, 1)
    warnings = one.warnings()
    assert "press-4.temperature: readings that are not used: 10; the last one because its time is 97 s ahead" in warnings[0]
    assert (
        "record: 2; the last one because the value of press-4.part_done cannot be a key: it has more than 64 characters"
        in warnings[1]
    )
    state = next(each for each in one.sensors(at(60)) if each.name == "temperature")
    assert (state.value, state.readings, state.refused, state.late) == (62.5, 1, 10, 0)


def test_late_readings_are_counted_and_used_for_open_records_only() -> None:
    one = collector(dataset())
    one.add(readings([Reading("part_done", 1, 10.0), Reading("temperature", 50.0, 9.0, arrived=15.0)]))
    one.add(readings([Reading("temperature", 90.0, 9.5, arrived=15.1)], first=3))  # a moment too late
    (made,) = one.due(at(16))
    assert made.values["temp_mean"] == 50.0
    assert [each.late for each in one.sensors(at(16)) if each.name == "temperature"] == [2]


def test_a_backlog_that_comes_in_order_makes_all_of_its_records() -> None:
    later = 7200.0
    rows = [Reading("part_done", "now", 7100.0, arrived=7100.0)]
    for part in range(20):
        rows += [
            Reading("temperature", float(part), 30.0 * part, arrived=later + part * 0.01),
            Reading("part_done", part, 30.0 * part, arrived=later + part * 0.01),
        ]
    made = collected(dataset(), rows)
    assert [each.values["temp_mean"] for each in made] == [None, *map(float, range(20))]


def test_what_is_remembered_is_bounded_and_old_periods_are_not_made_again() -> None:
    one = collector(dataset(PERIODS))
    periods = REMEMBERED + 50
    one.add(readings([Reading("temperature", 1.0, 10.0 * number + 1) for number in range(periods)]))
    assert len(one.due(at(10.0 * periods + 60))) == periods
    checkpoint = one.checkpoint()
    assert len(checkpoint.returned) == REMEMBERED
    again = collector(dataset(PERIODS), checkpoint=checkpoint)
    again.add(readings([Reading("temperature", 5.0, 10.0 * number + 2, arrived=1e5) for number in (0, 49, 50, periods - 1)]))
    assert again.due(at(2e5)) == []
    again.add(readings([Reading("temperature", 5.0, 10.0 * periods + 2, arrived=2e5)], first=9))
    assert len(again.due(at(3e5))) == 1


def test_readings_are_forgotten_so_memory_and_the_checkpoint_follow_the_stream() -> None:
    one = collector(dataset())
    for batch in range(300):
        rows = [Reading("temperature", float(place), batch + place / 100) for place in range(100)]
        one.add(readings(rows, first=100 * batch + 1))
        one.due(at(batch + 1))
    # The window of 10 s and twice the waiting time of 5 s.
    assert 100 * 280 - 100 <= one.checkpoint().sequence <= 100 * 280 + 1


def test_a_measurement_that_was_given_up_makes_no_record_after_a_restart() -> None:
    declared = dataset(MEASUREMENTS.replace('">"', '"press-4.>"'))
    one = collector(declared)
    rows = [Reading("temperature", 1.0, second, measurement_id="process") for second in range(0, 150, 2)]
    one.add(readings(rows))
    assert one.due(at(148)) == []
    again = collector(declared, checkpoint=one.checkpoint())
    again.add(readings([Reading("temperature", 1.0, 150, measurement_id="process")], first=len(rows) + 1))
    assert again.due(at(1000)) == []


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_measurement_that_was_given_up_may_begin_again_after_a_pause(cut: int) -> None:
    seconds = [*range(0, 150, 2), *range(200, 210)]
    rows = [Reading("temperature", float(second), second, measurement_id="a") for second in seconds]
    one = collector(dataset(MEASUREMENTS.replace('">"', '"press-4.>"')))
    for first in range(0, len(rows), cut):
        one.add(readings(rows[first : first + cut], first=first + 1))
    (made,) = one.due(at(1000))
    assert made.values["temp_mean"] == 204.5


def test_a_trigger_makes_a_record_whatever_its_value_is() -> None:
    declared = dataset(
        """
collect:
  things: "*.*"
  columns: {temp_mean: {machine: press-4, name: temperature, over: 10s, take: mean}}
  record: {on: thing "press-4.done", id: measurement_id}
"""
    )
    values = [None, {"part": 7}, float("nan"), 5, "x"]
    made = collected(
        declared, [Reading("done", value, place, measurement_id=f"m{place}") for place, value in enumerate(values)]
    )
    assert [each.key for each in made] == ["m0", "m1", "m2", "m3", "m4"]


def test_without_pint_other_units_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion.cache_clear()
    monkeypatch.setitem(sys.modules, "pint", None)
    assert conversion("degF", "degC").problem == (
        "the unit is 'degF', and the declared one is 'degC'; to convert units, install pint: "
        f"`make install` in a clone, or `pip install './complex_system-{__version__}-py3-none-any.whl[units]'`"
    )
    conversion.cache_clear()


@pytest.mark.parametrize(
    ("unit", "declared", "value", "expected"),
    [
        ("degC", "degC", 5.0, 5.0),
        ("", "bar", 5.0, 5.0),
        ("N/mm^2", "MPa", 5.0, 5.0),
        ("°F", "°C", 212.0, 100.0),
        ("mbar", "bar", 1500.0, 1.5),
        ("l/min", "m³/h", 10.0, 0.6),
        ("m", "s", 1.0, "cannot be converted"),
        ("dBm", "W", 1.0, "is not linear"),
        ("rpm", "Hz", 60.0, "60 rpm would be 6.28 Hz"),
        ("9**9**9**9", "W", 1.0, "cannot be converted"),
        ("widgets", "W", 1.0, "the unit is 'widgets', and the declared one is 'W'"),
    ],
)
def test_units(unit: str, declared: str, value: float, expected: float | str) -> None:
    found = conversion(unit, declared)
    if isinstance(expected, str):
        assert expected in found.problem
    else:
        assert found.problem == ""
        assert value * found.factor + found.offset == pytest.approx(expected)
