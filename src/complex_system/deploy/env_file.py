"""A deployment's ``.env``: the secrets that its servers need, and random ones for a new deployment."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from complex_system.errors import StartError
from complex_system.messaging.users import OPERATOR, broker_users

USER = "complex_system"
# A letter, then letters and digits: NATS reads a value that begins with a digit as a number, and letters and digits need no escaping
# in compose files, shells, URLs and SQL.
_LENGTH = 32

_SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "nats": (
        "Broker: the operator, who may do everything; then a user for each service, and one for published FastIoT programs",
        {"FASTIOT_NATS_USER": OPERATOR, "FASTIOT_NATS_PASSWORD": ""},
    ),
    "mongodb": ("MongoDB", {"FASTIOT_MONGO_DB_USER": "root", "FASTIOT_MONGO_DB_PASSWORD": ""}),
    "mariadb": (
        "MariaDB; the services use the first user, which may use the project's database only",
        {"FASTIOT_MARIA_DB_USER": USER, "FASTIOT_MARIA_DB_PASSWORD": "", "COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD": ""},
    ),
    "mlflow": (
        "MLflow: user and password, also for its page; the key signs what its forms send",
        {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": "", "COMPLEX_SYSTEM_MLFLOW_SECRET_KEY": ""},
    ),
    "ray_head": ("Ray: the token of its nodes, and of the trainers", {"RAY_AUTH_TOKEN": ""}),
    "grafana": ("Grafana: the password of its user admin", {"COMPLEX_SYSTEM_GRAFANA_PASSWORD": ""}),
}
_API_KEY = "COMPLEX_SYSTEM_API_KEY"
_MODEL_KEY = "COMPLEX_SYSTEM_MODEL_KEY"
_MODELS = "Trainers sign their models with it; serving and ml_consumer take no others. The same on all hosts"
_REST = "Programs send it as X-API-Key, browsers at the login"
_REST_SERVICES = ("ml_serving", "ml_serving_mlflow", "ml_monitoring")


def random_password() -> str:
    """Return a password of 190 bits that needs no escaping anywhere."""
    letters = string.ascii_letters
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(_LENGTH - 1))


def _server_variables(server: str, services: Collection[str]) -> dict[str, str]:
    """Return the variables of a server with their values; the empty ones are passwords to be made."""
    variables = _SERVERS.get(server, ("", {}))[1]
    users = broker_users(services) if server == "nats" else ()
    return {**variables, **{user.variable: "" for user in users}}


def needed_variables(infrastructure: Mapping[str, bool], services: Collection[str] = ()) -> list[str]:
    """Return the variables without which the deployment's servers do not start, or would let everybody in.

    Args:
        infrastructure: For each server by name, whether it runs elsewhere.
        services: Names of the deployment's services.

    Raises:
        StartError: A service has no user at the broker.
    """
    own = [name for name, elsewhere in infrastructure.items() if not elsewhere]
    found = [variable for name in own for variable in _server_variables(name, services)]
    return found + ([_API_KEY] if any(service in _REST_SERVICES for service in services) else [])


def missing_variables(
    infrastructure: Mapping[str, bool], environment: Mapping[str, str], services: Collection[str] = ()
) -> list[str]:
    """Return the needed variables that the deployment's ``.env`` does not set."""
    return [variable for variable in needed_variables(infrastructure, services) if not environment.get(variable)]


def env_text(deployment: str, infrastructure: Mapping[str, bool], services: Collection[str] = ()) -> str:
    """Return the content of a new ``.env``."""
    lines = [
        f"# Settings and secrets of the deployment '{deployment}', written by `fiot extras init-env {deployment}`. Not for git.",
        "# The project's .env.example lists every setting, docs/deployment.md those of Docker.",
    ]
    for name, elsewhere in infrastructure.items():
        if name not in _SERVERS:
            continue
        lines += ["", f"# {_SERVERS[name][0]}"]
        for variable, value in _server_variables(name, services).items():
            if elsewhere:
                lines.append(f"#{variable}=")
            else:
                lines.append(f"{variable}={value or random_password()}")
    if any(service in _REST_SERVICES for service in services):
        lines += ["", f"# {_REST}", f"{_API_KEY}={random_password()}"]
    if any("_regression" in service for service in services):
        lines += ["", f"# {_MODELS}", f"{_MODEL_KEY}={random_password()}"]
    return "\n".join(lines) + "\n"


def add_secrets(path: Path, variables: Iterable[str], why: str) -> dict[str, str]:
    """Add variables with new passwords to an ``.env``; return them. What is there stays.

    Args:
        path: The file; it is created where it is missing.
        variables: Names of the new variables.
        why: A comment before them.
    """
    added = {variable: random_password() for variable in variables}
    if added:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"\n# {why}\n" + "".join(f"{variable}={value}\n" for variable, value in added.items()))
    return added


def write_env(path: Path, text: str, *, replace: bool = False) -> None:
    """Write the file so that only its owner can read it.

    Raises:
        StartError: The file exists, and ``replace`` is not set.
    """
    if replace:
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StartError(
            f"{path} exists, and the servers' data belong to its passwords. Remove it, or use --force."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
