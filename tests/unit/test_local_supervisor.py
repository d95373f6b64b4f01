"""Processes are kept alive, and none outlives its run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.plan import Plan, PlannedService
from complex_system.local.processes import MARK, Child, stop_leftovers
from complex_system.local.servers import MongoServer, NatsServer, Server
from complex_system.local.state import Process, RunState
from complex_system.local.supervisor import Supervisor
from complex_system.settings import Settings
from support import eventually

SLEEPS = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); time.sleep(60)"


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Supervisor, RunState]]:
    """Makes a supervisor of services, each a Python program."""

    def make(*servers: NatsServer, **programs: str) -> tuple[Supervisor, RunState]:
        (tmp_path / "programs").mkdir(exist_ok=True)
        for name, program in programs.items():
            (tmp_path / "programs" / f"{name}.py").write_text(program)
        environment = {"PYTHONPATH": str(tmp_path / "programs")}
        services = tuple(PlannedService(name, name, environment) for name in programs)
        plan = Plan("here", tmp_path, servers, (), services, Settings(), Dataset.load())
        state = RunState("here", services={s.name: Process(s.name) for s in services})
        state.infrastructure = {s.name: Process(s.name, url=s.url) for s in servers}
        supervisor = Supervisor(plan, state)
        supervisor.start()
        return supervisor, state

    return make


async def test_a_service_that_dies_is_restarted(supervise: Callable[..., tuple[Supervisor, RunState]]) -> None:
    supervisor, state = supervise(worker=SLEEPS)
    process = state.services["worker"]
    try:
        first = await eventually(lambda: process.pid)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: process.restarts == 1 and process.pid not in (None, first))
        assert process.state == "starting"
    finally:
        await supervisor.stop()


async def test_a_restart_is_logged_with_its_reason(supervise: Callable[..., tuple[Supervisor, RunState]]) -> None:
    supervisor, state = supervise(worker=SLEEPS)
    told: list[str] = []
    state.on_note.append(told.append)
    try:
        os.kill(await eventually(lambda: state.services["worker"].pid), signal.SIGKILL)
        await eventually(lambda: told)
        assert told == ["worker: was ended by SIGKILL; starting again in 0.5 s (log: worker.log)"]
    finally:
        await supervisor.stop()


async def test_a_service_that_cannot_start_ends_the_run_with_its_last_log_lines(
    supervise: Callable[..., tuple[Supervisor, RunState]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.local.supervisor.FIRST_PAUSE", 0.01)
    supervisor, state = supervise(broken="raise SystemExit('no such table')", healthy=SLEEPS)
    told: list[str] = []
    state.on_note.append(told.append)
    try:
        error = await asyncio.wait_for(supervisor.failure, 120)
        pauses = [float(text.partition("starting again in ")[2].split()[0]) for text in told]
        assert pauses == [0.01, 0.02, 0.04, 0.08]
        assert "broken cannot start: it ended with exit code 1, 5 times in a row" in error.message
        assert error.message.endswith("no such table")
        assert state.services["healthy"].restarts == 0
    finally:
        await supervisor.stop()


async def test_the_reason_of_a_service_is_logged_once(
    supervise: Callable[..., tuple[Supervisor, RunState]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.local.supervisor.FIRST_PAUSE", 0.01)
    supervisor, state = supervise(broken="raise SystemExit('broken: The table keeps another type.')")
    told: list[str] = []
    state.on_note.append(told.append)
    try:
        await asyncio.wait_for(supervisor.failure, 120)
        assert sum("starting again" in note for note in told) == 4
        assert [note for note in told if "another type" in note] == ["broken: The table keeps another type."]
    finally:
        await supervisor.stop()


async def test_a_service_that_was_ready_is_always_restarted(
    supervise: Callable[..., tuple[Supervisor, RunState]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.local.supervisor.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("complex_system.local.supervisor.LONGEST_PAUSE", 0.02)
    supervisor, state = supervise(worker=SLEEPS)
    process = state.services["worker"]
    try:
        for turn in range(6):
            pid = await eventually(lambda: process.pid if process.state == "starting" else None)
            supervisor.heard_ready("worker")
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda turn=turn: process.restarts == turn + 1)
        assert not supervisor.failure.done()
    finally:
        await supervisor.stop()


async def test_stopping_leaves_no_process_and_no_child_of_one(supervise: Callable[..., tuple[Supervisor, RunState]]) -> None:
    supervisor, state = supervise(parent=PARENT, other=SLEEPS)
    pid = await eventually(lambda: state.services["parent"].pid)
    [grandchild] = await eventually(lambda: psutil.Process(pid).children())
    await supervisor.stop()
    assert not psutil.pid_exists(pid)
    with contextlib.suppress(psutil.NoSuchProcess):  # whoever reaps it may do so at any moment
        assert grandchild.status() == psutil.STATUS_ZOMBIE
    assert {process.state for process in state.services.values()} == {"stopped"}


async def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Child("deaf", [sys.executable, "-c", deaf], tmp_path / "log")
    child.start()
    await eventually(lambda: child.tail() == "deaf")
    await asyncio.to_thread(child.stop, 0.3)
    assert child.exit_code == -signal.SIGKILL


async def test_stopping_while_everything_starts_leaves_nothing(
    supervise: Callable[..., tuple[Supervisor, RunState]],
) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    supervisor, _ = supervise(a=SLEEPS, b=PARENT)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


async def test_a_server_that_dies_comes_back_on_its_port(
    supervise: Callable[..., tuple[Supervisor, RunState]], tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats", tmp_path / "logs", port=0)
    supervisor, state = supervise(server)
    process = state.infrastructure["nats"]
    try:
        await eventually(lambda: process.ready)
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: process.ready and process.pid != pid)
        assert (process.restarts, await asyncio.to_thread(server.is_ready)) == (1, True)
    finally:
        await supervisor.stop()


async def test_what_a_killed_run_left_behind_is_stopped_and_nothing_else(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    started = [
        subprocess.Popen([sys.executable, "-c", SLEEPS], env={**os.environ, MARK: str(directory)})
        for directory in (mine, other)
    ]
    try:
        # /proc shows the new environment once the program was loaded.
        await eventually(lambda: psutil.Process(started[0].pid).environ().get(MARK) == str(mine))
        assert await asyncio.to_thread(stop_leftovers, mine) == 1
        assert not psutil.pid_exists(started[0].pid)
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    child = Child("x", ["true"], tmp_path / "log")
    assert child.tail() == ""
    child.log_file.write_text("\n".join(str(i) for i in range(100)))
    assert child.tail(2) == "98\n99"


def test_a_service_that_starts_after_mlflow_waits_for_it(tmp_path: Path) -> None:
    later = replace(PlannedService("x", "x", {}), delay=30.0)

    async def main() -> int | None:
        plan = Plan("here", tmp_path, (), (), (later,), Settings(), Dataset.load())
        state = RunState("here", services={"x": Process("x")}, infrastructure={"mlflow": Process("mlflow")})
        supervisor = Supervisor(plan, state)
        supervisor.start()
        await asyncio.sleep(0.3)
        before = state.services["x"].pid
        state.infrastructure["mlflow"].state = "ready"
        await eventually(lambda: state.services["x"].pid)
        await supervisor.stop()
        return before

    assert asyncio.run(main()) is None


class Stuck(NatsServer):
    """A broker that says once that it must be started again."""

    stuck = False

    def needs_restart(self) -> bool:
        was, self.stuck = self.stuck, False
        return was


async def test_a_server_that_runs_and_does_not_work_is_started_again(
    supervise: Callable[..., tuple[Supervisor, RunState]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.local.supervisor.BROKEN_POLL", 0.05)
    server = Stuck(tmp_path / "nats", port=0)
    supervisor, state = supervise(server)
    process, told = state.infrastructure["nats"], list[str]()
    state.on_note.append(told.append)
    try:
        await eventually(lambda: process.state == "ready")
        first = process.pid
        server.stuck = True
        await eventually(lambda: process.state == "ready" and process.pid != first)
        assert process.restarts == 1
        assert "nats: could not write, and there is room again: starting it again" in told
    finally:
        await supervisor.stop()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            NatsServer,
            "[7] 2026/11/29 [ERR] Filestore [S] Critical write error: write /data/1.blk: no space left on device\n",
        ),
        (MongoServer, "[WT_VERB_DEFAULT][ERROR]: __log_fs_write, 218: WT_PANIC: WiredTiger library panic\n"),
    ],
)
def test_a_server_says_by_its_log_that_it_must_be_started_again(tmp_path: Path, kind: type[Server], line: str) -> None:
    server = kind(tmp_path / "server", port=0)
    server.make_ready()
    assert not server.needs_restart()
    server.log_file.write_text(line)
    assert server.needs_restart()
    server.make_ready()  # what it said before its restart does not count
    assert not server.needs_restart()


async def test_a_service_that_is_being_written_is_started_again_when_its_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("complex_system.local.supervisor.BROKEN_POLL", 0.05)
    monkeypatch.setattr("complex_system.local.supervisor.FIRST_PAUSE", 0.01)
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "own_services"
    package.mkdir()
    (package / "__init__.py").touch()
    code = package / "worker.py"
    code.write_text(SLEEPS)
    services = (PlannedService("worker", "own_services.worker", {"PYTHONPATH": str(tmp_path)}),)
    state = RunState("here", services={"worker": Process("worker")})
    process, told = state.services["worker"], list[str]()
    state.on_note.append(told.append)
    supervisor = Supervisor(Plan("here", tmp_path, (), (), services, Settings(), Dataset.load()), state, reload="worker")
    supervisor.start()
    try:
        first = await eventually(lambda: process.pid)

        def changed() -> bool:  # an editor writes again and again; the first time may be before the first look
            code.write_text(f"{SLEEPS}\n# {len(told)}")
            return process.restarts > 0 and process.pid not in (None, first)

        await eventually(changed)
        assert "worker: its code has changed" in told
        code.write_text("not Python")
        await eventually(lambda: process.restarts > 6)
        assert not supervisor.failure.done()
    finally:
        await supervisor.stop()
