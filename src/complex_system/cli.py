"""``fiot run``: our command in FastIoT's command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, app

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
) -> None:
    """Runs a deployment on this machine, without Docker.

    Starts the servers that the deployment needs and its .env names no host for, and every service as a process of its own, and
    shows how the system works until Ctrl-C. Data, logs and status.json are kept in .run/DEPLOYMENT.
    """
    from complex_system.errors import ComplexSystemError
    from complex_system.local.plan import run_directory
    from complex_system.local.run import run_deployment

    try:
        known = _read(deployment)
        options = {"COMPLEX_SYSTEM_RECORDS": records, "COMPLEX_SYSTEM_SEED": seed}
        code = run_deployment(
            known,
            run_directory(deployment, Path(ProjectContext.default.project_root_dir)),
            {name: str(value) for name, value in options.items() if value is not None},
            once=once,
            fresh=fresh,
            timeout=timeout,
        )
    except ComplexSystemError as error:
        typer.echo(f"fiot run: {error.message}", err=True)
        code = 1
    raise typer.Exit(code)


def _read(name: str) -> Deployment:
    from complex_system.errors import StartError
    from complex_system.local.plan import DeployedService, Deployment

    context = ProjectContext.default
    if name not in context.deployment_names:
        raise StartError(f"There is no deployment '{name}'; this project has {', '.join(_names()) or 'none'}.")
    try:
        config = context.deployment_by_name(name)
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
        infrastructure={server: bool(how and how.external) for server, how in config.infrastructure_services.items()},
        services=tuple(services),
        environment=environment,
    )
