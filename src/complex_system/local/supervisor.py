"""Keeps the processes of a run alive: starts them, restarts those that die, with back-off, and stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from complex_system.errors import StartError
from complex_system.local.logs import is_nearly_full, rotate
from complex_system.local.plan import ExternalServer, Plan, PlannedService
from complex_system.local.processes import Child
from complex_system.local.servers import Server, reachable
from complex_system.local.state import Process, RunState
from complex_system.logs import message_of

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0
"""A process that was ready and ran this long restarts after the shortest pause."""
MAX_FAILED_STARTS = 5
"""A process that died this often without becoming ready ends the run."""
POLL = 0.1
ROTATION = 5.0
"""Seconds between two looks at the sizes of the log files."""
BROKEN_POLL = 2.0
ROOM_PAUSE = 5.0


@dataclass
class _Supervised:
    """A process with its present child, how often it died without having been ready, and its last message."""

    process: Process
    child: Child | None = None
    failed_starts: int = 0
    was_ready: bool = False
    last_message: str = ""


class Supervisor:
    """The child processes of one run."""

    def __init__(self, plan: Plan, state: RunState, reload: str = "") -> None:
        """Prepare the children; ``reload`` names a service that starts again when its code changes."""
        self._plan, self._reload = plan, reload
        self._state = state
        self._servers = {server.name: _Supervised(state.infrastructure[server.name]) for server in plan.servers}
        self._services = {service.name: _Supervised(state.services[service.name]) for service in plan.services}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failure: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        """Set when a process cannot start, which ends the run."""

    def start(self) -> None:
        """Start everything, each process in a task of its own."""
        for server in self._plan.servers:
            self._spawn(self._keep_server(server, self._servers[server.name]))
        for external in self._plan.external:
            self._spawn(self._watch_external(external))
        for service in self._plan.services:
            self._spawn(self._keep_service(service, self._services[service.name]))
        self._spawn(self._rotate_logs())

    def heard_ready(self, service: str) -> None:
        """Take note that a service said it is ready."""
        self._services[service].was_ready = True

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last log lines of a server or service; empty for one that is not started here."""
        kept = self._services.get(name) or self._servers.get(name)
        return kept.child.tail(lines) if kept and kept.child else ""

    async def stop(self) -> None:
        """Stop the services in parallel, then the servers; when it returns, no process is left."""
        self._stopping = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for group in (self._services, self._servers):
            await self._stop_all(list(group.values()))
        for server in self._plan.servers:
            await asyncio.to_thread(server.stop)  # what it leaves beside its processes

    def kill(self) -> None:
        """Kill everything without waiting."""
        for kept in (*self._services.values(), *self._servers.values()):
            if kept.child is not None:
                kept.child.signal_group(signal.SIGKILL)

    async def guarded(self, work: Awaitable[None]) -> None:
        """Do ``work``; an exception in it ends the run instead of hiding in a task."""
        try:
            await work
        except Exception as error:
            log.exception("The runner failed")
            self._fail(StartError(f"The runner itself failed: {type(error).__name__}: {error}"))

    async def _keep_server(self, server: Server, kept: _Supervised) -> None:
        async def start() -> Child:
            await asyncio.to_thread(server.make_ready)
            if not self._stopping:
                server.start_process()
            assert server.child is not None
            return server.child

        async def ready() -> bool:
            return await asyncio.to_thread(server.is_ready)

        async def broken() -> str:
            wanted = await asyncio.to_thread(server.needs_restart)
            return "could not write, and there is room again: starting it again" if wanted else ""

        if before := self._state.infrastructure.get(server.after):
            await self._pause(server.patience, unless=lambda: before.ready)
        await self._keep(kept, start, ready, broken)

    async def _keep_service(self, service: PlannedService, kept: _Supervised) -> None:
        async def start() -> Child:
            argv = [sys.executable, "-m", *([service.runner] if service.runner else []), service.module]
            log_file = self._plan.logs / f"{service.name}.log"
            child = Child(service.name, argv, log_file, env=service.environment, nice=service.nice)
            child.start()
            return child

        seen = 0.0

        async def changed() -> str:
            nonlocal seen
            newest = await asyncio.to_thread(_newest_code, service.module)
            before, seen = seen, newest
            return "its code has changed" if before and newest > before else ""

        await self._pause(service.delay, unless=self._mlflow_is_ready)
        await self._keep(kept, start, None, changed if service.name == self._reload else None)

    async def _watch_external(self, server: ExternalServer) -> None:
        process = self._state.infrastructure[server.name]
        while not self._stopping:
            up = await asyncio.to_thread(reachable, server.host, server.port)
            state = "ready" if up else "waiting"
            if self._state.set_process(process, state, "" if up else f"{server.url} does not answer"):
                self._state.note(f"{server.name}: {'found' if up else 'waiting for it'} at {server.url}")
            await self._pause(1.0)

    async def _rotate_logs(self) -> None:
        while not self._stopping:
            for kept in (*self._servers.values(), *self._services.values()):
                if kept.child is not None:
                    await asyncio.to_thread(rotate, kept.child.log_file)
            await self._pause(ROTATION)

    async def _keep(
        self,
        kept: _Supervised,
        start: Callable[[], Awaitable[Child]],
        ready: Callable[[], Awaitable[bool]] | None,
        broken: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """Start a child again whenever it dies, until the run stops.

        Args:
            kept: The process.
            start: Starts a child.
            ready: Checks whether it is ready; None for a service, whose heartbeat says so.
            broken: Says why it must be started again although it runs, or nothing.
        """
        process, pause = kept.process, FIRST_PAUSE
        while not self._stopping:
            self._state.set_process(process, "starting")
            began = time.monotonic()
            kept.was_ready = False
            try:
                kept.child = await start()
            except (StartError, OSError) as error:
                if isinstance(error, StartError) and not self._disk_is_full():
                    self._fail(error)
                    return
                await self._wait_for_room(process, error)
                continue
            if self._stopping:
                return
            process.pid = kept.child.pid
            looked = began
            while kept.child.alive and not self._stopping:
                if broken is not None and (kept.was_ready or ready is None) and time.monotonic() - looked > BROKEN_POLL:
                    looked = time.monotonic()
                    if why := await broken():
                        self._state.note(f"{process.name}: {why}")
                        await asyncio.to_thread(kept.child.stop)
                        break
                if ready is not None and not kept.was_ready and await ready():
                    kept.was_ready = True
                    self._state.set_process(process, "ready")
                    self._state.note(f"{process.name}: ready at {process.url}")
                await self._pause(POLL)
            if self._stopping:
                return
            await asyncio.to_thread(kept.child.stop, 1.0)  # its own children must not outlive it
            ending = _ending(kept.child)
            if self._gives_up(kept, kept.child, ending):
                return
            if kept.was_ready and time.monotonic() - began > HEALTHY_SECONDS:
                pause = FIRST_PAUSE
            process.restarts += 1
            self._state.set_process(process, "restarting", ending)
            self._state.note(f"{process.name}: {ending}; starting again in {pause:g} s (log: {kept.child.log_file.name})")
            self._note_last_message(kept, kept.child)
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _gives_up(self, kept: _Supervised, child: Child, ending: str) -> bool:
        """End the run if a process died too often without having been ready. On a full disk it is tried until there is room."""
        if kept.process.name == self._reload:  # somebody is writing its code
            return False
        kept.failed_starts = 0 if kept.was_ready or self._disk_is_full() else kept.failed_starts + 1
        if kept.failed_starts < MAX_FAILED_STARTS:
            return False
        self._state.set_process(kept.process, "failed", ending)
        why = f"it {ending}, {kept.failed_starts} times in a row"
        tail = f"The end of {child.log_file}:\n{child.tail()}"
        self._fail(StartError(f"{kept.process.name} cannot start: {why}. {tail}"))
        return True

    def _note_last_message(self, kept: _Supervised, child: Child) -> None:
        """Repeat the reason with which a service ended."""
        message = message_of(child.tail(1))
        if message != kept.last_message and message.startswith(f"{kept.process.name}: "):
            kept.last_message = message
            self._state.note(message)

    def _disk_is_full(self) -> bool:
        return is_nearly_full(self._plan.directory)

    async def _wait_for_room(self, process: Process, error: StartError | OSError) -> None:
        why = error.message if isinstance(error, StartError) else (error.strerror or str(error))
        if self._state.set_process(process, "restarting", why):
            self._state.note(f"{process.name}: cannot start: {why}; trying again every {ROOM_PAUSE:g} s")
        await self._pause(ROOM_PAUSE)

    def _spawn(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.create_task(self.guarded(work)))

    def _fail(self, error: StartError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    def _mlflow_is_ready(self) -> bool:
        mlflow = self._state.infrastructure.get("mlflow")
        return mlflow is None or mlflow.ready

    async def _pause(self, seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and not unless() and (left := deadline - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, POLL))

    async def _stop_all(self, kept: list[_Supervised]) -> None:
        children = [(one.process, one.child) for one in kept if one.child is not None]
        for _, child in children:
            with contextlib.suppress(OSError):
                child.terminate()
        await asyncio.gather(*(asyncio.to_thread(child.stop) for _, child in children))
        for process, _ in children:
            self._state.set_process(process, "stopped")
            process.pid = None


def _newest_code(module: str) -> float:
    """Return when a file of the library or of a service's package was changed last, in seconds since 1970."""
    names = {"complex_system", module.partition(".")[0]}
    folders = [
        place
        for name in names
        if (spec := importlib.util.find_spec(name))
        for place in spec.submodule_search_locations or ()
    ]
    times = [0.0]
    for path in (path for folder in folders for path in Path(folder).rglob("*.py")):
        with contextlib.suppress(OSError):  # an editor replaces it at this moment
            times.append(path.stat().st_mtime)
    return max(times)


def _ending(child: Child) -> str:
    code = child.exit_code
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was ended by {known.get(-code, f'signal {-code}')}"
