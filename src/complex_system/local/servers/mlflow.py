"""MLflow's server, from a virtual environment of its own."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local import mlflow_server
from complex_system.local.credentials import USER, kept_secret
from complex_system.local.servers.base import HOST, Server


class MlflowServer(Server):
    """MLflow's server in one process, on SQLite, artifacts served by it."""

    name = "mlflow"
    scheme = "http"
    host_variable, port_variable = "MLFLOW_TRACKING_URI", "COMPLEX_SYSTEM_MLFLOW_PORT"
    default_port = 8080
    patience = 120.0

    @override
    def command(self) -> list[str]:
        python = Path(f"{sys.prefix}-mlflow", "bin", "python")  # .venv-mlflow beside .venv
        if not python.is_file():
            raise StartError(f"MLflow's server is missing: `make install` installs it into {python.parents[1]}.")
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
