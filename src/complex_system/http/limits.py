"""Requests whose bodies are read within limits: of bytes, of large bodies held at the same time, and of time."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from complex_system.domain.keys import new_key
from complex_system.errors import InvalidRequestError, TooLargeError
from complex_system.http.responses import REQUEST_ID

LARGE_BODY = 1_000_000
"""Bytes from which a body is large."""
LARGE_AT_ONCE = 4
"""Large bodies held at the same time: decoded, a body takes several times its bytes."""
LARGE_SECONDS = 60.0
"""Time for a large body to arrive once it is being read, so that a slow sender does not block the others."""


class BodyLimits:
    """What all requests of one server share.

    Attributes:
        small: Bytes below which a body needs no place.
        large: Places for requests with large bodies.
    """

    def __init__(self, max_bytes: int, max_records: int) -> None:
        """Set the limits.

        Args:
            max_bytes: Of one body.
            max_records: Of one request, for the advice how to split one that is too large.
        """
        self.max_bytes = max_bytes
        self.small = min(LARGE_BODY, max_bytes)
        self.max_records = max_records
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)


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
        self._holds_place = False
        self._id = ""

    def header(self, name: bytes) -> str:
        """Return a header by its name in lower case; empty where it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def id(self) -> str:
        """The client's request id if it can stand in a header, else one of ours."""
        if not self._id:
            sent = self.headers.get(_ID_FIELD)
            self._id = sent.decode() if sent and _ID.fullmatch(sent) else new_key()
        return self._id

    def release(self) -> None:
        """Give back the place of a large body."""
        if self._holds_place:
            self._holds_place = False
            self._limits.large.release()

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            InvalidRequestError: It is compressed, or large and slow.
            TooLargeError: It has too many bytes. Up to as much again is read and discarded, because a client that is still
                sending would see a broken connection instead of the response.
            ClientDisconnect: The client is gone.
        """
        encoding = self.headers.get(b"content-encoding", b"")
        if encoding not in (b"", b"identity"):
            shown = encoding[:40].decode("latin-1")
            raise InvalidRequestError(f"Bodies are taken uncompressed, not with Content-Encoding '{shown}'.")
        length = self.headers.get(b"content-length", b"")
        declared = int(length) if len(length) < 19 and length.isdigit() else 0
        if not 0 < declared < self._limits.small:
            return await self._large_body(declared)
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

    async def _large_body(self, declared: int) -> bytes:
        """Read a body that may be large: of no declared length, or a long one."""
        max_bytes = self._limits.max_bytes
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(None) as limit:
                if LARGE_BODY <= declared <= max_bytes:
                    await self._wait_for_place(limit)
                while more and size <= 2 * max_bytes:
                    chunk, more = await self._chunk()
                    size += len(chunk)
                    if max(size, declared) > max_bytes:
                        chunks.clear()
                        self.release()
                        continue
                    chunks.append(chunk)
                    if size >= LARGE_BODY and not self._holds_place:
                        await self._wait_for_place(limit)
        except TimeoutError:
            raise InvalidRequestError(
                f"The body of more than {LARGE_BODY} bytes did not arrive within {LARGE_SECONDS:g} s; send fewer records a request."
            ) from None
        if size > max_bytes:
            raise TooLargeError(self._how_to_split(size))
        return b"".join(chunks)

    async def _wait_for_place(self, limit: asyncio.Timeout) -> None:
        """Wait for a place among the large bodies; what is not read meanwhile stays with the sender."""
        await self._limits.large.acquire()
        self._holds_place = True
        limit.reschedule(asyncio.get_running_loop().time() + LARGE_SECONDS)

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
_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
