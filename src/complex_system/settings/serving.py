"""What answers requests for predictions, and what watches them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseSettings, Field, validator


class ServingSettings(BaseSettings):
    """Serving and monitoring."""

    # Serving
    serving_host: str = Field("127.0.0.1", description="Address that the REST servers bind to")
    serving_mlflow_port: int = Field(8001, ge=0, description="REST port of ml_serving_mlflow; 0 for a free one")
    serving_port: int = Field(8002, ge=0, description="REST port of ml_serving; 0 for a free one")
    serving_mlflow_grpc_port: int = Field(0, ge=0, description="gRPC port of ml_serving_mlflow; 0 for no gRPC")
    serving_grpc_port: int = Field(0, ge=0, description="gRPC port of ml_serving; 0 for no gRPC")
    grpc_tls_certificate: str = Field("", description="Certificate file (PEM) of the gRPC servers; when set, they use TLS")
    grpc_tls_key: str = Field("", description="File (PEM) of the private key of that certificate")
    serving_pipeline: Literal["local", "broker"] = Field(
        "local",
        description="Where serving processes raw records: in its own process (local), or in data_processing (broker)",
    )
    serving_answers_prediction: bool = Field(
        False, description="ml_serving answers get-prediction, too; only where it is the only serving service"
    )
    api_key: str = Field(
        "", repr=False, description="Key that REST clients send as X-API-Key, and browsers at /login; empty for none"
    )
    allowed_hosts: str = Field(
        "",
        description="Names of the REST servers besides localhost, IP addresses and the machine's own name, separated by commas",
    )
    serving_body_bytes: int = Field(33_554_432, ge=1000, description="Maximum size of the body of a REST request, in bytes")
    serving_records: int = Field(100_000, ge=1, description="Maximum number of records in a request for predictions")
    serving_unknown_columns: Literal["mlflow", "ignore", "error"] = Field(
        "mlflow",
        description="Undeclared columns in requests: ignored at /invocations as MLflow does (mlflow), everywhere (ignore), or "
        "nowhere (error)",
    )
    serving_models: int = Field(8, ge=1, description="Models besides the champion that serving keeps loaded")
    serving_foreign_models: str = Field(
        "",
        description="Registered names of models without an ONNX model that are served, which runs the code that they contain",
    )
    serving_shadow_share: float = Field(
        0.0, ge=0, le=1, description="Fraction of the live requests that challengers predict, too, in the background"
    )
    serving_shadow_models: str = Field(
        "", description="Registered names of the challengers; empty for the newest model of every other framework"
    )
    model_poll_interval: float = Field(5.0, gt=0, description="Seconds between checks for a new champion")

    # Monitoring
    monitoring_interval: float = Field(10.0, gt=0, description="Seconds between two points of the monitoring metrics")
    monitoring_window: int = Field(500, ge=10, description="Predictions in the moving window of the monitoring metrics")
    monitoring_port: int = Field(
        8003, ge=0, description="Port of the monitoring page and its REST interface; 0 for a free one"
    )
    monitoring_days: float = Field(90.0, gt=1, description="Days that monitoring keeps its history")
    monitoring_mlflow_days: int = Field(7, ge=1, description="Days that MLflow keeps the metrics of monitoring")
    predictions_days: float = Field(30.0, gt=0, description="Days that served predictions are kept for export")
    predictions_rows: int = Field(
        2_000_000, ge=0, description="About how many served predictions are kept for export, the newest; 0 for none"
    )
    monitoring_waiting_hours: float = Field(72.0, gt=0, description="Hours that a prediction waits for its true value")
    silent_after: float = Field(8.0, gt=0, description="Seconds without a heartbeat after which a service counts as silent")

    alert_rules: str = Field("alerts.yaml", description="File of the alert rules, relative to the config folder")
    webhook_url: str = Field("", repr=False, description="URL that alerts are posted to as JSON; empty for none")
    webhook_secret: str = Field(
        "", repr=False, description="Secret that signs what the webhook gets; empty for no signature"
    )
    message_urls: str = Field(
        "",
        repr=False,
        description="Apprise's addresses of those who are told of alerts, separated by spaces; empty for none",
    )
    message_hours: float = Field(
        72.0, gt=0, description="Hours after which an alert that a receiver does not take is given up"
    )

    @validator("serving_foreign_models")
    def _names_not_a_switch(cls, value: str) -> str:
        if value.strip().lower() in ("false", "0", "no", "off"):
            return ""
        if value.strip().lower() in ("true", "1", "yes", "on"):
            raise ValueError(
                "must name the registered models whose code may run, separated by commas; true and false are no longer allowed"
            )
        return value

    @property
    def foreign_models(self) -> tuple[str, ...]:
        """The names in ``serving_foreign_models``."""
        return tuple(name.strip() for name in self.serving_foreign_models.split(",") if name.strip())
