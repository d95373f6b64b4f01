"""Logs and ``status.json`` of a run: bounded, and a full disk does not end the run."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from complex_system.local.state import RunState
from complex_system.logs import JsonFormatter, replica_name
from complex_system.settings import Settings

LOG_BYTES = 10 * 1024 * 1024
"""Size beyond which a log file is moved to ``<name>.1``, which replaces the one before."""
LITTLE_BYTES = 16 * 1024 * 1024
"""With less space than that, programs cannot be expected to start."""


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
def logging_to(path: Path, settings: Settings) -> Iterator[None]:
    """Send our own log to a file during the run, in the settings' format: the terminal belongs to the display."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    handler = _LogFile(path, maxBytes=LOG_BYTES, backupCount=1)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(
        JsonFormatter(settings, "runner", replica_name(settings)) if settings.log_format == "json" else text
    )
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)
        handler.close()
