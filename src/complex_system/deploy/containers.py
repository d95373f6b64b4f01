"""What each container of a deployment gets and may do: its own secrets, memory, processes, capabilities, writable folders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from complex_system.deploy import ACCOUNTS_FILE, MLFLOW_SCRIPT, USERS_FILE
from complex_system.deploy.observability import write_deployment_files
from complex_system.local import mlflow_server
from complex_system.messaging.mqtt import PORT_VARIABLE, mqtt_listener, mqtt_port
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.users import DEVICE_VARIABLE, PASSWORD_VARIABLE, authorization, broker_users, service_user
from complex_system.settings import GRPC_PORTS

ENVIRONMENTS = "env"
"""Folder of a built deployment with a file of variables for each container."""

_SERVICE_USER = 777
"""User id of ``fastiot`` in the services' images."""
_HOME = f"/home/fastiot:uid={_SERVICE_USER},gid={_SERVICE_USER},mode=0700,size=64m"

_REST = ("ml_serving", "ml_serving_mlflow", "ml_monitoring")
_TRAINERS = tuple(name for name in SERVICES if "_regression" in name)
_WANDB = ("ml_pytorch_regression", "ml_serving")
_MLFLOW = (*_TRAINERS, "ml_consumer", "ml_monitoring", "ml_serving_mlflow")

OWNERS: Mapping[str, tuple[str, ...]] = {
    "FASTIOT_MONGO_DB_PASSWORD": ("database_mongo",),
    "FASTIOT_MARIA_DB_PASSWORD": ("database_maria",),
    "COMPLEX_SYSTEM_API_KEY": _REST,
    "COMPLEX_SYSTEM_GRPC_TLS_KEY": tuple(GRPC_PORTS),
    "COMPLEX_SYSTEM_MODEL_KEY": (*_TRAINERS, "ml_consumer", "ml_serving", "ml_serving_mlflow"),
    "COMPLEX_SYSTEM_SOURCE_TABLE_URL": ("dummy_data_generation",),
    "COMPLEX_SYSTEM_WEBHOOK_URL": ("ml_monitoring",),
    "COMPLEX_SYSTEM_WEBHOOK_SECRET": ("ml_monitoring",),
    "COMPLEX_SYSTEM_MESSAGE_URLS": ("ml_monitoring",),
    "MLFLOW_TRACKING_URI": _MLFLOW,  # may hold a user and a password
    "MLFLOW_TRACKING_USERNAME": _MLFLOW,
    "MLFLOW_TRACKING_PASSWORD": _MLFLOW,
    "MLFLOW_TRACKING_TOKEN": _MLFLOW,
    "WANDB_API_KEY": _WANDB,
    "RAY_AUTH_TOKEN": _TRAINERS,
}
"""The containers that get a secret. Servers get theirs from the compose file, the broker's users are added by name."""

_FOR_OPERATORS = (
    "COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD",
    "COMPLEX_SYSTEM_MLFLOW_SECRET_KEY",
    "COMPLEX_SYSTEM_GRAFANA_PASSWORD",
)
"""Secrets that the compose file gives to a server, and nobody else needs."""
_SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|KEY|CREDENTIAL|WEBHOOK")
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_OF_MLFLOW = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")
_TLS = re.compile(r"^tls\s*\{[^}]*\}", re.MULTILINE)
"""The broker's own, not the one of its cluster, which is indented."""
_VARIABLE = re.compile(r"(?<![\w\"$])\$([A-Za-z_]\w*)")


_ACCOUNTS = """[mlflow]
default_permission = READ
database_uri = sqlite:////mlflow/accounts.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Otherwise each request waits for a slow hash of its password.
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Container:
    """What a container may do. Its root file system is read-only, and it has no capabilities but these.

    Attributes:
        memory: Limit, as docker-compose writes it; a container that exceeds it is killed and started again.
        processes: Limit of processes and threads.
        capabilities: What the image needs to change to its own user.
        tmpfs: Writable folders in memory, with their options.
        volumes: Further writable folders, as named volumes.
        read_only: Folders of volumes that it only reads.
        optional_port: Variable of a port that is published where it is set.
    """

    memory: str = "1g"
    processes: int = 1000
    capabilities: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ("/tmp:size=256m", _HOME)  # noqa: S108 - a path in the container
    volumes: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ("/etc/fastiot",)
    optional_port: str = ""


# The public images of the databases start as root, give the data to their own user (CHOWN, and DAC_OVERRIDE to find what is not
# theirs in its folders), and go on as that user (SETUID, SETGID).
_BECOMES_A_USER = ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")
_TMP = "/tmp:size=256m"  # noqa: S108 - a path in the container
_OF_RAY = ("/tmp:size=1g", _HOME)  # noqa: S108 - its logs, and objects beyond its shared memory

CONTAINERS: Mapping[str, Container] = {
    # Its volume, and the key of its certificate, may belong to whoever deploys.
    "nats": Container(memory="1g", capabilities=("DAC_OVERRIDE",), tmpfs=(_TMP,), optional_port=PORT_VARIABLE),
    "mongodb": Container(memory="2g", capabilities=_BECOMES_A_USER, tmpfs=(_TMP,)),
    # Temporary tables may be larger than memory.
    "mariadb": Container(
        memory="2g", capabilities=_BECOMES_A_USER, tmpfs=("/run/mysqld:mode=1777,size=1m",), volumes=("mariadb_tmp:/tmp",)
    ),
    "mlflow": Container(memory="2g", tmpfs=("/tmp:size=512m", "/root:size=64m")),  # noqa: S108
    # Their volumes may belong to whoever deploys.
    "prometheus": Container(memory="1g", capabilities=("DAC_OVERRIDE",), tmpfs=(_TMP,), read_only=()),
    "grafana": Container(memory="512m", capabilities=("DAC_OVERRIDE",), tmpfs=(_TMP,), read_only=()),
    "ray_head": Container(memory="1g", tmpfs=_OF_RAY),
    "ray_worker": Container(memory="4g", processes=4000, tmpfs=_OF_RAY),
    "ml_lightgbm_regression_mlflow": Container(memory="2g"),
    "ml_pytorch_regression_mlflow": Container(memory="2g"),
    "ml_pytorch_regression": Container(memory="2g"),
    "ml_tensorflow_regression_mlflow": Container(memory="3g"),
    "ml_serving_mlflow": Container(memory="2g", optional_port=GRPC_PORTS["ml_serving_mlflow"]),
    "ml_serving": Container(
        memory="2g", read_only=("/etc/fastiot", "/var/lib/wandb"), optional_port=GRPC_PORTS["ml_serving"]
    ),
}
"""Containers that need something else than :class:`Container`'s defaults."""


def container(name: str) -> Container:
    """Return what a container may do."""
    return CONTAINERS.get(name, Container())


def is_secret(variable: str, value: str) -> bool:
    """Whether a variable is a secret: by its name, or because its value is a URL with a password."""
    known = variable in OWNERS or variable in _FOR_OPERATORS or variable.startswith(DEVICE_VARIABLE)
    return known or bool(_SECRET.search(variable) or _URL_WITH_PASSWORD.search(value))


def container_variables(name: str, environment: Mapping[str, str], configuration: str = "") -> dict[str, str]:
    """Return the variables of a deployment's ``.env`` that a container gets.

    Args:
        name: Name of the service or server.
        environment: The deployment's ``.env``.
        configuration: The broker's configuration; the broker gets the variables that it names.
    """
    if name == "nats":
        named = set(_VARIABLE.findall(configuration))
        return {variable: value for variable, value in environment.items() if variable in named}
    if name == "mlflow":
        ours = set(OWNERS)
        return {each: value for each, value in environment.items() if each.startswith(_OF_MLFLOW) and each not in ours}
    if name in ("mongodb", "mariadb", "prometheus", "grafana", "ray_head", "ray_worker"):
        return {}
    found = {
        variable: value
        for variable, value in environment.items()
        if name in OWNERS.get(variable, ()) or not is_secret(variable, value)
    }
    return {**found, **_broker_credentials(name, environment)}


def homeless_secrets(containers: Collection[str], environment: Mapping[str, str]) -> list[str]:
    """Return secrets of an ``.env`` that no container gets, although nothing says that none needs them."""
    known = (*_FOR_OPERATORS, *OWNERS, "FASTIOT_NATS_PASSWORD")
    return [
        variable
        for variable, value in environment.items()
        if is_secret(variable, value)
        and variable not in known
        and not variable.startswith((PASSWORD_VARIABLE, DEVICE_VARIABLE, "NATS_"))
        and not ("mlflow" in containers and variable.startswith(("COMPLEX_SYSTEM_MLFLOW_", *_OF_MLFLOW)))
    ]


def write_container_files(folder: Path, services: Iterable[str], environment: Mapping[str, str]) -> None:
    """Write the broker's users, MLflow's files and each container's variables into the folder of a built deployment.

    Args:
        folder: With ``docker-compose.yaml``, and ``nats.conf`` where the deployment has a broker.
        services: The deployment's own services.
        environment: The deployment's ``.env``.
    """
    content = yaml.safe_load((folder / "docker-compose.yaml").read_text(encoding="utf-8"))
    configuration = ""
    if (folder / "nats.conf").is_file():
        configuration = (folder / "nats.conf").read_text(encoding="utf-8")
        users = authorization(broker_users(services, environment))
        if port := mqtt_port(environment):
            tls = _TLS.search(configuration)
            users += mqtt_listener("0.0.0.0", port, tls[0] if tls else "")
        (folder / USERS_FILE).write_text(f"# Generated by `fiot config`, see docs/security.md.\n{users}", encoding="utf-8")
        configuration += users
    if "mlflow" in content["services"]:
        (folder / ACCOUNTS_FILE).write_text(_ACCOUNTS, encoding="utf-8")
        shutil.copyfile(mlflow_server.__file__, folder / MLFLOW_SCRIPT)
    write_deployment_files(folder, services, content, environment)
    (folder / ENVIRONMENTS).mkdir(mode=0o700, exist_ok=True)
    for name in content["services"]:
        lines = [
            f"{variable}={_quoted(value)}"
            for variable, value in container_variables(name, environment, configuration).items()
        ]
        descriptor = os.open(folder / ENVIRONMENTS / f"{name}.env", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


def _broker_credentials(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return user and password of a service; those of an external broker with one user for all are used as they are."""
    if password := environment.get(service_user(name).variable):
        return {"FASTIOT_NATS_USER": name, "FASTIOT_NATS_PASSWORD": password}
    shared = ("FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD")
    return {variable: environment[variable] for variable in shared if variable in environment}


def _quoted(value: str) -> str:
    """Return a value as docker-compose reads it back, without replacing variables in it."""
    return value if re.fullmatch(r"[\w./:,@+=*-]*", value) or "'" in value else f"'{value}'"
