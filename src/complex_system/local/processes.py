"""Child processes: one in a process group of its own, and those that a killed run left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

MARK = "COMPLEX_SYSTEM_RUN_OF"
"""Every child of a run has this variable in its environment, with the run's folder."""


class Child:
    """One child process. Stopping it stops its whole process group, so that workers of workers end too."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        nice: int = 0,
    ) -> None:
        """Prepare a child; nothing is started yet.

        Args:
            name: What messages call it.
            argv: Program and arguments.
            log_file: Where its output goes, appended.
            env: Variables on top of our own environment.
            cwd: Working directory; ours when None.
            nice: CPU priority, 0 (normal) to 19 (lowest).
        """
        self.name = name
        self.argv = list(argv)
        self.log_file = log_file
        self.env = {**os.environ, **(env or {})}
        self.cwd = cwd
        self.nice = nice
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Its output is appended to the log file."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log_file:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs and arguments
                self.argv,
                stdout=log_file,
                stderr=log_file,
                stdin=subprocess.DEVNULL,
                env=self.env,
                cwd=self.cwd,
                process_group=0,  # and no session of its own: Linux weighs priorities only within a session
            )
        if self.nice:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, self.nice)

    @property
    def pid(self) -> int | None:
        """Process id, or None before the start."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or before the start."""
        return self._process.poll() if self._process else None

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; do nothing when it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        """Ask the process group to end."""
        self.signal_group(signal.SIGTERM)

    def stop(self, grace: float = 10.0) -> None:
        """End the process group: SIGTERM, and SIGKILL for what is left after ``grace`` seconds."""
        if self._process is None:
            return
        self.terminate()
        deadline = time.monotonic() + grace
        while self._group_lives() and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(0.02)
        self.signal_group(signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log file."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def _group_lives(self) -> bool:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True


def stop_leftovers(directory: Path, grace: float = 5.0) -> int:
    """Stop the processes that an earlier run in that folder left behind; return how many there were.

    The caller holds the run's lock, so no runner looks after them any more, and they hold ports and data files.
    """
    left = [process for process in psutil.process_iter() if _belongs(process, directory)]
    for process in left:
        _try(process.terminate)
    _, alive = psutil.wait_procs(left, timeout=grace)
    for process in alive:
        _try(process.kill)
    psutil.wait_procs(alive, timeout=grace)
    if left:
        log.warning("Stopped %d processes that an earlier run left behind", len(left))
    return len(left)


def _belongs(process: psutil.Process, directory: Path) -> bool:
    try:
        return bool(process.environ().get(MARK) == str(directory)) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _try(action: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        action()
