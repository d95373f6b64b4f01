"""The native model in its MLflow flavor, with signature, input example and pinned requirements."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from complex_system.tracking.base import TrainingResult

EXAMPLE_ROWS = 3


def log_native(result: TrainingResult) -> Any:
    """Logs the model in MLflow's active run.

    ``mlflow.pyfunc.load_model`` of it takes a DataFrame with the features by name, in any order, and answers in the target's
    own unit. The requirements are named because MLflow would otherwise spend 10 s on finding them.

    Returns:
        MLflow's ``ModelInfo``.
    """
    common: dict[str, Any] = {
        "name": "model",
        "signature": _signature(result),
        "input_example": _frame(result).head(EXAMPLE_ROWS),
        "metadata": {"pipeline_version": result.dataset.version, "target": result.dataset.target},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flavors warn of their own dependencies' deprecations
        return _LOG[result.model.flavor](result.model.native, common)


def _signature(result: TrainingResult) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    columns = Schema([ColSpec(DataType.double, name) for name in result.data.feature_names])
    return ModelSignature(inputs=columns, outputs=_outputs(result.model.flavor))


def _outputs(flavor: str) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    if flavor == "lightgbm":
        return Schema([TensorSpec(np.dtype(np.float64), (-1,))])
    return Schema([TensorSpec(np.dtype(np.float32), (-1, 1))])


def _frame(result: TrainingResult) -> Any:
    import pandas as pd

    return pd.DataFrame(result.data.train.x.astype("float64"), columns=list(result.data.feature_names))


def _pinned(*packages: str) -> list[str]:
    import mlflow

    # Here it may be mlflow-skinny, without the server; who loads the model is served by either.
    return [
        f"mlflow=={mlflow.__version__}",
        *(f"{package}=={version(package)}" for package in ("numpy", "pandas", *packages)),
    ]


def _log_lightgbm(native: Any, common: dict[str, Any]) -> Any:
    import mlflow.lightgbm

    return mlflow.lightgbm.log_model(native, pip_requirements=_pinned("lightgbm"), **common)


def _log_pytorch(native: Any, common: dict[str, Any]) -> Any:
    import cloudpickle  # type: ignore[import-untyped]
    import mlflow.pytorch

    # Pickled by value, the network's class travels with the model, and who loads it needs torch but not this package.
    module = sys.modules[type(native).__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return mlflow.pytorch.log_model(native, pip_requirements=_pinned("torch", "cloudpickle"), **common)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class _NamedColumns:
    """The TensorFlow flavor with a signature of named columns, which its own ``save_model`` refuses.

    MLflow then puts the columns of a DataFrame into the signature's order, as it does for the other flavors.
    """

    @staticmethod
    def save_model(path: str, mlflow_model: Any, signature: Any, **kwargs: Any) -> None:
        import mlflow.tensorflow

        mlflow_model.signature = signature
        mlflow.tensorflow.save_model(path=path, mlflow_model=mlflow_model, signature=False, **kwargs)


def _log_tensorflow(native: Any, common: dict[str, Any]) -> Any:
    from mlflow.models import Model

    requirements = _pinned("tensorflow", "keras")
    return Model.log(artifact_path=None, flavor=_NamedColumns, model=native, pip_requirements=requirements, **common)


_LOG: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "lightgbm": _log_lightgbm,
    "pytorch": _log_pytorch,
    "tensorflow": _log_tensorflow,
}
