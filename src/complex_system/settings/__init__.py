"""All settings in one frozen class, and the only place that reads the environment.

Connection settings keep FastIoT's names (``FASTIOT_...``), MLflow and Weights & Biases theirs; everything else begins with
``COMPLEX_SYSTEM_``. ``.env.example`` lists every variable with its default; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from complex_system.settings.records import RecordSettings
from complex_system.settings.servers import ServerSettings
from complex_system.settings.serving import ServingSettings
from complex_system.settings.training import TrainingSettings

GRPC_PORTS: Mapping[str, str] = {
    "ml_serving_mlflow": "COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT",
    "ml_serving": "COMPLEX_SYSTEM_SERVING_GRPC_PORT",
}
"""Variables of the ports that are open only where they are set, by service."""


class Settings(ServerSettings, RecordSettings, TrainingSettings, ServingSettings):
    """The settings of a service, read from the environment when the object is made."""

    class Config:
        frozen = True
        env_prefix = "COMPLEX_SYSTEM_"
        extra = "forbid"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Return the settings of a process with that environment, for the program that starts it."""
        known = {name: field.field_info.extra["env_names"] for name, field in cls.__fields__.items()}
        folded = {variable.lower(): value for variable, value in environment.items()}
        return cls(
            **{name: folded[variable] for name, variables in known.items() for variable in variables if variable in folded}
        )
