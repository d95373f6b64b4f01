"""What a local run of a deployment starts, where, and with which environment; nothing is started here."""

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
"""Which service trains what, by the trainer's name in the setting ``trainers``."""

HOST_VARIABLES = {
    "nats": "FASTIOT_NATS_HOST",
    "mongodb": "FASTIOT_MONGO_DB_HOST",
    "mariadb": "FASTIOT_MARIA_DB_HOST",
    "mlflow": "MLFLOW_TRACKING_URI",
}
"""The variable that names a server which runs elsewhere."""
PAGE_SERVICE = "ml_monitoring"
"""The service whose address is a page for people."""
PORT_VARIABLES = {
    "nats": "FASTIOT_NATS_PORT",
    "mongodb": "FASTIOT_MONGO_DB_PORT",
    "mariadb": "FASTIOT_MARIA_DB_PORT",
    "mlflow": "COMPLEX_SYSTEM_MLFLOW_PORT",
}
"""The variable that names the preferred port of a server which is started here."""

# On the two or four cores of a laptop the imports of eleven services take most of the start. Who serves or watches has nothing to
# do before MLflow is there, and starts with it; the seconds are for a deployment whose MLflow takes longer or does not come.
AFTER_MLFLOW = {"ml_serving_mlflow": 45.0, "ml_serving": 45.0, "ml_monitoring": 45.0}
"""Longest wait of the services that start when MLflow is ready."""

NICE = dict.fromkeys(
    ("ml_lightgbm_regression_mlflow", "ml_pytorch_regression", "ml_pytorch_regression_mlflow", "ml_monitoring"), 5
)
"""Who gives way when the cores are short: training and watching, to those who answer requests. TensorFlow does not, because its
import is the longest and the first round waits for it."""


@dataclass(frozen=True)
class DeployedService:
    """A service as the deployment names it.

    Attributes:
        ports: Default port by the variable that moves it, as the service's manifest declares them.
    """

    name: str
    module: str
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """A deployment as its ``deployment.yaml`` and ``.env`` have it.

    Attributes:
        infrastructure: Whether the server runs elsewhere, by its name.
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
    """A service process to be.

    Attributes:
        port: Its REST port, 0 when it has none.
        delay: Seconds that it waits for MLflow, at most, before it starts.
        nice: How far it gives way to others on the cores, 0 to 19.
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
        directory: Where data, logs and state go.
        settings: The settings that the services will have.
        notes: What the person who started it should know, one sentence each.
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
    def trainers(self) -> tuple[str, ...]:
        """The trainers that a training round of this deployment has."""
        names = {service.name for service in self.services}
        return tuple(name for name in self.settings.trainer_names if TRAINER_SERVICES.get(name) in names)

    @property
    def database(self) -> str:
        """Name of the database service, empty when the deployment has none."""
        return next((service.name for service in self.services if service.name.startswith("database_")), "")

    @staticmethod
    def shown_address(service: str, url: str) -> str:
        """Where a person looks at a service: the page, or the documentation of its interface."""
        return url if service == PAGE_SERVICE else f"{url}/docs"

    def has(self, service: str) -> bool:
        """Whether the deployment has that service."""
        return any(planned.name == service for planned in self.services)


def run_directory(deployment: str, root: Path) -> Path:
    """Where a local run of that deployment keeps its files; ``COMPLEX_SYSTEM_RUN_DIR`` moves it away from the project."""
    return (root / Settings().run_dir / deployment).resolve()


def make_plan(deployment: Deployment, directory: Path, options: Mapping[str, str] | None = None) -> Plan:
    """Decides what to start on which ports.

    Args:
        deployment: What to run.
        directory: Where its data, logs and state go.
        options: Variables from the command line; they beat the deployment's ``.env``.

    Raises:
        StartError: A setting of the deployment is not valid, or it names a server that is not known.
        DeclarationError: The deployment's ``dataset.yaml`` is not valid.
    """
    given = {**os.environ, **deployment.environment, **(options or {})}
    ports = _Ports()
    servers, external = _servers(deployment, directory, given, ports)
    shared = {
        "FASTIOT_CONFIG_DIR": str(deployment.config_dir),
        "WANDB_DIR": str(directory / "wandb"),
        "WANDB_SILENT": "true",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Eleven processes on a few cores: more threads each only get in each other's way.
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
    """Free ports, none given twice, with a note for each that was not the preferred one."""

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
                f"Deployment '{deployment.name}' needs '{name}', which `fiot run` cannot start; it knows {', '.join(SERVERS)}."
            )
        # Only the deployment's own .env says that a server is elsewhere: a variable left over in a shell must not.
        host = deployment.environment.get(HOST_VARIABLES[name], "")
        port = _port(PORT_VARIABLES[name], given, kind.default_port)
        if host or elsewhere:
            external.append(_external(name, host or given.get(HOST_VARIABLES[name], "localhost"), port))
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
