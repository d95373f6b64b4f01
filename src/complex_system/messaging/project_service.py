"""Runs a FastIoT service of a project's own among ours: ``python -m complex_system.messaging.project_service MODULE``.

FastIoT connects with host and port and nothing else, and hears replies on inboxes that no other user may have. Here its connection has
the service's user, password, certificate and inbox, comes back after every loss, sends heartbeats and answers health checks. A service
that is a :class:`~complex_system.messaging.service.SystemService` has a connection of its own, and is run as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import runpy
import socket
import sys
import time
import uuid
from typing import Any

from fastiot.core.broker_connection import NatsBrokerConnection
from fastiot.core.data_models import ReplySubject, Subject
from fastiot.msg import Thing
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from complex_system.logs import replica_name
from complex_system.messaging.nats_client import EncryptedClient, ServiceClient, credentials, inbox_prefix, refusal
from complex_system.messaging.process import ProcessUsage
from complex_system.messaging.things import serialize_to_bin, to_thing
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat, State, health_request
from complex_system.settings import Settings

log = logging.getLogger(__name__)


class _Health:
    """Says that a service is connected, on its connection, until that is closed."""

    def __init__(self, service: str, settings: Settings, client: ServiceClient) -> None:
        self._service, self._settings, self._client = service, settings, client
        self._instance, self._began, self._usage = uuid.uuid4().hex, time.time(), ProcessUsage()
        self._beats: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        name = health_request(self._service).name
        for subject in (name, f"{name}.{socket.gethostname()}"):
            await self._client.subscribe(subject, queue=self._service, cb=self._answer)
        self._beats = asyncio.create_task(self._beat_always())

    async def end(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
            with contextlib.suppress(NatsError):
                await self._client.publish(SERVICE_HEARTBEAT.name, self._packed("stopped"))
                await self._client.flush()

    def _packed(self, state: State) -> bytes:
        cpu_percent, memory_megabytes = self._usage.read()
        beat = Heartbeat(
            service=self._service, replica=replica_name(self._settings), instance=self._instance, state=state, pid=os.getpid(),
            host=socket.gethostname(), started=self._began, cpu_percent=cpu_percent, memory_megabytes=memory_megabytes,
        )  # fmt: skip
        return serialize_to_bin(Thing, to_thing(beat, self._service))

    async def _answer(self, message: Msg) -> None:
        await message.respond(self._packed("ready"))

    async def _beat_always(self) -> None:
        while True:
            with contextlib.suppress(NatsError):  # the connection is away, and comes back
                await self._client.publish(SERVICE_HEARTBEAT.name, self._packed("ready"))
            await asyncio.sleep(self._settings.heartbeat_interval)


class _Connection(NatsBrokerConnection):
    """FastIoT's connection with what its ``connect`` leaves out."""

    service = ""
    _health: _Health

    @classmethod
    async def connect(cls, closed_cb: Any = None, subscription_error_cb: Any = None) -> _Connection:
        settings = Settings()
        client = EncryptedClient() if settings.nats_tls_ca else ServiceClient()
        user = settings.nats_user

        async def on_error(error: Exception) -> None:
            if refused := refusal(error):
                log.error(
                    "The broker does not permit the user '%s' to %s '%s'. docs/security.md has the permissions of each user.",
                    user,
                    *refused,
                )
            else:
                log.warning("Broker: %s", error or type(error).__name__)

        await client.connect(
            f"nats://{settings.nats_host}:{settings.nats_port}",
            name=cls.service,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            error_cb=on_error,
            closed_cb=closed_cb,
            **credentials(settings),
        )
        connection = cls(client=client, subscription_error_cb=subscription_error_cb)
        connection._health = _Health(cls.service, settings, client)
        await connection._health.begin()
        return connection

    async def close(self) -> None:
        await self._health.end()
        await super().close()


def _make_generic_reply_inbox(self: ReplySubject) -> Subject:
    return Subject(name=f"{inbox_prefix(Settings().nats_user)}.{uuid.uuid4().hex}", msg_cls=self.reply_cls)


def main() -> None:
    """Run the module, as Python itself would run it, with our connection behind FastIoT's."""
    parser = argparse.ArgumentParser(
        prog="python -m complex_system.messaging.project_service", description="Run a FastIoT service of a project's own."
    )
    parser.add_argument("module", help="the service's, for example my_plant_services.my_service.run")
    module: str = parser.parse_args().module
    _Connection.service = module.split(".")[-2] if "." in module else module
    NatsBrokerConnection.connect = _Connection.connect
    ReplySubject.make_generic_reply_inbox = _make_generic_reply_inbox
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
