"""The API key that clients of our HTTP servers send."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
from collections.abc import Iterator, Mapping

from complex_system.errors import StartError, UnauthorizedError


class ApiKey:
    """Decides whether a request carries the key: as ``X-API-Key`` or as ``Authorization: Bearer``.

    Browsers cannot send either; for a page, the password of HTTP's basic authentication counts, too.
    """

    def __init__(self, key: str, *, basic: bool = False) -> None:
        """Set the key.

        Args:
            key: What clients must send; empty lets every request pass.
            basic: Whether the password of basic authentication is accepted; the user name does not matter.
        """
        self._key = key.encode()
        self._basic = basic

    def __bool__(self) -> bool:
        """Return whether a key is set."""
        return bool(self._key)

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request may pass. Names in ``headers`` are in lower case."""
        return not self._key or any(hmac.compare_digest(each.encode(), self._key) for each in self._sent(headers))

    def require(self, headers: Mapping[str, str]) -> None:
        """Let a request pass, or refuse it.

        Raises:
            UnauthorizedError: The key is missing or wrong.
        """
        if not self.accepts(headers):
            raise UnauthorizedError("The API key is missing or wrong; send it as the header X-API-Key.")

    def _sent(self, headers: Mapping[str, str]) -> Iterator[str]:
        yield headers.get("x-api-key", "")
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            yield value.strip()
        elif scheme.lower() == "basic" and self._basic:
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
