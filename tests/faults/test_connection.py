"""The connection of a service when its broker goes: what waits is told, what starts goes on, what is stuck lets go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from complex_system.errors import ComplexSystemError, NobodyListensError, ReplyTimeoutError
from complex_system.local.processes import Child
from complex_system.local.servers import NatsServer, Server
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Request
from complex_system.settings import Settings
from complex_system.testing.proxy import proxied
from plant import kill
from support import TesterService, eventually, running

NEVER = Request("test-never", Any, Any)
ECHO = Request("test-echo-again", Any, Any)


class PatientService(SystemService):
    """Never answers one subject, and always the other."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = asyncio.Event()

    @answers(NEVER)
    async def never(self, _: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    @answers(ECHO)
    async def echo(self, value: Any) -> Any:
        return value


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Server]:
    server = NatsServer(tmp_path / "nats", port=0)
    server.start()
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        server.stop()


async def answered(tester: TesterService, value: Any) -> bool:
    try:
        return bool(await tester.ask(ECHO, value) == value)
    except ComplexSystemError:
        return False


async def test_a_client_reconnects_and_subscribes_again_after_a_protocol_error(
    broker: Server, make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(broker)
    async with running(PatientService, settings) as service, running(TesterService, settings) as tester:
        await service.broker.client._send_command(b"NONSENSE\r\n")
        await service.broker.client._flush_pending()
        await eventually(lambda: "has ended, reconnecting: nats: unknown protocol operation" in caplog.text)
        await eventually(lambda: answered(tester, 5), 60)
        assert not service.broker.lost.is_set()


async def test_a_client_reconnects_where_the_old_connection_never_closes(
    broker: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    settings = make_settings(broker)
    async with running(PatientService, settings), running(TesterService, settings) as tester:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.StreamWriter, "wait_closed", never)
            kill(broker.child)
            await eventually(lambda: not tester.broker.connected)
            broker.start_process()
            await eventually(lambda: answered(tester, 6), 60)


async def test_a_client_reconnects_where_nats_py_hangs(
    broker: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = asyncio.Event()

    async def hang() -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("complex_system.messaging.connection.STUCK_SECONDS", 2.0)
    settings = make_settings(broker)
    async with running(PatientService, settings) as service, running(TesterService, settings) as tester:
        with monkeypatch.context() as patch:
            patch.setattr(service.broker.client, "_select_next_server", hang)
            kill(broker.child)
            await asyncio.wait_for(hangs.wait(), 60)
        broker.start_process()
        await eventually(lambda: answered(tester, 7), 60)


@pytest.mark.long
async def test_a_service_stops_with_the_reason_when_the_broker_refuses_it(broker: Server, tmp_path: Path) -> None:
    program = Child(
        "tester",
        [sys.executable, "-c", "from support import TesterService; TesterService.main()"],
        tmp_path / "tester.log",
        env={**broker.environment(), "COMPLEX_SYSTEM_RECONNECT_TIMEOUT": "5", "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
    )
    program.start()
    try:
        await eventually(lambda: "ready" in program.tail(), 60)
        kill(broker.child)
        # No broker answers, so the time does not count yet.
        await eventually(lambda: "Waiting for the broker" in program.tail(), 60)
        with (broker.directory / "nats.conf").open("a") as config:
            config.write('authorization { user: "nobody", password: "unknown" }\n')
        broker.start_process()
        await eventually(lambda: not program.alive, 60)
        assert program.exit_code == 1
        last = program.tail(1)
        assert last.startswith(f"tester: The broker at 127.0.0.1:{broker.port} has not accepted the connection within 5 s: ")
        assert "Authorization Violation" in last
    finally:
        program.stop()


@pytest.mark.long
async def test_a_service_waits_longer_than_that_for_a_broker_that_is_away(
    broker: Server, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(broker, reconnect_timeout=5.0)
    async with running(PatientService, settings) as service, running(TesterService, settings) as tester:
        kill(broker.child)
        attempts: set[float] = set()
        await eventually(lambda: attempts.add(service.broker.client.last_attempt) or len(attempts) > 6, 60)
        broker.start_process()
        await eventually(lambda: answered(tester, 8), 60)
        assert not service.broker.lost.is_set()


@pytest.mark.long
async def test_a_request_that_waits_is_told_when_the_broker_goes(
    broker: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.messaging.subscriptions.DRAIN_SECONDS", 0.1)
    settings = make_settings(broker)
    async with running(PatientService, settings) as service, running(TesterService, settings) as tester:
        asked = asyncio.create_task(tester.ask(NEVER, 1, seconds=120))
        await service.asked.wait()
        kill(broker.child)
        with pytest.raises(ReplyTimeoutError, match="the connection to the broker was lost"):
            await asyncio.wait_for(asked, 60)
        broker.start_process()

        await eventually(lambda: answered(tester, 7), 60)


async def test_a_service_that_starts_while_the_broker_goes_is_there_when_it_is_back(
    broker: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(broker)
    connection = await ServiceConnection.open(settings, "patient")
    try:
        kill(broker.child)
        async with PatientService(broker_connection=connection, settings=settings):
            broker.start_process()
            async with running(TesterService, settings) as tester:
                await eventually(lambda: answered(tester, 8), 60)
    finally:
        await connection.close()


async def test_what_may_wait_for_a_broker_that_is_away_is_bounded(
    broker: Server, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(broker)
    async with running(PatientService, settings), running(TesterService, settings) as tester:
        kill(broker.child)
        await eventually(lambda: not tester.broker.connected)
        large = bytes(2**20 - 2**10)
        waiting = [asyncio.create_task(tester.ask(ECHO, large, 120)) for _ in range(2)]
        await eventually(lambda: tester.broker.client.pending_data_size > 2 * len(large))
        with pytest.raises(NobodyListensError, match="The broker does not accept 'test-echo-again'"):
            await tester.ask(ECHO, large, 120)
        assert not any(task.done() for task in waiting)
        broker.start_process()
        for task in waiting:
            try:
                assert await asyncio.wait_for(task, 60) == large
            except NobodyListensError:  # it was back before the service was
                continue


async def test_a_connection_that_takes_nothing_more_is_given_up_with_what_was_not_sent(
    broker: Server, make_settings: Callable[..., Settings]
) -> None:
    async with proxied(broker.port) as proxy:
        settings = make_settings(broker).copy(update={"nats_port": proxy.port})
        connection = await ServiceConnection.open(settings, "stuck")
        client = connection._client
        try:
            proxy.hold()
            stuck = client._transport._io_writer.transport
            sending = asyncio.create_task(client.publish("test-nowhere", bytes(client.max_payload - 1)))
            await eventually(lambda: stuck.get_write_buffer_size() > 0)
            await client.force_reconnect()
            await eventually(lambda: client.is_connected and client._transport._io_writer.transport is not stuck)
            await sending
        finally:
            await connection.close()
