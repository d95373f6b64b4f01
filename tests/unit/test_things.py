"""Things in bytes: the same bytes as FastIoT's own, whatever they carry, in both directions."""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from fastiot.core import serialization as fastiot
from fastiot.msg import Thing
from pydantic import ValidationError

from complex_system.messaging.things import serialize_from_bin, serialize_to_bin, to_thing


class Level(enum.IntEnum):
    HIGH = 3


VALUES = [
    None, True, 2**63, -(2**63), 5e-324, -0.0, float("inf"), "ä\0\U0001f600", b"\x00\xff", bytearray(b"ab"), [], {}, (1, "a"),
    {1: "b"}, [{"_id": "a", "x": 1.5, "y": None}] * 3, {"nested": {"list": [[1], [2.5, None]]}}, OrderedDict(b=1, a=2), Level.HIGH,
    np.float64(0.1), np.str_("text"), {"rmse": np.float64(14.2)}, datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_bytes_are_fastiots(value: Any) -> None:
    thing = to_thing(value, "Tester")
    assert serialize_to_bin(Thing, thing) == fastiot.serialize_to_bin(Thing, thing)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_fastiot_sends_is_read_as_fastiot_reads_it(value: Any) -> None:
    packed = fastiot.serialize_to_bin(Thing, to_thing(value, "Tester"))
    if value == {1: "b"}:  # msgpack refuses such a key unless it is told to take it
        assert serialize_from_bin(Thing, packed).value == value
        return
    expected = fastiot.serialize_from_bin(Thing, packed)
    found = serialize_from_bin(Thing, packed)
    assert found == expected
    assert found.timestamp.tzinfo is not None
    assert type(found.value) is type(expected.value)
    assert found.__fields_set__ == expected.__fields_set__


@pytest.mark.parametrize(
    "fields",
    [
        {"machine": "m", "name": "n", "value": [1], "timestamp": "2026-01-02T03:04:05"},
        {"machine": 7, "name": "n", "value": 1, "timestamp": 1_700_000_000},
        {"machine": "m", "name": "n", "value": 1, "timestamp": datetime(2026, 1, 2, tzinfo=UTC), "more": 1},
        {"machine": "m", "name": "n", "timestamp": datetime(2026, 1, 2, tzinfo=UTC), "unit": "s", "measurement_id": "i"},
    ],
)
def test_what_is_left_out_or_written_otherwise_is_read_as_before(fields: dict[str, Any]) -> None:
    packed = fastiot.serialize_to_bin(dict, fields)
    expected = fastiot.serialize_from_bin(Thing, packed)
    assert serialize_from_bin(Thing, packed) == expected
    assert expected.timestamp.tzinfo is not None


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", b"\x01", b"\x90", b"\xa3abc", b"\xda\xff", b"\x80", fastiot.serialize_to_bin(dict, {"value": 1})],
)
def test_bytes_that_are_no_thing_are_an_error(packed: bytes) -> None:
    with pytest.raises((ValueError, TypeError, ValidationError)):
        serialize_from_bin(Thing, packed)


@pytest.mark.parametrize("value", [object(), np.int64(3), np.zeros(3), {"a": {"b": 1 + 2j}}])
def test_what_cannot_be_sent_is_an_error_for_the_sender(value: Any) -> None:
    with pytest.raises(TypeError):
        fastiot.serialize_to_bin(Thing, to_thing(value, "Tester"))
    with pytest.raises(TypeError):
        serialize_to_bin(Thing, to_thing(value, "Tester"))


def test_another_class_than_thing_goes_fastiots_way() -> None:
    assert serialize_from_bin(dict, serialize_to_bin(dict, {"a": [1, 2]})) == {"a": [1, 2]}
