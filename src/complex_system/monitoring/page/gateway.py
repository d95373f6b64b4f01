"""A WSGI application inside an ASGI one: the page beside the REST interface, on one port. Each request runs in a thread."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from complex_system.http.auth import ApiKey

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

THREADS = 4
"""Requests that are computed at the same time; more wait."""
MOST_BODY = 1_000_000
"""Bytes that a request may have: the page's own are some thousand."""
SMALLEST_PACKED = 1500
"""Bytes from which an answer is compressed."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""What a browser may load: nothing from another host. Dash writes its start into the page itself, so inline scripts are allowed."""
SECURITY = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class WsgiGateway:
    """Runs a WSGI application for ASGI."""

    def __init__(self, application: Any, api_key: str = "") -> None:
        """Wraps an application.

        Args:
            application: WSGI.
            api_key: What who looks must know: as the password of HTTP's basic authentication, which a browser asks for, or as
                ``X-API-Key`` or ``Authorization: Bearer`` as for the REST interface. Empty for none.
        """
        self._application = application
        self._key = ApiKey(api_key, basic=True)
        self._threads = ThreadPoolExecutor(THREADS, "page")
        self._packed: dict[tuple[str, int], bytes] = {}

    def close(self) -> None:
        """Ends the threads; what is computed is let go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._key.accepts(headers):
            refusal = [(b"www-authenticate", b'Basic realm="monitoring", charset="UTF-8"'), *SECURITY]
            await _send(send, 401, refusal, b"The API key is the password; the user name does not matter.\n")
            return
        body = await _body(receive)
        if body is None:
            await _send(send, 413, list(SECURITY), b"The request is too large.\n")
            return
        loop = asyncio.get_running_loop()
        status, answered, content = await loop.run_in_executor(self._threads, partial(self._run, scope, headers, body))
        await _send(send, status, [*answered, *SECURITY], content)

    def _run(self, scope: Scope, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        began: list[Any] = []

        def start(status: str, answered: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
            began[:] = [int(status.split(" ", 1)[0]), answered]
            return lambda _: None

        chunks = self._application(_environ(scope, headers, body), start)
        try:
            content = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, answered = began
        kept = [
            (k.lower(), v) for k, v in answered if k.lower() not in ("content-length", "connection", "transfer-encoding")
        ]
        if _is_packable(dict(kept), headers, content):
            content = self._pack(str(scope["path"]), status, dict(kept), content)
            kept += [("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
        return status, [(k.encode("latin-1"), v.encode("latin-1")) for k, v in kept], content

    def _pack(self, path: str, status: int, answered: dict[str, str], content: bytes) -> bytes:
        """Compresses; the libraries' scripts, which have their version in their path, once and well."""
        if status != HTTPStatus.OK or "max-age" not in answered.get("cache-control", ""):
            return _gzip(content, 1)
        key = (path, len(content))
        if key not in self._packed:
            self._packed[key] = _gzip(content, 6)
        return self._packed[key]


def _is_packable(answered: dict[str, str], headers: dict[str, str], content: bytes) -> bool:
    kind = answered.get("content-type", "")
    is_text = kind.startswith("text/") or "javascript" in kind or "json" in kind or "svg" in kind
    return is_text and len(content) >= SMALLEST_PACKED and "gzip" in headers.get("accept-encoding", "")


def _gzip(content: bytes, effort: int) -> bytes:
    packer = zlib.compressobj(effort, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return packer.compress(content) + packer.flush()


def _environ(scope: Scope, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    host, port = scope.get("server") or ("localhost", 80)
    root = str(scope.get("root_path", ""))
    request: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"], "SCRIPT_NAME": unquote(root), "PATH_INFO": str(scope["path"]).removeprefix(root),
        "QUERY_STRING": scope["query_string"].decode("latin-1"), "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host, "SERVER_PORT": str(port or 0), "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0), "wsgi.url_scheme": scope.get("scheme", "http"), "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    request["PATH_INFO"] = request["PATH_INFO"].encode().decode("latin-1")
    if scope.get("client"):
        request["REMOTE_ADDR"] = scope["client"][0]
    for name, value in headers.items():
        if name == "content-type":
            request["CONTENT_TYPE"] = value
        elif name not in ("content-length", "authorization", "x-api-key"):
            request[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return request


async def _body(receive: Receive) -> bytes | None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = bool(message.get("more_body"))
        if len(body) > MOST_BODY:
            return None
    return body


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({
        "type": "http.response.start", "status": status,
        "headers": [*headers, (b"content-length", str(len(content)).encode())],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": content})
