"""Messaging against a real NATS server: what FastIoT lacks and we add."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastiot.msg import Thing

from complex_system.errors import (
    InternalError,
    InvalidRecordError,
    NobodyListensError,
    ReplyTimeoutError,
    TooLargeError,
)
from complex_system.local.servers import NATS_MAX_PAYLOAD, Server
from complex_system.logs import REQUEST
from complex_system.messaging import lease
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import event_subject, reply_subject
from complex_system.messaging.things import serialize_from_bin, serialize_to_bin, to_thing
from complex_system.protocol.base import Empty, Event, Request
from complex_system.protocol.operations import SERVICE_HEARTBEAT, health_request
from complex_system.settings import Settings
from support import TesterService, eventually, running

ECHO = Request("test-echo", Any, Any)
SLOW = Request("test-slow", Any, Any)
FAIL = Request("test-fail", Any, Any)
LARGE = Request("test-large", Any, Any)
ODD = Request("test-odd", Any, Any)
CANCELLED = Request("test-cancelled", Any, Any)
ID_OF = Request("test-id-of", Any, Any)
NEWS = Event("test-news", Any)


class EchoService(SystemService):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.echoed = 0
        self.heard: list[Any] = []
        self.slow_ones: list[Any] = []
        self.cancelled: list[Any] = []
        self.release = asyncio.Event()

    @answers(ECHO)
    async def echo(self, value: Any) -> Any:
        self.echoed += 1
        return {"replica": self.replica, "value": value}

    @answers(CANCELLED)
    async def cancel(self, value: Any) -> Any:
        self.cancelled.append(value)
        raise asyncio.CancelledError

    @answers(SLOW)
    async def slow(self, value: Any) -> Any:
        self.slow_ones.append(value)
        await self.release.wait()
        return value

    @answers(FAIL)
    async def fail(self, value: Any) -> Any:
        if value == "ours":
            raise InvalidRecordError("Record 3 is bad.", [{"record": 3, "id": None, "field": "x", "problem": "is bad"}])
        raise KeyError("/secret/path")

    @answers(LARGE)
    async def large(self, value: int) -> bytes:
        return b"x" * value

    @answers(ID_OF)
    async def id_of(self, depth: int) -> list[str]:
        request = REQUEST.get()
        assert request is not None
        return [request.id, *(await self.ask(ID_OF, depth - 1) if depth else [])]

    @answers(ODD)
    async def odd(self, _: Any) -> int:
        return 2**70  # msgpack has no integer of that size

    @hears(NEWS)
    async def news(self, value: Any) -> None:
        self.heard.append(value)
        if value == "bad":
            raise ValueError("bad news")


@pytest.fixture
def settings(nats_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(nats_server)


async def test_an_error_of_ours_arrives_as_itself(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings):
        with pytest.raises(InvalidRecordError, match="Record 3 is bad") as caught:
            await tester.ask(FAIL, "ours")
        assert caught.value.faults[0]["field"] == "x"


async def test_a_fault_inside_is_answered_without_its_text_and_the_service_goes_on(
    tester: TesterService, settings: Settings
) -> None:
    async with running(EchoService, settings):
        with pytest.raises(InternalError) as caught:
            await tester.ask(FAIL, "theirs")
        assert "secret" not in caught.value.message
        assert (await tester.ask(ECHO, 1))["value"] == 1


async def test_bytes_that_are_no_thing_get_an_error_reply(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings):
        for payload in (b"", b"\xc1garbage", b"\x93\x01\x02\x03"):
            reply = await tester.broker._client.request(ECHO.name, payload, timeout=5)
            assert b"InvalidRequestError" in reply.data
        assert (await tester.ask(ECHO, 2))["value"] == 2


async def test_a_request_has_an_id_which_goes_on_to_the_services_that_are_asked_for_it(
    tester: TesterService, settings: Settings
) -> None:
    async with running(EchoService, settings):
        first, second, third = await tester.ask(ID_OF, 2)
        assert first == second == third
        assert first not in (await tester.ask(ID_OF, 1))
        packed = serialize_to_bin(Thing, to_thing(1, "Test"))
        for name, sent, taken in (
            ("x-request-id", "press-4/17", True),
            ("X-Request-Id", "a", True),
            ("x-request-id", "a b", False),
        ):
            reply = await tester.broker._client.request(ID_OF.name, packed, timeout=5, headers={name: sent})
            found = serialize_from_bin(Thing, reply.data).value
            assert (set(found) == {sent}) == taken


async def test_a_slow_request_does_not_hold_up_the_next(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        slow = asyncio.create_task(tester.ask(SLOW, "done"))
        assert (await tester.ask(ECHO, 3))["value"] == 3
        assert not slow.done()
        service.release.set()
        assert await slow == "done"


async def test_replicas_share_the_requests(tester: TesterService, settings: Settings) -> None:
    a, b = settings.copy(update={"service_id": "a"}), settings.copy(update={"service_id": "b"})
    async with running(EchoService, a) as first, running(EchoService, b) as second:
        replies = await asyncio.gather(*(tester.ask(ECHO, i) for i in range(100)))
        assert [reply["value"] for reply in replies] == list(range(100))
        assert {reply["replica"] for reply in replies} == {"a", "b"}
        # Without a queue group both would get every request; what the broker has sent to either is there now.
        for service in (first, second):
            await service.broker.settle()
        await tester.ask(ECHO, 100)
        assert first.echoed + second.echoed == 101


async def test_nobody_listening_fails_at_once(tester: TesterService) -> None:
    with pytest.raises(NobodyListensError, match="test-echo"):
        await tester.ask(ECHO, 1, seconds=30)
    assert await tester.broker.gather(reply_subject(ECHO), to_thing(0, "Test"), 5, 1) == []


async def test_a_late_reply_is_a_time_out(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        with pytest.raises(ReplyTimeoutError, match="within 0.1 s"):
            await tester.ask(SLOW, 1, seconds=0.1)
        service.release.set()


async def test_what_exceeds_the_brokers_limit_says_so(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings):
        with pytest.raises(TooLargeError, match="page by page"):
            await tester.ask(LARGE, NATS_MAX_PAYLOAD)
        with pytest.raises(TooLargeError, match="smaller batches"):
            await tester.ask(ECHO, b"x" * NATS_MAX_PAYLOAD)
        assert len(await tester.ask(LARGE, NATS_MAX_PAYLOAD - 1000)) == NATS_MAX_PAYLOAD - 1000


async def test_an_event_handler_that_fails_hears_the_next_event(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        for value in ("bad", "good"):
            await tester.announce(NEWS, value)
        await eventually(lambda: len(service.heard) == 2)


async def test_health_and_heartbeats_tell_the_state(tester: TesterService, settings: Settings) -> None:
    beats: list[Any] = []

    async def hear(thing: Any) -> None:
        beats.append(thing.value)

    def of_echo() -> list[Any]:
        return [beat for beat in beats if beat["service"] == "echo"]  # the client has a heartbeat, too

    await tester.broker.subscribe(event_subject(SERVICE_HEARTBEAT), hear)
    async with running(EchoService, settings) as service:
        assert (await tester.ask(health_request("echo"), Empty())).state == "ready"
        await service.set_state("failing", "no paper")
        await eventually(lambda: any(beat["detail"] == "no paper" for beat in of_echo()))
        assert service.health().memory_megabytes > 10
        assert service.health().cpu_percent >= 0
    await eventually(lambda: of_echo()[-1]["state"] == "stopped")


class HungryService(SystemService):
    """Waits while it starts."""

    async def on_start(self) -> None:
        await self.set_state("waiting", "no food")


class ThirstyService(HungryService):
    """Waits in a loop, too."""

    async def on_start(self) -> None:
        await super().on_start()
        self.every(60.0, self.drink)

    async def drink(self) -> None:
        await self.set_state("waiting", "no water")


async def test_a_service_that_has_started_is_ready_unless_a_loop_waits_already(settings: Settings) -> None:
    for service, said in ((HungryService, ("ready", "")), (ThirstyService, ("waiting", "no water"))):
        async with running(service, settings) as started:
            assert (started.health().state, started.health().detail) == said


class SpoiledService(SystemService):
    """Acts alone, and fails while it starts."""

    acts_alone = True

    async def on_start(self) -> None:
        self.every(60.0, self.cook)
        raise InvalidRecordError("The milk is sour.")

    async def cook(self) -> None:
        """Do nothing."""


async def test_a_start_that_fails_leaves_nothing_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL", 600.0)
    before = asyncio.all_tasks()
    for _ in range(2):  # the second one need not wait until the lease of the first expires
        async with asyncio.timeout(60):
            with pytest.raises(InvalidRecordError, match="sour"):
                async with running(SpoiledService, settings):
                    pass
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_a_reply_that_cannot_be_encoded_is_an_error_reply(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings):
        with pytest.raises(InternalError):
            await tester.ask(ODD, 1, seconds=5)


async def test_a_service_that_ends_answers_what_it_has_taken(tester: TesterService, settings: Settings) -> None:
    narrow = settings.copy(update={"handler_tasks": 2})
    async with running(EchoService, narrow) as service:
        asked = [asyncio.create_task(tester.ask(SLOW, i, seconds=8)) for i in range(10)]
        await eventually(lambda: len(service.broker._running) == 2)
        await tester.broker.settle()
        asyncio.get_running_loop().call_later(0.2, service.release.set)
    assert await asyncio.gather(*asked) == list(range(10))


async def test_a_cancelled_handler_answers_and_costs_nobody_else_anything(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings.copy(update={"handler_tasks": 1})) as service:
        with pytest.raises(ReplyTimeoutError, match="stopped handling a request on 'test-cancelled'"):
            await tester.ask(CANCELLED, 1)
        assert (await tester.ask(ECHO, 2, seconds=5))["value"] == 2
        with pytest.raises(ReplyTimeoutError, match="Send it again"):  # the only task of the subject goes on
            await tester.ask(CANCELLED, 3)
        assert service.cancelled == [1, 3]


async def test_as_many_handlers_are_at_work_as_are_allowed(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings.copy(update={"handler_tasks": 3})) as service:
        asked = [asyncio.create_task(tester.ask(SLOW, i, seconds=8)) for i in range(7)]
        await eventually(lambda: len(service.slow_ones) == 3)
        await tester.broker.settle()
        assert (await tester.ask(ECHO, 1, seconds=5))["value"] == 1  # another subject has its own tasks
        assert service.slow_ones == [0, 1, 2]
        service.release.set()
        assert await asyncio.gather(*asked) == list(range(7))


async def test_a_late_reply_goes_to_nobody_and_nothing_is_left_waiting(tester: TesterService, settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        with pytest.raises(ReplyTimeoutError):
            await tester.ask(SLOW, "late", seconds=0.2)
        service.release.set()
        replies = await asyncio.gather(*(tester.ask(ECHO, i, seconds=5) for i in range(100)))
        assert [reply["value"] for reply in replies] == list(range(100))
        assert not tester.broker._replies._waiting


async def test_a_closed_connection_stops_the_service(settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        await service.broker._client.close()
        assert await asyncio.wait_for(service.wait_for_shutdown(), 10)
        assert "was closed" in service.broker.lost_reason


async def test_a_task_that_is_cancelled_unexpectedly_stops_the_service(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async with running(EchoService, settings) as service:
        service.run_task(cancelled())
        assert await asyncio.wait_for(service.wait_for_shutdown(), 10)
    assert "cancelled unexpectedly" in caplog.text


async def test_an_event_that_cannot_be_sent_costs_nothing_else(settings: Settings) -> None:
    async with running(EchoService, settings) as service:
        await service.broker._client.close()
        await service.announce(NEWS, "unheard")


async def test_credentials_are_not_given_to_a_broker_without_tls(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    import certifi

    encrypted = settings.copy(update={"nats_tls_ca": certifi.where(), "nats_user": "me", "nats_password": "secret"})
    opening = asyncio.create_task(ServiceConnection.open(encrypted, "careful"))
    await eventually(lambda: "offers no TLS" in caplog.text)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


def test_what_is_set_in_the_environment_beats_a_deployments_file(tmp_path: Path) -> None:
    here = tmp_path / "deployments" / "integration_test"
    here.mkdir(parents=True)
    (here / ".env").write_text("FASTIOT_NATS_HOST=from-file\nFASTIOT_MONGO_DB_HOST=from-file\n")
    (tmp_path / "configure.py").write_text("integration_test_deployment = 'integration_test'\n")
    program = (
        "from complex_system.messaging.service import SystemService; from complex_system.settings import Settings;"
        "SystemService._try_setup_test_env(); settings = Settings(); print(settings.nats_host, settings.mongo_host)"
    )
    shell = {name: value for name, value in os.environ.items() if not name.startswith("FASTIOT")}
    # In a process of its own: FastIoT keeps what it learns of a project for the life of a process.
    for folder, expected in [(tmp_path, "explicit from-file"), (Path("/"), "explicit localhost")]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder, env={**shell, "FASTIOT_NATS_HOST": "explicit"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected
