"""The folder of a deployment's local runs: it has one run at a time and one owner, and says how to reach the run's servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from complex_system.errors import StartError
from complex_system.local.credentials import private_folder, write_private

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
    """Hold the folder's lock; the kernel frees it however we end. What is created from now on belongs to its owner alone.

    Raises:
        StartError: Another run holds it, or the folder cannot be written.
    """
    os.umask(0o077)
    try:
        lock = (private_folder(directory) / LOCK).open("a+")
    except OSError as error:
        raise StartError(f"The folder {directory} cannot be used: {error.strerror or error}.") from error
    with lock:
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
        with contextlib.suppress(OSError):  # only a message names the process
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
    write_private(directory / _ENVIRONMENT, msgspec.json.encode(environment).decode())


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
