"""What the commands share: the deployment that one names, its configuration, and how errors of ours are shown."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from fastiot.cli.model.deployment import DeploymentConfig
from fastiot.cli.model.project import ProjectContext

from complex_system.errors import ComplexSystemError, StartError
from complex_system.terminal import printable

if TYPE_CHECKING:
    from complex_system.local.plan import Deployment
    from complex_system.settings import Settings


def deployment_names() -> list[str]:
    """Return the names of the project's deployments, in order."""
    return sorted(ProjectContext.default.deployment_names)


def say(text: str, *, err: bool = False) -> None:
    """Print a line that may quote other people's data."""
    typer.echo(printable(text), err=err)


def fail(command: str, message: str) -> NoReturn:
    """Say why a command cannot do its work, and end it with exit code 1."""
    say(f"fiot {command}: {message}", err=True)
    raise typer.Exit(1)


def closest(name: str, known: Iterable[str]) -> str:
    """Return the name that was probably meant; empty where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")


@contextlib.contextmanager
def errors_of(command: str) -> Iterator[None]:
    """Show an error of ours as one line, and end the command with exit code 1."""
    try:
        yield
    except ComplexSystemError as error:
        fail(command, error.message)


Deployed = Annotated[str, typer.Argument(help="Deployment: a folder of deployments/.", autocompletion=deployment_names)]


def config_of(name: str) -> DeploymentConfig:
    """Return a deployment's ``deployment.yaml``.

    Raises:
        StartError: There is no such deployment, or the file cannot be read.
    """
    context = ProjectContext.default
    if name not in context.deployment_names:
        near = closest(name, deployment_names())
        raise StartError(
            f"There is no deployment '{name}'; this project has {', '.join(deployment_names()) or 'none'}."
            + (f" Did you mean '{near}'?" if near else "")
        )
    try:
        return context.deployment_by_name(name)
    except ValueError as error:
        raise StartError(f"Deployment '{name}' cannot be read: {error}") from error


def over_the_broker(command: str, deployment: str, work: Callable[[Settings], Coroutine[Any, Any, object]]) -> None:
    """Do something over the broker of a deployment; without one over the broker that the environment names."""
    from pydantic import ValidationError

    from complex_system.settings import Settings

    try:
        environment: dict[str, str] = {}
        if deployment:
            config_of(deployment)
            environment = ProjectContext.default.env_for_deployment(deployment)
        asyncio.run(work(Settings.of({**environment, **os.environ})))
    except (ComplexSystemError, ValidationError) as error:
        fail(command, str(error))


def infrastructure_of(config: DeploymentConfig) -> dict[str, bool]:
    """Return the servers that a deployment needs, and whether each runs elsewhere."""
    return {server: bool(how and how.external) for server, how in config.infrastructure_services.items()}


def read_deployment(name: str) -> Deployment:
    """Return a deployment with its services, their ports, and the variables of its ``.env``.

    Raises:
        StartError: It cannot be read, or names a service that is not in this project.
    """
    from complex_system.local.plan import DeployedService, Deployment

    context = ProjectContext.default
    config = config_of(name)
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
    own = Path(context.project_root_dir) / "src"
    if own.is_dir():
        sys.path.append(str(own))  # where `--reload` looks for what has changed
    return Deployment(
        name=name,
        config_dir=(Path(context.deployment_dir(name)) / config.config_dir).resolve(),
        infrastructure=infrastructure_of(config),
        services=tuple(services),
        environment=environment,
        packages=own if own.is_dir() else None,
    )
