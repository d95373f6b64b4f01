"""An ASGI application on a port, inside the event loop of a service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from typing_extensions import override

from complex_system.errors import StartError

_GRACE = 3
"""Seconds that requests under way get when the server stops."""


_CONNECTIONS = 1000
"""Connections at once, idle ones included; the next one is answered with 503, so that no crowd of clients fills the memory."""


def _http() -> Any:
    """Our protocol where ``httptools`` is installed, which only the serving images have; else what uvicorn finds."""
    try:
        from complex_system.http.response_buffering import JoinedWritesProtocol
    except ImportError:
        return "auto"
    return JoinedWritesProtocol


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service has its own."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """A running HTTP server.

    Attributes:
        url: Where it listens, with the real port; empty before the start.
    """

    def __init__(self, app: Any, host: str, port: int) -> None:
        """Prepares a server.

        Args:
            app: The ASGI application.
            host: Address to bind to.
            port: Port, or 0 for a free one.
        """
        self._app = app
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self) -> None:
        """Binds and serves; returns when requests are taken.

        Raises:
            StartError: The port is taken or the address is not ours.
        """
        listener = self._bind()
        config = uvicorn.Config(
            self._app, lifespan="off", ws="none", access_log=False, log_config=None, server_header=False,
            timeout_graceful_shutdown=_GRACE, timeout_keep_alive=30, limit_concurrency=_CONNECTIONS,
            http=_http(), proxy_headers=False,
        )  # fmt: skip
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise StartError("The REST server ended while it started; the log says why.")
            await asyncio.sleep(0.005)
        # A wildcard address is no place that a client can go to.
        host = socket.gethostname() if self._host in ("0.0.0.0", "::", "") else self._host
        port = listener.getsockname()[1]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Ends: requests under way are answered, idle connections closed."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # The protocol must be named: asyncio switches Nagle's algorithm off only then, and each answer would take 40 ms more.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen(2048)
            return listener
        except OSError as error:
            listener.close()
            raise StartError(
                f"The REST server cannot listen on {self._host}:{self._port} ({error.strerror or error}): free the port, "
                "set another one, or 0 for any."
            ) from error
