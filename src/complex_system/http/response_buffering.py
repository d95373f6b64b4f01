"""uvicorn's HTTP protocol with head and body of an answer in one packet."""

from __future__ import annotations

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _JoinedWrites:
    """A transport that sends two writes of one turn of the loop together: a system call costs an answer a tenth of its time."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: bytes | None = None
        self._due: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Holds the first write until the next one, at most until the loop's next turn."""
        if self._held is None:
            self._held = data
            self._due = self._loop.call_soon(self._send)
            return
        self._held += data
        self._send()

    def close(self) -> None:
        """Closes after what is held was sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)


class JoinedWritesProtocol(HttpToolsProtocol):
    """HTTP by ``httptools``, over joined writes."""

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(_JoinedWrites(transport))  # type: ignore[arg-type]
