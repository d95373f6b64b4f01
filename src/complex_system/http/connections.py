"""uvicorn's connections with what it lacks: deadlines, a bound of the head, a bound of connections that spares probes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_SECONDS = 10.0
"""Time for a request's head to arrive: from the first byte on, for the first request from the connection on."""
BODY_SECONDS = 60.0
"""Time for a body to arrive; while the server does not read, because others are being read, it does not count."""
READ_BYTES = 65_536
"""Bytes that are read from a connection at once."""
HEAD_BYTES = 65_536
"""Bytes of a head."""
MAX_CONNECTIONS = 1000
"""Open connections, idle ones included, above which requests get 503: many clients cannot exhaust the memory."""
SPARE_CONNECTIONS = 200
"""Connections above those, on which probes are answered and everything else is refused; further ones are closed."""
PROBES = frozenset((
    b"/livez", b"/readyz", b"/health", b"/health/live", b"/health/ready", b"/ping", b"/v2/health/live", b"/v2/health/ready",
))  # fmt: skip
"""Paths that are answered however many connections there are."""


class ResponseBuffer:
    """A transport that sends head and body of a response in one packet: a system call costs a tenth of a small request."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: bytes | None = None
        self._flush: asyncio.Handle | None = None
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold the first write until the second one, or until the next turn of the event loop."""
        if self._held is None:
            self._held = data
            self._flush = self._loop.call_soon(self._send)
            return
        self._held += data
        self._send()

    def close(self) -> None:
        """Send what is held, then close."""
        self._send()
        self._transport.close()

    def sent_bytes(self) -> int:
        """Return how many bytes the operating system has taken."""
        return self._written - self._transport.get_write_buffer_size()

    def _send(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._held is not None:
            held, self._held = self._held, None
            self._written += len(held)
            self._transport.write(held)


class _Flow(FlowControl):
    """Knows for how long the server did not read."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._loop = asyncio.get_running_loop()
        self._paused_at = 0.0
        self._paused = 0.0

    @override
    def pause_reading(self) -> None:
        if not self.read_paused:
            self._paused_at = self._loop.time()
        super().pause_reading()

    @override
    def resume_reading(self) -> None:
        if self.read_paused:
            self._paused += self._loop.time() - self._paused_at
        super().resume_reading()

    def taken_pause(self) -> float:
        """Return for how many seconds the server did not read since the last call."""
        now = self._loop.time()
        if self.read_paused:
            self._paused += now - self._paused_at
            self._paused_at = now
        paused, self._paused = self._paused, 0.0
        return paused


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection. A request that comes whole in one packet, as nearly all do, costs no timer.

    All connections of a server read into one buffer. Without it the event loop hands out pieces of 256 KiB, and a thousand
    connections would hold as many before any of them is told to wait.
    """

    flow: _Flow
    transport: ResponseBuffer  # type: ignore[assignment]

    def __init__(self, buffer: memoryview, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffer = buffer
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._sent_bytes = 0
        self._sending: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(ResponseBuffer(transport))  # type: ignore[arg-type]
        self.flow = _Flow(transport)
        if len(self.connections) > MAX_CONNECTIONS + SPARE_CONNECTIONS:
            transport.abort()
            return
        self._expect(HEAD_SECONDS)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._sending is not None:
            self._sending.cancel()
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes])  # the parser copies what it keeps

    @override
    def data_received(self, data: bytes | memoryview) -> None:
        super().data_received(data)  # type: ignore[arg-type]
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"The head of a request may have {HEAD_BYTES} bytes.")
            elif self._deadline is None and self._head_bytes:
                self._expect(HEAD_SECONDS)
        elif self._in_body and self._deadline is None:
            self._expect(BODY_SECONDS)

    @override
    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    @override
    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        if self._deadline is not None:
            self._stop_waiting()
        if len(self.connections) >= MAX_CONNECTIONS:
            self.limit_concurrency = None if self.url.partition(b"?")[0] in PROBES else MAX_CONNECTIONS
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_body = False
        if self._deadline is not None:
            self._stop_waiting()
        super().on_message_complete()

    @override
    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it is idle; closing one whose response is not read would keep that in memory."""
        if self.transport.get_write_buffer_size():
            self._watch_sending()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _watch_sending(self) -> None:
        """Abort the connection if its client reads nothing for the time that an idle connection has."""
        if self._sending is None:
            self._sent_bytes = self.transport.sent_bytes()
            self._sending = self.loop.call_later(self.timeout_keep_alive, self._abort_if_unread)

    def _abort_if_unread(self) -> None:
        self._sending = None
        if not self.transport.get_write_buffer_size():
            return
        if self.transport.sent_bytes() == self._sent_bytes:
            self.transport.abort()
        else:
            self._watch_sending()

    def _expect(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._overdue)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refuse(408, f"The head of the request did not arrive within {HEAD_SECONDS:g} s.")
        elif (paused := self.flow.taken_pause()) > 0.1:
            self._expect(paused)
        elif self.cycle.response_complete:  # answered without the body, which is still coming
            self.transport.close()
        else:
            self._refuse(408, f"The body did not arrive within {BODY_SECONDS:g} s; send fewer records a request.")

    def _refuse(self, status: int, message: str) -> None:
        """Say why, and close; an application that waits for the body is told that the client is gone."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = msgspec.json.encode({"error": {"code": "too_slow" if status == 408 else "too_large", "message": message}})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
