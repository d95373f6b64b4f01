"""A loaded model: the pipeline before it, what runs it, and what is known about it.

ONNX models run in ``onnxruntime``; models of others, which have none, run through their MLflow flavor.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from typing_extensions import override

from complex_system.domain.records import Record, raw_check
from complex_system.errors import ComplexSystemError, InternalError, ModelRefusedError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.requests.examples import example_record
from complex_system.training.onnx import ONNX_INPUT, ONNX_OUTPUT

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]

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

    @property
    def label(self) -> str:
        """Name and version for a person: ``lab-lightgbm v3``."""
        return f"{self.name} v{self.version}" if self.version.isdigit() else f"{self.name} {self.version}"


class Runtime(ABC):
    """Runs one model. Safe to use from several threads."""

    platform: ClassVar[str]
    """Its name in the Open Inference Protocol."""
    quick: ClassVar[bool] = True
    """Whether a few records may be predicted on the event loop."""

    @abstractmethod
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        """Return one number for each row of processed features, in any shape."""


class OnnxRuntime(Runtime):
    """An ONNX model: ``features`` float32 (n, F) to ``prediction`` float32 (n, 1)."""

    platform = "onnxruntime_onnx"

    def __init__(self, label: str, onnx_model: bytes, width: int) -> None:
        """Open a model. Blocking.

        Args:
            label: Name of the model in messages.
            onnx_model: Its bytes.
            width: Number of features.

        Raises:
            ModelRefusedError: It is not such a model, or takes other features.
        """
        options = ort.SessionOptions()
        # One thread: a single record gains nothing from more, and concurrent requests would compete for the cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's own exceptions share no base class but Exception, and their texts name files.
            log.warning("%s cannot be read as ONNX: %s", label, error)
            raise ModelRefusedError(
                f"{label} cannot be read as ONNX ({type(error).__name__}); the log says more."
            ) from error
        inputs = {each.name: each for each in self._session.get_inputs()}
        if list(inputs) != [ONNX_INPUT] or ONNX_OUTPUT not in {each.name for each in self._session.get_outputs()}:
            raise ModelRefusedError(
                f"{label} is not one of our ONNX models: it must take '{ONNX_INPUT}' and give '{ONNX_OUTPUT}'."
            )
        declared = inputs[ONNX_INPUT].shape[-1]
        if isinstance(declared, int) and declared != width:
            raise ModelRefusedError(f"{label} takes {declared} features and the pipeline makes {width}.")

    @override
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._session.run([ONNX_OUTPUT], {ONNX_INPUT: features})[0]
        return values


class FlavorRuntime(Runtime):
    """A model of MLflow's ``python_function`` flavor that takes our features by name, or as one tensor."""

    platform = "mlflow_pyfunc"
    quick = False

    def __init__(self, label: str, model: Any, feature_names: tuple[str, ...]) -> None:
        """Wrap a loaded model.

        Args:
            label: Name of the model in messages.
            model: ``mlflow.pyfunc.PyFuncModel``.
            feature_names: Features of the pipeline, in order.

        Raises:
            ModelRefusedError: Its signature does not say that it takes these features.
        """
        self._model = model
        self._lock = threading.Lock()  # a model of others need not be thread-safe
        self._columns: list[str] | None = None
        schema = model.metadata.get_input_schema()
        if schema is None:
            raise ModelRefusedError(f"{label} has no signature, so what it takes is not known.")
        if schema.is_tensor_spec():
            shape = schema.inputs[0].shape
            if len(schema.inputs) != 1 or len(shape) != 2 or shape[1] not in (-1, len(feature_names)):
                raise ModelRefusedError(
                    f"{label} takes other tensors than the {len(feature_names)} features of the pipeline."
                )
            self._kind = schema.inputs[0].type
        else:
            names = schema.input_names()
            if missing := [name for name in names if name not in feature_names]:
                raise ModelRefusedError(
                    f"{label} takes columns that the pipeline does not make: {', '.join(map(str, missing[:5]))}."
                )
            self._columns = list(feature_names)
            self._kind = np.dtype(np.float64)

    @override
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        import pandas as pd

        data: Any = features.astype(self._kind)
        if self._columns is not None:
            data = pd.DataFrame(data, columns=self._columns)
        with self._lock:
            answer = np.asarray(self._model.predict(data))
        if answer.size != len(features) or answer.dtype.kind not in "fiu":
            raise InternalError("The model did not return one number for each record.")
        return answer


class Predictor:
    """Predicts raw records with one model, in the target's own unit. Immutable; safe to use from several threads.

    Attributes:
        info: What is known about the model.
        quick: Whether a few records may be predicted on the event loop.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        name: str,
        version: str,
        onnx_model: bytes | None,
        metadata: Mapping[str, Any],
        runtime: Runtime | None = None,
    ) -> None:
        """Open a model, check that it belongs to this pipeline, and make a first prediction. Blocking.

        Args:
            pipeline: Makes the model's features.
            name: Registered name of the model.
            version: Its version there.
            onnx_model: ``features`` float32 (n, F) to ``prediction`` float32 (n, 1).
            metadata: What the trainer stored beside it.
            runtime: Runs a model that has no ONNX model; its input was checked.

        Raises:
            ModelRefusedError: The model must not be served here; the message says why.
        """
        self.pipeline = pipeline
        self._check = raw_check(pipeline.dataset)
        label = f"{name} version {version}"
        if runtime is None:
            assert onnx_model is not None
            _check_metadata(label, pipeline, onnx_model, metadata)
            runtime = OnnxRuntime(label, onnx_model, len(pipeline.dataset.feature_names))
        self._run = runtime.run
        self.quick = runtime.quick
        self._warm_up(label)
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
        )

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
