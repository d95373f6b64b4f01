"""Where a deployment keeps what is backed up: one of ``fiot run`` on this machine, or one whose servers its ``.env`` names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from complex_system.errors import BackupError, StartError
from complex_system.local.folder import is_running, only_run, read_environment
from complex_system.local.plan import Deployment, make_plan
from complex_system.settings import Settings

STREAMS, DATABASE, MLFLOW, WANDB, DECLARATION = PARTS = ("streams", "database", "mlflow", "wandb", "declaration")
"""The parts of a deployment, each a folder of its backup."""
_VOLUMES = "/var/fastiot"
_MLFLOW_STORES = {
    "COMPLEX_SYSTEM_MLFLOW_STORE": "sqlite:////mlflow/mlflow.db",
    "COMPLEX_SYSTEM_MLFLOW_ARTIFACTS": "/mlflow/artifacts",
}
_WANDB_SERVICES = ("ml_pytorch_regression", "ml_serving")


@dataclass(frozen=True)
class Place:
    """Where the parts are.

    Attributes:
        description: The deployment and how it runs, for the person who asked.
        parts: Those that the deployment has.
        settings: Reach the database and the broker.
        database: Name of the database service; empty where the deployment has none.
        mlflow: Folder of MLflow's SQLite and artifacts; None where it is not on this machine, or not SQLite.
        wandb: Folder of W&B's runs and of the artifact store; None where it is not known.
        config_dir: Folder of the declaration.
    """

    description: str
    parts: tuple[str, ...]
    settings: Settings
    database: str
    mlflow: Path | None
    wandb: Path | None
    config_dir: Path


@dataclass(frozen=True)
class Where:
    """What a command line says of where a deployment is.

    Attributes:
        deployment: The deployment.
        directory: Folder of its local runs.
        namespace: Of the project, which is part of the paths of the containers' volumes.
        servers: Whether it is at the servers in its ``.env``, or of ``fiot run``; None where the command line does not say.
        configured: Whether containers are configured for it.
        mlflow_dir: MLflow's folder, if it is another one than usual.
        wandb_dir: W&B's folder, if it is another one than usual.
    """

    deployment: Deployment
    directory: Path
    namespace: str
    servers: bool | None
    configured: bool
    mlflow_dir: Path | None
    wandb_dir: Path | None

    @contextlib.contextmanager
    def place(self, *, empty: bool) -> Iterator[Place]:
        """Give the place; with ``empty``, nothing may be there."""
        servers = self.servers
        if servers is None:
            servers = self.configured and not is_running(self.directory)
        found = nullcontext(self._at_servers()) if servers else _place_of_run(self.deployment, self.directory, empty=empty)
        with found as place:
            yield replace(place, mlflow=self.mlflow_dir or place.mlflow, wandb=self.wandb_dir or place.wandb)

    def _at_servers(self) -> Place:
        """Return the place of a deployment whose servers its ``.env`` names: containers on this machine, or servers elsewhere."""
        deployment, environment = self.deployment, {**self.deployment.environment, **os.environ}
        volumes = environment.get("FASTIOT_VOLUME_DIR", _VOLUMES)
        usual = f"{self.namespace}/{deployment.name}/mlflow"
        mlflow: Path | None = Path(volumes, environment.get("COMPLEX_SYSTEM_MLFLOW_VOLUME") or usual)
        elsewhere = any(environment.get(name, default) != default for name, default in _MLFLOW_STORES.items())
        if deployment.infrastructure.get("mlflow") or elsewhere:
            mlflow = None
        wandb = environment.get("WANDB_DIR", "")
        return Place(
            f"'{deployment.name}' at the servers in its .env",
            _parts(deployment),
            _settings(deployment.name, environment),
            _database(deployment),
            mlflow,
            Path(wandb) if Path(wandb).is_absolute() else None,
            deployment.config_dir,
        )


@contextlib.contextmanager
def _place_of_run(deployment: Deployment, directory: Path, *, empty: bool = False) -> Iterator[Place]:
    """Give the place of a deployment of ``fiot run``; where it does not run, its broker and its database are started meanwhile.

    Args:
        deployment: The deployment.
        directory: Folder of its data.
        empty: Nothing of it may be there.

    Raises:
        BackupError: There is no run, or with ``empty`` there is one.
    """
    if empty and is_running(directory):
        raise BackupError(f"'{deployment.name}' runs at the moment, in {directory}; stop it first.")
    known = read_environment(directory)
    if not empty and known is None:
        raise BackupError(
            f"'{deployment.name}' has no data of a run in {directory}. --servers asks the servers in its .env instead."
        )
    options = known.options if known else {}
    mlflow = directory / "mlflow" if deployment.infrastructure.get("mlflow") is False else None
    config_dir = Path(options.get("FASTIOT_CONFIG_DIR", deployment.config_dir))
    place = Place(
        f"'{deployment.name}' as `fiot run` keeps it, in {directory}",
        _parts(deployment),
        Settings(),
        _database(deployment),
        mlflow,
        Path(deployment.environment.get("WANDB_DIR") or directory / "wandb"),
        config_dir,
    )
    if is_running(directory):
        assert known is not None
        environment = {**os.environ, **deployment.environment, **options, **known.servers}
        yield replace(place, settings=_settings(deployment.name, environment))
        return
    with only_run(directory), contextlib.ExitStack() as started:
        # No new key: models that are restored are signed with that of the run that made them.
        plan = make_plan(deployment, directory, {**options, "COMPLEX_SYSTEM_MODEL_KEY": ""})
        needed = [server for server in plan.servers if server.name != "mlflow"]  # whose files are copied as they are
        for server in needed:
            started.callback(server.stop)
            server.start()
        for server in needed:
            server.wait_ready()
        yield replace(place, settings=plan.settings)


def _parts(deployment: Deployment) -> tuple[str, ...]:
    there = {
        STREAMS: "nats" in deployment.infrastructure,
        DATABASE: bool(_database(deployment)),
        MLFLOW: "mlflow" in deployment.infrastructure,
        WANDB: any(service.name in _WANDB_SERVICES for service in deployment.services),
        DECLARATION: True,
    }
    return tuple(part for part in PARTS if there[part])


def _database(deployment: Deployment) -> str:
    return next((service.name for service in deployment.services if service.name.startswith("database_")), "")


def _settings(name: str, environment: Mapping[str, str]) -> Settings:
    try:
        return Settings.of(environment)
    except ValidationError as error:
        raise StartError(f"The settings of deployment '{name}' are not valid: {error}") from error
