"""Memory of every service at few and at many records, in a whole local run. ``python -m benchmarks.memory``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.tables import Bar, Table
from complex_system.local.processes import Child
from complex_system.local.servers import ANY_PORT

DEPLOYMENTS = {"MariaDB": ("maria", 1_000_000), "MongoDB": ("mongo", 200_000)}
"""Deployments with their many records: the stand-in for MongoDB counts by reading everything, half a minute at a million."""
FIOT = Path(sys.executable).with_name("fiot")
NO_PROGRESS = 900.0
"""Seconds without a change of the numbers of records or of the trainings after which a run is given up."""
# Growth comes with the number of rows, not with how often they are looked at: few epochs show it.
SETTINGS = {"COMPLEX_SYSTEM_LIVE_RATE": "0", "COMPLEX_SYSTEM_EPOCHS": "2", "COMPLEX_SYSTEM_BOOSTING_ROUNDS": "100"}
NOTE = (
    "Memory in MB of each service's process in `fiot run {deployment}`, once the records are saved and processed, all trainers have "
    "trained on them, the models are compared and the champion has predicted. `peak` is the most that a process ever had by then "
    "(`VmHWM`). A trainer holds the rows that it learns from as float32 (64 bytes a row; half of the records are labelled) and what "
    "its library makes of them; everybody else goes page by page."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a database."""
    for database, (deployment, many) in DEPLOYMENTS.items():
        yield _measure(database, deployment, 10_000, 50_000 if quick else many)


def _measure(database: str, deployment: str, few: int, many: int) -> Table:
    found = {count: _memory(deployment, count) for count in (few, many)}
    table = Table(f"Memory, {database}", NOTE.format(deployment=deployment), ["service"], unit="peak MB")
    table.head += [f"{what} at {count:,}" for count in (few, many) for what in ("resident", "peak")] + ["growth of the peak"]
    for service in sorted(found[few]):
        row = [service]
        for count in (few, many):
            resident, peak = found[count][service]
            row += [f"{resident:.0f}", f"{peak:.0f}"]
            table.bars.append(Bar(f"{service}, {count:,}", peak, peak, peak))
        table.rows.append([*row, f"{found[many][service][1] - found[few][service][1]:+.0f}"])
    return table


def _memory(deployment: str, count: int) -> dict[str, tuple[float, float]]:
    """Resident memory and its peak in MB, by service, after a full cycle with so many records."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**ANY_PORT, **SETTINGS, "COMPLEX_SYSTEM_RUN_DIR": folder}
        command = [str(FIOT), "run", deployment, "--records", str(count)]
        run = Child("fiot run", command, Path(folder) / "out.log", env=environment, cwd=Path(__file__).parents[1])
        run.start()
        try:
            status = _after_a_cycle(run, Path(folder) / deployment / "status.json")
            records, services = status["records"], status["services"]
            assert (records["raw"], records["processed"], records["rejected"]) == (count, count, 0), records
            restarted = [name for name, service in services.items() if service["restarts"]]
            assert not restarted, f"restarted, so that their peak is not known: {restarted}"
            return {name: _of_process(service["pid"]) for name, service in services.items()}
        finally:
            run.stop(grace=60.0)


def _after_a_cycle(run: Child, path: Path) -> dict[str, Any]:
    """The run's state once its first cycle is done; progress is awaited, not a time, because a slow machine takes longer."""
    seen, changed = "", time.monotonic()
    while True:
        status = json.loads(path.read_text()) if path.exists() else {}
        if status.get("state") == "running":
            return dict(status)
        now = json.dumps([status.get("records"), status.get("results"), status.get("state")])
        if now != seen:
            seen, changed = now, time.monotonic()
        if not run.alive or time.monotonic() - changed > NO_PROGRESS:
            raise SystemExit(f"the run does not go on at {now}:\n{run.tail(40)}")
        time.sleep(1)


def _of_process(pid: int) -> tuple[float, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, peak = (int(status[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
    return resident, peak


if __name__ == "__main__":
    main(["memory"], quick=quick())
