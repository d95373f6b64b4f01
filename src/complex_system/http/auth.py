"""The API key that clients of our HTTP servers send, and the sessions and links that stand for it in a browser."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Literal

from complex_system.errors import StartError, UnauthorizedError

SESSION_SECONDS = 7 * 86_400
"""How long a browser stays logged in."""
LINK_SECONDS = 86_400
"""How long a link that logs in is good for, once."""

Purpose = Literal["session", "link"]


class ApiKey:
    """Decides whether a request carries the key.

    Programs send it as ``X-API-Key``, as ``Authorization: Bearer``, or as the password of HTTP's basic authentication. A browser
    sends the cookie of a session, which the key signs: every service of the deployment accepts it, and a new key ends all sessions.
    """

    def __init__(self, key: str) -> None:
        """Set the key; empty lets every request pass."""
        self._key = key.encode()
        # Cookies are not separated by port: deployments beside each other must not overwrite each other's.
        self.cookie = f"complex_system_{hashlib.sha256(b'cookie' + self._key).hexdigest()[:8]}"

    def __bool__(self) -> bool:
        """Return whether a key is set."""
        return bool(self._key)

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request may pass. Names in ``headers`` are in lower case."""
        if not self._key or any(self.is_key(each) for each in _sent(headers)):
            return True
        return bool(self.verified("session", self._session(headers.get("cookie", ""))))

    def require(self, headers: Mapping[str, str]) -> None:
        """Let a request pass, or refuse it.

        Raises:
            UnauthorizedError: The key is missing or wrong.
        """
        if not self.accepts(headers):
            raise UnauthorizedError(
                "The API key is missing or wrong; send it as the header X-API-Key. In a browser, log in at /login."
            )

    def is_key(self, text: str) -> bool:
        """Return whether a text is the key."""
        return hmac.compare_digest(text.encode(), self._key)

    def token(self, purpose: Purpose) -> str:
        """Return what stands for the key for a while: in the cookie of a session, or in a link that logs in."""
        seconds = SESSION_SECONDS if purpose == "session" else LINK_SECONDS
        content = f"{int(time.time()) + seconds}.{secrets.token_hex(16)}"
        return f"{content}.{self._signature(purpose, content)}"

    def verified(self, purpose: Purpose, token: str) -> float:
        """Return when a token of ours ends, in seconds since 1970; 0 for another one and for one that has ended."""
        content, _, signature = token.rpartition(".")
        if not self._key or not hmac.compare_digest(signature.encode(), self._signature(purpose, content).encode()):
            return 0.0
        ends = float(content.partition(".")[0])
        return ends if ends > time.time() else 0.0

    def _signature(self, purpose: Purpose, content: str) -> str:
        return hmac.new(self._key, f"{purpose}.{content}".encode(), hashlib.sha256).hexdigest()

    def _session(self, cookies: str) -> str:
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found else ""


def _sent(headers: Mapping[str, str]) -> Iterator[str]:
    yield headers.get("x-api-key", "")
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    elif scheme.lower() == "basic":
        try:
            yield base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # not base64, or not UTF-8
            return


def require_key(host: str, key: str) -> None:
    """Refuse to serve an address that others can reach without asking them for a key.

    Args:
        host: Address that the server binds to.
        key: The API key.

    Raises:
        StartError: There is no key, and the address is not on loopback.
    """
    if not key and not _is_loopback(host):
        raise StartError(
            f"Without an API key, everybody who reaches {host or 'this machine'} could use this server: set COMPLEX_SYSTEM_API_KEY, "
            "or bind it to 127.0.0.1 (COMPLEX_SYSTEM_SERVING_HOST)."
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP) if host else []
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(each[4][0])).is_loopback for each in found)
