"""The folder of a deployment's local runs: one run at a time has it, and says how to reach its servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from complex_system.errors import StartError

LOCK = "lock"
_ENVIRONMENT = "environment.json"


class RunEnvironment(msgspec.Struct, frozen=True):
    """How a run was started, for programs that need its data.

    Attributes:
        servers: Variables that point a service to the servers that the run started.
        options: Variables from the command line.
    """

    servers: dict[str, str]
    options: dict[str, str]


@contextlib.contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it however we end.

    Raises:
        StartError: Another run holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise StartError(
                f"This deployment runs already (process {owner}, in {directory}); stop that run first."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def is_running(directory: Path) -> bool:
    """Return whether a run holds the folder's lock at the moment."""
    try:
        with (directory / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def remove_data(directory: Path) -> None:
    """Remove everything that earlier runs left in the folder, except the lock, which this run holds."""
    for entry in directory.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_environment(directory: Path, environment: RunEnvironment) -> None:
    """Write down how the run is started; only its owner can read it, for there may be passwords in it."""
    path = directory / _ENVIRONMENT
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(environment))


def read_environment(directory: Path) -> RunEnvironment | None:
    """Return how the newest run was started; None where there was none.

    Raises:
        StartError: The file cannot be read.
    """
    path = directory / _ENVIRONMENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunEnvironment)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StartError(f"{path} cannot be read: {error}") from error
