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
from complex_system.local.credentials import MODEL_KEY_FILE, kept_secret, model_key
from complex_system.local.servers import DATABASES, HOST, SERVERS, MariaServer, NatsServer, Server
from complex_system.local.servers.base import FreePorts
from complex_system.local.servers.ray import RayHead, ray_cluster
from complex_system.settings import GRPC_PORTS, Settings
from complex_system.tracking.connection import without_secrets

TRAINER_SERVICES = {
    "lightgbm": "ml_lightgbm_regression_mlflow",
    "pytorch": "ml_pytorch_regression_mlflow",
    "pytorch-wandb": "ml_pytorch_regression",
    "tensorflow": "ml_tensorflow_regression_mlflow",
}
"""The trainers' services, by the trainer's name in the setting ``trainers``."""

API_KEY_FILE = "api_key"
_UNSIGNED = (
    "models are not signed, because the data of this run are from before it had a key: start it with --fresh, "
    "or put a key of your own into {path} and have all trainers train once"
)
_OUR_SERVICES, _PROJECT_SERVICE = "complex_system_services.", "complex_system.messaging.project_service"
_WITH_DOCKER_ONLY = ("prometheus", "grafana", "ray_head", "ray_worker")
SOURCE = "dummy_data_generation"
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
        packages: Folder of the project's own packages, which need not be installed.
    """

    name: str
    config_dir: Path
    infrastructure: Mapping[str, bool]
    services: tuple[DeployedService, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: Path | None = None


@dataclass(frozen=True)
class ExternalServer:
    """A server that is used and not started.

    Attributes:
        note: Which one it is and what names it, for the person who started the run.
    """

    name: str
    url: str
    host: str
    port: int
    note: str = ""


@dataclass(frozen=True)
class PlannedService:
    """A service process to start.

    Attributes:
        port: Its REST port, 0 when it has none.
        delay: Longest wait for MLflow before it starts, in seconds.
        nice: CPU priority, 0 (normal) to 19 (lowest).
        runner: Module that runs it, for a service of the project's own; empty for one of ours.
    """

    name: str
    module: str
    environment: Mapping[str, str]
    port_variable: str = ""
    port: int = 0
    delay: float = 0.0
    nice: int = 0
    runner: str = ""

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
        locked: Whether NATS, MLflow, REST and the page ask, too; the databases always do.
    """

    deployment: str
    directory: Path
    servers: tuple[Server, ...]
    external: tuple[ExternalServer, ...]
    services: tuple[PlannedService, ...]
    settings: Settings
    dataset: Dataset
    notes: tuple[str, ...] = ()
    locked: bool = False

    @property
    def key_in_shell(self) -> str:
        """How a shell gets the API key, which is not for screens and logs."""
        return f"$(cat {self.directory / API_KEY_FILE})" if self.locked else "$COMPLEX_SYSTEM_API_KEY"

    @property
    def client_variables(self) -> dict[str, str]:
        """What a program of one's own needs to know of this run, as variables."""
        variables = dict(self.server_environment)
        variables |= {service.port_variable: str(service.port) for service in self.services if service.port}
        return {**variables, "COMPLEX_SYSTEM_API_KEY": self.settings.api_key}

    @property
    def published_host(self) -> str:
        """The broker's host with a user, as published FastIoT programs name it; empty where the broker does not ask."""
        return next((each.published_host() for each in self.servers if isinstance(each, NatsServer) and each.asks), "")

    def login_link(self) -> str:
        """Return a link that logs a browser in at the page, once; empty where the page does not ask."""
        page = next((service.url for service in self.services if service.name == PAGE_SERVICE), "")
        if not page or not self.locked:
            return ""
        from complex_system.http.auth import ApiKey
        from complex_system.http.login import login_link

        return login_link(page, ApiKey(self.settings.api_key))

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


def make_plan(
    deployment: Deployment,
    directory: Path,
    options: Mapping[str, str] | None = None,
    *,
    locked: bool = False,
    cluster: int = 0,
) -> Plan:
    """Decide what to start on which ports, and with which passwords.

    Args:
        deployment: What to run.
        directory: Folder of its data, logs and state, and of the generated passwords.
        options: Variables from the command line; they take precedence over the deployment's ``.env``.
        locked: Whether NATS, MLflow, REST and the page ask, too.
        cluster: Workers of a Ray cluster on this machine that trains; 0 for none.

    Raises:
        StartError: A setting of the deployment is not valid, or it names an unknown server.
        DeclarationError: The deployment's ``dataset.yaml`` is not valid.
    """
    given = {**os.environ, **deployment.environment, **(options or {})}
    ports = FreePorts()
    servers, external = _servers(deployment, directory, given, ports, locked=locked)
    head: RayHead | None = None
    if cluster:
        if address := given.get("COMPLEX_SYSTEM_RAY_ADDRESS"):
            raise StartError(f"COMPLEX_SYSTEM_RAY_ADDRESS names a cluster already ({address}); leave out --cluster, or it.")
        head, nodes = ray_cluster(directory, directory / "logs", cluster)
        servers = (*servers, *nodes)
    shared = {
        "FASTIOT_CONFIG_DIR": str(deployment.config_dir),
        "WANDB_DIR": str(directory / "wandb"),
        "COMPLEX_SYSTEM_OUTBOX_DIR": str(directory / "outbox"),
        "WANDB_SILENT": "true",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Eleven processes share a few cores: more threads in each make all of them slower.
        **dict.fromkeys(
            ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "TF_NUM_INTRAOP_THREADS"), str(max(1, (os.cpu_count() or 2) // 4))
        ),
        **deployment.environment,
        **(options or {}),
    }
    if deployment.packages:
        shared["PYTHONPATH"] = os.pathsep.join(filter(None, (given.get("PYTHONPATH"), str(deployment.packages))))
    for server in servers:
        shared |= server.environment()
    if locked:
        shared["COMPLEX_SYSTEM_API_KEY"] = kept_secret(directory / API_KEY_FILE, given.get("COMPLEX_SYSTEM_API_KEY", ""))
    unsigned = ""
    # Others, who may not have this key, use an MLflow that this run does not start.
    if "COMPLEX_SYSTEM_MODEL_KEY" not in given and any(server.name == "mlflow" for server in servers):
        shared["COMPLEX_SYSTEM_MODEL_KEY"] = model_key(directory)
        unsigned = "" if shared["COMPLEX_SYSTEM_MODEL_KEY"] else _UNSIGNED.format(path=directory / MODEL_KEY_FILE)
    broker = next((server for server in servers if isinstance(server, NatsServer)), None)

    def environment(service: str) -> dict[str, str]:
        of_broker = broker.service_environment(service) if broker else {}
        return {**shared, **of_broker, **(head.trainer_environment(cluster) if head and service in trainers else {})}

    trainers = TRAINER_SERVICES.values()
    services = tuple(_service(service, environment(service.name), given, ports) for service in deployment.services)
    of_services = {k: v for s in services for k, v in s.environment.items()}
    # The run itself is not a service: it uses the account of the person who started it.
    account: dict[str, str] = {n: v for n, v in shared.items() if n in ("FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD")}
    try:
        settings = Settings.of({**os.environ, **shared, **of_services, **account})
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise StartError(f"The settings of deployment '{deployment.name}' are not valid: {faults}.") from error
    dataset = Dataset.load(shared["FASTIOT_CONFIG_DIR"], target=settings.target)
    of_servers = [server.note for server in servers if server.note]
    notes = (*(server.note for server in external), *ports.notes, *([unsigned] if unsigned else []), *of_servers)
    return Plan(deployment.name, directory, servers, external, services, settings, dataset, notes, locked)


def _servers(
    deployment: Deployment, directory: Path, given: Mapping[str, str], ports: FreePorts, *, locked: bool
) -> tuple[tuple[Server, ...], tuple[ExternalServer, ...]]:
    own: list[Server] = []
    external: list[ExternalServer] = []
    for name, elsewhere in deployment.infrastructure.items():
        if name in _WITH_DOCKER_ONLY:
            continue
        kind = SERVERS.get(name)
        if kind is None:
            raise StartError(
                f"Deployment '{deployment.name}' needs '{name}', which `fiot run` cannot start; it can start {', '.join(SERVERS)}."
            )
        host = given.get(kind.host_variable, "")
        port = _port(kind.port_variable, given, kind.default_port)
        if host or elsewhere:
            named = "the deployment's .env" if deployment.environment.get(kind.host_variable) else "the environment"
            by = f"{kind.host_variable} in {named}" if host else "deployment.yaml, which says `external: true`"
            external.append(_external(name, host or "localhost", port, by))
            continue
        server = kind(directory / name, directory / "logs", port=ports.take(name, port), asks=locked or name in DATABASES)
        if isinstance(server, NatsServer):
            server.services = tuple(service.name for service in deployment.services)
            server.devices = {each: value for each, value in given.items() if each.startswith("COMPLEX_SYSTEM_NATS_DEVICE_")}
            if mqtt := _port("COMPLEX_SYSTEM_MQTT_PORT", given, 0):
                server.mqtt_port = ports.take("MQTT", mqtt)
        if isinstance(server, MariaServer):
            server.database = given.get("COMPLEX_SYSTEM_MARIA_NAME") or Settings.__fields__["maria_name"].default
        own.append(server)
    return tuple(own), tuple(external)


def _external(name: str, address: str, port: int, by: str) -> ExternalServer:
    if name == "mlflow":
        url = address if ":/" in address else f"http://{address}:{port}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise StartError(
                f"{by} must be the address of a server, http://... or https://..., not '{without_secrets(url)}'."
            )
        host, port = parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80)
        url = without_secrets(url)
    else:
        host, url = address, f"{name}://{address}:{port}"
    return ExternalServer(name, url, host, port, f"{name}: {url} is used and not started, as named by {by}")


def _service(
    service: DeployedService, shared: Mapping[str, str], given: Mapping[str, str], ports: FreePorts
) -> PlannedService:
    environment = {**shared, **service.environment}
    variable, port = "", 0
    for name, default in service.ports.items():
        chosen = ports.take(service.name, _port(name, given, default))
        environment[name] = str(chosen)
        if not variable:
            variable, port = name, chosen
    grpc = GRPC_PORTS.get(service.name, "")
    if wanted := grpc and _port(grpc, given, 0):
        environment[grpc] = str(ports.take(service.name, wanted))
    return PlannedService(
        service.name,
        service.module,
        environment,
        variable,
        port,
        AFTER_MLFLOW.get(service.name, 0.0),
        NICE.get(service.name, 0),
        "" if service.module.startswith(_OUR_SERVICES) else _PROJECT_SERVICE,
    )


def _port(variable: str, given: Mapping[str, str], default: int) -> int:
    value = given.get(variable) or str(default)
    if not value.isdigit() or int(value) > 65535:
        raise StartError(f"{variable} must be a port number, not '{value}'.")
    return int(value)
