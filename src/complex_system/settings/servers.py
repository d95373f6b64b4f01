"""The servers that a service connects to, and the service itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseSettings, Field


class ServerSettings(BaseSettings):
    """Broker, databases, tracking, and the service that connects to them."""

    # Broker
    nats_host: str = Field("localhost", env="FASTIOT_NATS_HOST", description="Host of the NATS server")
    nats_port: int = Field(4222, env="FASTIOT_NATS_PORT", description="Port of the NATS server")
    nats_user: str = Field("", env="FASTIOT_NATS_USER", description="User at the NATS server, empty for none")
    nats_password: str = Field("", repr=False, env="FASTIOT_NATS_PASSWORD", description="Password at the NATS server")
    nats_tls_ca: str = Field("", env="FASTIOT_NATS_TLS_CA", description="CA certificate file; when set, TLS is used")
    mqtt_port: int = Field(0, ge=0, le=65_535, description="Port on which the NATS server takes MQTT, too; 0 for none")
    request_timeout: float = Field(30.0, env="FASTIOT_NATS_DEFAULT_TIMEOUT", gt=0, description="Seconds to wait for a reply")
    reconnect_timeout: float = Field(
        60.0,
        ge=5,
        description="Seconds for which a broker that answers may refuse the connection; then the service stops",
    )
    handler_tasks: int = Field(16, ge=1, description="Requests that a service handles at the same time, per subject")

    # Service
    config_dir: str = Field("/etc/fastiot", env="FASTIOT_CONFIG_DIR", description="Folder of dataset.yaml")
    target: str = Field("", description="Target to predict, where dataset.yaml declares several")
    service_id: str = Field("", env="FASTIOT_SERVICE_ID", description="Name of this instance among several of one service")
    log_format: Literal["text", "json"] = Field("text", description="Lines of the log: text, or a JSON object each")
    otlp_endpoint: str = Field(
        "",
        env="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OTLP endpoint (HTTP) that traces are sent to; empty for no traces",
    )
    heartbeat_interval: float = Field(2.0, gt=0, description="Seconds between heartbeats of a service")
    watchdog_seconds: float = Field(
        120.0,
        ge=0,
        description="Seconds without a turn of its event loop after which a service's process ends itself; 0 for never",
    )

    # Either database
    table_prefix: str = Field(
        "",
        regex=r"^([A-Za-z][A-Za-z0-9_]{0,29})?$",
        description="Prefix of tables and collections, for several data sets in one database",
    )

    raw_days: float = Field(
        0.0, ge=0, le=36_500, description="Days that a raw record is kept once it is processed or rejected; 0 for no limit"
    )

    # MongoDB
    mongo_host: str = Field("localhost", env="FASTIOT_MONGO_DB_HOST", description="Host of MongoDB")
    mongo_port: int = Field(27017, env="FASTIOT_MONGO_DB_PORT", description="Port of MongoDB")
    mongo_user: str = Field("", env="FASTIOT_MONGO_DB_USER", description="User at MongoDB, empty for none")
    mongo_password: str = Field("", repr=False, env="FASTIOT_MONGO_DB_PASSWORD", description="Password at MongoDB")
    mongo_auth_source: str = Field(
        "admin", env="FASTIOT_MONGO_DB_AUTH_SOURCE", description="Database with the user's account"
    )
    mongo_name: str = Field("KIOptiPackDb", env="FASTIOT_MONGO_DB_NAME", description="Database name")

    # MariaDB
    maria_host: str = Field("localhost", env="FASTIOT_MARIA_DB_HOST", description="Host of MariaDB")
    maria_port: int = Field(3306, env="FASTIOT_MARIA_DB_PORT", description="Port of MariaDB")
    maria_user: str = Field("root", env="FASTIOT_MARIA_DB_USER", description="User at MariaDB")
    maria_password: str = Field("", repr=False, env="FASTIOT_MARIA_DB_PASSWORD", description="Password at MariaDB")
    maria_name: str = Field("KIOptiPackDb", description="Database name in MariaDB, created if it is missing")
    maria_connections: int = Field(8, ge=1, le=64, description="Connections that a database service holds to MariaDB")

    # Tracking
    mlflow_tracking_uri: str = Field("http://localhost:8080", env="MLFLOW_TRACKING_URI", description="MLflow server")
    mlflow_user: str = Field("", env="MLFLOW_TRACKING_USERNAME", description="User at the MLflow server, empty for none")
    mlflow_password: str = Field("", repr=False, env="MLFLOW_TRACKING_PASSWORD", description="Password at the MLflow server")
    mlflow_experiment: str = Field("complex-system", env="MLFLOW_EXPERIMENT_NAME", description="MLflow experiment")
    model_prefix: str = Field("", description="Prefix of registered model names; empty for the data set's name")
    wandb_mode: Literal["online", "offline", "disabled"] = Field(
        "offline", env="WANDB_MODE", description="Weights & Biases: offline needs no account"
    )
    wandb_project: str = Field("KIOptipack-dev", env="WANDB_PROJECT", description="Weights & Biases project")
    wandb_group: str = Field("MVDP-pytorch-regression", env="WANDB_RUN_GROUP", description="Weights & Biases run group")
    wandb_dir: str = Field(".run/wandb", env="WANDB_DIR", description="Folder of W&B runs and of the artifact store")

    outbox_dir: str = Field(
        ".run/outbox", description="Folder where trainers keep the models that the tracking server does not have yet"
    )
    model_key: str = Field(
        "",
        repr=False,
        description="Key with which trainers sign their models; serving and ml_consumer then take no others. Empty for none",
    )

    # Local run
    run_dir: str = Field(
        ".run", description="Folder where `fiot run` keeps data, logs and state, with one subfolder per deployment"
    )
    mlflow_port: int = Field(8080, ge=0, description="Port of the MLflow server that `fiot run` starts; 0 for a free one")
