"""What this process uses: CPU and memory, without a package, for every container sends heartbeats."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")


class ProcessUsage:
    """CPU since the last look and resident memory of this process, its threads included."""

    def __init__(self) -> None:
        self._used, self._looked = _cpu_seconds(), time.monotonic()
        self._percent = 0.0

    def read(self) -> tuple[float, float]:
        """CPU in percent (100 is one busy core; the mean since the last call a second or longer ago), and megabytes of memory."""
        used, now = _cpu_seconds(), time.monotonic()
        if now - self._looked >= 1.0:
            self._percent = 100.0 * (used - self._used) / (now - self._looked)
            self._used, self._looked = used, now
        return round(self._percent, 1), round(_resident() / 1e6, 1)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _resident() -> float:
    """Bytes; where the system does not tell the present ones, the most there ever were."""
    try:
        return float(int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)
