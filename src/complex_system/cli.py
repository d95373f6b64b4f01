"""Our commands in FastIoT's command line: ``fiot run`` and some ``fiot extras``, and checks before config and start."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from fastiot.cli.commands.config import config as fastiot_config
from fastiot.cli.commands.run_tests import run_tests as fastiot_run_tests
from fastiot.cli.commands.start import start as fastiot_start
from fastiot.cli.model.deployment import DeploymentConfig
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, app, extras_cmd

from complex_system.errors import ComplexSystemError, StartError
from complex_system.terminal import printable

if TYPE_CHECKING:
    from complex_system.local.plan import Deployment

# FastIoT imports this module for every command, so each command imports its own parts when it is called.


def _names() -> list[str]:
    return sorted(ProjectContext.default.deployment_names)


def _say(text: str, *, err: bool = False) -> None:
    """Print a line that may quote other people's data."""
    typer.echo(printable(text), err=err)


def _fail(command: str, message: str) -> NoReturn:
    _say(f"fiot {command}: {message}", err=True)
    raise typer.Exit(1)


@contextlib.contextmanager
def _errors_of(command: str) -> Iterator[None]:
    """Show an error of ours as one line, and end the command with exit code 1."""
    try:
        yield
    except ComplexSystemError as error:
        _fail(command, error.message)


Deployed = Annotated[str, typer.Argument(help="Deployment: a folder of deployments/.", autocompletion=_names)]


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
    records: Annotated[
        int | None, typer.Option(min=0, help="Number of records that the data source makes at its start.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the dummy data and the trainers.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which --once gives up.")] = 600.0,
    scenario: Annotated[
        str | None,
        typer.Option(help="Change the lab after the first champion: shift, noise, missing, concept or new_category."),
    ] = None,
    data: Annotated[str, typer.Option(help="Run on this file of records, or on a data set that ships: lab, films.")] = "",
    target: Annotated[str, typer.Option(help="Column of --data to predict; the last numeric column by default.")] = "",
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
        timeout=timeout,
        scenario=scenario,
        data=data,
        target=target,
        variables={name: str(value) for name, value in variables.items() if value is not None},
    )
    root = Path(ProjectContext.default.project_root_dir)
    with _errors_of("run"):
        raise typer.Exit(run_deployment(_read(deployment), root, options, lambda text: _say(f"fiot run: {text}")))


def _read(name: str) -> Deployment:
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
            raise StartError(
                f"Deployment '{name}' names the service '{service}', which is not in this project's src folder."
            )
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
    deployment: Deployed,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing .env.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Add what an existing .env lacks, and change nothing else.")] = False,
) -> None:
    """Write a deployment's .env with random passwords for its servers and their users, and a key for its REST interfaces."""
    from complex_system.deploy.env_file import add_secrets, env_text, missing_variables, write_env

    context = ProjectContext.default
    path = Path(context.env_file_for_deployment(deployment))
    with _errors_of("extras init-env"):
        config = _config(deployment)
        if add and path.is_file():
            missing = missing_variables(_infrastructure(config), context.env_for_deployment(deployment), config.services)
            added = add_secrets(path, missing, "Added by `fiot extras init-env --add`")
            typer.echo(f"{path}: {', '.join(added) or 'nothing'} added; next: `fiot config {deployment}`.")
            return
        write_env(path, env_text(deployment, _infrastructure(config), config.services), replace=force)
    typer.echo(f"{path} is written; next: `fiot config {deployment}` and `fiot start {deployment}`.")


@extras_cmd.command("add-device", context_settings=DEFAULT_CONTEXT_SETTINGS)
def add_device(
    deployment: Deployed,
    device: Annotated[str, typer.Argument(help="Name of the device, for instance press-4 or hall-2.press-4.")],
) -> None:
    """Make a user of the broker for a device: it may publish records on ingest-raw-datapoints.DEVICE, and nothing else.

    The password is kept in the deployment's .env.
    """
    from complex_system.deploy.env_file import add_secrets
    from complex_system.messaging.nats_client import inbox_prefix
    from complex_system.messaging.users import device_user

    context = ProjectContext.default
    path = Path(context.env_file_for_deployment(deployment))
    with _errors_of("extras add-device"):
        _config(deployment)
        user = device_user(device)
        if user.variable in context.env_for_deployment(deployment):
            raise StartError(f"The device '{device}' has a user already; its password is {user.variable} in {path}.")
        [password] = add_secrets(path, [user.variable], f"Device {device}, by `fiot extras add-device`").values()
    typer.echo(
        f"user          {device}\npassword      {password}\nsubject       ingest-raw-datapoints.{device}\n"
        f"inbox prefix  {inbox_prefix(device)}\n\nThe broker knows it after `fiot config {deployment}` and "
        f"`fiot start {deployment} -d`."
    )


@extras_cmd.command("describe-data", context_settings=DEFAULT_CONTEXT_SETTINGS)
def describe_data(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSON lines, Excel or Parquet; the suffix says which.", dir_okay=False)
    ],
    target: Annotated[str, typer.Option(help="Column to predict; the last numeric column by default.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the declaration to; the terminal by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing declaration.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="File to write the data-quality report to; report.html beside the declaration by default."),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
) -> None:
    """Read a file of records and write a first declaration of its data set, with comments.

    Show what the columns seem to hold, what is suspicious, and whether every record can be processed.
    """
    from complex_system.describe.command import describe_to

    with _errors_of("extras describe-data"):
        beside = output.with_name("report.html") if output else None
        report = None if no_report else report or beside
        describe_to(file, target, output, force=force, report=report, out=sys.stdout, err=sys.stderr)


def _config(name: str) -> DeploymentConfig:
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
    """End the command with an explanation when the deployment has no passwords for its servers, or no configuration with them."""
    from complex_system.deploy.env_file import missing_variables

    context = ProjectContext.default
    with _errors_of(command):
        config = _config(deployment)
        needed, services = _infrastructure(config), config.services
        missing = missing_variables(needed, context.env_for_deployment(deployment), services)
    if missing:
        path = Path(context.env_file_for_deployment(deployment))
        how = "init-env --add" if path.is_file() else "init-env"
        _fail(command, f"{path} does not set {', '.join(missing)}. `fiot extras {how} {deployment}` writes it.")
    if command == "start" and missing_variables(needed, context.build_env_for_deployment(deployment), services):
        _fail("start", f"the .env is newer than the configuration; run `fiot config {deployment}` first.")


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
    # Without names all deployments are meant; those that have no .env yet are skipped.
    if names:
        for name in names:
            _require_env("config", name)
    else:
        options["deployments"] = [name for name in _names() if Path(context.env_file_for_deployment(name)).is_file()]
        for name in sorted(set(_names()) - set(options["deployments"])):
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
    environment, config = context.env_for_deployment(deployment), _config(deployment)
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
    """Replace three of FastIoT's commands by our versions, under the same names and options."""
    ours = {fastiot_start: _start, fastiot_config: _configure, fastiot_run_tests: _run_tests}
    for command in app.registered_commands:
        if command.callback in ours:
            command.callback = ours[command.callback]


_replace_commands()
