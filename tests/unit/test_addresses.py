"""A server that others can reach asks for a key, or does not start."""

from __future__ import annotations

import pytest

from complex_system.errors import StartError
from complex_system.http.auth import require_key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_a_server_may_be_open(host: str) -> None:
    require_key(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "192.168.1.20", "2001:db8::1", "not.a.name.invalid"])
def test_beyond_loopback_a_server_needs_a_key(host: str) -> None:
    with pytest.raises(StartError, match="COMPLEX_SYSTEM_API_KEY"):
        require_key(host, "")
    require_key(host, "a-key")
