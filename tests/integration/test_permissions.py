"""Users of the broker: each does its work and is refused everything else, by a real server."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from complex_system.errors import StartError, UnauthorizedError
from complex_system.healthcheck import ask_health
from complex_system.local.servers import HOST, NatsServer, Server
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.ingest.streams import IngestStreams
from complex_system.messaging.nats_client import inbox_prefix
from complex_system.messaging.permissions import PUBLISHED, SERVICES, declared_subjects
from complex_system.messaging.service import SystemService
from complex_system.messaging.users import broker_users, device_user, devices_in, service_user
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import GET_ALERTS
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from support import BROKER_PASSWORD, eventually, running, started

INBOXES = ("_INBOX.>", "_INBOX_ml_consumer.>", "_INBOX_nobody.x", ">", "*", "*.>")
STREAMS = (
    "$JS.API.STREAM.CREATE.EVERYTHING",
    "$JS.API.STREAM.DELETE.INGEST_RAW_DATAPOINTS",
    "$KV.any.key",
    "$SYS.REQ.USER.INFO",
)


class Guest:
    """A plain NATS client with a user's credentials; it notes what the broker refuses."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.refused: list[str] = []
        self.heard: list[tuple[str, bytes]] = []

    async def hear(self, subject: str, queue: str = "") -> None:
        async def came(message: Any) -> None:
            self.heard.append((message.subject, message.data))

        await self.client.subscribe(subject, queue=queue, cb=came)

    async def refusals(self) -> set[str]:
        await self.client.flush()
        await self.client.flush()  # errors come before the answer to the second one
        return {text.split('"')[1] for text in self.refused}


@asynccontextmanager
async def guest(server: Server, user: str = "", inbox: str = "", password: str = BROKER_PASSWORD) -> AsyncIterator[Guest]:
    found = Guest(Client())

    async def on_error(error: Exception) -> None:
        found.refused.append(str(error))

    credentials = {"user": user, "password": password} if user else {}
    await found.client.connect(server.url, allow_reconnect=False, error_cb=on_error,
                               inbox_prefix=inbox or inbox_prefix(user), **credentials)  # fmt: skip
    try:
        yield found
    finally:
        await found.client.close()


# Declarations


def service_class(service: str) -> type[SystemService]:
    module = importlib.import_module(f"complex_system_services.{service}.{service}_service")
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, SystemService)]
    return next(each for each in classes if each.service_name() == service)


TRIALS = ("get-model-inputs", "try-record", "suggest-settings")
BY_HAND = {
    "data_processing": {"service-heartbeat"},
    "ml_serving": {
        "get-prediction", "get-prediction-wandb", "get-prediction-columns", "get-prediction-wandb-columns", "explain-prediction",
        "explain-prediction-wandb", *TRIALS,
    },
    "ml_serving_mlflow": {"get-prediction", "get-prediction-columns", "explain-prediction", *TRIALS},
}  # fmt: skip
"""Subjects that a service subscribes to when it starts, without a decorator."""


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_services_user_hears_what_its_handlers_handle(service: str) -> None:
    found = service_class(service)
    marks = [getattr(found, name) for name in dir(found)]
    answered = {mark._fastiot_reply_subject.name for mark in marks if hasattr(mark, "_fastiot_reply_subject")}
    heard = {mark._fastiot_subject.name for mark in marks if hasattr(mark, "_fastiot_subject")}
    uses = SERVICES[service]
    declared = {each.name for each in (*uses.answers, *uses.hears)}
    assert declared - answered - heard == BY_HAND.get(service, set())
    assert answered | heard <= declared


def test_a_service_of_a_projects_own_has_default_rights_and_a_name_of_its_own() -> None:
    user = service_user("my_service")
    assert {each.name for each in PUBLISHED} | {"v1.>"} <= set(user.publish or ())
    assert {"champion-changed", "v1.>", "get-health.my_service"} <= set(user.subscribe or ())
    assert broker_users(["my_service"], {device_user("press").variable})[0] == user
    for name in ("operator", "fiot", "press"):
        with pytest.raises(StartError, match="another name"):
            broker_users([name], {device_user("press").variable})


@pytest.mark.parametrize("name", ["press-4", "hall-2.press-4", "p", "a1.b2.c3"])
def test_a_devices_name_survives_its_variable(name: str) -> None:
    assert [user.name for user in devices_in({device_user(name).variable, "OTHER"})] == [name]


@pytest.mark.parametrize(
    "name", ["", "Press", "press_4", "press--4", "4press", "press.", "a..b", "p*", ">", "x" * 65, "fiot", "ml-"]
)
def test_what_is_not_a_devices_name_is_refused(name: str) -> None:
    with pytest.raises(StartError):
        device_user(name)


# What the broker makes of them


@pytest.mark.parametrize("service", sorted(SERVICES))
async def test_a_service_is_refused_every_subject_that_is_not_its_own(service: str, nats_server: Server) -> None:
    user = service_user(service)
    assert user.publish is not None
    assert user.subscribe is not None
    subjects = set(declared_subjects())
    others = {f"get-health.{each}" for each in SERVICES if each != service} | {
        "dead-raw-datapoints.x",
        "ingest-raw-datapoints.x",
    }
    foreign_publish = (subjects | others | set(STREAMS) | {"_INBOX_ml_consumer.a.b", "_INBOX7"}) - set(user.publish)
    foreign_subscribe = (subjects | others | set(INBOXES) | {"$JS.ACK.>"}) - set(user.subscribe)
    foreign_publish -= {name for name in foreign_publish if f"{name.removesuffix('.x')}.>" in user.publish}
    async with guest(nats_server, user.name) as client:
        for subject in subjects & set(user.subscribe):
            await client.hear(subject, queue=service)
        assert await client.refusals() == set()
        for subject in foreign_publish:
            await client.client.publish(subject, b"")
        assert await client.refusals() == {subject.lower() for subject in foreign_publish}
        client.refused.clear()
        for subject in foreign_subscribe:
            await client.hear(subject)
            await client.hear(subject, queue="a-queue")
        assert await client.refusals() == {subject.lower() for subject in foreign_subscribe}
        assert len(client.refused) == 2 * len(foreign_subscribe)


async def test_a_service_without_a_permission_says_so_and_its_request_ends_at_once(
    nats_server: Server, make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(nats_server, nats_user="data_processing", request_timeout=60)
    async with await SystemClient.open(settings, "data_processing") as client:
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(UnauthorizedError, match="'data_processing' to publish on 'get-alerts'"),
        ):
            await asyncio.wait_for(client.ask(GET_ALERTS, Empty()), 10)
        assert "docs/security.md" in caplog.text
        assert len(client.broker.refusals) == 1


async def test_a_health_check_asks_with_the_services_own_user(
    nats_server: Server, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(nats_server, processing_interval=5)
    async with running(DataProcessingService, settings) as service:
        own = settings.copy(update={"nats_user": "data_processing"})
        host = service.replica.rsplit("-", 1)[0]
        healthy, text = await ask_health("data_processing", own, host, 10)
        # Without a database it may wait, and say so; what may not be is that nobody answered the check itself.
        assert "get-health" not in text
        assert healthy


async def test_a_published_program_hears_its_replies_and_nothing_else(nats_server: Server) -> None:
    """The broker takes ``>`` for one token, and would deliver everything to who may subscribe to ``*``."""
    async with guest(nats_server) as everybody, guest(nats_server, "fiot") as program:
        for subject in ("*", ">", "*.>", "*.*", "_INBOX_ml_consumer.>", "get-prediction", "service-heartbeat"):
            await program.hear(subject)
            await program.hear(subject, queue="stolen")
        assert {"get-prediction", "service-heartbeat"} <= await program.refusals()
        for subject in declared_subjects():
            await everybody.client.publish(subject, b"secret")
        for subject in ("_INBOX_ml_consumer.abc.1", "_INBOX.abc.1", "ingest-raw-datapoints.press-4", "get-health.ml_consumer.host",
                        "$KV.leases.ml_consumer"):  # fmt: skip
            await everybody.client.publish(subject, b"secret")
        await everybody.client.publish("_INBOX12345", b"reply")
        await everybody.client.flush()
        await eventually(lambda: ("_INBOX12345", b"reply") in program.heard)
        assert {subject for subject, _ in program.heard} == {"_INBOX12345"}
        program.refused.clear()
        kio = {each.name for each in PUBLISHED}
        for subject in (*declared_subjects(), *STREAMS, "ingest-raw-datapoints.press-4"):
            await program.client.publish(subject, b"")
        published = {*declared_subjects(), *STREAMS, "ingest-raw-datapoints.press-4"}
        assert await program.refusals() == {subject.lower() for subject in published - kio}


async def test_a_device_publishes_on_its_subject_is_acknowledged_and_hears_nobody_else(
    nats_server: Server, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(nats_server)
    async with await SystemClient.open(settings, "tester") as owner:
        await IngestStreams(owner.broker.client, settings).ensure()
    async with guest(nats_server) as everybody, guest(nats_server, "press-4") as device:
        acknowledged = await device.client.jetstream().publish("ingest-raw-datapoints.press-4", b"{}")
        assert acknowledged.stream == "INGEST_RAW_DATAPOINTS"
        await device.client.publish("things.press-4.temperature", b"1")
        await device.client.publish("v1.thing.press-4.temperature", b"1")
        assert await device.refusals() == set()
        foreign = (
            "ingest-raw-datapoints",
            "ingest-raw-datapoints.press-5",
            "things.press-5.temperature",
            "things.press-4",
            "v1.thing.press-5.temperature",
            "save-many-raw-datapoints",
            "get-prediction",
            *STREAMS,
        )
        for subject in foreign:
            await device.client.publish(subject, b"{}")
        assert await device.refusals() == {subject.lower() for subject in foreign}
        device.refused.clear()
        closed = (*INBOXES, "_INBOX_press-5.>", "ingest-raw-datapoints.>", "service-heartbeat")
        for subject in closed:
            await device.hear(subject)
        assert await device.refusals() == {subject.lower() for subject in closed}
        for subject in ("_INBOX.a.b", "_INBOX_press-5.a.b", "_INBOX_ml_consumer.a.b"):
            await everybody.client.publish(subject, b"secret")
        await everybody.client.flush()
        await device.refusals()
        assert device.heard == []
        await everybody.client.jetstream().purge_stream("INGEST_RAW_DATAPOINTS")


async def test_the_broker_of_a_locked_run_has_the_same_users(tmp_path: Path) -> None:
    broker = NatsServer(tmp_path / "nats", port=0, asks=True)
    broker.services = ("ml_consumer",)
    broker.devices = {"COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4": BROKER_PASSWORD}
    with started(broker):
        password = broker.service_environment("ml_consumer")["FASTIOT_NATS_PASSWORD"]
        async with guest(broker, "ml_consumer", password=password) as consumer, guest(broker, "press-4") as device:
            await consumer.client.publish("champion-changed", b"")
            assert await consumer.refusals() == set()
            await consumer.client.publish("set-scenario", b"")
            assert await consumer.refusals() == {"set-scenario"}
            await device.client.publish("ingest-raw-datapoints.press-5", b"")
            assert await device.refusals() == {"ingest-raw-datapoints.press-5"}
        operator = broker.environment()
        async with guest(broker, operator["FASTIOT_NATS_USER"], password=operator["FASTIOT_NATS_PASSWORD"]) as anything:
            await anything.client.publish("set-scenario", b"")
            assert await anything.refusals() == set()


async def test_who_connects_with_a_wrong_password_gets_nowhere(nats_server: Server) -> None:
    client = Client()

    async def ignore(_: Exception) -> None:
        return

    with pytest.raises(Exception, match="(?i)authorization"):
        await client.connect(f"nats://ml_consumer:wrong@{HOST}:{nats_server.port}", allow_reconnect=False, error_cb=ignore)
    await client.close()
