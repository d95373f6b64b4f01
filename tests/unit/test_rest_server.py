"""The HTTP server on real sockets: with ``httptools``, where an answer leaves in one piece, and without."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.protocols.http import auto, httptools_impl
from uvicorn.protocols.http.h11_impl import H11Protocol

from complex_system.http.server import RestServer

LARGE = 5_000_000
PATIENCE = 60
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers ``/`` in two messages, ``/empty`` without a body, ``/large`` with a large one and ``/slow`` as the test says."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/empty":
            await self._answer(send, 204, [])
        elif path == "/large":
            await self._answer(send, 200, [bytes(LARGE)])
        elif path == "/slow":
            await self._answer(send, 200, [b"first", b"second"])
        else:
            await self._answer(send, 200, [b"an answer to " + scope["query_string"]])

    async def _answer(self, send: Any, status: int, parts: list[bytes]) -> None:
        length = [] if status == 204 else [(b"content-length", b"%d" % sum(map(len, parts)))]
        await send({"type": "http.response.start", "status": status, "headers": length})
        for place, part in enumerate(parts or [b""]):
            if place:
                await self.go_on.wait()
            await send({"type": "http.response.body", "body": part, "more_body": place + 1 < len(parts)})


@pytest.fixture(params=["httptools", "without httptools"])
async def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RestServer]:
    if request.param != "httptools":
        monkeypatch.setitem(sys.modules, "httptools", None)  # an import fails, as where it is not installed
        for module in (auto, httptools_impl):  # those that hold it already
            monkeypatch.delitem(sys.modules, module.__name__)
    async with serving(Application()) as started:
        assert started._server is not None
        wanted = "BufferedProtocol" if request.param == "httptools" else H11Protocol.__name__
        assert started._server.config.http_protocol_class.__name__ == wanted
        yield started


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[RestServer]:
    server = RestServer(application, "127.0.0.1", 0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(server: RestServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """What each call of ``send`` took in this process, with the port of the socket."""
    calls: list[tuple[int, bytes]] = []
    send = socket.socket.send

    def counted(self: socket.socket, data: Any, *flags: int) -> int:
        taken = send(self, data, *flags)
        calls.append((self.getsockname()[1], bytes(data[:taken])))
        return taken

    monkeypatch.setattr(socket.socket, "send", counted)
    return calls


def port_of(server: RestServer) -> int:
    return int(server.url.rpartition(":")[2])


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: here", *headers, "", "")).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
    return head, await reader.readexactly(int(length.partition(b":")[2]))


async def test_several_requests_on_one_connection_are_answered_in_their_order(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"".join(get(f"/?{place}") for place in range(20)))
        for place in range(20):
            head, body = await answer(reader)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b"an answer to %d" % place


async def test_an_answer_without_a_body_arrives_and_the_connection_stays(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get("/empty"))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 204 ")
        writer.write(get("/?again"))
        assert (await answer(reader))[1] == b"an answer to again"


@pytest.mark.parametrize("path", ["/?last", "/empty"])
async def test_all_of_the_last_answer_arrives_before_the_connection_closes(server: RestServer, path: str) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get(path, "Connection: close"))
        _, body = await answer(reader)
        assert body == (b"an answer to last" if path == "/?last" else b"")
        assert await reader.read() == b""


async def test_a_body_larger_than_the_buffers_arrives_whole(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get("/large") + get("/?after"))
        assert (await answer(reader))[1] == bytes(LARGE)
        assert (await answer(reader))[1] == b"an answer to after"


async def test_what_is_there_does_not_wait_for_what_comes_later(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get("/slow"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(5) == b"first"  # only then the second part is made
        server._app.go_on.set()
        assert await reader.readexactly(6) == b"second"


async def test_what_is_no_http_is_refused(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"good morning\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_goes_in_the_middle_of_an_answer_disturbs_nobody(server: RestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get("/slow"))
        await reader.readuntil(b"first")
        writer.transport.abort()
    server._app.go_on.set()
    async with connected(server) as (reader, writer):
        writer.write(get("/?next"))
        assert (await answer(reader))[1] == b"an answer to next"


async def test_head_and_body_of_an_answer_leave_in_one_system_call(sent: list[tuple[int, bytes]]) -> None:
    async with serving(Application()) as server, connected(server) as (reader, writer):
        for place in range(3):
            writer.write(get(f"/?{place}"))
            head, body = await answer(reader)
            assert [data for port, data in sent if port == port_of(server)] == [head + body]
            sent.clear()
