"""The interface of trackers: what they take from a training, and what they return."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.protocol.base import to_wire
from complex_system.protocol.scores import CrossValidation, Scores
from complex_system.tracking.model_files import FILES, TRAINING, digests_of
from complex_system.training.base import TrainedModel
from complex_system.training.data import TrainingData


@dataclass(frozen=True)
class TrainingResult:
    """A finished training with everything that is kept of it.

    Attributes:
        round: Id of the training round.
        onnx_model: The checked ONNX model.
        validation: Scores on the validation part.
        started_at: When the fit began, UTC.
        trained_at: When it ended, UTC.
        timings: Seconds by stage, e.g. ``fetching`` and ``training``.
        cross_validation: Scores on records that were left out of the training, where the records are few.
        reference: What the training data were like (``monitoring.reference``) as JSON, for the artifact ``reference/reference.json``.
        files: Kept beside the ONNX model, by name.
        training: What the training can be repeated from (``training.training_set``), for the artifact folder ``training``, by name.
        members: Model, version and weight of the members of a stack; empty for another model.
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
    reference: bytes | None = None
    cross_validation: CrossValidation | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    training: Mapping[str, bytes] = field(default_factory=dict)
    members: tuple[Mapping[str, str | float], ...] = ()

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples by part."""
        calibration = {} if self.data.calibration is None else {"calibration": len(self.data.calibration)}
        train, validation = self.data.sizes
        return {"train": train, "validation": validation, **calibration}

    @property
    def sizes(self) -> dict[str, int]:
        """The samples, and the copies among the labelled records, as every tracker logs them."""
        return {**{f"{part}_samples": size for part, size in self.samples.items()}, "copies": self.data.copies}

    def metadata(self, model: str, run_id: str) -> dict[str, Any]:
        """Return ``metadata.json``, which is kept beside the ONNX model.

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
            "validation": to_wire(self.validation),
            "samples": self.samples,
            "sha256": hashlib.sha256(self.onnx_model).hexdigest(),
            FILES: digests_of(self.files),
            TRAINING: digests_of(self.training),
            "declaration": self.dataset.as_content(),
            **({"members": [dict(member) for member in self.members]} if self.members else {}),
            **({"cross_validation": to_wire(self.cross_validation)} if self.cross_validation else {}),
        }


@dataclass(frozen=True)
class LoggedModel:
    """Where the model of a training is."""

    model: str
    version: str
    run_id: str
    run_url: str


class Tracker(ABC):
    """Logs trainings and registers their models. Every method blocks; services call it in a thread."""

    @abstractmethod
    def prepare(self) -> None:
        """Import what it needs; this may take seconds."""

    @abstractmethod
    def log(self, result: TrainingResult) -> LoggedModel:
        """Log one training as one run. After a failure, call it again: it goes on with what was begun.

        Raises:
            TrackingUnavailableError: The server does not answer; try again later.
            TrackingRefusedError: It refuses; trying again would not help.
        """

    def close(self) -> None:  # noqa: B027 - most trackers hold nothing
        """End what runs in the background."""
