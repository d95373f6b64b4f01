"""JSON responses, the HTTP status of every error, and request ids."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from complex_system.errors import ComplexSystemError

REQUEST_ID = "x-request-id"
HTTP_STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "unknown_model": 404,
    "invalid_record": 422,
    "too_large": 413,
    "no_model": 503,
    "model_refused": 503,
    "nobody_listens": 503,
    "busy": 503,
    "tracking_unavailable": 503,
    "tracking_refused": 503,
    "reply_timeout": 504,
}
"""The HTTP status of every error code; 500 for a code that is missing here."""

_random_bits = random.Random().getrandbits  # noqa: S311 - an id, not a secret


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with ``content`` as JSON: anything that ``msgspec`` encodes."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def status_of(error: ComplexSystemError) -> int:
    """Return the HTTP status of an error."""
    return HTTP_STATUS.get(error.code, 500)


def challenge(status: int) -> dict[str, str]:
    """Return the header that a 401 must have."""
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def new_request_id() -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7), which rises with time by the millisecond."""
    bits = _random_bits(74)
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
