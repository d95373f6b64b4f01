"""Models of others: what they take is read before anything of them is loaded, and their code runs in a process of its own.

Such a model is code. The process has no secret in its environment and no connection of ours, is ended when it takes too long, and may
end itself without harm. It is not a sandbox: it runs as the same user and can read that user's files, so models are allowed by name.

This module is also the program of that process: ``python -m complex_system.serving.models.foreign FOLDER``. Requests and answers are
numbers and texts with their lengths, never pickles.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from complex_system.errors import InternalError, ModelRefusedError
from complex_system.serving.models.runtimes import Matrix, Runtime

LOAD_SECONDS = 120.0
"""How long loading a model may take: its libraries are imported."""
PREDICT_SECONDS = 30.0
"""How long one call may take; then the process is ended, and the next call starts another one."""
_REQUEST = struct.Struct("<II")
_ANSWER = struct.Struct("<?I")
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables that the process gets; passwords and keys are in others."""
_MAX_TEXT = 1000


class ModelInput:
    """What a model takes, by its signature: our features by name, or as one tensor."""

    def __init__(self, label: str, signature: Any, feature_names: tuple[str, ...]) -> None:
        """Read a signature.

        Args:
            label: Name of the model in messages.
            signature: ``mlflow.models.ModelSignature``, or None.
            feature_names: Features of the pipeline, in order.

        Raises:
            ModelRefusedError: It does not say that the model takes these features.
        """
        schema = signature.inputs if signature is not None else None
        if schema is None:
            raise ModelRefusedError(f"{label} has no signature, so what it takes is not known.")
        self.columns: tuple[str, ...] = ()
        self.type = "float64"
        if schema.is_tensor_spec():
            shape = schema.inputs[0].shape
            if len(schema.inputs) != 1 or len(shape) != 2 or shape[1] not in (-1, len(feature_names)):
                raise ModelRefusedError(
                    f"{label} takes other tensors than the {len(feature_names)} features of the pipeline."
                )
            self.type = str(schema.inputs[0].type)
            return
        names = schema.input_names()
        if missing := [name for name in names if name not in feature_names]:
            raise ModelRefusedError(
                f"{label} takes columns that the pipeline does not make: {', '.join(map(str, missing[:5]))}."
            )
        self.columns = feature_names


class ForeignRuntime(Runtime):
    """A model of MLflow's ``python_function`` flavor in a process of its own, which predicts one call after another."""

    platform = "mlflow_pyfunc"
    quick = False

    def __init__(self, label: str, folder: Path, takes: ModelInput) -> None:
        """Start the process and wait until the model is loaded. Blocking.

        Args:
            label: Name of the model in messages.
            folder: The model's files; deleted with this object.
            takes: From its signature.

        Raises:
            ModelRefusedError: It cannot be loaded; the message says why.
        """
        self._label = label
        self._folder = folder
        self._takes = takes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        with self._lock:
            self._start()

    @override
    def run(self, features: Matrix) -> npt.NDArray[Any]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None
            content = _REQUEST.pack(*features.shape) + np.ascontiguousarray(features, dtype="<f4").tobytes()
            good, answer = self._ask(self._process, content, PREDICT_SECONDS)
        if not good:
            raise InternalError(f"{self._label} failed in its process: {answer.decode('utf-8', 'replace')[:_MAX_TEXT]}")
        values = np.frombuffer(answer, dtype="<f8")
        if values.size != len(features):
            raise InternalError("The model did not return one number for each record.")
        return values

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name in _KEPT}
        environment |= {"HOME": str(self._folder), "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", __spec__.name, str(self._folder), self._takes.type, *self._takes.columns],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self._folder, env=environment, start_new_session=True,
        )  # fmt: skip
        weakref.finalize(self, _end, process)
        self._process = process
        good, answer = self._ask(process, b"", LOAD_SECONDS)
        if not good:
            _end(process)
            raise ModelRefusedError(f"{self._label} {answer.decode('utf-8', 'replace')[:_MAX_TEXT]}")

    def _ask(self, process: subprocess.Popen[bytes], content: bytes, seconds: float) -> tuple[bool, bytes]:
        """Send a request and return the answer; end the process if it takes too long."""
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            process.stdin.write(content)
            process.stdin.flush()
            head = process.stdout.read(_ANSWER.size)
            if len(head) == _ANSWER.size:
                good, length = _ANSWER.unpack(head)
                answer = process.stdout.read(min(length, 1 << 30))
                if len(answer) == length:
                    return good, answer
        except OSError:  # it has ended, and does not read any more
            pass
        finally:
            timer.cancel()
        _end(process)
        return False, f"did not answer within {seconds:g} s".encode() if is_late.is_set() else b"ended its process"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was not sent any more
            if pipe is not None:
                pipe.close()
    process.wait()


# The program of the process


def _answer(out: IO[bytes], content: bytes, *, good: bool) -> None:
    out.write(_ANSWER.pack(good, len(content)) + content)
    out.flush()


def main(folder: str, kind: str, columns: list[str]) -> None:
    """Load the model, say so, and answer requests until there are no more."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the model prints goes to the log and not between the answers
    requests = sys.stdin.buffer
    try:
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(folder)
    except ImportError as error:
        _answer(out, f"has no ONNX model, and '{error.name}' is not installed here to run it.".encode(), good=False)
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process says it
        _answer(out, f"cannot be loaded ({type(error).__name__}: {error}).".encode(), good=False)
        return
    _answer(out, b"", good=True)
    while len(head := requests.read(_REQUEST.size)) == _REQUEST.size:
        rows, width = _REQUEST.unpack(head)
        features = np.frombuffer(requests.read(4 * rows * width), dtype="<f4").reshape(rows, width).astype(kind)
        try:
            found = np.asarray(model.predict(pd.DataFrame(features, columns=columns) if columns else features))
            if found.dtype.kind not in "fiu":
                raise TypeError(f"it returns {found.dtype}, not numbers")
        except Exception as error:  # noqa: BLE001 - as above
            _answer(out, f"{type(error).__name__}: {error}".encode(), good=False)
        else:
            _answer(out, found.astype("<f8").tobytes(), good=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
