"""The MLflow tracking server as one of FastIoT's infrastructure services."""

from __future__ import annotations

from fastiot.cli.model.infrastructure_service import (
    InfrastructureService,
    InfrastructureServicePort,
    InfrastructureServiceVolume,
)


class MlflowService(InfrastructureService):
    """MLflow server. Services read ``MLFLOW_TRACKING_URI``; host and port here are FastIoT's names for the same place."""

    name: str = "mlflow"
    image: str = "ghcr.io/mlflow/mlflow:v3.5.1"
    host_name_env_var: str = "COMPLEX_SYSTEM_MLFLOW_HOST"
    ports: list[InfrastructureServicePort] = [  # noqa: RUF012 - pydantic copies defaults
        InfrastructureServicePort(container_port=8080, default_port_mount=8080, env_var="COMPLEX_SYSTEM_MLFLOW_PORT")
    ]
    volumes: list[InfrastructureServiceVolume] = [  # noqa: RUF012 - pydantic copies defaults
        InfrastructureServiceVolume(container_volume="/mlflow", env_var="COMPLEX_SYSTEM_MLFLOW_VOLUME")
    ]
