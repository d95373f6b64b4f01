"""What a local run of a deployment starts, on which ports, and with which environment; nothing is started here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from complex_system.domain.dataset import Dataset
from complex_system.errors import StartError
from complex_system.local.servers import HOST, SERVERS, Server, free_port
from complex_system.settings import Settings

TRAINER_SERVICES = {
    "lightgbm": "ml_lightgbm_regression_mlflow",
    "pytorch": "ml_pytorch_regression_mlflow",
    "pytorch-wandb": "ml_pytorch_regression",
    "tensorflow": "ml_tensorflow_regression_mlflow",
}
"""The trainers' services, by the trainer's name in the setting ``trainers``."""

PAGE_SERVICE = "ml_monitoring"
"""The service whose address is a page for people."""
# On the two or four cores of a laptop the imports of eleven services take most of the start. Serving and monitoring have nothing to
# do before MLflow is ready, so they start after it; the seconds are for a deployment whose MLflow takes longer or does not come.
AFTER_MLFLOW = {"ml_serving_mlflow": 45.0, "ml_serving": 45.0, "ml_monitoring": 45.0}
"""Longest wait, in seconds, of the services that start when MLflow is ready."""

NICE = dict.fromkeys(
    ("ml_lightgbm_regression_mlflow", "ml_pytorch_regression", "ml_pytorch_regression_mlflow", "ml_monitoring"), 5
)
"""CPU priorities: training and monitoring give way to services that answer requests. TensorFlow does not, because its import is the
longest and the first round waits for it."""


@dataclass(frozen=True)
class DeployedService:
    """A service as the deployment declares it.

    Attributes:
        ports: Default port by the variable that changes it, from the service's manifest.
    """

    name: str
    module: str
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """A deployment as its ``deployment.yaml`` and ``.env`` declare it.

    Attributes:
        infrastructure: For each server by name, whether it runs elsewhere.
    """

    name: str
    config_dir: Path
    infrastructure: Mapping[str, bool]
    services: tuple[DeployedService, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExternalServer:
    """A server that is used and not started."""

    name: str
    url: str
    host: str
    port: int


@dataclass(frozen=True)
class PlannedService:
    """A service process to start.

    Attributes:
        port: Its REST port, 0 when it has none.
        delay: Longest wait for MLflow before it starts, in seconds.
        nice: CPU priority, 0 (normal) to 19 (lowest).
    """

    name: str
    module: str
    environment: Mapping[str, str]
    port_variable: str = ""
    port: int = 0
    delay: float = 0.0
    nice: int = 0

    @property
    def url(self) -> str:
        """Address of its REST server, empty when it has none."""
        return f"http://{HOST}:{self.port}" if self.port else ""


@dataclass(frozen=True)
class Plan:
    """A local run, ready to be started.

    Attributes:
        directory: Folder of data, logs and state.
        settings: The settings of the services.
        notes: Messages for the person who started it.
    """

    deployment: str
    directory: Path
    servers: tuple[Server, ...]
    external: tuple[ExternalServer, ...]
    services: tuple[PlannedService, ...]
    settings: Settings
    dataset: Dataset
    notes: tuple[str, ...] = ()

    @property
    def logs(self) -> Path:
        """Folder of the log files, one a process."""
        return self.directory / "logs"

    @property
    def server_environment(self) -> dict[str, str]:
        """The variables that point a service to the servers of this run."""
        return {name: value for server in self.servers for name, value in server.environment().items()}

    @property
    def trainers(self) -> tuple[str, ...]:
        """The trainers of this deployment's training rounds."""
        names = {service.name for service in self.services}
        return tuple(name for name in self.settings.trainer_names if TRAINER_SERVICES.get(name) in names)

    @property
    def database(self) -> str:
        """Name of the database service, empty when the deployment has none."""
        return next((service.name for service in self.services if service.name.startswith("database_")), "")

    @staticmethod
    def shown_address(service: str, url: str) -> str:
        """Return the address where a person looks at a service: the page, or the documentation of its interface."""
        return url if service == PAGE_SERVICE else f"{url}/docs"

    def has(self, service: str) -> bool:
        """Whether the deployment has that service."""
        return any(planned.name == service for planned in self.services)


def run_directory(deployment: str, root: Path) -> Path:
    """Return the folder of a deployment's local run; ``COMPLEX_SYSTEM_RUN_DIR`` moves it out of the project."""
    return (root / Settings().run_dir / deployment).resolve()


def make_plan(deployment: Deployment, directory: Path, options: Mapping[str, str] | None = None) -> Plan:
    """Decide what to start on which ports.

    Args:
        deployment: What to run.
        directory: Folder of its data, logs and state.
        options: Variables from the command line; they take precedence over the deployment's ``.env``.

    Raises:
        StartError: A setting of the deployment is not valid, or it names an unknown server.
        DeclarationError: The deployment's ``dataset.yaml`` is not valid.
    """
    given = {**os.environ, **deployment.environment, **(options or {})}
    ports = _Ports()
    servers, external = _servers(deployment, directory, given, ports)
    shared = {
        "FASTIOT_CONFIG_DIR": str(deployment.config_dir),
        "WANDB_DIR": str(directory / "wandb"),
        "COMPLEX_SYSTEM_OUTBOX_DIR": str(directory / "outbox"),
        "WANDB_SILENT": "true",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Eleven processes share a few cores: more threads in each make all of them slower.
        **dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "TF_NUM_INTRAOP_THREADS"), _threads()),
        **deployment.environment,
        **(options or {}),
    }
    for server in servers:
        shared |= server.environment()
    services = tuple(_service(service, shared, given, ports) for service in deployment.services)
    try:
        settings = Settings.of({**os.environ, **shared, **{k: v for s in services for k, v in s.environment.items()}})
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise StartError(f"The settings of deployment '{deployment.name}' are not valid: {faults}.") from error
    dataset = Dataset.load(shared["FASTIOT_CONFIG_DIR"], target=settings.target)
    return Plan(deployment.name, directory, servers, external, services, settings, dataset, tuple(ports.notes))


class _Ports:
    """Gives out free ports, none twice, with a note for each that is not the preferred one."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self.notes: list[str] = []

    def take(self, owner: str, preferred: int) -> int:
        port = free_port(0 if preferred in self._given else preferred)
        while port in self._given:
            port = free_port()
        self._given.add(port)
        if preferred and port != preferred:
            self.notes.append(f"Port {preferred} of {owner} is taken; it uses {port}.")
        return port


def _servers(
    deployment: Deployment, directory: Path, given: Mapping[str, str], ports: _Ports
) -> tuple[tuple[Server, ...], tuple[ExternalServer, ...]]:
    own: list[Server] = []
    external: list[ExternalServer] = []
    for name, elsewhere in deployment.infrastructure.items():
        kind = SERVERS.get(name)
        if kind is None:
            raise StartError(
                f"Deployment '{deployment.name}' needs '{name}', which `fiot run` cannot start; it can start {', '.join(SERVERS)}."
            )
        # Only the deployment's own .env may name a server elsewhere, not a variable left over in a shell.
        host = deployment.environment.get(kind.host_variable, "")
        port = _port(kind.port_variable, given, kind.default_port)
        if host or elsewhere:
            external.append(_external(name, host or given.get(kind.host_variable, "localhost"), port))
        else:
            own.append(kind(directory / name, directory / "logs", port=ports.take(name, port)))
    return tuple(own), tuple(external)


def _external(name: str, address: str, port: int) -> ExternalServer:
    if name != "mlflow":
        return ExternalServer(name, f"{name}://{address}:{port}", address, port)
    uri = address if "://" in address else f"http://{address}:{port}"
    parts = urlsplit(uri)
    return ExternalServer(name, uri, parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80))


def _service(service: DeployedService, shared: Mapping[str, str], given: Mapping[str, str], ports: _Ports) -> PlannedService:
    environment = {**shared, **service.environment}
    variable, port = "", 0
    for name, default in service.ports.items():
        chosen = ports.take(service.name, _port(name, given, default))
        environment[name] = str(chosen)
        if not variable:
            variable, port = name, chosen
    return PlannedService(
        service.name,
        service.module,
        environment,
        variable,
        port,
        AFTER_MLFLOW.get(service.name, 0.0),
        NICE.get(service.name, 0),
    )


def _port(variable: str, given: Mapping[str, str], default: int) -> int:
    value = given.get(variable) or str(default)
    if not value.isdigit() or int(value) > 65535:
        raise StartError(f"{variable} must be a port number, not '{value}'.")
    return int(value)


def _threads() -> str:
    return str(max(1, (os.cpu_count() or 2) // 4))
