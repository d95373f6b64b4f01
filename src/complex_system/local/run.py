"""One local run of a deployment, from the first process to the last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from complex_system.local.display import Display
from complex_system.local.files import remember_file
from complex_system.local.folder import logging_to, only_run, remove_data
from complex_system.local.live_display import make_display
from complex_system.local.plan import Deployment, Plan, make_plan
from complex_system.local.processes import MARK, stop_leftovers
from complex_system.local.state import Process, RunState
from complex_system.local.supervisor import Supervisor

if TYPE_CHECKING:
    from complex_system.local.cycle import Cycle
    from complex_system.local.demonstration import Demonstration
    from complex_system.messaging.clients import SystemClient

# FastIoT, Arrow and an HTTP client take seconds to import: that is done while the first processes start.

log = logging.getLogger(__name__)

CLIENT = "fiot_run"


def run_deployment(
    deployment: Deployment,
    directory: Path,
    options: Mapping[str, str] | None = None,
    *,
    once: bool = False,
    fresh: bool = False,
    timeout: float = 600.0,
    scenario: str | None = None,
    keyless: bool = False,
) -> int:
    """Runs a deployment in the foreground; returns the exit code.

    Args:
        deployment: What to run.
        directory: Where its data, logs and state go.
        options: Variables from the command line.
        once: End after one full cycle.
        fresh: Remove the data of earlier runs first.
        timeout: Seconds after which ``once`` gives up.
        scenario: What happens to the lab after the first champion; its settings must be among the options.
        keyless: Whether the records of the options' file bring no keys.

    Raises:
        ComplexSystemError: The run cannot begin: another one is at work, or the deployment is not valid.
    """
    with only_run(directory):
        os.environ[MARK] = str(directory)  # every child inherits it
        left = stop_leftovers(directory)
        if fresh:
            remove_data(directory)
        if keyless and options:
            remember_file(directory, options)
        plan = make_plan(deployment, directory, options)
        plan.logs.mkdir(parents=True, exist_ok=True)
        with logging_to(plan.logs / "runner.log"):
            return asyncio.run(Run(plan, once=once, timeout=timeout, left=left, scenario=scenario).main())


class Run:
    """The parts of a run put together."""

    def __init__(self, plan: Plan, *, once: bool, timeout: float, left: int = 0, scenario: str | None = None) -> None:
        self._plan = plan
        self._left = left
        self._once = once
        self._timeout = timeout
        self._scenario = scenario
        self._demonstration: Demonstration | None = None
        self.state = _first_state(plan)
        self._stop = asyncio.Event()
        self._client: SystemClient | None = None

    async def main(self) -> int:
        """Runs until the cycle is done, or until a signal or a failure; returns the exit code."""
        display = make_display(self._plan, self.state)
        display.refresh()
        self.state.on_note += [display.note, log.info]
        supervisor = Supervisor(self._plan, self.state)
        self._catch_signals(supervisor)
        self.state.note(f"{self._plan.deployment}: data and logs in {self._plan.directory}")
        if self._left:
            self.state.note(f"stopped {self._left} processes that an earlier run had left behind")
        for text in self._plan.notes:
            self.state.note(text)
        supervisor.start()
        tasks = [asyncio.create_task(supervisor.guarded(self._show(display)))]
        try:
            cycle = await asyncio.to_thread(self._make_cycle)
            tasks.append(asyncio.create_task(supervisor.guarded(self._watch(supervisor))))
            problem = await self._work(cycle, supervisor)
        finally:
            self.state.stopping = True
            self.state.note("stopping")
            await supervisor.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._client is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self._client.close(), 2)
        self.state.phase = "failed" if problem else "done"
        self.state.write_status(self._plan.directory / "status.json")
        display.close()
        display.say(problem or self._summary(cycle))
        return 1 if problem else 0

    def _make_cycle(self) -> Cycle:
        from complex_system.local.cycle import Cycle  # and with it the watcher and the broker's client

        return Cycle(self._plan, self.state, self._connected, strict=self._once)

    async def _work(self, cycle: Cycle, supervisor: Supervisor) -> str:
        """Goes through the cycle, and on without ``--once``; returns what went wrong, or an empty string."""
        stopped = asyncio.create_task(self._stop.wait())
        going = asyncio.create_task(self._go(cycle, supervisor))
        ends: set[asyncio.Future[Any]] = {stopped, going, supervisor.failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        try:
            if supervisor.failure.done():
                return supervisor.failure.result().message
            if going.done():
                return going.result()
            if self._once:
                return "Stopped before the cycle was through."
            return ""
        finally:
            for task in (stopped, going):
                task.cancel()
            await asyncio.gather(stopped, going, return_exceptions=True)

    async def _go(self, cycle: Cycle, supervisor: Supervisor) -> str:
        from complex_system.local.cycle import StepFailedError

        try:
            async with asyncio.timeout(self._timeout if self._once else None):
                await cycle.run()
                await self._demonstrate()
        except StepFailedError as error:
            if self._once:
                return _failure(cycle, error.message, error.service, supervisor)
            self.state.note(f"{cycle.current.title if cycle.current else 'cycle'}: {error.message}")
        except TimeoutError:
            if cycle.current is None and self._demonstration is not None:
                return f"The scenario '{self._scenario}' is not through after {self._timeout:.0f} s: no {self._demonstration.missing}."
            missing, service = cycle.current.missing() if cycle.current else ("", "")
            return _failure(cycle, f"not done after {self._timeout:.0f} s, {missing}", service, supervisor)
        if self._once:
            return ""
        self.state.phase = "running"
        self.state.note("running; Ctrl-C stops everything")
        await asyncio.Event().wait()
        return ""

    async def _demonstrate(self) -> None:
        if self._scenario is None:
            return
        from complex_system.local.demonstration import Demonstration

        self.state.phase = "running"
        self._demonstration = Demonstration(self._scenario, self.state, self._connected)
        await self._demonstration.run()

    async def _watch(self, supervisor: Supervisor) -> None:
        if "nats" not in self.state.infrastructure:
            return
        from complex_system.local.watcher import Watcher
        from complex_system.messaging.clients import SystemClient

        self._client = await SystemClient.open(self._plan.settings, CLIENT)
        watcher = Watcher(self._plan, self.state, self._client, supervisor.heard_ready)
        await watcher.start()
        await asyncio.gather(watcher.count_for_ever(), watcher.recall_for_ever())

    async def _connected(self) -> SystemClient:
        await self.state.until(lambda: self._client is not None)
        assert self._client is not None
        return self._client

    async def _show(self, display: Display) -> None:
        path = self._plan.directory / "status.json"
        written = -1.0
        while True:
            display.refresh()
            if self.state.changed or self.state.seconds - written >= 1.0:
                self.state.write_status(path)
                written = self.state.seconds
            await asyncio.sleep(0.25)

    def _catch_signals(self, supervisor: Supervisor) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set():
                supervisor.kill()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)

    def _summary(self, cycle: Cycle) -> str:
        if not self._once:
            return "Stopped."
        lines = [f"  {seconds:7.1f} s  {title}" for title, seconds in cycle.done]
        state = self.state
        if state.champion:
            lines.append(
                f"  champion {state.champion.model} version {state.champion.version}, {state.error_of(state.champion)}"
            )
        for name, figures in state.judgement.baselines.items():
            lines.append(f"  baseline {name}: {figures.words(state.judgement.ranked_by)}")
        if state.judgement.verdict:
            lines.append(f"  {state.judgement.verdict}")
        if state.seconds_to_first_prediction is not None:
            lines.append(f"  first prediction by the champion after {state.seconds_to_first_prediction:.1f} s")
        if state.scenario:
            lines.append(f"  scenario '{state.scenario.name}':")
            lines += [f"  {step.seconds or 0:7.1f} s  {step.step}: {step.text}" for step in state.scenario.steps]
        return "\n".join([f"The full cycle of '{self._plan.deployment}' worked:", *lines])


def _failure(cycle: Cycle, why: str, service: str, supervisor: Supervisor) -> str:
    step = cycle.current.title if cycle.current else "the cycle"
    text = f"The step '{step}' failed: {why}."
    tail = supervisor.tail(service) if service else ""
    return f"{text}\nThe last log lines of {service}:\n{tail}" if tail else text


def _first_state(plan: Plan) -> RunState:
    # Since our own process began: what Python and FastIoT's CLI need to start is time that the user waits, too.
    age = time.time() - psutil.Process().create_time()
    wanted = 0 if plan.settings.source_file else plan.settings.records
    state = RunState(plan.deployment, began=time.monotonic() - age, wanted_records=wanted)
    for server in plan.servers:
        state.infrastructure[server.name] = Process(server.name, url=server.url)
    for external in plan.external:
        state.infrastructure[external.name] = Process(external.name, url=external.url)
    for service in plan.services:
        state.services[service.name] = Process(service.name, url=service.url)
    return state
