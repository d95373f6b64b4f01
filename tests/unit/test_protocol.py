"""Messages: what is on the wire, what is refused and with which words, and that releases understand each other."""

from __future__ import annotations

import inspect
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from fastiot.msg import Thing
from subject_reference import PAGE, subject_reference

from complex_system.errors import InternalError, InvalidRequestError
from complex_system.messaging.things import serialize_from_bin, serialize_to_bin, to_thing
from complex_system.protocol import database, documents, operations, training
from complex_system.protocol.base import Empty, Message, to_wire


def test_a_message_travels_in_a_thing_as_a_plain_mapping() -> None:
    beat = operations.Heartbeat(service="echo", state="working", cpu_percent=1.5)
    packed = serialize_to_bin(Thing, to_thing(beat, "EchoService"))
    thing = serialize_from_bin(Thing, packed)
    assert thing.machine == "EchoService"
    assert thing.timestamp <= datetime.now(UTC)
    assert thing.value == to_wire(beat)
    assert operations.SERVICE_HEARTBEAT.decode(thing.value) == beat


def test_what_is_nested_becomes_objects() -> None:
    alert = operations.Alert(
        key="k", rule="r", metric="m", subject="", severity="warning", retrain=True, since=1, began=2, value=3, newest=3,
        threshold=2, sentence="Too high.", actions=(operations.Action(round="one", at=4.0),),
    )  # fmt: skip
    assert operations.ALERT_RAISED.decode(to_wire(alert)) == alert
    assert alert.message == "Too high."


def test_messages_of_an_older_and_of_a_newer_release_are_understood() -> None:
    old = {"trainer": "t", "framework": "f", "round": "r", "status": "failed", "seconds": 1, "error": "no data"}
    assert training.TRAINING_FINISHED.decode(old).cross_validation is None
    assert training.TRAINING_FINISHED.decode({**old, "carbon_grams": 3}).error == "no data"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "takes a mapping, not list"),
        ({}, "missing required field `version`"),
        ({"version": "v", "limit": 0}, "field 'limit': expected `int` >= 1"),
        ({"version": "v", "limit": "many"}, "field 'limit': expected `int | null`, got `str`"),
        ({"version": "v", "after": "x" * 65}, "field 'after': expected `str` of length <= 64"),
        ({"version": 7}, "field 'version': expected `str`, got `int`"),
        ({"version": "v", "share": [1]}, "field 'share': expected `array` of length 2"),
    ],
)
def test_a_request_that_is_not_one_is_refused_with_field_problem_and_what_is_allowed(value: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        database.GET_UNPROCESSED.decode_request(value)
    assert said in refused.value.message
    assert refused.value.message.startswith("'get-unprocessed-page'")
    if isinstance(value, dict):
        assert "Its fields are: version, after, limit, share, revisions." in refused.value.message


def test_unknown_fields_of_a_request_are_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert database.GET_UNPROCESSED.decode_request({"version": "v", "limt": 3}).limit is None
    assert "'get-unprocessed-page': unknown field(s) ignored: limt" in caplog.text


def test_a_request_without_parameters_may_come_as_nothing() -> None:
    assert training.TRAIN_MODEL.decode_request(None) == training.TrainRequest()
    assert database.GET_COUNTS.decode_request({}) == Empty()


def test_a_reply_that_is_not_understood_is_a_fault_of_the_system() -> None:
    with pytest.raises(InternalError, match="get-record-counts"):
        database.GET_COUNTS.decode_reply({"raw": 1})
    assert training.GET_COMPARISON.decode_reply(None) is None


def test_a_request_sends_what_differs_from_the_defaults_so_that_an_older_service_understands_it() -> None:
    assert to_wire(documents.DocumentsRequest(kind="point", start=1.0, end=2.0)) == {"kind": "point", "from": 1.0, "to": 2.0}
    assert to_wire(training.TrainRequest(round="r")) == {"round": "r"}


def test_field_names_that_python_reserves_are_spelled_as_published() -> None:
    assert to_wire(documents.DocumentsRequest(kind="point", start=1.0, end=2.0))["from"] == 1.0
    assert to_wire(database.Rejection(id="a", reason="r"))["_id"] == "a"


def test_the_reference_of_subjects_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == subject_reference(), "run `make docs`"


def test_every_field_of_every_message_is_documented() -> None:
    def kinds(kind: type[Message]) -> list[type[Message]]:
        return [kind, *(deeper for each in kind.__subclasses__() for deeper in kinds(each))]

    for kind in kinds(Message)[1:]:
        for name in vars(kind).get("__annotations__", {}):
            assert f"\n    {name}: " in inspect.cleandoc(kind.__doc__ or ""), f"{kind.__name__}.{name}"
