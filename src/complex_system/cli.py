"""Our commands in FastIoT's command line: ``fiot run``, ``fiot extras init-env``, and checks before config and start."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from fastiot.cli.commands.config import config as fastiot_config
from fastiot.cli.commands.run_tests import run_tests as fastiot_run_tests
from fastiot.cli.commands.start import start as fastiot_start
from fastiot.cli.model.deployment import DeploymentConfig
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, app, extras_cmd

if TYPE_CHECKING:
    from complex_system.local.plan import Deployment

# FastIoT imports this module for every command, so what a run needs is imported when one is asked for.


def _names() -> list[str]:
    return sorted(ProjectContext.default.deployment_names)


@app.command(context_settings=DEFAULT_CONTEXT_SETTINGS)
def run(
    deployment: Annotated[str, typer.Argument(help="Deployment to run: a folder of deployments/.", autocompletion=_names)],
    once: Annotated[
        bool, typer.Option("--once", help="End after one full cycle, with exit code 0 only if every step of it worked.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove this deployment's data of earlier runs first.")] = False,
    records: Annotated[int | None, typer.Option(min=0, help="Records that the data source makes at its start.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the dummy data and of the trainers.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which --once gives up.")] = 600.0,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="Lets something happen to the lab after the first champion: shift, noise, missing, concept, new_category."
        ),
    ] = None,
    data: Annotated[str, typer.Option(help="A file of records to run on, or a data set that ships: lab, films.")] = "",
    target: Annotated[str, typer.Option(help="Column of --data to predict.")] = "",
) -> None:
    """Runs a deployment on this machine, without Docker.

    Starts the servers that the deployment needs and its .env names no host for, and every service as a process of its own, and
    shows how the system works until Ctrl-C. Data, logs and status.json are kept in .run/DEPLOYMENT.
    """
    from complex_system.errors import ComplexSystemError, StartError
    from complex_system.local.plan import run_directory
    from complex_system.local.run import run_deployment
    from complex_system.local.scenario import scenario_environment

    try:
        known = _read(deployment)
        haste = scenario_environment(scenario, known.environment)
        options = {"COMPLEX_SYSTEM_RECORDS": records, "COMPLEX_SYSTEM_SEED": seed, **haste}
        directory = run_directory(deployment, Path(ProjectContext.default.project_root_dir))
        chosen: dict[str, str] = {}
        keyless = False
        if data:
            if scenario is not None and data != "lab":
                raise StartError("A scenario happens to the lab; leave out --data or --scenario.")
            from complex_system.local.data import choose_data
            from complex_system.local.files import warn_of_changed_file

            prepared = choose_data(data, target, directory.parent / "data_sets", known.environment)
            chosen |= prepared.options
            keyless = prepared.keyless
            changed = warn_of_changed_file(directory, chosen) if prepared.keyless and not fresh else ""
            for note in (*prepared.notes, *([changed] if changed else [])):
                typer.echo(f"fiot run: {note}")
            if once and prepared.too_few:
                raise StartError("With --once a model has to be trained, and there are too few records for one; add some.")
        code = run_deployment(
            known,
            directory,
            {**chosen, **{name: str(value) for name, value in options.items() if value is not None}},
            once=once,
            fresh=fresh,
            timeout=timeout,
            scenario=scenario,
            keyless=keyless,
        )
    except ComplexSystemError as error:
        typer.echo(f"fiot run: {error.message}", err=True)
        code = 1
    raise typer.Exit(code)


def _read(name: str) -> Deployment:
    from complex_system.errors import StartError
    from complex_system.local.plan import DeployedService, Deployment

    context = ProjectContext.default
    config = _config(name)
    try:
        environment = context.env_for_deployment(name)
    except ValueError as error:
        raise StartError(f"Deployment '{name}' cannot be read: {error}") from error
    sources = {service.name: service for service in context.services}
    services = []
    for service, options in config.services.items():
        source = sources.get(service)
        if source is None:
            raise StartError(f"Deployment '{name}' has the service '{service}', which is not in this project's src folder.")
        ports = {port.env_variable: port.port for port in source.read_manifest(service).ports}
        services.append(
            DeployedService(service, f"{source.package}.{service}.run", ports, options.environment if options else {})
        )
    return Deployment(
        name=name,
        config_dir=(Path(context.deployment_dir(name)) / config.config_dir).resolve(),
        infrastructure=_infrastructure(config),
        services=tuple(services),
        environment=environment,
    )


@extras_cmd.command("init-env", context_settings=DEFAULT_CONTEXT_SETTINGS)
def init_env(
    deployment: Annotated[str, typer.Argument(help="Deployment: a folder of deployments/.", autocompletion=_names)],
    force: Annotated[bool, typer.Option("--force", help="Replace the .env that is there.")] = False,
) -> None:
    """Writes a deployment's .env with random passwords for its servers and a key for its REST interfaces."""
    from complex_system.deploy.env_file import env_text, write_env
    from complex_system.errors import ComplexSystemError

    context = ProjectContext.default
    try:
        config = _config(deployment)
        path = Path(context.env_file_for_deployment(deployment))
        write_env(path, env_text(deployment, _infrastructure(config), config.services), replace=force)
    except ComplexSystemError as error:
        typer.echo(f"fiot extras init-env: {error.message}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{path} written; now `fiot config {deployment}` and `fiot start {deployment}`.")


@extras_cmd.command("dead-letters", context_settings=DEFAULT_CONTEXT_SETTINGS)
def dead_letters(
    deployment: Annotated[str, typer.Argument(help="Deployment: a folder of deployments/.", autocompletion=_names)],
    payload: Annotated[bool, typer.Option("--payload", help="Show the content, too.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Publish them again where they came from.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget them.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most dead letters, the oldest first.")] = 100,
    number: Annotated[int | None, typer.Option(min=1, help="Only the one of this number.")] = None,
) -> None:
    """Shows the published messages that could not be accepted, each with its reason; publishes them again, or forgets them.

    The broker is the one of the deployment's .env, on this machine when it names none; FASTIOT_NATS_PORT beats its port.
    """
    import asyncio

    from pydantic import ValidationError

    from complex_system.errors import ComplexSystemError
    from complex_system.messaging.ingest.dead_letters import Action, manage_dead_letters
    from complex_system.settings import Settings

    if replay and remove:
        raise typer.BadParameter("--replay forgets what it publishes; --remove forgets without.")
    action: Action = "replay" if replay else "remove" if remove else "payload" if payload else "show"
    try:
        _config(deployment)
        environment = ProjectContext.default.env_for_deployment(deployment)
        settings = Settings.of({**environment, **os.environ})
        asyncio.run(manage_dead_letters(settings, action, typer.echo, limit=limit, number=number))
    except (ComplexSystemError, ValidationError) as error:
        typer.echo(f"fiot extras dead-letters: {error}", err=True)
        raise typer.Exit(1) from error


@extras_cmd.command("describe-data", context_settings=DEFAULT_CONTEXT_SETTINGS)
def describe_data(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSON lines, Excel or Parquet; the suffix says which.", dir_okay=False)
    ],
    target: Annotated[str, typer.Option(help="Column to predict; the last column of numbers by default.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the declaration; to the terminal by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the declaration that is there.")] = False,
) -> None:
    """Reads a file of records and writes a first declaration of its data set, with comments.

    Shows what the columns seem to hold, what is suspicious, and whether every record can be processed.
    """
    from complex_system.describe.command import describe_to
    from complex_system.errors import ComplexSystemError

    try:
        describe_to(file, target, output, force=force, out=sys.stdout, err=sys.stderr)
    except ComplexSystemError as error:
        typer.echo(f"fiot extras describe-data: {error.message}", err=True)
        raise typer.Exit(1) from error


def _config(name: str) -> DeploymentConfig:
    from complex_system.errors import StartError

    context = ProjectContext.default
    if name not in context.deployment_names:
        raise StartError(f"There is no deployment '{name}'; this project has {', '.join(_names()) or 'none'}.")
    try:
        return context.deployment_by_name(name)
    except ValueError as error:
        raise StartError(f"Deployment '{name}' cannot be read: {error}") from error


def _infrastructure(config: DeploymentConfig) -> dict[str, bool]:
    return {server: bool(how and how.external) for server, how in config.infrastructure_services.items()}


def _require_env(command: str, deployment: str) -> None:
    """Ends the command with an explanation when the deployment has no passwords for its servers, or no configuration of them."""
    from complex_system.deploy.env_file import missing_variables
    from complex_system.errors import ComplexSystemError

    context = ProjectContext.default
    try:
        needed = _infrastructure(_config(deployment))
    except ComplexSystemError as error:
        typer.echo(f"fiot {command}: {error.message}", err=True)
        raise typer.Exit(1) from error
    missing = missing_variables(needed, context.env_for_deployment(deployment))
    if missing:
        path = context.env_file_for_deployment(deployment)
        typer.echo(
            f"fiot {command}: {path} does not set {', '.join(missing)}: `fiot extras init-env {deployment}`.", err=True
        )
        raise typer.Exit(1)
    built = context.build_env_for_deployment(deployment)
    if command == "start" and missing_variables(needed, built):
        typer.echo(f"fiot start: the .env is newer than the configuration: `fiot config {deployment}` first.", err=True)
        raise typer.Exit(1)


@functools.wraps(fastiot_start)
def _start(**options: Any) -> None:
    context = ProjectContext.default
    name = context.integration_test_deployment if options.get("use_test_deployment") else options.get("deployment_name")
    if name:
        _require_env("start", name)
    fastiot_start(**options)


@functools.wraps(fastiot_config)
def _configure(**options: Any) -> None:
    context = ProjectContext.default
    names = [context.integration_test_deployment] if options.get("use_test_deployment") else options.get("deployments")
    # All deployments are meant when none is named; then only those are skipped that were never made ready.
    if names:
        for name in names:
            _require_env("config", name)
    else:
        options["deployments"] = [name for name in _names() if Path(context.env_file_for_deployment(name)).is_file()]
        for name in sorted(set(_names()) - set(options["deployments"])):
            typer.echo(f"fiot config: '{name}' has no .env and is left out: `fiot extras init-env {name}`.", err=True)
        if not options["deployments"]:
            raise typer.Exit(1)
    fastiot_config(**options)
    for name in options.get("deployments") or [context.integration_test_deployment]:
        # Passwords stand in the files below; the containers' mounts do not pass through this folder.
        Path(context.deployment_build_dir(name)).chmod(0o700)


@functools.wraps(fastiot_run_tests)
def _run_tests(**options: Any) -> None:
    # FastIoT starts "python3": it must be the one that has the project.
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
    """Puts our versions of three of FastIoT's commands in their place, under the same names and options."""
    ours = {fastiot_start: _start, fastiot_config: _configure, fastiot_run_tests: _run_tests}
    for command in app.registered_commands:
        if command.callback in ours:
            command.callback = ours[command.callback]


_replace_commands()
