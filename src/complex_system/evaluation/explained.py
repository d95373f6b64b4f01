"""Explains the winner of a comparison on the hold-out samples that it was chosen on."""

from __future__ import annotations

import logging
import time

from complex_system.errors import ComplexSystemError, TrackingRefusedError, TrackingUnavailableError
from complex_system.explanation.model import explain_model
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.explanation import ModelExplanation
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.model_files import SAMPLE_FILE, decode_sample
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef
from complex_system.training.data import Samples

log = logging.getLogger(__name__)


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
    log.info("Explained %s version %s in %.2f s", ref.model, ref.version, time.perf_counter() - began)
    return found
