"""Deployment with Docker: templates of images and compose files, a deployment's secrets, and image builds without buildx.

The running system imports nothing of it.
"""

from pathlib import Path

import yaml

USERS_FILE = "users.conf"
"""The broker's users, beside the compose file."""
ACCOUNTS_FILE = "mlflow-accounts.ini"
"""The configuration of MLflow's accounts, beside the compose file."""
MLFLOW_SCRIPT = "mlflow_server.py"
"""What runs beside MLflow in its container, beside the compose file."""
COLLECTION = "thing_collection"
"""The service that a deployment has where its data set declares how readings become records."""


def declares_collection(config_dir: Path) -> bool:
    """Whether ``dataset.yaml`` has ``collect``; what is wrong with the file says whoever loads it."""
    try:
        content = yaml.safe_load((config_dir / "dataset.yaml").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("collect") is not None
