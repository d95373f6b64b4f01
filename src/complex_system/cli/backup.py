"""The commands ``fiot extras backup`` and ``fiot extras restore``, an extension of FastIoT's command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, extras_cmd

from complex_system.cli.shared import Deployed, errors_of, read_deployment

if TYPE_CHECKING:
    from complex_system.backup.places import Where

AtServers = Annotated[
    bool | None,
    typer.Option(
        "--servers/--local",
        help="The servers in the deployment's .env (containers, or elsewhere), or those of `fiot run`. By default `fiot run` while it "
        "runs, else the servers where `fiot config` was called, else `fiot run`.",
        show_default=False,
    ),
]
MlflowDir = Annotated[Path | None, typer.Option(help="Folder with MLflow's mlflow.db and artifacts, if it is another one.")]
WandbDir = Annotated[Path | None, typer.Option(help="W&B's folder, if it is another one.")]


@extras_cmd.command("backup", context_settings=DEFAULT_CONTEXT_SETTINGS)
def backup(
    deployment: Deployed,
    folder: Annotated[Path, typer.Argument(help="New folder for the backup.")],
    servers: AtServers = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave out a part: streams, database, mlflow, wandb or declaration.")
    ] = None,
    mlflow_dir: MlflowDir = None,
    wandb_dir: WandbDir = None,
) -> None:
    """Copy a deployment into a folder, also while it runs: streams, database, MLflow, W&B's folder and declaration.

    The .env with the passwords is not part of it.
    """
    from complex_system.backup.deployment import backup_command
    from complex_system.backup.places import PARTS

    if unknown := sorted(set(without or ()) - set(PARTS)):
        raise typer.BadParameter(f"--without takes {', '.join(PARTS)}, not '{unknown[0]}'.")
    with errors_of("extras backup"):
        where = _where(deployment, servers, mlflow_dir, wandb_dir)
        backup_command(where, folder, lambda text: typer.echo(f"fiot extras backup: {text}"), without or ())


@extras_cmd.command("restore", context_settings=DEFAULT_CONTEXT_SETTINGS)
def restore(
    deployment: Deployed,
    folder: Annotated[Path, typer.Argument(help="Folder of the backup.")],
    servers: AtServers = None,
    mlflow_dir: MlflowDir = None,
    wandb_dir: WandbDir = None,
) -> None:
    """Write a backup into a deployment that is empty and does not run.

    With --servers, its database and its broker must run, and no service.
    """
    from complex_system.backup.deployment import restore_command

    with errors_of("extras restore"):
        where = _where(deployment, servers, mlflow_dir, wandb_dir)
        restore_command(where, folder, lambda text: typer.echo(f"fiot extras restore: {text}"))


def _where(name: str, servers: bool | None, mlflow_dir: Path | None, wandb_dir: Path | None) -> Where:
    from complex_system.backup.places import Where
    from complex_system.local.plan import run_directory

    context = ProjectContext.default
    return Where(
        read_deployment(name),
        run_directory(name, Path(context.project_root_dir)),
        context.project_namespace,
        servers=servers,
        configured=Path(context.deployment_build_dir(name), "docker-compose.yaml").is_file(),
        mlflow_dir=mlflow_dir,
        wandb_dir=wandb_dir,
    )
