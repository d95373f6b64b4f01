"""MLflow's server, from a virtual environment of its own."""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local import mlflow_server
from complex_system.local.credentials import USER, kept_secret
from complex_system.local.servers.base import HOST, Server

ENVIRONMENT = Path(f"{sys.prefix}-mlflow")
"""Environment of the server: .venv-mlflow beside .venv."""
_CONSTRAINTS = Path(__file__).with_name("constraints-mlflow.txt")
_SHOWN_SECONDS = 10.0
"""Seconds between two lines about an installation."""
_INSTALLED = ".installed"
"""File in the environment that says that the installation came to its end: a digest of its constraints; empty where make did it."""


def install_server(say: Callable[[str], None], environment: Path = ENVIRONMENT) -> None:
    """Install MLflow's server into an environment of its own, once, and again when a release of ours brings other versions.

    ``make install`` does the same in a clone, and knows itself when the versions change.

    Args:
        say: Shows what takes a minute.
        environment: Folder of the environment; created if it is not there.

    Raises:
        StartError: pip cannot install it, or the folder cannot be written.
    """
    marker = environment / _INSTALLED
    wanted = hashlib.sha256(_CONSTRAINTS.read_bytes()).hexdigest()
    if marker.is_file():
        if marker.read_text(encoding="utf-8").strip() in ("", wanted):
            return
        say(f"updating MLflow's server in {environment} to this release's versions, once: up to 200 MB are downloaded")
    else:
        say(f"installing MLflow's server into {environment}, once: about 200 MB are downloaded, which takes a minute or two")
    python = str(environment / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [
            python,
            "-m",
            "pip",
            "install",
            "--progress-bar=off",
            "--disable-pip-version-check",
            "-c",
            str(_CONSTRAINTS),
            "mlflow[auth]",
        ],
        [python, "-I", mlflow_server.__file__],
    ):
        code, last = _watched(command, say)
        if code:
            raise StartError("\n".join([f"MLflow's server cannot be installed into {environment}:", *last]))
    marker.write_text(f"{wanted}\n", encoding="utf-8")


def _watched(command: list[str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command and show now and then what it does; return its exit code and the last lines that it wrote."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603 - ours
        with process:
            while True:
                try:
                    code = process.wait(_SHOWN_SECONDS)
                except subprocess.TimeoutExpired:
                    for line in _last_lines(output.fileno())[-1:]:
                        say(f"  {time.monotonic() - began:.0f} s: {line[:100]}")
                else:
                    return code, _last_lines(output.fileno())


def _last_lines(descriptor: int) -> list[str]:
    size = os.fstat(descriptor).st_size
    # Not by seeking: the place in the file is the command's, too.
    text = os.pread(descriptor, 10_000, max(0, size - 10_000)).decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-5:]


class MlflowServer(Server):
    """MLflow's server in one process, on SQLite, artifacts served by it."""

    name = "mlflow"
    scheme = "http"
    host_variable, port_variable = "MLFLOW_TRACKING_URI", "COMPLEX_SYSTEM_MLFLOW_PORT"
    default_port = 8080
    patience = 120.0

    @override
    def command(self) -> list[str]:
        python = ENVIRONMENT / "bin" / "python"
        if not python.is_file():
            raise StartError(f"MLflow's server is not installed in {ENVIRONMENT}: `fiot run` and `make install` install it.")
        # Isolated: neither our packages nor those that PYTHONPATH names belong there.
        return [str(python), "-I", mlflow_server.__file__, str(self.port), str(self.directory)]

    @override
    def secrets(self) -> dict[str, str]:
        if not self.asks:
            return {}
        return {
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": kept_secret(self.directory / "secret_key"),
        }

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("", "")
        return {self.host_variable: self.url, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}

    @override
    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
