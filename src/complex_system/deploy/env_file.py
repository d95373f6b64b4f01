"""A deployment's ``.env``: the secrets that its servers need, and random ones for a new deployment."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Collection, Mapping
from pathlib import Path

from complex_system.errors import StartError

USER = "complex_system"
# A letter, then letters and digits: NATS reads a value that begins with a digit as a number, and letters and digits need no escaping
# in compose files, shells, URLs and SQL.
_LENGTH = 32

_SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "nats": ("Broker", {"FASTIOT_NATS_USER": USER, "FASTIOT_NATS_PASSWORD": ""}),
    "mongodb": ("MongoDB", {"FASTIOT_MONGO_DB_USER": "root", "FASTIOT_MONGO_DB_PASSWORD": ""}),
    "mariadb": (
        "MariaDB; the services use the first user, which may use the project's database only",
        {"FASTIOT_MARIA_DB_USER": USER, "FASTIOT_MARIA_DB_PASSWORD": "", "COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD": ""},
    ),
}
_REST = "REST clients send it as X-API-Key"
_SERVING = ("ml_serving", "ml_serving_mlflow")


def random_password() -> str:
    """Return a password of 190 bits that needs no escaping anywhere."""
    letters = string.ascii_letters
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(_LENGTH - 1))


def needed_variables(infrastructure: Mapping[str, bool]) -> list[str]:
    """Return the variables without which the deployment's servers do not start.

    Args:
        infrastructure: For each server by name, whether it runs elsewhere.
    """
    return [
        variable
        for name, elsewhere in infrastructure.items()
        if not elsewhere
        for variable in _SERVERS.get(name, ("", {}))[1]
    ]


def missing_variables(infrastructure: Mapping[str, bool], environment: Mapping[str, str]) -> list[str]:
    """Return the needed variables that the deployment's ``.env`` does not set."""
    return [variable for variable in needed_variables(infrastructure) if not environment.get(variable)]


def env_text(deployment: str, infrastructure: Mapping[str, bool], services: Collection[str] = ()) -> str:
    """Return the content of a new ``.env``."""
    lines = [
        f"# Settings and secrets of the deployment '{deployment}', written by `fiot extras init-env {deployment}`. Not for git.",
        "# The project's .env.example lists every setting, docs/deployment.md those of Docker.",
    ]
    for name, elsewhere in infrastructure.items():
        if name not in _SERVERS:
            continue
        title, variables = _SERVERS[name]
        lines += ["", f"# {title}"]
        for variable, value in variables.items():
            if elsewhere:
                lines.append(f"#{variable}=")
            else:
                lines.append(f"{variable}={value or random_password()}")
    if any(service in _SERVING for service in services):
        lines += ["", f"# {_REST}", f"COMPLEX_SYSTEM_API_KEY={random_password()}"]
    return "\n".join(lines) + "\n"


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
