"""A WSGI application as an ASGI one: the page beside the REST interface, on one port. Each request runs in a thread."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect

from complex_system.http.auth import ApiKey
from complex_system.http.login import login_address
from complex_system.http.responses import PAGE_HEADERS

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

THREADS = 4
"""Requests that are answered at the same time; more wait."""
MAX_BODY = 1_000_000
"""Bytes of a request at most; the page's own have a few thousand."""
MIN_COMPRESSED = 1500
"""Bytes from which on an answer is compressed."""
MAX_COMPRESSED = 20_000_000
"""Bytes of compressed scripts that are kept; Dash's own are 3 million."""
SECURITY = [(name.encode(), value.encode()) for name, value in PAGE_HEADERS.items()]


class WsgiGateway:
    """Runs a WSGI application in threads of its own."""

    def __init__(self, application: Any, api_key: str = "") -> None:
        """Wrap an application.

        Args:
            application: WSGI.
            api_key: What readers must know (:class:`ApiKey`); a browser without it is led to the login. Empty for none.
        """
        self._application = application
        self._key = ApiKey(api_key)
        self._threads = ThreadPoolExecutor(THREADS, "page")
        self._compressed: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads; requests under way get no answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._key.accepts(headers):
            await _refuse(scope, headers, send)
            return
        try:
            body = await _body(receive)
        except ClientDisconnect:
            return
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
        if _is_compressible(dict(kept), headers, content):
            content = self._compress(status, dict(kept), content)
            kept += [("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
        return status, [(k.encode("latin-1"), v.encode("latin-1")) for k, v in kept], content

    def _compress(self, status: int, answered: dict[str, str], content: bytes) -> bytes:
        """Compress an answer; what browsers keep, scripts of libraries, is compressed once and well.

        It is known by its content: Dash serves a script under any number of names.
        """
        if status != HTTPStatus.OK or "max-age" not in answered.get("cache-control", ""):
            return gzip.compress(content, 1, mtime=0)
        key = hashlib.blake2b(content, digest_size=16).digest()
        with self._lock:
            if (known := self._compressed.get(key)) is not None:
                self._compressed.move_to_end(key)
                return known
        made = gzip.compress(content, 6, mtime=0)
        with self._lock:
            self._compressed[key] = made
            while sum(map(len, self._compressed.values())) > MAX_COMPRESSED:
                self._compressed.popitem(last=False)
        return made


def _is_compressible(answered: dict[str, str], headers: dict[str, str], content: bytes) -> bool:
    kind = answered.get("content-type", "")
    is_text = kind.startswith("text/") or "javascript" in kind or "json" in kind or "svg" in kind
    return is_text and len(content) >= MIN_COMPRESSED and "gzip" in headers.get("accept-encoding", "")


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
        elif name not in ("content-length", "authorization", "x-api-key", "cookie"):
            request[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return request


async def _refuse(scope: Scope, headers: dict[str, str], send: Send) -> None:
    """Lead a browser that opens a page to the login; refuse everything else."""
    if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        place = login_address(str(scope["path"]), scope["query_string"].decode("latin-1"))
        await _send(send, 303, [(b"location", place.encode("latin-1")), *SECURITY], b"")
        return
    content = b"The API key is missing or wrong: log in at /login, or send it as X-API-Key.\n"
    await _send(send, 401, [(b"www-authenticate", b"Bearer"), *SECURITY], content)


async def _body(receive: Receive) -> bytes | None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = bool(message.get("more_body"))
        if len(body) > MAX_BODY:
            return None
    return body


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({
        "type": "http.response.start", "status": status,
        "headers": [*headers, (b"content-length", str(len(content)).encode())],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": content})
