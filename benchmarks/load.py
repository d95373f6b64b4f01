"""The clients: plain sockets, so that what is measured is the server."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from statistics import median

from typing_extensions import override

from benchmarks.servers import Server


@dataclass(frozen=True)
class Run:
    """One run against one server: requests a second, the answers' times in milliseconds, and how many there were."""

    rate: float
    p50: float
    p99: float
    count: int


def run_of(times: list[float], seconds: float) -> Run:
    """The run of requests that took so many seconds each, in so many all together."""
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Run(len(times) / seconds, median(ordered) * 1000, p99 * 1000, len(times))


def _message(server: Server, body: bytes) -> bytes:
    lines = [f"POST {server.path} HTTP/1.1", "Host: 127.0.0.1", *map(": ".join, server.headers(body).items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _end(buffer: bytes | bytearray) -> int:
    """Where the first answer in the buffer ends; 0 while it is not complete."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return 0
    top = bytes(buffer[:head]).lower()
    if not top.startswith(b"http/1.1 200"):
        raise ConnectionError(bytes(buffer[:500]))
    place = top.find(b"content-length:")
    if place < 0:
        raise ConnectionError("an answer without a length")
    end = head + 4 + int(top[place + 15 :].split(b"\r\n", 1)[0])
    return end if len(buffer) >= end else 0


def one_client(server: Server, body: bytes, seconds: float, most: int = 1_000_000) -> Run:
    """One connection, one request after the other."""
    message = _message(server, body)
    times = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and len(times) < most:
            asked = time.perf_counter()
            connection.sendall(message)
            buffer = bytearray()
            while not _end(buffer):
                chunk = connection.recv(1 << 20)
                if not chunk:
                    raise ConnectionError(f"{server.name} hung up")
                buffer += chunk
            times.append(time.perf_counter() - asked)
        return run_of(times, time.perf_counter() - began)


class _Client(asyncio.Protocol):
    def __init__(self, message: bytes, times: list[float], until: float, done: asyncio.Future[None]) -> None:
        self._message, self._times, self._until, self._done = message, times, until, done
        self._buffer = bytearray()
        self._asked = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._message)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            end = _end(self._buffer)
        except ConnectionError as error:
            self._done.set_exception(error)
            self._transport.close()
            return
        if end:
            del self._buffer[:end]
            now = time.perf_counter()
            self._times.append(now - self._asked)
            if now < self._until:
                self._next()
            else:
                self._transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _clients(server: Server, body: bytes, seconds: float, count: int) -> Run:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    began = time.perf_counter()
    ends = []
    for _ in range(count):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        protocol = _Client(_message(server, body), times, began + seconds, done)
        await loop.create_connection(lambda protocol=protocol: protocol, "127.0.0.1", server.port)  # type: ignore[misc]
    await asyncio.gather(*ends)
    return run_of(times, time.perf_counter() - began)


def many_clients(server: Server, body: bytes, seconds: float, count: int) -> Run:
    """``count`` connections, each one request after the other."""
    return asyncio.run(_clients(server, body, seconds, count))
