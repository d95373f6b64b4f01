"""The lease of a service that acts alone, on a real broker: one holder at a time, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from nats.aio.msg import Msg

from complex_system.errors import NotHolderError
from complex_system.local.servers import Server
from complex_system.messaging import lease as module
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.lease import Holder, Lease
from complex_system.messaging.process import is_dead, process_name
from complex_system.messaging.service import SystemService
from complex_system.protocol.operations import State
from complex_system.settings import Settings
from support import eventually, running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"TTL": 1.5, "HOLD": 0.9, "RENEW": 0.2, "LOOK": 0.05, "LOOK_FOR_JETSTREAM": 0.2}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def _without_expiry(_quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lease expires while the test runs, however slow the machine is."""
    for name, seconds in {"TTL": 120.0, "HOLD": 100.0}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def service() -> str:
    return f"alone_{uuid4().hex[:8]}"


class Replica:
    """A lease on a connection of its own."""

    def __init__(self, connection: ServiceConnection, service: str, name: str, process: str = "") -> None:
        self.lease = Lease(connection.client, service, Holder(uuid4().hex, name, process))
        self.said: list[tuple[State, str]] = []
        self.taking: asyncio.Task[None] | None = None

    async def waits(self, state: State, detail: str) -> None:
        self.said.append((state, detail))

    def take(self) -> asyncio.Task[None]:
        self.taking = asyncio.create_task(self.lease.take(self.waits))
        return self.taking

    async def taken(self) -> Replica:
        await asyncio.wait_for(self.take(), 20)
        return self

    async def holds(self) -> None:
        """Wait until it may act, for which a slow broker gives it the time anew; a lease that is lost never comes back."""
        await eventually(lambda: self.lease.is_held or self.lease.lost.is_set())
        assert not self.lease.lost.is_set()

    def freeze(self) -> None:
        """Stop renewing, as a frozen process does."""
        assert self.lease._keeper is not None
        self.lease._keeper.cancel()

    def resume(self) -> None:
        self.lease._keeper = asyncio.create_task(self.lease._keep())


@asynccontextmanager
async def replicas(settings: Settings, service: str, *names: str, process: str = "") -> AsyncIterator[list[Replica]]:
    connections = [await ServiceConnection.open(settings, service) for _ in names]
    made = [Replica(each, service, name, process) for each, name in zip(connections, names, strict=True)]
    try:
        yield made
    finally:
        for replica in made:
            if replica.taking is not None:
                replica.taking.cancel()
            await replica.lease.release()
        for connection in connections:
            await connection.close()


@pytest.fixture
def broker(nats_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(nats_server)


async def test_one_holds_the_lease_for_longer_than_an_entry_lives(broker: Settings, service: str) -> None:
    async with replicas(broker, service, "a", "b") as (a, b):
        await a.taken()
        waiting = b.take()
        await eventually(lambda: ("ready", "stand-by of a") in b.said)
        await asyncio.sleep(2 * module.TTL)
        await a.holds()
        assert not waiting.done()
        with pytest.raises(NotHolderError, match="does not hold the lease"):
            b.lease.check()


@pytest.mark.usefixtures("_without_expiry")
async def test_a_stand_by_takes_the_lease_over_immediately_when_it_is_released(broker: Settings, service: str) -> None:
    async with replicas(broker, service, "a", "b") as (a, b):
        await a.taken()
        waiting = b.take()
        await eventually(lambda: b.said)
        await a.lease.release()
        await asyncio.wait_for(waiting, 20)
        assert b.lease.is_held
        assert not a.lease.is_held


async def test_a_request_ends_although_its_answer_comes_together_with_the_cancellation(
    broker: Settings, service: str
) -> None:
    """Before Python 3.12 ``asyncio.wait_for`` returns the answer then, and who renews a lease would go on."""
    connection = await ServiceConnection.open(broker, service)
    try:
        client = connection.client
        await client.subscribe(service)  # somebody listens and does not answer
        asking = asyncio.create_task(client.request(service, timeout=60))
        (reply,) = await eventually(lambda: list(client._resp_map.values()))
        reply.set_result(Msg(client))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    finally:
        await connection.close()


async def test_a_stand_by_takes_over_from_a_frozen_holder_that_has_stopped_before_and_loses_the_lease(
    broker: Settings, service: str
) -> None:
    async with replicas(broker, service, "a", "b") as (a, b):
        await a.taken()
        waiting = b.take()
        a.freeze()
        both = 0
        while not waiting.done():
            both += a.lease.is_held and b.lease.is_held
            await asyncio.sleep(0.01)
        assert not both
        await b.holds()
        assert not a.lease.is_held
        a.resume()
        await asyncio.wait_for(a.lease.lost.wait(), 10)
        assert a.lease.holder == "b"
        await a.lease.release()  # which is not its own any more
        await asyncio.sleep(module.TTL)
        await b.holds()


async def test_a_holder_whose_lease_expired_goes_on_where_nobody_else_has_held_it(broker: Settings, service: str) -> None:
    async with replicas(broker, service, "a") as (a,):
        await a.taken()
        a.freeze()
        await asyncio.sleep(module.TTL + 1.0)
        assert not a.lease.is_held
        a.resume()
        await a.holds()


async def test_a_holder_does_not_go_on_where_somebody_else_has_held_the_lease_and_is_gone(
    broker: Settings, service: str
) -> None:
    async with replicas(broker, service, "a", "b", "c") as (a, b, c):
        await a.taken()
        a.freeze()
        await b.taken()
        await b.lease.release()
        await asyncio.sleep(module.TTL + 1.0)
        a.resume()
        await asyncio.wait_for(a.lease.lost.wait(), 10)
        await c.taken()


async def test_a_write_whose_success_was_not_heard_of_is_ones_own(broker: Settings, service: str) -> None:
    async with replicas(broker, service, "a") as (a,):
        await a.taken()
        a.freeze()
        bucket = await a.lease._open()
        entry = await bucket.get(module.DEFAULT_KEY)
        await bucket.update(module.DEFAULT_KEY, entry.value or b"", last=entry.revision)
        a.resume()
        await asyncio.sleep(2 * module.TTL)
        await a.holds()


async def test_a_write_whose_success_was_not_heard_of_before_the_lease_expired_is_ones_own(
    broker: Settings, service: str
) -> None:
    async with replicas(broker, service, "a") as (a,):
        await a.taken()
        a.freeze()
        bucket = await a.lease._open()
        entry = await bucket.get(module.DEFAULT_KEY)
        await bucket.update(module.DEFAULT_KEY, entry.value or b"", last=entry.revision)
        await asyncio.sleep(module.TTL + 1.0)
        a.resume()
        await a.holds()


async def test_a_replica_that_held_the_lease_only_for_a_moment_has_held_it(broker: Settings, service: str) -> None:
    async with replicas(broker, service, "a", "b") as (a, b):
        await a.taken()
        a.freeze()
        await b.taken()
        b.freeze()
        await asyncio.sleep(module.TTL + 1.0)
        a.resume()
        await asyncio.wait_for(a.lease.lost.wait(), 10)
        assert not a.lease.is_held


async def test_a_holder_of_this_machine_that_has_ended_is_not_waited_for(
    broker: Settings, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "from complex_system.messaging.process import process_name as n; print(n(), flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    process = child.stdout.readline().strip()
    assert not is_dead(process)
    assert not is_dead(process_name())
    assert not is_dead("")
    assert not is_dead(process.replace(process.split()[0], "another-machine"))
    monkeypatch.setattr(module, "TTL", 60.0)
    async with replicas(broker, service, "a", process=process) as (a,), replicas(broker, service, "b") as (b,):
        await a.taken()
        a.freeze()
        waiting = b.take()
        await eventually(lambda: b.said)
        child.kill()
        await asyncio.wait_for(waiting, 10)  # also while nobody has waited for the process
        assert is_dead(process)
    child.communicate()
    assert is_dead(process)


async def test_without_jetstream_a_service_acts_and_says_once_that_nothing_keeps_a_second_one_away(
    default_nats_server: Server, make_settings: Callable[..., Settings], service: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with replicas(make_settings(default_nats_server), service, "a", "b") as (a, b):
            await a.taken()
            await asyncio.sleep(1.0)
            assert a.lease.is_held
            assert caplog.text.count("The broker has no JetStream, so nothing keeps a second") == 1
            await b.taken()
    assert a.said == b.said == []


class Alone(SystemService):
    """Acts alone."""

    acts_alone: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.began = False
        self.turns = 0

    async def on_start(self) -> None:
        self.began = True
        self.every(0.02, self.turn)

    async def on_stop(self) -> None:
        assert self.began
        assert self.may_act

    async def turn(self) -> None:
        self.turns += 1


@pytest.mark.usefixtures("_without_expiry")
async def test_a_service_begins_nothing_as_a_stand_by_and_without_its_lease(broker: Settings) -> None:
    connection = await ServiceConnection.open(broker, "alone")
    second = Alone(broker_connection=connection, settings=broker)
    async with running(Alone, broker) as first:
        entering = asyncio.create_task(second.__aenter__())
        standing_by = ("ready", f"stand-by of {first.replica}")
        await eventually(lambda: (second.health().state, second.health().detail) == standing_by)
        assert not second.began
        await eventually(lambda: first.turns)
        assert first.lease is not None
        until, first.lease._until = first.lease._until, float("-inf")
        assert first.lease._keeper is not None
        first.lease._keeper.cancel()
        await eventually(lambda: first.health().state == "waiting")
        turns = first.turns
        await asyncio.sleep(0.2)
        assert first.turns == turns
        first.lease._until = until
        first.lease._keeper = asyncio.create_task(first.lease._keep())
        await eventually(lambda: first.turns > turns)
    await asyncio.wait_for(entering, 10)
    assert second.began
    await eventually(lambda: second.health().state == "ready" and not second.health().detail)
    await second.__aexit__(None, None, None)
    await connection.close()


@pytest.mark.usefixtures("_without_expiry")
async def test_a_stand_by_that_is_stopped_never_began(broker: Settings) -> None:
    async with running(Alone, broker):
        connection = await ServiceConnection.open(broker, "alone")
        second = Alone(broker_connection=connection, settings=broker)
        entering = asyncio.create_task(second.__aenter__())
        await eventually(lambda: "stand-by" in second.health().detail)
        await second.request_shutdown()
        await asyncio.wait_for(entering, 10)
        await second.__aexit__(None, None, None)
        await connection.close()
        assert not second.began
        assert second.health().state == "stopped"
