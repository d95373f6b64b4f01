"""What a published message may hold, and the keys of records that came without one."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import msgpack
import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import raw_check
from complex_system.errors import InvalidRequestError
from complex_system.messaging.ingest.publisher import give_keys, published_records
from complex_system.messaging.things import to_thing

RECORD = {"a": 1.5, "b": "ü", "c": None}
TAKEN = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "payload",
    [
        serialize_to_bin(Thing, to_thing([RECORD], "Device")),
        serialize_to_bin(Thing, to_thing(RECORD, "Device")),
        msgpack.packb({"value": [RECORD], "machine": "press"}),
        json.dumps(RECORD).encode(),
        json.dumps([RECORD], indent=2).encode(),
        b" \r\n\t" + json.dumps(RECORD, ensure_ascii=False).encode(),
    ],
)
def test_a_record_is_found_in_every_form(payload: bytes) -> None:
    assert published_records(payload) == [RECORD]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[1",
        b"3",
        b'"x"',
        b"\xff\xfe",
        b"\xc1",
        b"{\xff}",
        b"\x80",
        msgpack.packb([RECORD]),
        b"[" * 100_000,
        b"{} {}",
    ],
)
def test_what_is_neither_json_nor_a_thing_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="Neither JSON"):
        published_records(payload)


def keys(
    message_id: str = "",
    sequence: int = 1,
    taken: datetime = TAKEN,
    count: int = 3,
    value: float = 1.0,
    source: str = "press-4",
) -> list[str]:
    records = [{ID: None, "a": value} for _ in range(count)]
    give_keys(records, source, message_id, sequence, taken)
    return [str(record[ID]) for record in records]


def test_keys_are_the_same_at_every_delivery_and_another_messages_are_others() -> None:
    assert keys() == keys()
    assert len({*keys(), *keys(sequence=2), *keys(taken=TAKEN + timedelta(microseconds=1)), *keys("a")}) == 12
    assert all(uuid.UUID(key).version == 7 and uuid.UUID(key).variant == uuid.RFC_4122 for key in [*keys(), *keys("a")])
    # They rise with the time at which the stream took the message.
    assert max(keys()) < min(keys(taken=TAKEN + timedelta(milliseconds=1)))


def test_with_an_id_of_its_own_a_message_has_the_same_keys_wherever_it_stands() -> None:
    assert keys("a") == keys("a", sequence=9, taken=TAKEN + timedelta(days=1))
    assert not set(keys("a")) & set(keys("a", value=2.0))
    # Another device that counts from 1 as well.
    assert not set(keys("a")) & set(keys("a", source="press-5"))


def test_keys_that_are_there_stay() -> None:
    records = [{ID: "own", "a": 1}, {ID: None, "a": 1}]
    give_keys(records, "", "", 1, TAKEN)
    assert records[0][ID] == "own"
    assert records[1][ID] == keys(count=2)[1]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'\xef\xbb\xbf{"a": 1}', [{"a": 1}]),
        (b'{"a": 1}\r\n\n', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
    ],
)
def test_a_mark_and_lines_are_fine_in_messages(payload: bytes, expected: list[dict[str, int]]) -> None:
    assert published_records(payload) == expected


def test_nan_in_a_message_costs_its_field_only() -> None:
    fields = {"material_id": "00000000", "rohwert_2_labormessung": 1.0}
    for written in (b'{"material_id": "00000000", "rohwert_2_labormessung": 1.0, "rohwert_1_labormessung": NaN}',
                    b'[{"material_id": "00000000", "rohwert_2_labormessung": 1.0, "rohwert_1_labormessung": NaN}]\n'):  # fmt: skip
        [record] = raw_check(Dataset.load())(published_records(written))
        assert record["rohwert_1_labormessung"] is None
        assert {name: record[name] for name in fields} == fields


@pytest.mark.parametrize("payload", [b'{"a": 1}\n5', b'{"a": NaN', b'{"a": 1}\n{"a": '])
def test_what_is_no_json_stays_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="Neither JSON"):
        published_records(payload)
