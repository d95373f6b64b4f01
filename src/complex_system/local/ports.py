"""Ports of this machine, chosen so that two runs which start at the same moment never get the same one."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from complex_system.errors import StartError

HOST = "127.0.0.1"
ANY_PORT = dict.fromkeys(
    (
        "FASTIOT_NATS_PORT",
        "FASTIOT_MONGO_DB_PORT",
        "FASTIOT_MARIA_DB_PORT",
        "COMPLEX_SYSTEM_MLFLOW_PORT",
        "COMPLEX_SYSTEM_SERVING_PORT",
        "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT",
        "COMPLEX_SYSTEM_MONITORING_PORT",
    ),
    "0",
)
"""What a run's environment says when no port shall be a fixed one, so that it can be beside others."""
_TRIES = 100
_MOST_HELD = 64
_held: dict[int, int] = {}
"""Lock files of this process by port, oldest first. The system lets go of them when it ends, however it ends."""


def free_port(preferred: int = 0) -> int:
    """``preferred`` if it is free on the loopback interface, else a port that is.

    Between this answer and the moment when a server listens there, the port looks free to everybody. So this process keeps a lock on
    it, which other runs of the same user respect.

    Raises:
        StartError: There is none.
    """
    for port in (preferred, *[0] * _TRIES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                found = int(probe.getsockname()[1])
                if _reserve(found):
                    return found
    raise StartError("No free port is left on this machine.")


def _reserve(port: int) -> bool:
    """Whether this process has the port's lock now. What it had before is its own to give again."""
    if port in _held:
        return True
    folder = Path(tempfile.gettempdir()) / f"complex-system-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _held[port] = lock
    if len(_held) > _MOST_HELD:  # by now something listens on the oldest
        os.close(_held.pop(next(iter(_held))))
    return True
