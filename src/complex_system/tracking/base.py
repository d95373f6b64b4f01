"""What a tracker takes from a training, and what it gives back."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.training.base import Scores, TrainedModel
from complex_system.training.cross_validation import CrossValidation
from complex_system.training.data import TrainingData


@dataclass(frozen=True)
class TrainingResult:
    """A finished training, with all that is worth keeping of it.

    Attributes:
        round: Id of the training round.
        onnx_model: The checked ONNX model.
        validation: Scores on the validation part.
        started_at: When the fit began, UTC.
        trained_at: When it ended, UTC.
        timings: Seconds by stage, e.g. ``fetching`` and ``training``.
        cross_validation: How models of this kind do on records that they have not seen, where the records are few.
        reference: What the training data were like (``monitoring.reference``), for the artifact ``reference/reference.json``.
    """

    trainer: str
    framework: str
    round: str
    dataset: Dataset
    data: TrainingData
    model: TrainedModel
    onnx_model: bytes
    validation: Scores
    started_at: datetime
    trained_at: datetime
    timings: dict[str, float]
    reference: dict[str, Any] | None = None
    cross_validation: CrossValidation | None = None

    @property
    def samples(self) -> dict[str, int]:
        """How many samples were trained on and validated with."""
        return {"train": len(self.data.train), "validation": len(self.data.validation)}

    def metadata(self, model: str, run_id: str) -> dict[str, Any]:
        """What ``metadata.json`` says beside the ONNX model.

        Args:
            model: Name under which the model is registered or kept.
            run_id: The run that made it.
        """
        return {
            "model": model,
            "framework": self.framework,
            "trainer": self.trainer,
            "pipeline_version": self.dataset.version,
            "dataset": self.dataset.name,
            "target": self.dataset.target,
            "feature_names": list(self.data.feature_names),
            "trained_at": self.trained_at.isoformat(),
            "round": self.round,
            "run_id": run_id,
            "validation": self.validation.as_dict(),
            "samples": self.samples,
            "sha256": hashlib.sha256(self.onnx_model).hexdigest(),
            "declaration": self.dataset.as_content(),
            **({"cross_validation": self.cross_validation.as_dict()} if self.cross_validation else {}),
        }


@dataclass(frozen=True)
class LoggedModel:
    """Where a training's model is found."""

    model: str
    version: str
    run_id: str
    run_url: str


class Tracker(ABC):
    """Logs trainings and registers their models. Every method blocks; services call it in a thread."""

    @abstractmethod
    def prepare(self) -> None:
        """Imports what it needs; seconds for some."""

    @abstractmethod
    def log(self, result: TrainingResult) -> LoggedModel:
        """Logs one training as one run. May be called again after a failure: it goes on with what was begun.

        Raises:
            TrackingUnavailableError: The server does not answer; try again later.
            TrackingRefusedError: It refuses; trying again would not help.
        """

    def close(self) -> None:  # noqa: B027 - most trackers hold nothing
        """Ends what runs in the background."""
