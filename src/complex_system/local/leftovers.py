"""Processes of a run that was killed before it could stop them."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

MARK = "COMPLEX_SYSTEM_RUN_OF"
"""Every child of a run has this variable in its environment, with the run's folder."""


def stop_leftovers(directory: Path, grace: float = 5.0) -> int:
    """Stops what an earlier run in that folder left behind, and says how many processes that were.

    The caller holds the run's lock, so no runner looks after them any more, and they hold ports and data files.
    """
    left = [process for process in psutil.process_iter() if _belongs(process, directory)]
    for process in left:
        _quietly(process.terminate)
    _, stubborn = psutil.wait_procs(left, timeout=grace)
    for process in stubborn:
        _quietly(process.kill)
    psutil.wait_procs(stubborn, timeout=grace)
    if left:
        log.warning("Stopped %d processes that an earlier run left behind", len(left))
    return len(left)


def _belongs(process: psutil.Process, directory: Path) -> bool:
    try:
        return bool(process.environ().get(MARK) == str(directory)) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _quietly(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except psutil.Error:
        return
