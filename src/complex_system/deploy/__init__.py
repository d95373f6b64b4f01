"""Deployment with Docker: templates of images and compose files, a deployment's secrets, and image builds without buildx.

The running system imports nothing of it.
"""

USERS_FILE = "users.conf"
"""The broker's users, beside the compose file."""
ACCOUNTS_FILE = "mlflow-accounts.ini"
"""The configuration of MLflow's accounts, beside the compose file."""
MLFLOW_SCRIPT = "mlflow_server.py"
"""What runs beside MLflow in its container, beside the compose file."""
