"""What trains and compares models, and on which machines."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseSettings, Field


class TrainingSettings(BaseSettings):
    """Trainers, their cluster, and the consumer that starts rounds."""

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
        description="Labelled records below which models are cross-validated (not those of the lab); 0 for never",
    )
    device: Literal["auto", "cpu"] = Field(
        "auto",
        description="What networks are trained on: a GPU where there is one, else the CPU (auto), or always the CPU (cpu)",
    )

    # Cluster: where Ray runs the trainings
    ray_address: str = Field(
        "", description="Address of a Ray cluster that trains, host:port of its head; empty to train in the service"
    )
    ray_workers: int = Field(2, ge=1, le=1000, description="Workers that share one fit on the cluster")
    ray_cpus: float = Field(1.0, gt=0, description="CPUs of the cluster for each worker")
    ray_gpus: float = Field(0.0, ge=0, description="GPUs of the cluster for each worker; 0 for none")
    ray_memory: int = Field(
        0, ge=0, description="Bytes of the cluster's memory that are reserved for each worker; 0 for no reservation"
    )
    ray_auth_mode: Literal["disabled", "token"] = Field(
        "disabled", env="RAY_AUTH_MODE", description="Ray's own: whether the cluster asks for a token"
    )
    ray_auth_token: str = Field("", repr=False, env="RAY_AUTH_TOKEN", description="Ray's own: the cluster's token")

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
    retrain_newest: int = Field(1000, ge=50, description="New labelled records that a round after an alert waits for")
    retrain_pause: float = Field(
        600.0, ge=0, description="Seconds between two rounds after alerts; doubled after each round without a better model"
    )

    @property
    def trainer_names(self) -> tuple[str, ...]:
        """The names in ``trainers``."""
        return tuple(name.strip() for name in self.trainers.split(",") if name.strip())
