"""The models that a comparison is of, loaded from the registry, and the explanation of its winner."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from complex_system.errors import (
    ComplexSystemError,
    ModelRefusedError,
    TrackingRefusedError,
    TrackingUnavailableError,
    UnknownModelError,
)
from complex_system.evaluation.stacking import StackCandidate
from complex_system.explanation.model import explain_model
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.explanation import ModelExplanation
from complex_system.protocol.scores import CrossValidation
from complex_system.protocol.training import StackMember
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample
from complex_system.tracking.promotion import ROLLED_BACK, decision_in
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.data import Matrix, Samples
from complex_system.training.out_of_fold import OUT_OF_FOLD_FILE, OutOfFold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Attributes:
        incumbent: It was the champion before this comparison.
        cross: The cross-validation by its trainer; None where the records were too many for it.
        size: Bytes of its ONNX model.
        onnx_model: The ONNX model.
        metadata: What is kept beside it.
    """

    ref: ModelVersionRef
    predictor: Predictor
    incumbent: bool = False
    cross: CrossValidation | None = None
    size: int = 0
    onnx_model: bytes = field(default=b"", repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Candidates:
    """Loads models, each once."""

    def __init__(self, registry: ModelRegistry, pipeline: Pipeline) -> None:
        """Load nothing yet.

        Args:
            registry: Where the models are.
            pipeline: Makes their features.
        """
        self._registry = registry
        self._pipeline = pipeline
        self._loaded: dict[tuple[str, str], Candidate] = {}

    def load(
        self, models: Iterable[tuple[str, str]], incumbent: tuple[str, str] | None = None
    ) -> tuple[list[Candidate], dict[str, str]]:
        """Return the models that can be used, and why the others cannot; each is downloaded once."""
        dataset = self._pipeline.dataset
        candidates: list[Candidate] = []
        refused: dict[str, str] = {}
        for model, version in dict.fromkeys(models):
            try:
                if (model, version) not in self._loaded:
                    ref = self._registry.find(model, version)
                    if ref.split != dataset.split_rule:
                        raise ModelRefusedError(
                            f"It was trained with another split ({ref.split}; now {dataset.split_rule}), so it may have seen hold-out "
                            "records. The next training replaces it."
                        )
                    if (model, version) != incumbent and (back := decision_in(ref, ROLLED_BACK)) is not None:
                        raise ModelRefusedError(
                            f"It was rolled back by {back.who} ({back.why}); only a person may crown it again."
                        )
                    onnx, metadata = self._registry.load_onnx_model(ref)
                    predictor = Predictor(self._pipeline, model, version, onnx, metadata)
                    cross = kept_cross_validation(metadata)
                    self._loaded[model, version] = Candidate(ref, predictor, False, cross, len(onnx), onnx, metadata)
            except (ModelRefusedError, UnknownModelError) as error:
                refused[f"{model} {version}"] = error.message
                continue
            candidates.append(replace(self._loaded[model, version], incumbent=(model, version) == incumbent))
        return candidates, refused

    def for_stack(self, candidate: Candidate) -> StackCandidate:
        """Return a model as a stack takes it, with the out-of-fold predictions that it carries where they can be read."""
        ref, predictor, folds = candidate.ref, candidate.predictor, None
        try:
            files = self._registry.load_files(ref, candidate.metadata, [OUT_OF_FOLD_FILE])
            folds = OutOfFold.decoded(files[OUT_OF_FOLD_FILE]) if files else None
        except ModelRefusedError as error:
            log.warning("%s %s joins no stack by its cross-validation: %s", ref.model, ref.version, error.message)

        def predict(x: Matrix) -> Matrix:
            return np.asarray(predictor.predict_features(x), dtype=np.float32)

        return StackCandidate(ref.model, ref.version, predict, candidate.onnx_model, folds)


def explain_version(
    registry: ModelRegistry, pipeline: Pipeline, ref: ModelVersionRef, holdout: Samples
) -> ModelExplanation | None:
    """Return what a registered model depends on; None where it cannot be told, which is no reason to end a comparison. Blocking.

    Raises:
        TrackingUnavailableError: MLflow does not answer.
    """
    began = time.perf_counter()
    try:
        onnx_model, metadata = registry.load_onnx_model(ref)
        sample = registry.load_files(ref, metadata, [SAMPLE_FILE]).get(SAMPLE_FILE)
        predictor = Predictor(pipeline, ref.model, ref.version, onnx_model, metadata)
        raw = None if sample is None else decode_sample(sample)
        found = explain_model((ref.model, ref.version), pipeline, predictor.predict_features, holdout.x, holdout.y, raw)
    except ComplexSystemError as error:
        if isinstance(error, TrackingUnavailableError) and not isinstance(error, TrackingRefusedError):
            raise
        log.warning("%s version %s cannot be explained: %s", ref.model, ref.version, error.message)
        return None
    except Exception:
        log.exception("%s version %s cannot be explained", ref.model, ref.version)
        return None
    log.info("Explained %s version %s in %.2f s", ref.model, ref.version, time.perf_counter() - began)
    return found


def kept_members(metadata: Mapping[str, Any]) -> tuple[StackMember, ...]:
    """Return the members of a stack in its metadata; none for another model."""
    try:
        return msgspec.convert(metadata.get("members", ()), tuple[StackMember, ...])
    except msgspec.ValidationError:
        return ()


def kept_cross_validation(metadata: Mapping[str, Any]) -> CrossValidation | None:
    """Return the cross-validation in a model's metadata; None where there is none that can be used."""
    try:
        found = msgspec.convert(metadata.get("cross_validation"), CrossValidation | None)
    except msgspec.ValidationError:
        return None
    usable = found and found.folds > 1 and len(found.rmses) >= found.folds and all(map(math.isfinite, found.rmses))
    return found if usable else None
