"""Models in their own MLflow flavors, with signature and pinned requirements."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np

from complex_system.tracking.base import TrainingResult

EXAMPLE_ROWS = 3


class _Logged(TypedDict):
    """What every flavor logs with a model."""

    name: str
    signature: Any
    input_example: Any
    metadata: dict[str, str]


def log_native(result: TrainingResult) -> Any:
    """Log the model in its own flavor, with signature and pinned requirements, in MLflow's active run; return the ``ModelInfo``.

    ``mlflow.pyfunc.load_model`` of it takes a DataFrame with the features by name, in any order, and predicts in the target's own
    unit. The requirements are named because MLflow would otherwise spend 10 s on finding them.
    """
    import pandas as pd

    example = pd.DataFrame(result.data.train.x[:EXAMPLE_ROWS].astype("float64"), columns=list(result.data.feature_names))
    common: _Logged = {
        "name": "model",
        "signature": _signature(result),
        "input_example": example,
        "metadata": {"pipeline_version": result.dataset.version, "target": result.dataset.target},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flavors warn of their dependencies' deprecations
        return _LOG[result.model.flavor](result.model.native, common)


def _signature(result: TrainingResult) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    columns = Schema([ColSpec(DataType.double, name) for name in result.data.feature_names])
    flat = result.model.flavor == "lightgbm"
    output = TensorSpec(np.dtype(np.float64 if flat else np.float32), (-1,) if flat else (-1, 1))
    return ModelSignature(inputs=columns, outputs=Schema([output]))


def _pinned(*packages: str) -> list[str]:
    import mlflow

    # Here it may be mlflow-skinny, without the server; either can load the model.
    return [
        f"mlflow=={mlflow.__version__}",
        *(f"{package}=={importlib.metadata.version(package)}" for package in ("numpy", "pandas", *packages)),
    ]


def _log_lightgbm(native: Any, common: _Logged) -> Any:
    import mlflow.lightgbm

    return mlflow.lightgbm.log_model(native, pip_requirements=_pinned("lightgbm"), **common)


def _log_pytorch(native: Any, common: _Logged) -> Any:
    import cloudpickle  # type: ignore[import-untyped]
    import mlflow.pytorch

    # Pickled by value, the network's class travels with the model: loading it needs torch, but not this package.
    module = sys.modules[type(native).__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return mlflow.pytorch.log_model(native, pip_requirements=_pinned("torch", "cloudpickle"), **common)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class _NamedColumns:
    """The TensorFlow flavor with a signature of named columns, which its own ``save_model`` refuses.

    So MLflow puts the columns of a DataFrame into the signature's order, as for the other flavors.
    """

    @staticmethod
    def save_model(path: str, mlflow_model: Any, signature: Any, **kwargs: Any) -> None:
        import mlflow.tensorflow

        mlflow_model.signature = signature
        mlflow.tensorflow.save_model(path=path, mlflow_model=mlflow_model, signature=False, **kwargs)


def _log_tensorflow(native: Any, common: _Logged) -> Any:
    from mlflow.models import Model

    requirements = _pinned("tensorflow", "keras")
    return Model.log(artifact_path=None, flavor=_NamedColumns, model=native, pip_requirements=requirements, **common)


def _log_onnx(native: Any, common: _Logged) -> Any:
    import mlflow.onnx

    return mlflow.onnx.log_model(
        native, pip_requirements=_pinned("onnx", "onnxruntime"), save_as_external_data=False, **common
    )


_LOG: dict[str, Callable[[Any, _Logged], Any]] = {
    "lightgbm": _log_lightgbm,
    "pytorch": _log_pytorch,
    "tensorflow": _log_tensorflow,
    "onnx": _log_onnx,
}
