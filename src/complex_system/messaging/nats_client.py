"""nats-py's client where it would wait indefinitely, give up, or send its password in clear text."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client, Srv
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

log = logging.getLogger(__name__)


class _Transport(TcpTransport):
    """A connection that can be given up at once, with what was not sent.

    nats-py closes a connection after what waits to be sent is out, and waits until it is closed; a broker that hangs, or a host
    that was switched off, never takes it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._aborted = False

    async def connect(self, *args: Any, **options: Any) -> None:
        await super().connect(*args, **options)
        self._aborted = False

    async def wait_closed(self) -> None:
        if not self._aborted:
            await super().wait_closed()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        self._aborted = True
        if self._io_writer is not None:
            with contextlib.suppress(AttributeError):  # Python 3.11.2 aborts an encrypted connection only once
                self._io_writer.transport.abort()


class ServiceClient(Client):
    """A client that makes its connection anew, whatever became of the last one, until it is closed by its owner.

    nats-py closes a connection for good after an error of the protocol, and its only task that connects again may end or hang.

    Attributes:
        tried: When it last began to connect, in the event loop's time.
        unanswered: When an attempt to connect was last known to have got no answer of a broker, in the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tried = self.unanswered = 0.0
        self._link = _Transport()
        self._answered = True
        self._opened = False
        self._leaving = False

    async def connect(self, *args: Any, **options: Any) -> None:
        """Connects, as nats-py does; from then on the connection is kept."""
        await super().connect(*args, **options)
        self._opened = True

    async def close(self) -> None:
        """Closes the connection for good."""
        self._leaving = True
        await super().close()

    def let_go(self) -> None:
        """Ends the connection at once, with what was not sent."""
        self._link.abort()

    def renew(self) -> None:
        """Gives the present connection up, whatever state it is in, and makes a new one; subscriptions stay."""
        if self._reconnection_task is not None:
            self._reconnection_task.cancel()
        self._status = Client.RECONNECTING
        self._ps.reset()
        self.tried = asyncio.get_running_loop().time()
        self._reconnection_task = asyncio.create_task(self._attempt_reconnect())

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._leaving or not self._opened:
            await super()._close(status, do_cbs)
        else:
            log.warning("The connection to the broker has ended and is made anew: %s", self.last_error)
            self.renew()

    async def _attempt_reconnect(self) -> None:
        self.let_go()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        now = asyncio.get_running_loop().time()
        if not self._answered:
            self.unanswered = now
        self.tried, self._answered = now, False
        # An attempt that failed halfway leaves its connection and its readers behind, which would read from the next one.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        self.let_go()
        self._transport = self._link
        s.last_attempt = time.monotonic()
        try:
            await self._link.connect(s.uri, buffer_size=DEFAULT_BUFFER_SIZE, connect_timeout=self.options["connect_timeout"])
        except (OSError, TimeoutError):
            self.unanswered = asyncio.get_running_loop().time()
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self._answered = True
        await super()._process_info(info, initial_connection)


class EncryptedClient(ServiceClient):
    """A client that gives its credentials to an encrypted connection only.

    nats-py encrypts when the server asks for it and otherwise goes on in clear text, whatever was configured.
    """

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise NatsError("the broker offers no TLS, and FASTIOT_NATS_TLS_CA asks for it")
        command: bytes = super()._connect_command()
        return command
