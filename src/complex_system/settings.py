"""All settings in one frozen class, and the only place that reads the environment.

Connection settings keep FastIoT's names (``FASTIOT_...``), MLflow and Weights & Biases theirs; everything else begins with
``COMPLEX_SYSTEM_``. ``.env.example`` lists every variable with its default; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseSettings, Field, validator

GRPC_PORTS: Mapping[str, str] = {
    "ml_serving_mlflow": "COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT",
    "ml_serving": "COMPLEX_SYSTEM_SERVING_GRPC_PORT",
}
"""Variables of the ports that are open only where they are set, by service."""


class Settings(BaseSettings):
    """The settings of a service, read from the environment when the object is made."""

    class Config:
        frozen = True
        env_prefix = "COMPLEX_SYSTEM_"
        extra = "forbid"

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

    # Data: source and processing
    on_conflict: Literal["keep", "replace"] = Field(
        "keep",
        description="What the database does with other values under a key that exists: keep the first ones, or replace them by newer",
    )
    source_file: str = Field(
        "", description="CSV, JSON lines or Parquet file to replay, relative to the config folder; empty for dummy lab data"
    )
    source_order: str = Field(
        "file", description="Order of a replayed file: file, shuffled, or the name of its column of type datetime"
    )
    source_rate: float = Field(0.0, ge=0, description="Records of a replayed file that are sent per second; 0 for no limit")
    source_repeat: int = Field(
        1, ge=0, description="How many times a file is replayed, from the second time on under new keys; 0 for no end"
    )
    source_interval: float = Field(
        2.0, gt=0, description="Seconds between two looks of the source at its file, folder or table"
    )
    source_folder: str = Field(
        "", description="Folder of which each file is read once, relative to the config folder; empty for none"
    )
    source_files: str = Field(
        "*", description="Which files of the folder are read, such as *.csv, or **/*.csv for those of folders in it, too"
    )
    source_table: str = Field(
        "", description="SQL table or view whose new rows are read, such as parts or mes.parts; empty for none"
    )
    source_table_url: str = Field(
        "", repr=False, description="SQLAlchemy URL of the table's database, with user and password; it is never logged"
    )
    source_table_cursor: str = Field(
        "", description="Column by which new rows of the table are found: a number or a time that only grows"
    )
    source_table_unique: str = Field(
        "", description="Column of the table that is unique; empty for the records' key, or the primary key"
    )
    source_table_overlap: float = Field(
        300.0,
        ge=0,
        description="How far behind the newest row the table is read again, for transactions that commit late: a number, or seconds",
    )
    source_name: str = Field(
        "",
        max_length=150,
        description="Name of the folder or table in keys that are made for its rows, which keeps them when it moves; empty for "
        "the folder's name, or host, database and table",
    )
    opcua_file: str = Field(
        "",
        description="Declaration of the nodes of an OPC UA server to read, such as opcua.yaml, relative to the config folder",
    )
    opcua_user: str = Field("", description="User at the OPC UA server, empty for none")
    opcua_password: str = Field("", repr=False, description="Password at the OPC UA server")
    records: int = Field(10_000, ge=0, description="Number of records that the source makes at its start")
    seed: int = Field(1, description="Seed of the dummy data and of the trainers")
    batch_size: int = Field(500, ge=1, le=20_000, description="Records in one batch of the source")
    batches_in_flight: int = Field(
        4, ge=1, le=64, description="Batches that the source sends without waiting for their replies"
    )
    source_sends: Literal["requests", "messages"] = Field(
        "requests", description="Send requests to the database service, or messages that JetStream stores"
    )
    live_rate: float = Field(2.0, ge=0, description="New records per second once the first ones are saved; 0 for none")
    scenario: Literal["normal", "shift", "noise", "missing", "concept", "new_category"] = Field(
        "normal", description="Scenario of the lab's live records"
    )
    scenario_ramp: float = Field(300.0, ge=0, description="Seconds until the scenario shift reaches its full extent")
    processing_interval: float = Field(1.0, gt=0, description="Seconds between searches for unprocessed raw records")
    processing_batch: int = Field(4000, ge=1, le=20_000, description="Raw records processed in one batch")

    # Ingest: records that are published and kept by JetStream
    ingest: bool = Field(True, description="Accept published records, too; needs a broker with JetStream")
    ingest_bytes: int = Field(
        1_073_741_824, ge=1_000_000, description="Bytes that may wait for the database; further messages are refused"
    )
    ingest_age: float = Field(0.0, ge=0, description="Seconds that a published message may wait; 0 for no limit")
    ingest_source_messages: int = Field(
        100_000, ge=1, description="Messages of one source that may wait for the database; further ones of it are refused"
    )
    ingest_dead_bytes: int = Field(
        134_217_728, ge=1_000_000, description="Bytes of dead letters that are kept; further refused messages wait"
    )
    ingest_dead_share: int = Field(
        1000, ge=1, description="Dead letters of one source that are kept; further refused messages of it wait"
    )
    ingest_dead_age: float = Field(
        0.0, ge=0, description="Seconds after which the broker drops a dead letter; 0 to keep it until somebody removes it"
    )
    ingest_replicas: int = Field(1, ge=1, le=5, description="Brokers of a cluster that store each published message")
    ingest_messages: int = Field(500, ge=1, le=10_000, description="Published messages in one fetch")
    ingest_batch: int = Field(5000, ge=1, le=100_000, description="Published records in one write")

    # Collection of readings, where `collect` is declared
    collect_age: float = Field(
        86_400.0, ge=60, description="Seconds that readings are kept in their stream; longer than any window, and any stop"
    )
    collect_bytes: int = Field(
        1_073_741_824,
        ge=1_000_000,
        description="Bytes of readings that are kept in their stream; beyond, the oldest are dropped",
    )
    collect_durable: bool = Field(
        True,
        description="Whether a reading is on the broker's disk before it is acknowledged; false is many times as fast, and a crash of "
        "the broker costs the newest moment. For a stream that is created anew",
    )
    collect_batch: int = Field(500, ge=1, le=10_000, description="Messages with readings in one fetch")

    # Local run
    run_dir: str = Field(
        ".run", description="Folder where `fiot run` keeps data, logs and state, with one subfolder per deployment"
    )
    mlflow_port: int = Field(8080, ge=0, description="Port of the MLflow server that `fiot run` starts; 0 for a free one")

    # Training
    training_interval: float = Field(86_400.0, gt=0, description="Seconds between trainings on a trainer's own schedule")
    epochs: int = Field(200, ge=1, description="Maximum number of epochs of the neural networks")
    patience: int = Field(
        20, ge=1, description="Epochs without a better validation error that end a training, from the 20th on"
    )
    learning_rate: float = Field(
        0.001, gt=0, description="Learning rate of Adam for hidden layers of 64 units; narrower ones learn faster"
    )
    network_batch: int = Field(64, ge=1, description="Batch size of the neural networks")
    boosting_rounds: int = Field(2000, ge=1, description="Maximum number of boosting rounds of LightGBM")
    lightgbm_trials: int = Field(
        30, ge=0, description="Settings of LightGBM that a training tries, the default ones included; 0 for no search"
    )
    lightgbm_seconds: float = Field(20.0, gt=0, description="Seconds after which the search for LightGBM's settings ends")
    cross_validate_below: int = Field(
        2000,
        ge=0,
        description="Labelled records below which models are cross-validated (not for known functions); 0 for never",
    )

    # Consumer
    trainers: str = Field(
        "lightgbm,pytorch,pytorch-wandb,tensorflow", description="Trainers that a training round waits for"
    )
    min_labelled: int = Field(200, ge=30, description="Labelled records needed for the first training round")
    retrain_growth: float = Field(
        0.25, gt=0, description="Fraction of new or corrected labelled records that starts the next round"
    )
    round_timeout: float = Field(1800.0, gt=0, description="Seconds that a training round waits for its trainers")
    prediction_interval: float = Field(5.0, gt=0, description="Seconds between the consumer's requests for predictions")
    prediction_records: int = Field(2, ge=1, le=1000, description="Records in one of the consumer's requests")
    holdout_newest: int = Field(
        2000, ge=0, description="Newest hold-out records on which a new model must beat the champion; 0 for all"
    )
    champion_level: float = Field(
        0.025, gt=0, le=0.5, description="Probability with which a round may change the champion although no model is better"
    )
    stack: bool = Field(True, description="Whether a round also weighs its models and registers them as one, the stack")
    promotion: Literal["automatic", "approved"] = Field(
        "automatic",
        description="The winner of a round becomes champion (automatic), or candidate until a person approves it (approved)",
    )
    retrain_newest: int = Field(
        1000, ge=50, description="New labelled records that a round after an alert waits for and trains on"
    )
    retrain_pause: float = Field(
        600.0, ge=0, description="Seconds between two rounds after alerts; doubled after each round without a better model"
    )

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

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Return the settings of a process with that environment, for the program that starts it."""
        known = {name: field.field_info.extra["env_names"] for name, field in cls.__fields__.items()}
        folded = {variable.lower(): value for variable, value in environment.items()}
        return cls(
            **{name: folded[variable] for name, variables in known.items() for variable in variables if variable in folded}
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
    def reads_records(self) -> bool:
        """Whether the source reads a file, a folder or a table, instead of making lab records."""
        return bool(self.source_file or self.source_folder or self.source_table)

    @property
    def foreign_models(self) -> tuple[str, ...]:
        """The names in ``serving_foreign_models``."""
        return tuple(name.strip() for name in self.serving_foreign_models.split(",") if name.strip())

    @property
    def trainer_names(self) -> tuple[str, ...]:
        """The names in ``trainers``."""
        return tuple(name.strip() for name in self.trainers.split(",") if name.strip())
