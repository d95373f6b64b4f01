"""Servers that fail: a TCP proxy that a test can cut, and a server that never answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from complex_system.local.servers import free_port

__all__ = ["Proxy", "SilentServer", "free_port", "proxied"]


class Proxy:
    """Forwards connections to a port on loopback unless it is cut: a server seems to go away and to come back.

    Attributes:
        port: Where it listens.
        delay: Seconds by which every response of the server is late.
        sent: All that clients have sent.
    """

    def __init__(self, target: int, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.delay = 0.0
        self.sent = bytearray()
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = port or free_port()  # not one of the kernel's, which others may get while this one is cut
        self._tls = tls
        self._is_cut = False

    async def join(self) -> None:
        """Accept connections (again), always on the same port."""
        self._is_cut = False
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port, ssl=self._tls)

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._is_cut = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Read nothing more from those that are connected, and keep their connections; new ones are served."""
        for writer in self._writers:
            cast("asyncio.Transport", writer.transport).pause_reading()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there}
        if self._is_cut:  # while this connection was made
            writer.transport.abort()
            there.transport.abort()
        try:
            await asyncio.gather(self._ask(reader, there), self._answer(there_reader, writer))
        finally:
            self._writers -= {writer, there}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.sent += data
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def proxied(target: int, port: int = 0) -> AsyncIterator[Proxy]:
    """A proxy to ``target`` until the block ends, on a free port unless one is named."""
    proxy = Proxy(target, port)
    await proxy.join()
    try:
        yield proxy
    finally:
        await proxy.cut()


class SilentServer:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> SilentServer:
        self._server = await asyncio.start_server(self._listen, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.asked.set()
        with contextlib.suppress(OSError):
            await reader.read()
