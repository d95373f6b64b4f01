"""The folder of a local run: one run at a time, its data, and the runner's own log."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from complex_system.errors import StartError

LOCK = "lock"


@contextlib.contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Holds the folder's lock; the kernel frees it however we end.

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


def remove_data(directory: Path) -> None:
    """Removes all that earlier runs left in the folder; the lock, which this run holds, stays."""
    for entry in directory.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Sends our own log to a file for the time of the run: the terminal belongs to the display."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)
        handler.close()
