"""What runs a loaded model: ONNX twins in this process; other people's models through their MLflow flavor."""

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
    """What the Open Inference Protocol calls it."""
    quick: ClassVar[bool] = True
    """Whether few records may be predicted on the event loop."""

    @abstractmethod
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        """One number a row of processed features, in any shape that holds so many."""


class OnnxRuntime(Runtime):
    """An ONNX twin: ``features`` float32 (n, F) to ``prediction`` float32 (n, 1)."""

    platform = "onnxruntime_onnx"

    def __init__(self, what: str, onnx: bytes, width: int) -> None:
        """Opens a twin. Blocking.

        Args:
            what: What messages call the model.
            onnx: The twin.
            width: Number of features.

        Raises:
            ModelRefusedError: It is no twin, or one of other features.
        """
        options = ort.SessionOptions()
        # One thread: a single record gains nothing from more, and side by side requests would fight for the cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises classes of its own that share no root but Exception, and its texts name files.
            log.warning("%s cannot be read as ONNX: %s", what, error)
            raise ModelRefusedError(f"{what} cannot be read as ONNX ({type(error).__name__}); the log says more.") from error
        inputs = {each.name: each for each in self._session.get_inputs()}
        if list(inputs) != [ONNX_INPUT] or ONNX_OUTPUT not in {each.name for each in self._session.get_outputs()}:
            raise ModelRefusedError(f"{what} is no twin of ours: it must take '{ONNX_INPUT}' and give '{ONNX_OUTPUT}'.")
        declared = inputs[ONNX_INPUT].shape[-1]
        if isinstance(declared, int) and declared != width:
            raise ModelRefusedError(f"{what} takes {declared} features and the pipeline makes {width}.")

    @override
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._session.run([ONNX_OUTPUT], {ONNX_INPUT: features})[0]
        return values


class FlavorRuntime(Runtime):
    """A model of MLflow's ``python_function`` kind that takes our features by name, or as one tensor."""

    platform = "mlflow_pyfunc"
    quick = False

    def __init__(self, what: str, model: Any, feature_names: tuple[str, ...]) -> None:
        """Wraps a loaded model.

        Args:
            what: What messages call the model.
            model: ``mlflow.pyfunc.PyFuncModel``.
            feature_names: What the pipeline makes, in order.

        Raises:
            ModelRefusedError: Its signature does not say that it takes these features.
        """
        self._model = model
        self._turn = threading.Lock()  # nobody promises that somebody else's model can be used from two threads
        self._columns: list[str] | None = None
        schema = model.metadata.get_input_schema()
        if schema is None:
            raise ModelRefusedError(f"{what} has no signature, so that nobody knows what it takes.")
        if schema.is_tensor_spec():
            shape = schema.inputs[0].shape
            if len(schema.inputs) != 1 or len(shape) != 2 or shape[1] not in (-1, len(feature_names)):
                raise ModelRefusedError(
                    f"{what} takes other tensors than the {len(feature_names)} features of the pipeline."
                )
            self._kind = schema.inputs[0].type
        else:
            names = schema.input_names()
            if missing := [name for name in names if name not in feature_names]:
                raise ModelRefusedError(
                    f"{what} takes columns that the pipeline does not make: {', '.join(map(str, missing[:5]))}."
                )
            self._columns = list(feature_names)
            self._kind = np.dtype(np.float64)

    @override
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        import pandas as pd

        data: Any = features.astype(self._kind)
        if self._columns is not None:
            data = pd.DataFrame(data, columns=self._columns)
        with self._turn:
            answer = np.asarray(self._model.predict(data))
        if answer.size != len(features) or answer.dtype.kind not in "fiu":
            raise InternalError("The model did not return one number for each record.")
        return answer
