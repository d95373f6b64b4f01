"""JSON responses, the HTTP status of every error, and the headers of pages for browsers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from complex_system.errors import ComplexSystemError

log = logging.getLogger(__name__)

HTTP_STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "misdirected": 421,
    "unsupported_media_type": 415,
    "unknown_model": 404,
    "unsupported_by_model": 409,
    "invalid_record": 422,
    "too_large": 413,
    "no_model": 503,
    "model_refused": 503,
    "nobody_listens": 503,
    "store_unavailable": 503,
    "busy": 503,
    "not_holder": 503,
    "tracking_unavailable": 503,
    "tracking_refused": 503,
    "reply_timeout": 504,
}
"""The HTTP status of every error code; 500 for a code that is missing here."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""A browser loads nothing from another host. Inline scripts are allowed, because Dash and Swagger UI start with one."""
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer a browser sends a form of ours with the origin `null`
}
"""What every page for browsers has."""


class HoldingResponse(StreamingResponse):
    """A response that is sent as its parts are made, and holds something meanwhile.

    It is given back however the response ends: where the client has gone before the first part, the parts are never asked for. One
    that stops reading is left by its connection; one that reads a little now and then has so many seconds.
    """

    def __init__(
        self,
        parts: AsyncIterable[bytes],
        give_back: Callable[[], Awaitable[None]],
        media_type: str,
        headers: Mapping[str, str],
        seconds: float,
    ) -> None:
        """Make a response.

        Args:
            parts: The body.
            give_back: Called once, at the end.
            media_type: Of the body.
            headers: Of the response.
            seconds: How long it may take; then it ends without its rest, and the connection is closed.
        """
        super().__init__(parts, media_type=media_type, headers=headers)
        self._give_back = give_back
        self._seconds = seconds

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                await super().__call__(scope, receive, send)
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("%s was not read within %g s: the connection is closed", scope["path"], self._seconds)
        finally:
            await self._give_back()


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with ``content`` as JSON: anything that ``msgspec`` encodes."""
    response = Response(msgspec.json.encode(content), status, media_type="application/json")
    # Starlette looks through headers that it is given for two that it sets itself.
    response.raw_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return response


def status_of(error: ComplexSystemError) -> int:
    """Return the HTTP status of an error."""
    return HTTP_STATUS.get(error.code, 500)


def error_response(error: ComplexSystemError) -> Response:
    """Return the response for an error outside of any protocol: ``{"error": {"code", "message"}}``."""
    status = status_of(error)
    return json_response({"error": {"code": error.code, "message": error.message}}, status, challenge(status))


def challenge(status: int) -> dict[str, str]:
    """Return the header that a 401 must have."""
    return {"www-authenticate": "Bearer"} if status == 401 else {}
