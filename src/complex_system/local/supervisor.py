"""Keeps the processes of a run alive: starts them, restarts what dies, with back-off, and stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from complex_system.errors import StartError
from complex_system.local.plan import ExternalServer, Plan, PlannedService
from complex_system.local.processes import Child
from complex_system.local.servers import Server, reachable
from complex_system.local.state import Process, RunState

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0
"""A process that was ready and lived that long starts again with the shortest pause."""
VAIN_STARTS = 5
"""A process that died that often and never became ready ends the run."""
LOOK = 0.1


@dataclass
class _Kept:
    """A process, the child that is it at present, how often it died without having been ready, and what it said last."""

    process: Process
    child: Child | None = None
    vain: int = 0
    was_ready: bool = False
    said: str = ""


class Supervisor:
    """The child processes of one run."""

    def __init__(self, plan: Plan, state: RunState) -> None:
        self._plan = plan
        self._state = state
        self._services: dict[str, _Kept] = {}
        self._servers: dict[str, tuple[Server, _Kept]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failure: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        """Set when a process cannot come up, which ends the run."""

    def start(self) -> None:
        """Starts everything, each in a task of its own."""
        for server in self._plan.servers:
            kept = _Kept(self._state.infrastructure[server.name])
            self._servers[server.name] = (server, kept)
            self._spawn(self._keep_server(server, kept))
        for external in self._plan.external:
            self._spawn(self._watch_external(external))
        for service in self._plan.services:
            kept = self._services[service.name] = _Kept(self._state.services[service.name])
            self._spawn(self._keep_service(service, kept))

    def heard_ready(self, service: str) -> None:
        """A service said that it is ready."""
        self._services[service].was_ready = True

    def tail(self, name: str, lines: int = 15) -> str:
        """The last log lines of a server or service."""
        child = self._services[name].child if name in self._services else None
        if name in self._servers:
            child = self._servers[name][0].child
        return child.tail(lines) if child else ""

    async def stop(self) -> None:
        """Stops the services side by side, then the servers; when it returns, no process is left."""
        self._stopping = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_all(list(self._services.values()))
        await self._stop_all([kept for _, kept in self._servers.values()])

    def kill(self) -> None:
        """Ends everything at once, for who does not want to wait."""
        for kept in [*self._services.values(), *(kept for _, kept in self._servers.values())]:
            if kept.child is not None:
                kept.child.signal_group(signal.SIGKILL)

    # Servers

    async def _keep_server(self, server: Server, kept: _Kept) -> None:
        async def start() -> Child:
            await asyncio.to_thread(server.make_ready)
            if not self._stopping:
                server.start_process()
            assert server.child is not None
            return server.child

        async def ready() -> bool:
            return await asyncio.to_thread(server.is_ready)

        await self._keep(kept, start, ready)

    async def _watch_external(self, server: ExternalServer) -> None:
        process = self._state.infrastructure[server.name]
        while not self._stopping:
            up = await asyncio.to_thread(reachable, server.host, server.port)
            state = "ready" if up else "waiting"
            if self._state.set_process(process, state, "" if up else f"{server.url} does not answer"):
                self._state.note(f"{server.name}: {'found' if up else 'waiting for it'} at {server.url}")
            await self._pause(1.0)

    # Services

    async def _keep_service(self, service: PlannedService, kept: _Kept) -> None:
        await self._pause(service.delay, unless=self._mlflow_is_ready)

        async def start() -> Child:
            child = Child(
                service.name,
                [sys.executable, "-m", service.module],
                self._plan.logs / f"{service.name}.log",
                env=service.environment,
                nice=service.nice,
            )
            child.start()
            return child

        kept.process.url = service.url
        await self._keep(kept, start, None)

    # Both

    async def _keep(
        self, kept: _Kept, start: Callable[[], Awaitable[Child]], ready: Callable[[], Awaitable[bool]] | None
    ) -> None:
        """Starts a child again and again until the run stops.

        Args:
            kept: What is kept alive.
            start: Starts a child.
            ready: Whether it is ready; None for who says so itself, in its heartbeat.
        """
        process, pause = kept.process, FIRST_PAUSE
        while not self._stopping:
            self._state.set_process(process, "starting")
            began = time.monotonic()
            kept.was_ready = False
            try:
                kept.child = await start()
            except StartError as error:
                self._fail(error)
                return
            if self._stopping:
                return
            process.pid = kept.child.pid
            while kept.child.alive and not self._stopping:
                if ready is not None and not kept.was_ready and await ready():
                    kept.was_ready = True
                    self._state.set_process(process, "ready")
                    self._state.note(f"{process.name}: ready at {process.url}")
                await self._pause(LOOK)
            if self._stopping:
                return
            await asyncio.to_thread(kept.child.stop, 1.0)  # what it started itself must not outlive it
            ending = _ending(kept.child)
            kept.vain = 0 if kept.was_ready else kept.vain + 1
            if kept.vain >= VAIN_STARTS:
                self._state.set_process(process, "failed", ending)
                self._fail(
                    StartError(
                        f"{process.name} cannot come up: it {ending}, {kept.vain} times in a row. "
                        f"The end of {kept.child.log_file}:\n{kept.child.tail()}"
                    )
                )
                return
            if kept.was_ready and time.monotonic() - began > HEALTHY_SECONDS:
                pause = FIRST_PAUSE
            process.restarts += 1
            self._state.set_process(process, "restarting", ending)
            self._state.note(f"{process.name}: {ending}; starting again in {pause:g} s (log: {kept.child.log_file.name})")
            said = kept.child.tail(1)
            if said != kept.said and said.startswith(f"{process.name}: "):  # a service ends with the reason
                kept.said = said
                self._state.note(said)
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def guarded(self, work: Awaitable[None]) -> None:
        """Does ``work``; a fault in it ends the run instead of hiding in a task."""
        try:
            await work
        except Exception as error:
            log.exception("The runner failed")
            self._fail(StartError(f"The runner itself failed: {type(error).__name__}: {error}"))

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
            await asyncio.sleep(min(left, LOOK))

    async def _stop_all(self, kept: list[_Kept]) -> None:
        children = [(one.process, one.child) for one in kept if one.child is not None]
        for _, child in children:
            with contextlib.suppress(OSError):
                child.terminate()
        await asyncio.gather(*(asyncio.to_thread(child.stop) for _, child in children))
        for process, _ in children:
            self._state.set_process(process, "stopped")
            process.pid = None


def _ending(child: Child) -> str:
    code = child.exit_code
    if code is not None and code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"
