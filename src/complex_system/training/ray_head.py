"""The head of a Ray cluster as this machine sees it: whether it lets us in, and whether it is still there.

Ray itself tries for minutes, says nothing meanwhile, and then does not say what was wrong.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from complex_system.errors import ClusterUnavailableError
from complex_system.training.executor import Look, never

Report = Callable[[str], None]
"""Told what a cluster is waited for, and an empty text when that is over."""

SETTING = "COMPLEX_SYSTEM_RAY_ADDRESS"
PATIENCE = 60.0
"""Seconds for which a head that does not let us in is waited for: it may be starting."""
CONNECT_SECONDS = 10.0
"""How long a head that answers may take to accept a connection, and a request."""
_QUIET_SECONDS = 3.0
"""Nothing is said of a head that is there so soon."""
_WAIT_PAUSE = 1.0
"""Seconds between two tries to reach a head."""
_HEAD_PAUSE, _HEAD_SECONDS = 1.0, 25.0
"""Seconds between two looks at whether the head still answers, and for how long its machine may not."""
_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The beginning of HTTP/2 with empty settings, which gRPC answers with its own."""
_SETTINGS = 4


def say_nothing(_: str) -> None:
    """Say nothing: the :data:`Report` of those whom nobody asks."""


@contextmanager
def told_when_late(report: Report, text: str, seconds: float = 10.0) -> Iterator[None]:
    """Report a text when the block takes longer than so many seconds, and its end."""
    timer = threading.Timer(seconds, report, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    report("")


def wait_for_head(address: str, patience: float, look: Look = never, report: Report = say_nothing) -> None:
    """Return as soon as the head lets this process in.

    Raises:
        ClusterUnavailableError: It has not for ``patience`` seconds; the message says what to check.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterUnavailableError(
            f"{SETTING} is {address!r}; host:port of the cluster's head is expected, such as ray_head:6379."
        )
    begun, said = time.monotonic(), ""
    while True:
        look()
        fault = fault_of(address)
        waited = time.monotonic() - begun
        if not fault:
            if said:
                report("")
            return
        if waited >= _QUIET_SECONDS and fault != said:
            said = fault
            report(f"{fault} Tried again for {patience:.0f} s.")
        if waited > patience:
            raise ClusterUnavailableError(fault)
        time.sleep(_WAIT_PAUSE)


def fault_of(address: str) -> str:
    """Return why the head does not let this process in, and what to check; empty where it does, or is too busy to say."""
    try:
        connection = _connection(address)
    except OSError as error:
        return (
            f"Nothing answers at {address}, the address of the Ray cluster in {SETTING} ({error}). Start the cluster, or leave the "
            "address empty to train in the service."
        )
    with connection:
        try:
            return _fault_with_tls(address, connection) if _uses_tls() else _fault_without_tls(address, connection)
        except TimeoutError:
            return ""


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)


def _uses_tls() -> bool:
    """Return what Ray makes of its variable."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _fault_without_tls(address: str, connection: socket.socket) -> str:
    if _is_answered(connection):
        return ""
    if _speaks_tls(address):
        return (
            f"The Ray cluster at {address} uses TLS, and this trainer does not. Set RAY_USE_TLS=1, {', '.join(_FILES)} in its "
            "environment as on the cluster's nodes, and start it again (docs/cluster.md#tls)."
        )
    return f"What answers at {address} ({SETTING}) is not the head of a Ray cluster. Check the address and the port (6379 by default)."


def _fault_with_tls(address: str, connection: socket.socket) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # gRPC does that itself
    context.set_alpn_protocols(["h2"])
    files = {name: os.environ.get(name, "") for name in _FILES}
    for name, file in files.items():
        if not os.access(file, os.R_OK):
            return f"RAY_USE_TLS is set, and {name} names no file that this trainer can read: {file or 'it is not set'}."
    certificate, key, authority = files.values()
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        return f"The files of RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT cannot be used: {error}."
    try:
        with context.wrap_socket(connection) as secure:
            if _is_answered(secure):
                return ""
        reason = "it refuses this trainer's certificate"
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not of the authority in RAY_TLS_CA_CERT ({error.verify_message})"
    except TimeoutError:
        raise
    except OSError as error:
        refused = isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
        reason = "it refuses this trainer's certificate" if refused else "it does not use TLS"
    return f"This trainer uses TLS (RAY_USE_TLS), and the Ray cluster at {address} does not let it in: {reason} (docs/cluster.md#tls)."


def _is_answered(connection: socket.socket) -> bool:
    """Return whether gRPC is at the other end, and lets us in."""
    try:
        connection.sendall(_GREETING)
        head = b""
        while len(head) < 9 and (more := connection.recv(9 - len(head))):
            head += more
    except TimeoutError:
        raise
    except OSError:
        return False
    return len(head) == 9 and head[3] == _SETTINGS


def _speaks_tls(address: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only asked whether it is TLS
    try:
        with _connection(address) as connection, context.wrap_socket(connection):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


class HeadWatch:
    """Notices that the head is lost; Ray itself would end this process after a minute, or wait without end."""

    def __init__(self, address: str, is_known: Callable[[], bool] = lambda: True) -> None:
        """Begin to watch.

        Args:
            address: Of the head.
            is_known: Whether the head is still the one that this process is connected to; asked after a time without a look.
        """
        self._address = address
        self._is_known = is_known
        self._answered = self._looked = time.monotonic()

    def look(self) -> None:
        """Look now and then; to be called often.

        A refused connection is enough: nobody listens, so the head has ended, and one that is started at the same address knows
        nothing of this training. A machine that does not answer may come back.

        Raises:
            ClusterUnavailableError: The head has ended, was replaced, or has not answered for a while.
        """
        now = time.monotonic()
        if now - self._looked < _HEAD_PAUSE:
            return
        unwatched = now - self._looked > _HEAD_SECONDS
        if unwatched:  # nothing is known of this time
            self._answered = now
        self._looked = now
        try:
            _connection(self._address).close()
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) or now - self._answered > _HEAD_SECONDS:
                raise self._lost() from None
        else:
            self._answered = now
            if unwatched and not self._is_known():
                raise self._lost()

    def _lost(self) -> ClusterUnavailableError:
        return ClusterUnavailableError(f"The head of the Ray cluster at {self._address} is lost")
