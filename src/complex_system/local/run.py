"""One local run of a deployment, from the first process to the last, in a folder that it has to itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from complex_system.deploy import COLLECTION, declares_collection
from complex_system.errors import StartError
from complex_system.local.credentials import write_client_file
from complex_system.local.display import Display, champion_error, quality_text
from complex_system.local.folder import RunEnvironment, only_run, remove_data, write_environment
from complex_system.local.live import make_display
from complex_system.local.logs import StatusFile, logging_to
from complex_system.local.plan import DeployedService, Deployment, Plan, make_plan, run_directory
from complex_system.local.processes import MARK, stop_leftovers
from complex_system.local.scenario import PLANT, ScenarioDemo, scenario_environment
from complex_system.local.servers import NatsServer
from complex_system.local.servers.mlflow import MlflowServer, install_server
from complex_system.local.servers.plant import PlantServer
from complex_system.local.state import Process, RunState
from complex_system.local.supervisor import Supervisor

if TYPE_CHECKING:
    from complex_system.local.cycle import Cycle
    from complex_system.local.own_data import ChosenData
    from complex_system.messaging.clients import SystemClient

# FastIoT, Arrow and an HTTP client take seconds to import: that is done while the first processes start.

log = logging.getLogger(__name__)

CLIENT = "fiot_run"
CLIENT_FILE = "client.env"


@dataclass(frozen=True)
class RunOptions:
    """What a person asks of a run.

    Attributes:
        once: End after one full cycle.
        fresh: Remove the data of earlier runs first.
        locked: NATS, MLflow, REST and the page ask for passwords and a key, too.
        cluster: Workers of a Ray cluster that trains; 0 to train in the services.
        timeout: Seconds after which ``once`` gives up.
        scenario: What happens to the lab after the first champion; None for nothing.
        data: A file of records, or a data set that ships; empty for the deployment's own.
        target: Column of ``data`` to predict; empty for the default.
        reload: A service that starts again when its code changes; empty for none.
        variables: Variables for the services, which take precedence over the deployment's ``.env``.
    """

    once: bool = False
    fresh: bool = False
    locked: bool = False
    cluster: int = 0
    timeout: float = 600.0
    scenario: str | None = None
    data: str = ""
    target: str = ""
    reload: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def run_deployment(deployment: Deployment, root: Path, options: RunOptions, say: Callable[[str], None]) -> int:
    """Run a deployment in the foreground and return the exit code.

    Args:
        deployment: What to run.
        root: Folder of the project.
        options: How to run it.
        say: Shows what there is to know before the run begins.

    Raises:
        ComplexSystemError: The run cannot begin: another one is at work, or the deployment or the data are not valid.
    """
    directory = run_directory(deployment.name, root)
    variables = {**scenario_environment(options.scenario, deployment.environment), **options.variables}
    if options.scenario == PLANT:
        variables = {**_plant_options(deployment, directory, options), **variables}
    chosen = _choose_data(deployment, directory, options, say) if options.data else None
    if chosen:
        variables = {**chosen.options, **variables}
    with only_run(directory):
        os.environ[MARK] = str(directory)  # every child inherits it
        left = stop_leftovers(directory)
        if options.fresh:
            remove_data(directory)
        if chosen and chosen.keyless:
            chosen.remember_file(directory)
        plan = make_plan(
            _with_collection(deployment, variables), directory, variables, locked=options.locked, cluster=options.cluster
        )
        if options.scenario == PLANT:
            plan = _with_plant(plan, int(variables[PlantServer.port_variable]))
        if any(isinstance(server, MlflowServer) for server in plan.servers):
            install_server(say)
        if options.reload and not plan.has(options.reload):
            names = ", ".join(service.name for service in plan.services)
            raise StartError(f"There is no service '{options.reload}' to reload; this deployment has {names}.")
        client_file = directory / CLIENT_FILE
        client_file.unlink(missing_ok=True)
        try:
            write_environment(directory, RunEnvironment(plan.server_environment, variables))
            plan.logs.mkdir(parents=True, exist_ok=True)
            if plan.locked:
                write_client_file(client_file, plan.client_variables, plan.published_host)
        except OSError as error:
            raise StartError(f"The folder {directory} cannot be written: {error.strerror or error}.") from error
        with logging_to(plan.logs / "runner.log", plan.settings):
            return asyncio.run(Run(plan, options, left).main())


def _plant_options(deployment: Deployment, directory: Path, options: RunOptions) -> Mapping[str, str]:
    from complex_system.local.plant.demo import plant_options  # and with it asyncua

    if options.data:
        raise StartError("The scenario plant has data of its own; leave out --data.")
    folder = directory.parent / "data_sets" / f"plant-{deployment.name}"
    return plant_options(folder, {**os.environ, **deployment.environment, **options.variables})


def _with_plant(plan: Plan, port: int) -> Plan:
    broker = next((server for server in plan.servers if isinstance(server, NatsServer)), None)
    if broker is None:
        raise StartError("The scenario plant needs a broker that fiot run starts; leave out FASTIOT_NATS_HOST.")
    plant = PlantServer(plan.directory / "plant", plan.logs, port, broker=broker, seed=plan.settings.seed)
    return replace(plan, servers=(*plan.servers, plant))


def _with_collection(deployment: Deployment, options: Mapping[str, str]) -> Deployment:
    """Return the deployment with the service that collects readings if the data set of the run declares it, otherwise without."""
    chosen = {**deployment.environment, **options}.get("FASTIOT_CONFIG_DIR", str(deployment.config_dir))
    services = [service for service in deployment.services if service.name != COLLECTION]
    if declares_collection(Path(chosen)):
        services.append(DeployedService(COLLECTION, f"complex_system_services.{COLLECTION}.run"))
    return replace(deployment, services=tuple(services))


class Run:
    """The parts of a run put together."""

    def __init__(self, plan: Plan, options: RunOptions, left: int) -> None:
        """Prepare a run; ``left`` processes of an earlier one were stopped before."""
        self._plan = plan
        self._options = options
        self._left = left
        self._demo: ScenarioDemo | None = None
        self.state = _first_state(plan)
        self._status = StatusFile(plan.directory / "status.json", self.state)
        self._stop = asyncio.Event()
        self._client: SystemClient | None = None

    async def main(self) -> int:
        """Run until the cycle is done, or until a signal or a failure; return the exit code."""
        display = make_display(self._plan, self.state)
        display.refresh()
        self.state.on_note += [display.note, log.info]
        if self._plan.locked:  # on the screen only, not in the log
            display.say(f"Users and passwords for programs of your own: {self._plan.directory / CLIENT_FILE}")
            if link := self._plan.login_link():
                display.say(f"Log your browser in at the page when it is ready, once: {link}")
        supervisor = Supervisor(self._plan, self.state, self._options.reload)
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
            problem = await self._until_the_end(cycle, supervisor)
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
        self._status.write()
        display.close()
        display.say(problem or self._summary(cycle))
        return 1 if problem else 0

    def _make_cycle(self) -> Cycle:
        from complex_system.local.cycle import Cycle  # and with it the broker's client

        return Cycle(self._plan, self.state, self._connected, strict=self._options.once)

    async def _until_the_end(self, cycle: Cycle, supervisor: Supervisor) -> str:
        """Go through the cycle, and on without ``--once``; return what went wrong, or an empty string."""
        stopped = asyncio.create_task(self._stop.wait())
        work = asyncio.create_task(self._work(cycle, supervisor))
        ends: set[asyncio.Future[Any]] = {stopped, work, supervisor.failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        try:
            if supervisor.failure.done():
                return supervisor.failure.result().message
            if work.done():
                return work.result()
            return "Stopped before the cycle was complete." if self._options.once else ""
        finally:
            for task in (stopped, work):
                task.cancel()
            await asyncio.gather(stopped, work, return_exceptions=True)

    async def _work(self, cycle: Cycle, supervisor: Supervisor) -> str:
        from complex_system.local.cycle import StepFailedError

        once, seconds = self._options.once, self._options.timeout
        try:
            async with asyncio.timeout(seconds if once else None):
                await cycle.run()
                if self._options.scenario is not None:
                    self.state.phase = "running"
                    self._demo = self._make_demo(self._options.scenario)
                    await self._demo.run()
        except StepFailedError as error:
            if once:
                return _failure(cycle, error.message, error.service, supervisor)
            self.state.note(f"{cycle.current.title if cycle.current else 'cycle'}: {error.message}")
        except TimeoutError:
            if cycle.current is None and self._demo is not None:
                return f"The scenario '{self._options.scenario}' is not complete after {seconds:.0f} s: no {self._demo.missing}."
            missing, service = cycle.current.missing() if cycle.current else ("", "")
            return _failure(cycle, f"not done after {seconds:.0f} s, {missing}", service, supervisor)
        if once:
            return ""
        self.state.phase = "running"
        self.state.note("running; Ctrl-C stops everything")
        await asyncio.Event().wait()
        return ""

    def _make_demo(self, scenario: str) -> ScenarioDemo:
        if scenario == PLANT:
            from complex_system.local.plant.demo import PLANT_STEPS, PlantDemo

            return PlantDemo(scenario, self.state, self._connected, PLANT_STEPS)
        return ScenarioDemo(scenario, self.state, self._connected)

    async def _watch(self, supervisor: Supervisor) -> None:
        if "nats" not in self.state.infrastructure:
            return
        from complex_system.local.watcher import Watcher
        from complex_system.messaging.clients import SystemClient

        self._client = await SystemClient.open(self._plan.settings, CLIENT)
        watcher = Watcher(self._plan, self.state, self._client, supervisor.heard_ready)
        await watcher.start()
        await asyncio.gather(watcher.count_records(), watcher.recall_comparison())

    async def _connected(self) -> SystemClient:
        await self.state.until(lambda: self._client is not None)
        assert self._client is not None
        return self._client

    async def _show(self, display: Display) -> None:
        written = -1.0
        while True:
            display.refresh()
            if self.state.changed or self.state.seconds - written >= 1.0:
                self._status.write()
                written = self.state.seconds
            await asyncio.sleep(0.25)

    def _catch_signals(self, supervisor: Supervisor) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set():  # the second one does not wait
                supervisor.kill()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)

    def _summary(self, cycle: Cycle) -> str:
        if not self._options.once:
            return "Stopped."
        state = self.state
        lines = [f"  {seconds:7.1f} s  {title}" for title, seconds in cycle.done]
        if champion := state.champion:
            error = champion_error(champion, state.comparison)
            lines.append(f"  champion {champion.model} version {champion.version}, {error}")
        if comparison := state.comparison:
            for name, quality in comparison.baselines.items():
                lines.append(f"  baseline {name}: {quality_text(quality, comparison.ranked_by)}")
            lines += [f"  {text}" for text in (comparison.answers, comparison.verdict) if text]
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
    # Since our own process began: the user also waits for the start of Python and of FastIoT's CLI.
    age = time.time() - psutil.Process().create_time()
    wanted = 0 if plan.settings.reads_records else plan.settings.records
    state = RunState(plan.deployment, began=time.monotonic() - age, wanted_records=wanted)
    state.infrastructure = {server.name: Process(server.name, url=server.url) for server in plan.servers}
    state.infrastructure |= {server.name: Process(server.name, url=server.url) for server in plan.external}
    state.services = {service.name: Process(service.name, url=service.url) for service in plan.services}
    return state


def _choose_data(deployment: Deployment, directory: Path, options: RunOptions, say: Callable[[str], None]) -> ChosenData:
    from complex_system.local.own_data import choose_data

    if options.scenario is not None and options.data != "lab":
        raise StartError("A scenario needs the lab's data; leave out --data or --scenario.")
    chosen = choose_data(options.data, options.target, directory.parent / "data_sets", deployment.environment)
    changed = chosen.warn_of_changed_file(directory) if chosen.keyless and not options.fresh else ""
    for note in (*chosen.notes, *([changed] if changed else [])):
        say(note)
    if options.once and chosen.too_few:
        raise StartError("With --once a model has to be trained, and there are too few records for one; add some.")
    return chosen
