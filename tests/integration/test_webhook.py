"""The webhook against a real HTTP server that is away, refuses, or hangs; its clock is simulated, so that no pause is waited for."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from complex_system.errors import DeclarationError
from complex_system.local.servers import free_port
from complex_system.monitoring.alerts.channels import WebhookChannel, WebhookMessage
from complex_system.service_layer.monitoring import delivery
from outgoing import Outgoing, alert
from receiver import Receiver

DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.stop()


def sending_to(receiver: Receiver, path: str = "/hook", secret: str = "") -> Outgoing:
    return Outgoing([WebhookChannel(f"http://127.0.0.1:{receiver.server_port}{path}", "plant", secret)])


async def test_messages_arrive_once_and_in_order(receiver: Receiver) -> None:
    outgoing = sending_to(receiver, "/hook?channel=plant")
    for number in range(20):
        outgoing.raised(number)
    await outgoing.deliver()
    await outgoing.deliver()
    assert [body["alert"]["value"] for body in receiver.bodies] == list(range(20))
    assert list(receiver.bodies[0]) == ["event", "system", "text", "alert"]
    assert msgspec.convert(receiver.bodies[0], WebhookMessage) == WebhookMessage(
        "alert-raised", "plant", "Grüße 0", alert(0)
    )
    assert set(receiver.paths) == {"/hook?channel=plant"}
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert outgoing.outcomes() == {"delivered": 20}


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
async def test_a_receiver_that_fails_gets_the_message_again_with_the_same_id(receiver: Receiver, status: int) -> None:
    receiver.answers = [status] * 3
    outgoing = sending_to(receiver)
    outgoing.raised(1)
    outgoing.raised(2)
    await outgoing.deliver_for(10)
    assert [body["alert"]["value"] for body in receiver.bodies] == [1, 2]
    ids = [headers["Webhook-Id"] for headers in receiver.headers]
    assert ids == [f"{alert(1).key}-raised"] * 4 + [f"{alert(2).key}-raised"]
    assert outgoing.alerts[alert(1).key].messages[0].attempts == 4


async def test_a_receiver_that_is_away_for_hours_gets_everything_later() -> None:
    first = Receiver(free_port())  # which nobody else gets while it is away
    outgoing = sending_to(first)
    first.stop()
    for number in range(5):
        outgoing.raised(number)
    await outgoing.deliver_for(6 * 3600)
    [waiting] = [each for each in outgoing.delivery.figures().items() if each[0].name == "messages/waiting"]
    assert waiting[1] == 5
    assert outgoing.delivery.figures().number("messages/failing_for", "webhook") == pytest.approx(6 * 3600, abs=10)
    second = Receiver(first.server_port)
    try:
        await outgoing.deliver_for(300)
        assert [body["alert"]["value"] for body in second.bodies] == list(range(5))
    finally:
        second.stop()


async def test_at_the_deadline_a_message_is_given_up_and_the_next_is_tried(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500] * 10_000
    outgoing = sending_to(receiver)
    outgoing.raised(1)
    await outgoing.deliver_for(72 * 3600)
    assert outgoing.outcomes() == {"waiting": 1}
    outgoing.raised(2)
    receiver.answers = [500]
    await outgoing.deliver_for(600)
    assert [body["alert"]["value"] for body in receiver.bodies] == [2]
    assert outgoing.outcomes() == {"expired": 1, "delivered": 1}
    assert "rule 'rule-1' is expired" in caplog.text


async def test_a_message_that_is_refused_does_not_hold_up_the_next(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [422]
    outgoing = sending_to(receiver)
    outgoing.raised(1)
    outgoing.raised(2)
    await outgoing.deliver()
    assert [body["alert"]["value"] for body in receiver.bodies] == [2]
    assert "rule 'rule-1' is refused" in caplog.text
    assert outgoing.alerts[alert(1).key].messages[0].problem == "status 422"


async def test_a_receiver_that_is_away_for_ever_costs_a_bounded_number_of_messages(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "MAX_WAITING", 3)
    receiver.answers = [500] * 10_000
    outgoing = sending_to(receiver)
    for number in range(10):
        outgoing.raised(number)
    assert outgoing.outcomes() == {"waiting": 3, "dropped": 7}
    assert "rule 'rule-6' is dropped" in caplog.text
    assert await outgoing.delivery.close(0.1) == 3


async def test_login_and_address_are_sent_and_never_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = [503]
    address = f"http://plant:geh%20eim@127.0.0.1:{receiver.server_port}/token-4711?key=abc"
    outgoing = Outgoing([WebhookChannel(address, secret="kennwort-kennwort")])
    outgoing.raised(1)
    await outgoing.deliver_for(5)
    assert receiver.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"plant:geh eim").decode()
    assert receiver.paths[-1] == "/token-4711?key=abc"
    assert "status 503" in caplog.text
    noted = caplog.text + repr(outgoing.alerts) + repr(await outgoing.delivery.test())
    for secret in ("geh", "plant:", "token-4711", "abc", "kennwort"):
        assert secret not in noted


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_web_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        WebhookChannel(url)
    assert "http://" in caught.value.message
    assert "etc" not in caught.value.message


# Signatures

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """The ten lines of the documentation."""
    [code] = re.findall(r"```python\n(.*?def verify.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102
    names["verify"](secret, headers, body)  # type: ignore[operator]


def lowered(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def test_the_code_of_the_documentation_verifies_a_message_and_refuses_a_changed_one(receiver: Receiver) -> None:
    for secret in (SECRET, "a secret of one's own"):
        outgoing = Outgoing([WebhookChannel(f"http://127.0.0.1:{receiver.server_port}/", "plant", secret)])
        outgoing.raised(1)
        await outgoing.deliver()
        headers, body = lowered(receiver.headers[-1]), receiver.raw[-1]
        verify(secret, headers, body)
        for wrong in (
            (secret, headers, body.replace(b"plant", b"Plant")),
            (secret, {**headers, "webhook-id": "another"}, body),
            (secret, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 600)}, body),
            ("another secret of one's own", headers, body),
        ):
            with pytest.raises(ValueError, match="not from the system"):
                verify(*wrong)


async def test_an_old_message_is_refused_although_it_was_signed(receiver: Receiver) -> None:
    channel = WebhookChannel(f"http://127.0.0.1:{receiver.server_port}/", "plant", SECRET, now=lambda: 1_614_265_330.0)
    channel.send_test()
    assert receiver.headers[-1]["Webhook-Timestamp"] == "1614265330"
    with pytest.raises(ValueError, match="too old"):
        verify(SECRET, lowered(receiver.headers[-1]), receiver.raw[-1])


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification 1.0.
    from complex_system.monitoring.alerts.channels import _key_of, signature_of

    signature = signature_of(_key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["short", "whsec_no base64!", "whsec_AAAA"])
def test_a_secret_that_protects_nothing_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        WebhookChannel("http://127.0.0.1:9", secret=secret)
    assert secret not in caught.value.message


async def test_the_beginning_is_told_as_it_was_where_the_alert_has_ended_meanwhile(receiver: Receiver) -> None:
    outgoing = sending_to(receiver)
    outgoing.raised(1)
    outgoing.ended(1)
    await outgoing.deliver()
    told = [(body["event"], body["text"], body["alert"]["ended"]) for body in receiver.bodies]
    assert told == [("alert-raised", "Grüße 1", None), ("alert-ended", "Over.", outgoing.alerts[alert(1).key].ended)]
    assert msgspec.convert(receiver.bodies[1]["alert"], type(alert(1))) == replace(
        outgoing.alerts[alert(1).key], messages=()
    )
