"""This process as its machine knows it: a name that holds until it ends, whether another one still lives, and what it uses."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

_PROC = Path("/proc")


def process_name() -> str:
    """Return a name for this process that holds on its machine until it ends; empty where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
    return f"{boot} {namespace} {os.getpid()} {_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether a process of this machine has ended. False where that cannot be told, as for one of another machine or container."""
    parts, own = process.split(" "), process_name().split(" ")
    if len(parts) != 4 or parts[:2] != own[:2] or not parts[2].isdecimal():
        return False
    try:
        os.kill(int(parts[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _started(int(parts[2])) not in (parts[3], "unknown")


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; ``ended`` for one that nobody has waited for yet."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "unknown"
    return "ended" if fields[0] in "ZX" else fields[19]


class ProcessUsage:
    """CPU and resident memory of this process, including its threads; needs no package, because every service has heartbeats."""

    def __init__(self) -> None:
        self._used, self._looked = _cpu_seconds(), time.monotonic()
        self._percent = 0.0

    def read(self) -> tuple[float, float]:
        """Return CPU in percent (100 is one busy core; mean since a call at least a second ago) and megabytes of memory."""
        used, now = _cpu_seconds(), time.monotonic()
        if now - self._looked >= 1.0:
            self._percent = 100.0 * (used - self._used) / (now - self._looked)
            self._used, self._looked = used, now
        return round(self._percent, 1), round(_resident() / 1e6, 1)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _resident() -> float:
    """Return bytes of resident memory; the peak where the system does not tell the current value."""
    try:
        return float(int((_PROC / "self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)
