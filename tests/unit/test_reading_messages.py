"""Readings and labels as machines and laboratories send them, and what is refused without harm to others."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.aio.msg import Msg

from complex_system.domain.collecting import LabelRule
from complex_system.messaging.reading_messages import Decoded, Decoder

STORED = 1_780_000_000.0
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def message(data: Any, subject: str = "things.press-4.temperature", sequence: int = 7) -> Msg:
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Msg(Client(), subject, f"$JS.ACK.READINGS.c.1.{sequence}.{sequence}.{int(STORED * 1e9)}.0", payload)


def read(*messages: Msg, source: str = "", match: str = "id", after: int = 0) -> Decoded:
    rule = LabelRule(column="strength", match=match, **{"from": source}) if source else None
    return Decoder(rule).decode(messages, after=after)


@pytest.mark.parametrize(("data", "value"), [
    (b"21.5", 21.5), (b" 21 \n", 21), (b"true", True), (b"ON", "ON"), (b'"ON"', "ON"), ({"value": 3}, 3),
    ([{"value": 1}], 1), ({"value": None}, None), (b"\xef\xbb\xbf21.5", 21.5),
    (msgpack.packb({"machine": "press-4", "name": "temperature", "value": 10, "timestamp": NOON}, datetime=True), 10),
    (msgpack.packb({"machine": "press-4", "name": "temperature", "value": "\n"}), "\n"),
])  # fmt: skip
def test_a_value_is_read_in_each_form(data: Any, value: Any) -> None:
    found = read(message(data))
    assert found.faults == []
    assert list(found.readings.values) == [value]
    assert (found.readings.machines, found.readings.names) == (("press-4",), ("temperature",))
    assert found.last == 7


@pytest.mark.parametrize(("timestamp", "seconds"), [
    (NOON.timestamp(), NOON.timestamp()), (1000 * NOON.timestamp(), NOON.timestamp()), (NOON.isoformat(), NOON.timestamp()),
    ("2026-05-01T12:00:00", NOON.timestamp()), ("2026-05-01T14:00:00+02:00", NOON.timestamp()), (None, STORED),
])  # fmt: skip
def test_a_time_is_read_in_each_form(timestamp: Any, seconds: float) -> None:
    [time] = read(message({"value": 1, "timestamp": timestamp})).readings.timestamps
    assert time == round(seconds * 1e6)


@pytest.mark.parametrize("data", [
    b"", b"{", b'{"value": ', b"[1, 2", b"\xff\xfe", b"x" * 300, msgpack.packb({1: 2}), b"\x81",
    *({"value": 1, "timestamp": time} for time in ("noon", True, 1e300, -1, math.nan, "9999-12-31T23:59:59", [])),
    {"value": 1, "machine": "press-5"}, {"value": 1, "name": "pressure"},
])  # fmt: skip
def test_what_is_no_reading_costs_itself_only(data: Any) -> None:
    found = read(message(1, sequence=1), message(data, sequence=2), message(2, sequence=3))
    assert list(found.readings.values) == [1, 2]
    assert len(found.faults) == 1
    assert found.faults[0].startswith("things.press-4.temperature: ")


def test_a_fastiot_things_name_may_have_blanks_which_its_subject_has_not() -> None:
    thing = Thing(machine="Press 4", name="oil temperature", value=1.0, timestamp=NOON, unit="degC", measurement_id="m")
    found = read(message(serialize_to_bin(Thing, thing), thing.default_subject.name)).readings
    assert (found.machines, found.names, found.units) == (("Press 4",), ("oil temperature",), ("degC",))
    assert found.measurement_ids == ("m",)


def test_labels_come_on_a_subject_or_as_things_with_the_key_beside_or_inside() -> None:
    lab = message([{"id": "P-1", "strength": 41.5, "timestamp": 5}, {"id": 2, "value": 42}], "lab.results")
    labels = read(lab, source='subject "lab.results"').labels
    assert [(each.record, each.value, each.at) for each in labels] == [("P-1", 41.5, 5.0), ("2", 42, STORED)]
    assert len({each.key for each in labels}) == 2
    inside = message({"value": {"id": "P-1", "strength": 3}}, "things.lab.strength")
    assert read(inside, source='thing "lab.strength"').labels[0].value == 3
    beside = message({"value": 3, "measurement_id": "m-1"}, "things.lab.strength")
    found = read(beside, source='thing "lab.*"', match="measurement_id")
    assert [each.record for each in found.labels] == ["m-1"]
    assert len(found.readings) == 0


@pytest.mark.parametrize("data", [{"strength": 1}, {"id": "", "strength": 1}, {"id": True, "strength": 1},
                                  {"id": "a", "strength": "41"}, {"id": "a"}, {"id": "x" * 201, "strength": 1}])  # fmt: skip
def test_a_label_without_key_or_number_is_refused(data: Any) -> None:
    found = read(message(data, "lab.results"), source='subject "lab.results"')
    assert (found.labels, len(found.faults)) == ([], 1)


def test_labels_and_faults_that_were_returned_before_are_not_returned_again_and_readings_are() -> None:
    again = [message(1, sequence=5), message(b"{", sequence=6), message({"id": "a", "strength": 1}, "lab.results", 7)]
    found = read(*again, source='subject "lab.results"', after=7)
    assert (list(found.readings.values), found.labels, found.faults) == ([1], [], [])
    assert len(read(*again, source='subject "lab.results"', after=6).labels) == 1
