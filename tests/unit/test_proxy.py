"""The proxy by which tests take a server away."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from complex_system.testing.proxy import Proxy
from complex_system.testing.waiting import eventually


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(100):
        writer.write(content)
    writer.close()


async def test_a_connection_that_is_made_while_it_is_cut_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.join()
    connect, connected, go_on = asyncio.open_connection, asyncio.Event(), asyncio.Event()

    async def connect_slowly(*where: Any) -> Any:
        found = await connect(*where)
        connected.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(asyncio, "open_connection", connect_slowly)
    reader, writer = await connect("127.0.0.1", proxy.port)
    await asyncio.wait_for(connected.wait(), 60)
    await proxy.cut()
    go_on.set()
    writer.write(b"there?")
    said = b""
    with suppress(ConnectionError):
        said = await asyncio.wait_for(reader.read(100), 60)
    assert said == b""
    writer.transport.abort()

    monkeypatch.undo()
    await proxy.join()
    reader, writer = await connect("127.0.0.1", proxy.port)
    writer.write(b"again")
    assert await asyncio.wait_for(reader.read(100), 60) == b"again"
    writer.transport.abort()
    await proxy.cut()
    server.close()
    await eventually(lambda: not proxy._writers)
