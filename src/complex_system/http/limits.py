"""Requests whose bodies are read within limits: of bytes each, and of bytes of all of them together.

How long a body may take to arrive is the connection's concern (:mod:`complex_system.http.connections`).
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from complex_system.errors import BusyError, InvalidRequestError, TooLargeError
from complex_system.http.browsers import require_json
from complex_system.logs import REQUEST_ID, request_id

LARGE_BODY = 1_000_000
"""Bytes from which a body is large: decoded in turns with the event loop."""
UNBUDGETED = 65_536
"""Bytes up to which a body is read without asking the budget: a connection buffers as many anyway."""
BUDGET = 67_108_864
"""Bytes of all bodies that are held at the same time: decoded, a body takes several times its bytes."""
WAIT_SECONDS = 60.0
"""How long a body waits for its share of the budget; then its sender is told to try again."""


class ByteBudget:
    """Bytes that are shared, first come, first served.

    Attributes:
        free: Bytes that nobody has at the moment.
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Take so many bytes; wait for them if necessary.

        Raises:
            BusyError: They did not become free in time.
        """
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._next()  # it may have held up smaller ones
            else:
                self.give_back(size)  # it had its turn, and nobody takes it
            if isinstance(error, TimeoutError):
                raise BusyError(
                    f"Other large requests were read for {WAIT_SECONDS:g} s; send this one again later, or smaller ones."
                ) from None
            raise

    def give_back(self, size: int) -> None:
        """Give bytes back, to those who wait first."""
        self.free += size
        self._next()

    def _next(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if size > self.free:
                    return
                self.free -= size
                turn.set_result(None)
            self._waiting.popleft()


class BodyLimits:
    """What all requests of one server share.

    Attributes:
        max_bytes: Of one body.
        max_records: Of one request, for the advice how to split one that is too large.
        budget: Bytes of all bodies together.
    """

    def __init__(self, max_bytes: int, max_records: int) -> None:
        self.max_bytes = max_bytes
        self.max_records = max_records
        self.budget = ByteBudget(max(BUDGET, max_bytes))
        self.unbudgeted = min(UNBUDGETED, max_bytes)


class LimitedRequest:
    """A request; :meth:`release` must be called when it is answered.

    Attributes:
        scope: ASGI's.
        headers: By name in lower case; of a repeated header the first one counts. Bytes, because few are looked at.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: BodyLimits) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._receive = receive
        self._limits = limits
        self._taken = 0
        self._id = ""

    def header(self, name: bytes) -> str:
        """Return a header by its name in lower case; empty where it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def id(self) -> str:
        """The client's request id if it can stand in a header, else one of ours."""
        if not self._id:
            self._id = request_id(self.header(_ID_FIELD))
        return self._id

    def require_json(self) -> None:
        """Let a body pass that is meant to be JSON (:func:`complex_system.http.browsers.require_json`)."""
        require_json(self.headers)

    def release(self) -> None:
        """Give back the body's share of the budget."""
        if self._taken:
            taken, self._taken = self._taken, 0
            self._limits.budget.give_back(taken)

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            InvalidRequestError: It is compressed.
            TooLargeError: It has too many bytes. Up to as much again is read and discarded, because a client that is still
                sending would see a broken connection instead of the response.
            BusyError: Too many others are being read.
            ClientDisconnect: The client is gone, or too slow.
        """
        encoding = self.headers.get(b"content-encoding", b"")
        if encoding not in (b"", b"identity"):
            shown = encoding[:40].decode("latin-1")
            raise InvalidRequestError(f"Bodies are taken uncompressed, not with Content-Encoding '{shown}'.")
        length = self.headers.get(b"content-length", b"")
        declared = int(length) if len(length) < 19 and length.isdigit() else 0
        if not 0 < declared <= self._limits.unbudgeted:
            return await self._budgeted_body(declared)
        body, more = b"", True
        while more:  # the HTTP server ends it at the declared length
            chunk, more = await self._chunk()
            body += chunk
        return body

    async def _chunk(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    async def _budgeted_body(self, declared: int) -> bytes:
        """Read a body that may be large: of no declared length, or a long one."""
        limits = self._limits
        chunks: list[bytes] = []
        size, more = 0, True
        if limits.unbudgeted < declared <= limits.max_bytes:
            await self._take(declared)
        while more and size <= 2 * limits.max_bytes:
            chunk, more = await self._chunk()
            size += len(chunk)
            if max(size, declared) > limits.max_bytes:
                chunks.clear()
                self.release()
                continue
            chunks.append(chunk)
            if size > limits.unbudgeted and not self._taken:
                # Of no declared length: taken piece by piece, two of them could wait for each other.
                await self._take(limits.max_bytes)
        if size > limits.max_bytes:
            raise TooLargeError(self._how_to_split(size))
        body = b"".join(chunks)
        if self._taken > size:
            limits.budget.give_back(self._taken - size)
            self._taken = size
        return body

    async def _take(self, size: int) -> None:
        """Take a share of the budget; what is not read meanwhile stays with the sender."""
        await self._limits.budget.take(size)
        self._taken = size

    def _how_to_split(self, seen: int) -> str:
        limits = self._limits
        declared = self.header(b"content-length")
        size = int(declared) if declared.isdecimal() and len(declared) < 20 else seen
        size_found = f"has {size} bytes" if size > seen or declared else f"has {size} bytes or more"
        # A few bytes go into what is around the records of each request.
        requests = -(-size // max(1, limits.max_bytes - 1000))
        return (
            f"The body {size_found}, more than the {limits.max_bytes} bytes that one request may have; send its records in "
            f"{max(2, requests)} requests or more, each of at most {limits.max_bytes} bytes and {limits.max_records} records."
        )


_ID_FIELD = REQUEST_ID.encode()
