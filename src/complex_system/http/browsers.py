"""What keeps pages of other people from using a reader's browser to reach these servers.

Such a page can send requests to any address, this machine's own included. It cannot choose the ``Host`` and ``Origin`` that the
browser sends along, nor send JSON to another host without being asked for permission first, which nobody here gives.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from complex_system.errors import ComplexSystemError, ForbiddenError, MisdirectedError, UnsupportedMediaTypeError
from complex_system.http.responses import error_response

ANY = "*"
"""As allowed host: every name is."""
MAX_KNOWN = 100
"""Values of ``Host`` that are remembered as allowed."""
_READING = ("GET", "HEAD", "OPTIONS")
_JSON = (b"application/json", b"")
_UNASKED = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""Content types that a page may send to another host without asking."""


class BrowserGuard:
    """An application in front of which hosts and origins are checked.

    A host is allowed as ``localhost``, as an IP address, as this machine's own name, and as a name that is given: what a foreign
    page has bound to this machine's address (DNS rebinding) is another name. A request that may change something must come from a
    page of the same origin, or of an allowed name, or from no page at all: programs send no origin.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: str = "") -> None:
        """Guard an application.

        Args:
            app: Answers what is allowed.
            allowed_hosts: Further names, separated by commas; ``*`` allows every name.
        """
        self._app = app
        self._named = frozenset(name.strip().lower() for name in allowed_hosts.split(",") if name.strip())
        self._own = {"localhost", socket.gethostname().lower()}
        self._known: set[bytes] = {b""}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        host = origin = b""
        for name, value in scope.get("headers", ()):
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if host in self._known and (not origin or scope["method"] in _READING):
            return self._app(scope, receive, send)
        try:
            self._check(host.decode("latin-1"), origin.decode("latin-1"), scope["method"])
        except ComplexSystemError as error:
            return error_response(error)(scope, receive, send)
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)
        return self._app(scope, receive, send)

    def _check(self, host: str, origin: str, method: str) -> None:
        if host and not self._is_allowed(host):
            raise MisdirectedError(
                f"This server is not known as '{host[:80]}'. Use localhost, its IP address or its own name, or add the name to "
                "COMPLEX_SYSTEM_ALLOWED_HOSTS."
            )
        if not origin or method in _READING:
            return
        place = origin.lower().partition("://")[2]
        is_own = place and (place == host.lower() or _name_of(place) in self._named)
        if not is_own and ANY not in self._named:
            raise ForbiddenError(
                f"A page of '{origin[:80]}' may not send requests to '{host[:80]}'. If it is yours, add its host to "
                "COMPLEX_SYSTEM_ALLOWED_HOSTS."
            )

    def _is_allowed(self, host: str) -> bool:
        name = _name_of(host)
        if name in self._named or name in self._own or ANY in self._named or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def require_json(headers: Mapping[bytes, bytes]) -> None:
    """Let a body pass that is meant to be JSON: programs name its type or none.

    Raises:
        UnsupportedMediaTypeError: It is of a type that a page may send to another host without being asked.
    """
    sent = headers.get(b"content-type", b"")
    if sent in _JSON:
        return
    kind = sent.partition(b";")[0].strip().decode("latin-1").lower()
    if kind in _UNASKED:
        raise UnsupportedMediaTypeError(
            f"JSON is expected, and the request calls its body '{kind}'; send the header Content-Type: application/json "
            "(with curl: -H 'Content-Type: application/json')."
        )


def _name_of(host: str) -> str:
    """Return the name or address of a host with or without port, in lower case."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")
