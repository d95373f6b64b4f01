"""Run loaded models: ONNX models in this process, models of others through their MLflow flavor."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from typing_extensions import override

from complex_system.errors import InternalError, ModelRefusedError
from complex_system.training.onnx import ONNX_INPUT, ONNX_OUTPUT

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]


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
