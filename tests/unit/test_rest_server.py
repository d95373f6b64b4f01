"""The HTTP server on real sockets: an answer leaves in one piece, and nobody holds a connection by being slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from complex_system.http import connections
from complex_system.http.server import RestServer
from support import eventually

LARGE = 5_000_000
PATIENCE = 60
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers ``/`` in two messages, ``/empty`` without a body, ``/large`` with a large one, ``/slow`` as the test says.

    ``/body`` answers with the size of the request's.
    """

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/empty":
            await self._answer(send, 204, [])
        elif path == "/large":
            await self._answer(send, 200, [bytes(LARGE)])
        elif path == "/body":
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.gone.set()
                    return
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)
                if scope["query_string"] == b"waits":
                    await self.go_on.wait()
            await self._answer(send, 200, [b"%d bytes" % size])
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


@pytest.fixture
async def server() -> AsyncIterator[RestServer]:
    async with serving(Application()) as started:
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


def application_of(server: RestServer) -> Application:
    application = server._app._app
    assert isinstance(application, Application)
    return application


def port_of(server: RestServer) -> int:
    return int(server.url.rpartition(":")[2])


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


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
        application_of(server).go_on.set()
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
    application_of(server).go_on.set()
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


# Deadlines and bounds


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)


@pytest.mark.parametrize("begun", [b"", b"P", b"POST / HTTP/1.1\r\nHost: local"])
async def test_a_head_that_does_not_come_ends_its_connection(server: RestServer, hurried: None, begun: bytes) -> None:
    async with connected(server) as (reader, writer):
        writer.write(begun)
        head, body = await answer(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"within 0.3 s" in body
        assert await reader.read() == b""


async def test_so_does_a_later_one_and_a_head_that_trickles(server: RestServer, hurried: None) -> None:
    async with connected(server) as (reader, writer):
        writer.write(get("/?first"))
        assert (await answer(reader))[1] == b"an answer to first"
        trickling = asyncio.create_task(trickle(writer, get("/?second", *(f"X-{place}: 1" for place in range(100)))))
        head, _ = await answer(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        trickling.cancel()


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def test_a_body_that_does_not_come_ends_its_connection_and_the_application_is_told(
    server: RestServer, hurried: None
) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        trickling = asyncio.create_task(trickle(writer, b"x" * 1000))
        head, body = await answer(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"fewer records" in body
        await asyncio.wait_for(application_of(server).gone.wait(), PATIENCE)
        trickling.cancel()


async def test_what_waits_because_the_server_does_not_read_has_its_time(server: RestServer, hurried: None) -> None:
    size = 300_000  # more than is read before the application asks, and little for the time that is left then
    async with connected(server) as (reader, writer):
        writer.write(b"POST /body?waits HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, application_of(server).go_on.set)  # three times what a body may take
        assert (await answer(reader))[1] == b"%d bytes" % size


async def test_a_body_after_its_answer_is_not_waited_for_either(server: RestServer, hurried: None) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST /?early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert (await answer(reader))[1] == b"an answer to early"
        assert await reader.read() == b""


async def test_a_head_has_a_bound(server: RestServer) -> None:
    fits = "x" * (connections.HEAD_BYTES - 1000)
    async with connected(server) as (reader, writer):
        writer.write(get("/?fits", f"X: {fits}"))
        assert (await answer(reader))[1] == b"an answer to fits"
    for begun in (get("/?more", f"X: {'x' * connections.HEAD_BYTES}")[:-2], b"GET /" + b"x" * connections.HEAD_BYTES):
        async with connected(server) as (reader, writer):
            writer.write(begun)
            head, body = await answer(reader)
            assert head.startswith(b"HTTP/1.1 431 ")
            assert b"65536 bytes" in body


@pytest.mark.parametrize("requests", [1, 2, 20], ids=["one", "two", "more than are taken"])
async def test_who_does_not_read_its_answer_is_left(requests: int) -> None:
    async with serving(Application()) as server:
        assert server._server is not None
        server._server.config.timeout_keep_alive = 0.2  # type: ignore[assignment]
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(get("/large") * requests)
            state = server._server.server_state
            await eventually(lambda: state.total_requests)
            await eventually(lambda: not state.connections)


async def test_who_reads_slowly_is_not_left() -> None:
    async with serving(Application()) as server:
        assert server._server is not None
        server._server.config.timeout_keep_alive = 0.9  # type: ignore[assignment]
        async with connected(server) as (reader, writer):
            writer.write(get("/large"))
            await reader.readuntil(b"\r\n\r\n")
            taken, loop = 0, asyncio.get_running_loop()
            started = loop.time()
            while taken < LARGE:
                part = await reader.read(100_000)
                assert part, "the server has left"
                taken += len(part)
                await asyncio.sleep(0.03)  # the reader's slowness is what is tested
            assert taken == LARGE
            assert loop.time() - started > 0.9


async def test_above_the_spare_connections_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(connections, "SPARE_CONNECTIONS", 2)
    async with serving(Application()) as server:
        held = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(4)]
        reader, writer = held[-1]
        writer.write(get("/livez"))  # of a probe
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")
        more, another = await asyncio.open_connection("127.0.0.1", port_of(server))
        with contextlib.suppress(ConnectionError):
            assert await more.read() == b""
        writer.write(get("/other"))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 503 ")
        for each in (another, *(writer for _, writer in held)):
            each.close()
