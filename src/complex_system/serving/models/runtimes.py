"""What runs a model: ``onnxruntime`` for the ONNX models of our trainers, a process of its own for models of others."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from typing_extensions import override

from complex_system.errors import InternalError, ModelRefusedError
from complex_system.training.onnx import AT_ONCE, ONNX_INPUT, ONNX_OUTPUT

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]

RUN_SECONDS = 5.0
ROW_SECONDS = 0.001
"""How long one call of a model may take: so many seconds, and so many more for each row."""
_CHECK_SECONDS = 0.25


class Runtime(ABC):
    """Runs one model. Safe to use from several threads.

    Attributes:
        quick: Whether a few records may be predicted on the event loop.
    """

    platform: ClassVar[str]
    """Its name in the Open Inference Protocol."""
    quick: bool = True

    @abstractmethod
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        """Return one number for each row of processed features, in any shape."""


class _Deadlines:
    """Stops calls of ``onnxruntime`` that take too long: a graph may contain a loop that never ends.

    One thread looks at all of them, so that a call costs an entry in a dictionary and no timer.
    """

    def __init__(self) -> None:
        self._calls: dict[ort.RunOptions, float] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self, rows: int) -> ort.RunOptions:
        """Return the options for a call that begins now."""
        if self._thread is None:
            self._start()
        options = ort.RunOptions()
        self._calls[options] = time.monotonic() + RUN_SECONDS + ROW_SECONDS * rows
        return options

    def end(self, options: ort.RunOptions) -> None:
        """Forget a call that has ended."""
        del self._calls[options]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="model-deadlines", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_SECONDS)
            now = time.monotonic()
            for options, deadline in list(self._calls.items()):
                if now > deadline:
                    options.terminate = True  # looked at between two nodes of the graph, those within a loop included


_DEADLINES = _Deadlines()


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
        self._label = label
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
        options = _DEADLINES.begin(len(features))
        try:
            if len(features) <= AT_ONCE:
                return self._values(features, options)
            starts = range(0, len(features), AT_ONCE)
            return np.concatenate([self._values(features[start : start + AT_ONCE], options) for start in starts])
        except Exception as error:
            if not options.terminate:
                raise
            self.quick = False  # it must not hold up the event loop a second time
            raise InternalError(
                f"{self._label} did not predict {len(features)} record(s) within "
                f"{RUN_SECONDS + ROW_SECONDS * len(features):g} s and was stopped."
            ) from error
        finally:
            _DEADLINES.end(options)

    def _values(self, features: Matrix, options: ort.RunOptions) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._session.run([ONNX_OUTPUT], {ONNX_INPUT: features}, options)[0]
        return values
