"""An ASGI application on a port, inside the event loop of a service."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from typing_extensions import override

from complex_system.errors import StartError
from complex_system.http.browsers import BrowserGuard
from complex_system.http.connections import MAX_CONNECTIONS, READ_BYTES, SPARE_CONNECTIONS, BoundedProtocol

_GRACE = 3
"""Seconds that open requests get when the server stops."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of ``uvloop`` where it is installed (only in the serving images), else one of Python's.

    It makes a request 15 % faster, with one client and with many.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _allow_files(count: int) -> None:
    """Let the process open so many files, if it may: shells allow 1,024, which is less than the connections that are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; the service has its own."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """Runs an ASGI application on a port, guarded from what browsers can be made to do (:class:`BrowserGuard`).

    Attributes:
        url: Address with the real port; empty before the start.
    """

    def __init__(self, app: Any, host: str, port: int, allowed_hosts: str = "") -> None:
        """Prepare a server.

        Args:
            app: The ASGI application.
            host: Address to bind.
            port: Port, or 0 for a free one.
            allowed_hosts: Names of this server besides the usual ones, separated by commas.
        """
        self._app = BrowserGuard(app, allowed_hosts)
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self) -> None:
        """Bind and serve; return when requests are accepted.

        Raises:
            StartError: The port is in use, or the address does not belong to this host.
        """
        listener = self._bind()
        _allow_files(MAX_CONNECTIONS + SPARE_CONNECTIONS + 500)
        protocol: Any = partial(BoundedProtocol, memoryview(bytearray(READ_BYTES)))
        config = uvicorn.Config(
            self._app, lifespan="off", ws="none", access_log=False, log_config=None, server_header=False,
            timeout_graceful_shutdown=_GRACE, timeout_keep_alive=30,
            http=protocol, proxy_headers=False, interface="asgi3",
        )  # fmt: skip
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise StartError("The REST server stopped while it was starting; see the log.")
            await asyncio.sleep(0.005)
        # A client cannot connect to a wildcard address.
        host = socket.gethostname() if self._host in ("0.0.0.0", "::", "") else self._host
        port = listener.getsockname()[1]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Finish open requests, close idle connections, and stop."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio disables Nagle's algorithm only where the protocol is named; otherwise each response takes 40 ms more.
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
