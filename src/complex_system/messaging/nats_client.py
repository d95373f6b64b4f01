"""nats-py's client where it would wait for ever, or say its password to anybody."""

from __future__ import annotations

from nats.aio.client import Client
from nats.errors import Error as NatsError


class ServiceClient(Client):
    """A client that lets go of a connection that takes nothing more.

    nats-py closes a connection after what waits to be sent is out; a broker that hangs, or a host that was switched off, never
    takes it, and the client would wait for ever instead of connecting again.
    """

    def let_go(self) -> None:
        """Ends the connection at once, with what was not sent."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _attempt_reconnect(self) -> None:
        self.let_go()
        await super()._attempt_reconnect()


class EncryptedClient(ServiceClient):
    """A client that gives its credentials to an encrypted connection only.

    nats-py encrypts when the server asks for it and otherwise goes on in clear text, whatever was configured.
    """

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise NatsError("the broker offers no TLS, and FASTIOT_NATS_TLS_CA asks for it")
        command: bytes = super()._connect_command()
        return command
