"""The webhook against a real HTTP server that is away, refuses, or hangs."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator

import msgspec
import pytest

from complex_system.errors import DeclarationError
from complex_system.protocol.operations import Alert
from complex_system.service_layer.monitoring import alerting
from complex_system.service_layer.monitoring.alerting import Webhook, WebhookMessage
from receiver import Receiver
from support import eventually


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.stop()


def hook_to(receiver: Receiver, path: str = "/hook") -> Webhook:
    return Webhook(f"http://127.0.0.1:{receiver.server_port}{path}", first_pause=0.02)


def message(number: int) -> WebhookMessage:
    alert = Alert(
        key=str(number), rule=f"rule-{number}", metric="drift/psi", subject="R2", severity="warning", retrain=False, since=1.0,
        began=2.0, value=number, newest=number, threshold=0.2, sentence="Grüße",
    )  # fmt: skip
    return WebhookMessage("alert-raised", "plant", "Grüße", alert)


async def test_messages_arrive_once_and_in_order(receiver: Receiver) -> None:
    hook = hook_to(receiver, "/hook?channel=plant")
    for number in range(20):
        hook.send(message(number))
    await eventually(lambda: len(receiver.bodies) == 20)
    assert [body["alert"]["value"] for body in receiver.bodies] == list(range(20))
    assert list(receiver.bodies[0]) == ["event", "system", "text", "alert"]
    assert msgspec.convert(receiver.bodies[0], WebhookMessage) == message(0)
    assert set(receiver.paths) == {"/hook?channel=plant"}
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert hook.close(5) == 0


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
async def test_a_receiver_that_fails_gets_the_message_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [status] * 3
    hook = hook_to(receiver)
    hook.send(message(1))
    hook.send(message(2))
    await eventually(lambda: len(receiver.bodies) == 2)
    assert [body["alert"]["value"] for body in receiver.bodies] == [1, 2]
    assert len(receiver.paths) == 5
    assert hook.close(5) == 0


async def test_nothing_is_lost_while_the_receiver_is_away() -> None:
    first = Receiver()
    port = first.server_port
    hook = hook_to(first)
    first.stop()
    for number in range(5):
        hook.send(message(number))
    assert hook.waiting == 5
    second = Receiver(port)
    try:
        await eventually(lambda: len(second.bodies) == 5)
        assert [body["alert"]["value"] for body in second.bodies] == list(range(5))
    finally:
        second.stop()
    assert hook.close(5) == 0


async def test_a_message_that_is_refused_does_not_hold_up_the_next(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [422]
    hook = hook_to(receiver)
    hook.send(message(1))
    hook.send(message(2))
    await eventually(lambda: receiver.bodies)
    assert [body["alert"]["value"] for body in receiver.bodies] == [2]
    assert "refuses an alert with status 422" in caplog.text
    assert hook.close(5) == 0


def test_who_is_away_for_ever_costs_a_bounded_number_of_messages(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alerting, "MAX_WAITING", 3)
    receiver.answers = [500] * 10_000
    hook = hook_to(receiver)
    for number in range(10):
        hook.send(message(number))
    assert hook.waiting == 3
    assert "an alert of rule 'rule-6' is dropped" in caplog.text
    assert hook.close(0.1) == 3


async def test_login_and_address_are_sent_and_never_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = [503]
    hook = Webhook(f"http://plant:geh%20eim@127.0.0.1:{receiver.server_port}/token-4711?key=abc", first_pause=0.02)
    hook.send(message(1))
    await eventually(lambda: receiver.bodies)
    assert receiver.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"plant:geh eim").decode()
    assert receiver.paths[-1] == "/token-4711?key=abc"
    assert "status 503" in caplog.text
    for secret in ("geh", "plant:", "token-4711", "abc"):
        assert secret not in caplog.text
    assert hook.close(5) == 0


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_web_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Webhook(url)
    assert "http://" in caught.value.message
    assert "etc" not in caught.value.message
