"""``fiot run``, and what we check before FastIoT's own commands: names of deployments and services, passwords, configurations."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from fastiot.cli.commands.build import build as fastiot_build
from fastiot.cli.commands.config import config as fastiot_config
from fastiot.cli.commands.deploy import deploy as fastiot_deploy
from fastiot.cli.commands.run_tests import run_tests as fastiot_run_tests
from fastiot.cli.commands.start import start as fastiot_start
from fastiot.cli.commands.stop import stop as fastiot_stop
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, app

from complex_system.cli.extras import init_env
from complex_system.cli.shared import (
    Deployed,
    closest,
    config_of,
    deployment_names,
    errors_of,
    fail,
    infrastructure_of,
    read_deployment,
    say,
)

_DATA, _DEVELOP = "Data", "For developers"


@app.command(context_settings=DEFAULT_CONTEXT_SETTINGS)
def run(
    deployment: Deployed,
    once: Annotated[
        bool, typer.Option("--once", help="End after one full cycle; the exit code is 0 only if every step worked.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the data of this deployment's earlier runs first.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Ask for passwords and a key everywhere, on a machine that others use, too.")
    ] = False,
    cluster: Annotated[
        int, typer.Option(min=0, max=64, help="Train on a Ray cluster of so many workers, one CPU each; 0 for none.")
    ] = 0,
    records: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of records that the source makes at its start; 10,000 by default.", rich_help_panel=_DATA
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the made records and the trainers.", rich_help_panel=_DATA)
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which --once gives up.")] = 600.0,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="Change the lab after the first champion: shift, noise, missing, concept or new_category; "
            "or simulate a plant: plant.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="Run on this file of records, or on a data set that ships: lab, films.", rich_help_panel=_DATA),
    ] = "",
    target: Annotated[
        str, typer.Option(help="Column of --data to predict; the last numeric column by default.", rich_help_panel=_DATA)
    ] = "",
    reload: Annotated[
        str,
        typer.Option(help="Start this service again whenever its code or the library's changes.", rich_help_panel=_DEVELOP),
    ] = "",
) -> None:
    """Run a deployment on this machine, without Docker, until Ctrl-C.

    Start every service as a process, and the servers that the deployment needs unless its .env or the environment names a host for
    them, and show what they do. Everything listens on this machine only. Data, logs, passwords and status.json are kept in
    .run/DEPLOYMENT.
    """
    from complex_system.local.run import RunOptions, run_deployment

    variables = {"COMPLEX_SYSTEM_RECORDS": records, "COMPLEX_SYSTEM_SEED": seed}
    options = RunOptions(
        once=once,
        fresh=fresh,
        locked=locked,
        cluster=cluster,
        timeout=timeout,
        scenario=scenario,
        data=data,
        target=target,
        reload=reload,
        variables={name: str(value) for name, value in variables.items() if value is not None},
    )
    root = Path(ProjectContext.default.project_root_dir)
    with errors_of("run"):
        raise typer.Exit(run_deployment(read_deployment(deployment), root, options, lambda text: say(f"fiot run: {text}")))


def _require_env(command: str, deployment: str) -> None:
    """End the command with an explanation when the deployment has no passwords for its servers, or no configuration with them."""
    from complex_system.deploy.env_file import missing_variables

    context = ProjectContext.default
    with errors_of(command):
        config = config_of(deployment)
        needed, services = infrastructure_of(config), config.services
        missing = missing_variables(needed, context.env_for_deployment(deployment), services)
    if missing:
        path = Path(context.env_file_for_deployment(deployment))
        how = "init-env --add" if path.is_file() else "init-env"
        fail(command, f"{path} does not set {', '.join(missing)}. `fiot extras {how} {deployment}` writes it.")
    if command == "start" and missing_variables(needed, context.build_env_for_deployment(deployment), services):
        fail("start", f"the .env is newer than the configuration; run `fiot config {deployment}` first.")


@functools.wraps(fastiot_start)
def _start(**options: Any) -> None:
    _require_env("start", _named("start", options))
    fastiot_start(**options)


@functools.wraps(fastiot_stop)
def _stop(**options: Any) -> None:
    name = _named("stop", options)
    if not Path(ProjectContext.default.deployment_build_dir(name), "docker-compose.yaml").is_file():
        fail("stop", f"'{name}' has no containers: `fiot config {name}` was not called. Ctrl-C ends `fiot run`.")
    fastiot_stop(**options)


def _named(command: str, options: dict[str, Any]) -> str:
    """Return the deployment that a command line names; without one, end the command."""
    context = ProjectContext.default
    name = context.integration_test_deployment if options.get("use_test_deployment") else options.get("deployment_name")
    if not name:
        fail(command, f"name a deployment: {', '.join(deployment_names())}.")
    with errors_of(command):
        config_of(name)
    return str(name)


@functools.wraps(fastiot_deploy)
def _deploy(**options: Any) -> None:
    with errors_of("deploy"):
        for name in options.get("deployments") or []:
            config_of(name)
    fastiot_deploy(**options)


@functools.wraps(fastiot_build)
def _build(**options: Any) -> None:
    known = sorted(service.name for service in ProjectContext.default.services)
    for name in options.get("services") or []:
        if name not in known:
            near = closest(name, known)
            hint = f"Did you mean '{near}'?" if near else f"This project has {', '.join(known)}."
            fail("build", f"There is no service '{name}'. {hint}")
    _prepare_build(dry=bool(options.get("dry")))
    fastiot_build(**options)


def _prepare_build(*, dry: bool) -> None:
    from complex_system.deploy.images import is_project, write_build_context

    context = ProjectContext.default
    with errors_of("build"):
        if is_project(context.library_package):
            write_build_context(Path(context.project_root_dir))
    without = "`fiot build --dry` writes the Dockerfiles alone"
    if not dry and shutil.which("docker") is None:
        fail("build", f"docker is missing: install Docker Engine; {without}.")
    if not dry and subprocess.run(["docker", "buildx", "version"], check=False, capture_output=True).returncode:  # noqa: S607
        fail(
            "build", f"docker has no buildx: {without}, and `python -m complex_system.deploy.images` builds them without it."
        )


@functools.wraps(fastiot_config)
def _configure(**options: Any) -> None:
    context = ProjectContext.default
    names = [context.integration_test_deployment] if options.get("use_test_deployment") else options.get("deployments")
    # Without names all deployments are meant; those that have no .env yet are skipped.
    if names:
        for name in names:
            _require_env("config", name)
    else:
        options["deployments"] = [
            name for name in deployment_names() if Path(context.env_file_for_deployment(name)).is_file()
        ]
        for name in sorted(set(deployment_names()) - set(options["deployments"])):
            typer.echo(
                f"fiot config: '{name}' is left out: it has no .env. `fiot extras init-env {name}` writes it.", err=True
            )
        if not options["deployments"]:
            raise typer.Exit(1)
    fastiot_config(**options)
    for name in options.get("deployments") or [context.integration_test_deployment]:
        _complete_configuration(name)


def _complete_configuration(deployment: str) -> None:
    """Write the broker's users and each container's variables beside the compose file that FastIoT has written."""
    from complex_system.deploy.containers import homeless_secrets, write_container_files

    context = ProjectContext.default
    folder = Path(context.deployment_build_dir(deployment))
    # The files below hold passwords; the containers' mounts do not pass through this folder.
    folder.chmod(0o700)
    environment, config = context.env_for_deployment(deployment), config_of(deployment)
    write_container_files(folder, config.services, environment)
    if homeless := homeless_secrets([*config.services, *config.infrastructure_services], environment):
        typer.echo(
            f"fiot config: no container gets {', '.join(homeless)} of {deployment}'s .env; name the service that needs it in "
            "deployment.yaml (services: NAME: environment).",
            err=True,
        )


@functools.wraps(fastiot_run_tests)
def _run_tests(**options: Any) -> None:
    # FastIoT starts "python3": it must be the one with the project installed.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    context = ProjectContext.default
    name = context.integration_test_deployment
    if not Path(context.env_file_for_deployment(name)).is_file():
        init_env(name, force=False)
    if not Path(context.build_env_file_for_deployment(name)).is_file():
        # FastIoT would call this itself, with option objects in place of their defaults.
        _configure(
            deployments=[name], tag="latest", docker_registry="", net="fastiot-net", pull_always=False,
            use_test_deployment=True, port_offset=0, use_port_import=True,
        )  # fmt: skip
    fastiot_run_tests(**options)


def _replace_commands() -> None:
    """Replace FastIoT's commands by our versions, under the same names and options."""
    ours = {
        fastiot_start: _start,
        fastiot_stop: _stop,
        fastiot_config: _configure,
        fastiot_deploy: _deploy,
        fastiot_build: _build,
        fastiot_run_tests: _run_tests,
    }
    for command in app.registered_commands:
        if command.callback in ours:
            command.callback = ours[command.callback]


_replace_commands()
