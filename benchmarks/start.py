"""From ``fiot run`` to the first prediction, and the processor time until then. ``python -m benchmarks.start``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.tables import Table
from complex_system.local.processes import Child
from complex_system.local.servers import ANY_PORT

FIOT = Path(sys.executable).with_name("fiot")
PATIENCE = 900.0
NOTE = (
    "`fiot run {deployment}` in an empty folder until the champion's first prediction, 10,000 records, all services; median "
    "of {rounds}. By the clock it is what a person waits for; on a machine that does other work too, read the processor "
    "time of each process until then. (What servers do for clients that poll grows with the clock.) Half of the sum is the "
    "least that two cores can take: with MongoDB's stand-in the aim of 22 s is out of reach of any order of things. Most of it is "
    "imports: TensorFlow, PyTorch in two trainers, LightGBM with scikit-learn, MLflow's server, and its client in trainers, "
    "consumer, serving and monitoring. What one waits for (the recording in the README): both cores are busy until 20 s with "
    "imports, and with the 10,000 records, which are processed at 21 to 25 s, because the stand-in for MongoDB uses one core; "
    "four trainings until 34 s, which use both cores; the stack and the comparison until 40 s, which are one request to MLflow "
    "after another: a third is the stack, nearly half the log of the comparison and the cards."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a deployment."""
    for deployment in ("mongo", "maria"):
        yield _measure(deployment, 1 if quick else 3)


def _measure(deployment: str, rounds: int) -> Table:
    found = [_started(deployment) for _ in range(rounds)]
    table = Table(
        f"First prediction of {deployment}",
        NOTE.format(deployment=deployment, rounds=rounds),
        ["what", "s", "spread"],
        unit="s",
    )
    clocks = [clock for clock, _ in found]
    sums = [sum(parts.values()) for _, parts in found]
    rows = {"by the clock": clocks, "processor time": sums}
    names = sorted({name for _, parts in found for name in parts}, key=lambda name: -found[0][1].get(name, 0.0))
    rows |= {name: [parts.get(name, 0.0) for _, parts in found] for name in names}
    table.rows = [
        [name, f"{median(values):.1f}", f"{min(values):.1f} to {max(values):.1f}"]
        for name, values in rows.items()
        if median(values) >= 0.1
    ]
    return table


def _started(deployment: str) -> tuple[float, dict[str, float]]:
    """Return the seconds to the first prediction, and the processor time until then by process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**ANY_PORT, "COMPLEX_SYSTEM_RUN_DIR": folder}
        run = Child(
            "fiot run",
            [str(FIOT), "run", deployment],
            Path(folder) / "out.log",
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        run.start()
        deadline = time.monotonic() + PATIENCE
        used: dict[tuple[str, int], float] = {}
        try:
            while True:
                _note(run.pid, used)
                seconds = _status(Path(folder) / deployment / "status.json").get("seconds_to_first_prediction")
                if seconds is not None:
                    break
                if not run.alive or time.monotonic() > deadline:
                    raise SystemExit(f"no prediction:\n{run.tail(40)}")
                time.sleep(0.2)
        finally:
            run.stop(grace=60.0)
    parts: dict[str, float] = {}
    for (name, _), spent in used.items():
        parts[name] = parts.get(name, 0.0) + spent
    return float(seconds), parts


def _note(pid: int, used: dict[tuple[str, int], float]) -> None:
    """Note the processor time of a process and of all below it; of those that end, what they had at the last look."""
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times, words = process.cpu_times(), process.cmdline()
        except psutil.Error:
            continue
        used[_name(words), process.pid] = times.user + times.system


def _name(words: list[str]) -> str:
    service = next((word.split(".")[1] for word in words if word.startswith("complex_system_services.")), "")
    files = [Path(word).name for word in words]
    known = {
        "mlflow_server.py": "MLflow's server", "nats-server": "NATS", "mariadbd": "MariaDB", "secantusd-py": "MongoDB's stand-in",
        "mongod": "MongoDB", "fiot": "fiot run",
    }  # fmt: skip
    return service or next((known[file] for file in files if file in known), "others")


def _status(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


if __name__ == "__main__":
    main(["start"], quick=quick())
