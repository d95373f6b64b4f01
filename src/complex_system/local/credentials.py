"""Passwords and keys of a local run: generated in its folder, which only its owner can enter."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

USER = "complex_system"
"""The user of the services at the servers of a run."""
MODEL_KEY_FILE = "model_key"


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter, also where it exists, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def kept_secret(path: Path, given: str = "") -> str:
    """Return the password in a file, which is generated where it is missing, or the given one, which is then in the file.

    A generated one has 190 bits and needs no escaping in URLs, shells, SQL and configuration files: it is a letter, then
    hexadecimal digits.
    """
    if not given and path.is_file() and (kept := path.read_text(encoding="utf-8").strip()):
        return kept
    private_folder(path.parent)
    secret = given or f"k{secrets.token_hex(24)}"
    write_private(path, f"{secret}\n")
    return secret


def model_key(directory: Path) -> str:
    """Return the key of a run with which its trainers sign models; empty where it has models from before there was one.

    These would be refused until all trainers have trained again, which is for a person to decide.
    """
    path = directory / MODEL_KEY_FILE
    older = any((directory / data).exists() for data in ("mlflow/mlflow.db", "wandb"))
    return "" if older and not path.is_file() else kept_secret(path)


def write_client_file(path: Path, variables: Mapping[str, str], published_host: str = "") -> None:
    """Write the addresses, users and passwords that a program of one's own needs, as variables for a shell.

    Args:
        path: The file.
        variables: What it sets.
        published_host: How a published FastIoT program, which knows host and port only, names the broker.
    """
    lines = [
        "# Written by `fiot run --locked` at each start: where its servers are and how to be let in.",
        f"# In a shell: set -a; . {path}; set +a",
        *(f"{name}={value}" for name, value in variables.items() if value),
    ]
    if published_host:
        lines.append(f"# Programs that know host and port of the broker only take: FASTIOT_NATS_HOST={published_host}")
    write_private(path, "\n".join(lines) + "\n")
