"""The folder of a run: one run at a time has it, only its owner can enter it, its logs have a limit, and its disk may be full."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.credentials import private_folder
from complex_system.local.state import RunState

LOCK = "lock"
LOG_BYTES = 10 * 1024 * 1024
"""Size beyond which a log file is moved to ``<name>.1``, which replaces the one before."""
LITTLE_BYTES = 16 * 1024 * 1024
"""With less space than that, programs cannot be expected to start."""


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


def remove_data(directory: Path) -> None:
    """Remove everything that earlier runs left in the folder, except the lock, which this run holds."""
    for entry in directory.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def rotate(log_file: Path, limit: int = LOG_BYTES) -> None:
    """Move a log that is longer than ``limit`` to ``<name>.1``. Its writers append, so they go on in the emptied file."""
    if not log_file.exists() or log_file.stat().st_size <= limit:
        return
    earlier = log_file.with_name(f"{log_file.name}.1")
    earlier.unlink(missing_ok=True)
    try:
        shutil.copyfile(log_file, earlier)
    except OSError:  # no space for both
        earlier.unlink(missing_ok=True)
    os.truncate(log_file, 0)


def is_nearly_full(directory: Path) -> bool:
    """Whether the folder's disk has no room to speak of."""
    return shutil.disk_usage(directory).free < LITTLE_BYTES


class StatusFile:
    """``status.json``, replaced every now and then; a full disk is reported once and does not end the run."""

    def __init__(self, path: Path, state: RunState) -> None:
        """Prepare; nothing is written yet."""
        self._path = path
        self._state = state
        self._problem = ""

    def write(self) -> None:
        """Write the present state, if that is possible."""
        try:
            self._state.write_status(self._path)
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self._problem:
                self._state.note(f"{self._path.name} cannot be written: {problem}; the run goes on")
            self._problem = problem
        else:
            if self._problem:
                self._state.note(f"{self._path.name} is written again")
            self._problem = ""


class _LogFile(logging.handlers.RotatingFileHandler):
    """Our own log. What a full disk does not take is lost here; the display shows it anyway."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Stay silent: Python's own report would be written across the display."""


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send our own log to a file during the run: the terminal belongs to the display."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    handler = _LogFile(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)
        handler.close()
