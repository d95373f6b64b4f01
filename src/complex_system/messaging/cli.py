"""The commands ``fiot extras dead-letters`` and ``fiot extras conflicts``, an extension of FastIoT's command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, extras_cmd

from complex_system.cli import Deployed, _config, _fail, _say
from complex_system.errors import ComplexSystemError

if TYPE_CHECKING:
    from complex_system.settings import Settings


@extras_cmd.command("dead-letters", context_settings=DEFAULT_CONTEXT_SETTINGS)
def dead_letters(
    deployment: Deployed,
    payload: Annotated[bool, typer.Option("--payload", help="Show the payload, too.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Publish them again on their original subjects.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of dead letters, the oldest first.")] = 100,
    number: Annotated[int | None, typer.Option(min=1, help="Only the dead letter with this number.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Only those of this source: the part of the subject below the ingest's.")
    ] = None,
) -> None:
    """Show the published messages that could not be accepted, each with its reason; publish them again, or remove them.

    The broker is the one in the deployment's .env, by default on this machine; FASTIOT_NATS_PORT takes precedence over its port.
    """
    from complex_system.messaging.operators import Action, manage_dead_letters

    if replay and remove:
        raise typer.BadParameter(
            "--replay removes what it publishes; --remove removes without publishing. Name one of them."
        )
    action: Action = "replay" if replay else "remove" if remove else "payload" if payload else "show"
    _run(
        "extras dead-letters",
        deployment,
        lambda settings: manage_dead_letters(settings, action, _say, limit=limit, number=number, source=source),
    )


@extras_cmd.command("conflicts", context_settings=DEFAULT_CONTEXT_SETTINGS)
def conflicts(
    deployment: Deployed,
    csv: Annotated[bool, typer.Option("--csv", help="Write a CSV with a row for each value that lost.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of conflicts, by key: 100, or all with --csv.", show_default=False),
    ] = None,
) -> None:
    """Show records that came under keys that exist with other values: key, time, sources, and the columns with both values.

    The deployment must run: its database service answers. The broker is the one in the deployment's .env, by default on this machine;
    FASTIOT_NATS_PORT takes precedence over its port.

        fiot extras conflicts mongo --csv > conflicts.csv
    """
    from complex_system.messaging.operators import list_conflicts

    most = limit or (None if csv else 100)
    _run("extras conflicts", deployment, lambda settings: list_conflicts(settings, _say, as_csv=csv, limit=most))


def _run(command: str, deployment: str, work: Callable[[Settings], Coroutine[Any, Any, int]]) -> None:
    """Do something over the broker of a deployment."""
    from pydantic import ValidationError

    from complex_system.settings import Settings

    try:
        _config(deployment)
        environment = ProjectContext.default.env_for_deployment(deployment)
        asyncio.run(work(Settings.of({**environment, **os.environ})))
    except (ComplexSystemError, ValidationError) as error:
        _fail(command, str(error))
