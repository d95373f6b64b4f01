"""``mlflow server`` in one process: MLflow's own command imports MLflow twice, once to check and once to serve.

Run it as ``python -m complex_system.local.mlflow_server PORT FOLDER``. Its data are in the folder: SQLite and files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOST = "127.0.0.1"


def main(port: int, folder: Path) -> None:
    """Serve until SIGTERM."""
    import uvicorn
    from mlflow import server
    from mlflow.server.handlers import initialize_backend_stores

    store = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = str(folder / "artifacts")
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    uvicorn.run("mlflow.server.fastapi_app:app", host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
