"""A ``fiot run`` as a process of its own, for the tests that start the whole system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from complex_system.local.processes import MARK
from complex_system.local.servers import ANY_PORT

ROOT = Path(__file__).parents[1]
FIOT = Path(sys.executable).with_name("fiot")


class FiotRun:
    """A ``fiot run`` in a folder of its own."""

    def __init__(self, base: Path, deployment: str, *options: str, **environment: str) -> None:
        self.directory = base / deployment
        self.output = base / f"{deployment}.out"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FASTIOT_", "WANDB_", "MLFLOW_"))
        }
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [FIOT, "run", deployment, *options],
                cwd=ROOT,
                env={**inherited, **ANY_PORT, "COMPLEX_SYSTEM_RUN_DIR": str(base), **environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")  # the end of a line may not be there yet

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.directory / "status.json").read_text())
            return status
        except FileNotFoundError:
            return {"state": "", "services": {}, "infrastructure": {}}

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def processes(self) -> list[psutil.Process]:
        """What the run started and has not stopped."""
        return [process for process in psutil.process_iter() if _mark(process) == str(self.directory.resolve())]

    def left(self, seconds: float = 10.0) -> list[psutil.Process]:
        """What stays behind a run that has ended; who was killed is not gone at the same moment."""
        deadline = time.monotonic() + seconds
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def eventually(self, check: Any, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (result := check()):
            assert time.monotonic() < deadline, f"Not true within {seconds:g} s. The run said:\n{self.said}"
            assert self.process.poll() is None, f"The run ended. It said:\n{self.said}"
            time.sleep(0.1)
        return result


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; it may end at any moment."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if lives(process) else None
    except (psutil.Error, OSError):
        return None


def api_key(deployment: str) -> str:
    """The key in the deployment's own ``.env``, where this checkout has one; it is not in git."""
    path = ROOT / "deployments" / deployment / ".env"
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition("=")[2] for line in lines if line.startswith("COMPLEX_SYSTEM_API_KEY=")), "")


@contextmanager
def fiot_run(base: Path, deployment: str, *options: str, **environment: str) -> Iterator[FiotRun]:
    run = FiotRun(base, deployment, *options, **environment)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            try:
                run.process.wait(60)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
        for process in run.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
