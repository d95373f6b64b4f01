"""A loaded model: the pipeline before it, what runs it, and what is known about it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import numpy as np

from complex_system.domain.records import Record, raw_check
from complex_system.errors import ComplexSystemError, InternalError, ModelRefusedError, UnsupportedByModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.known import MIN_KNOWN, KnownRecords, sample_features
from complex_system.serving.models.runtimes import Matrix, OnnxRuntime, Runtime
from complex_system.serving.requests.examples import example_record
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample
from complex_system.training.conformal import INTERVALS_FILE, Intervals

log = logging.getLogger(__name__)

_FEW = 50


class ModelInfo(msgspec.Struct, frozen=True):
    """A loaded model, as responses describe it."""

    name: str
    version: str
    framework: str
    trainer: str
    pipeline_version: str
    target: str
    run_id: str
    trained_at: str
    loaded_at: str
    validation: Annotated[dict[str, float], msgspec.Meta(description="The trainer's metrics.")]
    platform: str
    half_width_90: Annotated[
        float | None, msgspec.Meta(description="Half width of its 90 % intervals; null where it has none.")
    ] = None

    @property
    def label(self) -> str:
        """Name and version for a person: ``lab-lightgbm v3``."""
        return f"{self.name} v{self.version}" if self.version.isdigit() else f"{self.name} {self.version}"


class Predictor:
    """Predicts raw records with one model, in the target's own unit. Immutable; safe to use from several threads.

    Attributes:
        info: What is known about the model.
        files: What it carries beside the ONNX model, by name.
        intervals: Half widths of its intervals; None where it has none.
        known: Distances from its training records; None where it carries no sample of them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        name: str,
        version: str,
        onnx_model: bytes | None,
        metadata: Mapping[str, Any],
        runtime: Runtime | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Open a model, check that it belongs to this pipeline, and make a first prediction. Blocking.

        Args:
            pipeline: Makes the model's features.
            name: Registered name of the model.
            version: Its version there.
            onnx_model: ``features`` float32 (n, F) to ``prediction`` float32 (n, 1).
            metadata: What the trainer stored beside it.
            runtime: Runs a model that has no ONNX model; its input was checked.
            files: What it carries beside the ONNX model, by name.

        Raises:
            ModelRefusedError: The model must not be served here; the message says why.
        """
        self.pipeline = pipeline
        self.files = dict(files or {})
        self._check = raw_check(pipeline.dataset)
        label = f"{name} version {version}"
        if runtime is None:
            assert onnx_model is not None
            _check_metadata(label, pipeline, onnx_model, metadata)
            runtime = OnnxRuntime(label, onnx_model, len(pipeline.dataset.feature_names))
        self._runtime = runtime
        self._run = runtime.run
        self._warm_up(label)
        self.intervals = _intervals_of(label, self.files)
        self.known = _known_of(label, pipeline, self.files)
        self.info = ModelInfo(
            name=name,
            version=version,
            framework=str(metadata.get("framework", "")),
            trainer=str(metadata.get("trainer", "")),
            pipeline_version=pipeline.dataset.version,
            target=pipeline.dataset.target,
            run_id=str(metadata.get("run_id") or ""),
            trained_at=str(metadata.get("trained_at", "")),
            loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            validation=dict(metadata.get("validation") or {}),
            platform=runtime.platform,
            half_width_90=self.intervals.half_width(0.9) if self.intervals and self.intervals.largest >= 0.9 else None,
        )

    @property
    def quick(self) -> bool:
        """Whether a few records may be predicted on the event loop."""
        return self._runtime.quick

    def half_width(self, level: float) -> float:
        """Return the half width of the intervals of a level, in the target's unit.

        Raises:
            UnsupportedByModelError: The model has no intervals.
            InvalidRequestError: It has none of this level.
        """
        if self.intervals is None:
            raise UnsupportedByModelError(
                f"{self.info.label} has no intervals: it was trained before there were any, or with too few records to calibrate "
                "them. Ask without an interval, or train again."
            )
        return self.intervals.half_width(level)

    def distances(self, features: Matrix) -> list[float]:
        """Return how far rows of features are from the training records: above 1, further than 99 % of these are from each other.

        Raises:
            UnsupportedByModelError: The model carries no sample of its training records.
        """
        if self.known is None:
            raise UnsupportedByModelError(
                f"{self.info.label} carries no sample of its training records to compare others with. Ask without warnings, or "
                "train again."
            )
        found: list[float] = (self.known.distance(features) / self.known.limit).tolist()
        return found

    def predict(self, records: list[Record]) -> list[float]:
        """Return one prediction for each raw record, in order.

        Raises:
            InvalidRecordError: A record is malformed or cannot be processed.
        """
        return self.predict_features(self.pipeline.features(self._check(records)))

    def predict_features(self, features: Matrix) -> list[float]:
        """Return one prediction for each row of features, shape (n, F), columns in the order of ``Dataset.feature_names``."""
        if not len(features):
            return []
        values = self._run(features)
        predictions: list[float] = values.reshape(-1).tolist()
        # Number by number is faster for few records.
        finite = all(map(math.isfinite, predictions)) if len(predictions) <= _FEW else np.isfinite(values).all()
        if len(predictions) != len(features) or not finite:
            raise InternalError("The model did not return one finite number for each record.")
        return predictions

    def _warm_up(self, label: str) -> None:
        # Two sizes, so that a model with a fixed batch size is refused now and not in the first request.
        example = example_record(self.pipeline.dataset)
        try:
            for records in ([example], [example] * 3):
                self.predict(records)
        except ComplexSystemError as error:
            raise ModelRefusedError(f"{label} fails at its first prediction: {error.message}") from error
        except Exception as error:
            # Clients read this: no text of a foreign error, which may contain paths.
            log.exception("%s fails at its first prediction", label)
            raise ModelRefusedError(
                f"{label} fails at its first prediction ({type(error).__name__}); the log says more."
            ) from error


def _intervals_of(label: str, files: Mapping[str, bytes]) -> Intervals | None:
    content = files.get(INTERVALS_FILE)
    if content is None:
        return None
    try:
        return Intervals.decoded(content)
    except ModelRefusedError as error:  # of another release; predictions do not need them
        log.warning("%s is served without intervals: %s", label, error.message)
        return None


def _known_of(label: str, pipeline: Pipeline, files: Mapping[str, bytes]) -> KnownRecords | None:
    content = files.get(SAMPLE_FILE)
    if content is None:
        return None
    try:
        features = sample_features(pipeline, decode_sample(content))
    except ComplexSystemError as error:
        log.warning("%s is served without distances from its training records: %s", label, error.message)
        return None
    return KnownRecords(features) if len(features) >= MIN_KNOWN else None


def _check_metadata(label: str, pipeline: Pipeline, onnx_model: bytes, metadata: Mapping[str, Any]) -> None:
    dataset = pipeline.dataset
    if metadata.get("pipeline_version") != dataset.version:
        raise ModelRefusedError(
            f"{label} was trained for pipeline version {metadata.get('pipeline_version')}, and this service runs "
            f"{dataset.version}: train again with the present data set."
        )
    if list(metadata.get("feature_names") or ()) != list(dataset.feature_names):
        raise ModelRefusedError(f"{label} was trained on other features or in another order than the pipeline makes.")
    if metadata.get("target", dataset.target) != dataset.target:
        raise ModelRefusedError(f"{label} predicts '{metadata['target']}' and not '{dataset.target}'.")
    if metadata.get("sha256") != hashlib.sha256(onnx_model).hexdigest():
        raise ModelRefusedError(f"{label} is damaged: its digest is not the one in its metadata.")
