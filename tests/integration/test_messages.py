"""Messages to people, by Apprise to real servers for mail and HTTP: grouped, held back, repeated; the clock is simulated."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from complex_system.errors import DeclarationError
from complex_system.local.servers import free_port
from complex_system.monitoring.alerts.channels import Channel, channels_of
from complex_system.monitoring.alerts.messages import MessagePlan, Told, parse_plan
from complex_system.service_layer.monitoring import delivery
from mail_server import MailServer
from outgoing import Outgoing
from receiver import Receiver

MORNING = 1_800_000_000.0
"""2027-01-15 08:00 UTC, a Friday."""
NIGHTS = "messages:\n  group: 30\n  zone: Asia/Tokyo\n  quiet:\n  - {from: 16:00, to: 18:00}\n"
"""Quiet from 07:00 to 09:00 UTC."""


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise waits for 5.5 s between two messages to one service."""
    monkeypatch.setattr("apprise.NotifyBase.request_rate_per_sec", 0)


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


def by_mail(server: MailServer, options: str = "") -> list[Channel]:
    address = f"mailto://plant:geheim@127.0.0.1:{server.port}?from=plant@test.example&to=shift@test.example{options}"
    return channels_of("", "", address, "plant", UTC)


def body_of(server: MailServer, place: int = -1) -> str:
    part = server.mails[place].get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


async def test_an_alert_arrives_as_mail(mail_server: MailServer) -> None:
    outgoing = Outgoing(by_mail(mail_server), MessagePlan(group=0))
    outgoing.raised(1, severity="critical", sentence="<b>Grüße & mehr</b>")
    await outgoing.deliver()
    assert mail_server.recipients == [["shift@test.example"]]
    assert mail_server.mails[0]["subject"] == "[plant] rule-1 (R2): critical"
    assert body_of(mail_server).startswith("CRITICAL rule-1 (R2), since 1970-01-01 00:00 UTC\n<b>Grüße & mehr</b>\n")
    [message] = outgoing.alerts["key-001"].messages
    assert (message.channel, message.outcome, message.attempts) == ("mailto", "delivered", 1)
    assert f"Message {message.id}" in body_of(mail_server)


async def test_alerts_of_a_short_time_are_one_message(mail_server: MailServer) -> None:
    outgoing = Outgoing(by_mail(mail_server), MessagePlan(group=30))
    outgoing.raised(1)
    outgoing.now += 20
    outgoing.raised(2, severity="critical")
    outgoing.ended(1)
    await outgoing.deliver()
    assert not mail_server.mails, "the first waits for 30 s"
    outgoing.now += 10
    await outgoing.deliver()
    outgoing.raised(3)
    await outgoing.deliver_for(60)
    assert [mail["subject"] for mail in mail_server.mails] == [
        "[plant] 2 alerts, 1 of them open",
        "[plant] rule-3 (R2): warning",
    ]
    text = body_of(mail_server, 0)
    assert "ENDED rule-1 (R2), 1970-01-01 00:00 UTC to 2027-01-15 08:00 UTC\nGrüße 1\nOver.\n" in text
    assert "CRITICAL rule-2 (R2)" in text
    assert text.count("rule-1") == 1
    assert outgoing.outcomes() == {"delivered": 4}


async def test_quiet_hours_hold_back_and_end_with_a_summary(mail_server: MailServer) -> None:
    plan = parse_plan(NIGHTS)
    outgoing = Outgoing(by_mail(mail_server), plan, MORNING)
    outgoing.raised(1)
    outgoing.raised(2, severity="info")
    outgoing.now += 600
    outgoing.raised(3, severity="critical")
    outgoing.ended(1)
    await outgoing.deliver_for(1800)
    assert [mail["subject"] for mail in mail_server.mails] == ["[plant] rule-3 (R2): critical"]
    await outgoing.deliver_for(1200 - 1)
    assert len(mail_server.mails) == 1, "09:00 UTC is not over"
    await outgoing.deliver_for(2)
    assert mail_server.mails[1]["subject"] == "[plant] 2 alerts of quiet hours, 1 of them open"
    assert "INFO rule-2" in body_of(mail_server)
    assert "ENDED rule-1" in body_of(mail_server)
    assert [message.quiet for message in outgoing.alerts["key-001"].messages] == [True, True]
    assert outgoing.outcomes() == {"delivered": 4}


async def test_a_mail_server_that_is_away_gets_the_same_message_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    first = MailServer(free_port())  # not of the kernel's, which gives one to somebody else while nobody listens there
    outgoing = Outgoing(by_mail(first), MessagePlan(group=0))
    first.stop()
    outgoing.raised(1)
    await outgoing.deliver()
    [before] = outgoing.alerts["key-001"].messages
    assert before.outcome == "waiting"
    assert before.id
    assert "Connection error" in before.problem
    assert not logging.getLogger("apprise").propagate, "pytest listens to such loggers, too; our log does not"
    ours = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("apprise"))
    assert "Connection refused" in ours
    for secret in ("geheim", "test.example"):
        assert secret not in ours + repr(outgoing.alerts)
    second = MailServer(first.port)
    try:
        second.answers = ["451 try again later"]
        await outgoing.deliver_for(120)
        assert f"Message {before.id}" in body_of(second)
        assert len(second.mails) == 1
    finally:
        second.stop()
    [after] = outgoing.alerts["key-001"].messages
    assert (after.outcome, after.attempts, after.problem, after.id) == ("delivered", 3, "", before.id)


async def test_one_receiver_that_fails_holds_up_no_other_and_gets_nothing_twice(mail_server: MailServer) -> None:
    receiver = Receiver()
    try:
        urls = (
            f"json://127.0.0.1:{receiver.server_port}/token-4711,"
            f"mailto://127.0.0.1:{mail_server.port}?from=a@test.example&to=b@test.example,c@test.example\n"
            f"json://127.0.0.1:{free_port()}/token-4712"
        )
        channels = channels_of(f"http://127.0.0.1:{receiver.server_port}/hook", "", urls, "plant", UTC)
        assert [each.name for each in channels] == ["webhook", "json", "mailto", "json-2"]
        outgoing = Outgoing(channels, MessagePlan(group=0))
        outgoing.raised(1)
        await outgoing.deliver_for(60)
        assert {each.channel: each.outcome for each in outgoing.alerts["key-001"].messages} == {
            "webhook": "delivered", "json": "delivered", "mailto": "delivered", "json-2": "waiting",
        }  # fmt: skip
        assert sorted(receiver.paths) == ["/hook", "/token-4711"]
        sent = next(body for body in receiver.bodies if "message" in body)
        assert (sent["title"], sent["type"]) == ("[plant] rule-1 (R2): warning", "warning")
        assert sorted(mail_server.recipients) == [["b@test.example"], ["c@test.example"]]
        assert "4712" not in repr(outgoing.alerts)

        tested = {each.channel: each.problem for each in (await outgoing.delivery.test()).channels}
        assert set(tested) == {f"webhook at 127.0.0.1:{receiver.server_port}", "json", "mailto", "json-2"}
        assert [name for name, problem in tested.items() if problem] == ["json-2"]
        assert "4712" not in tested["json-2"]
        assert {body["event"] for body in receiver.bodies if "event" in body} == {"alert-raised", "test"}
    finally:
        receiver.stop()


@pytest.mark.parametrize("url", ["nonsense://token-4711/x", "slack://token-4711", "json://token-4711:x/", "token-4711"])
def test_an_address_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        channels_of("", "", url, "plant", UTC)
    assert "4711" not in str(caught.value)


async def test_many_alerts_are_one_readable_message(mail_server: MailServer) -> None:
    outgoing = Outgoing(by_mail(mail_server), MessagePlan(zone=ZoneInfo("Asia/Tokyo"), group=30))
    for number in range(60):
        outgoing.raised(number)
    await outgoing.deliver_for(31)
    assert len(mail_server.mails) == 1
    assert mail_server.mails[0]["subject"] == "[plant] 60 alerts, 60 of them open"
    assert body_of(mail_server).count("WARNING") == 20
    assert "And 40 more: rule-20 (R2), " in body_of(mail_server)


class Hanging(Channel):
    """Never comes back while the test runs."""

    for_people = True

    def __init__(self) -> None:
        super().__init__("hanging")
        self.open = threading.Event()

    def send(self, told: Sequence[Told]) -> None:
        self.open.wait()

    def send_test(self) -> None:
        self.open.wait()


async def test_a_service_that_never_answers_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "SEND_SECONDS", 0.05)
    hanging = Hanging()
    outgoing = Outgoing([hanging], MessagePlan(group=0))
    outgoing.raised(1)
    await outgoing.deliver()
    [message] = outgoing.alerts["key-001"].messages
    assert (message.outcome, message.attempts, message.problem) == ("waiting", 1, "no answer within 0.05 s")
    hanging.open.set()
    monkeypatch.setattr(delivery, "SEND_SECONDS", 60.0)
    await outgoing.deliver_for(2)
    assert outgoing.outcomes() == {"delivered": 1}
