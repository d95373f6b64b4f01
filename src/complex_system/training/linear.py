"""The linear model: least squares of the features as they are. A baseline, and where it is best the model that is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from complex_system.training.base import Progress, TrainedModel, score
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.onnx import BATCH, ONNX_INPUT, ONNX_OUTPUT

LINEAR = "linear"
"""The name of the baseline, and the trainer and the framework of the model."""
_OPSET, _IR_VERSION = 17, 9


@dataclass(frozen=True)
class LinearFit:
    """What least squares found: ``(x - centre) @ weights + intercept``."""

    centre: Matrix
    weights: npt.NDArray[np.float64]
    intercept: float

    def __call__(self, x: Matrix) -> Matrix:
        """Predict: features of shape (n, features) to shape (n,)."""
        return ((x - self.centre) @ self.weights + self.intercept).astype(np.float32)


def fit_linear(train: Samples) -> LinearFit:
    """Fit least squares with an intercept; of several solutions, as with one-hot features, take the one of the smallest norm."""
    centre = train.x.mean(axis=0, dtype=np.float64).astype(np.float32)  # as the ONNX model subtracts it
    x, mean = train.x.astype(np.float64) - centre, train.y.mean(dtype=np.float64)
    weights, *_ = np.linalg.lstsq(x - x.mean(axis=0), train.y - mean, rcond=None)
    return LinearFit(centre, weights, float(mean - x.mean(axis=0) @ weights))


class LinearModel(TrainedModel):
    """A linear model; its native form is the ONNX model."""

    flavor: ClassVar[str] = "onnx"

    def __init__(self, data: TrainingData) -> None:
        """Fit on the training part; the validation part is only scored, because nothing stops early."""
        self.fit = fit_linear(data.train)
        scores = [score(part.y, self.fit(part.x)).rmse for part in (data.train, data.validation)]
        super().__init__(
            data.feature_names, {"method": "least squares"}, [Progress(1, 1, *scores)], 1, _onnx_model(self.fit)
        )

    @override
    def predict(self, x: Matrix) -> Matrix:
        return self.fit(x)

    @override
    def saved(self) -> bytes:
        return self.to_onnx()

    @override
    def to_onnx(self) -> bytes:
        serialized: bytes = self.native.SerializeToString()
        return serialized


def _onnx_model(fit: LinearFit) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    # The centre is subtracted first: in single precision the products of large values would lose what differs between records.
    constants: dict[str, npt.NDArray[np.floating[Any]]] = {
        "centre": fit.centre,
        "weights": fit.weights[:, None],
        "intercept": np.array([fit.intercept]),
    }
    nodes = [
        helper.make_node("Sub", [ONNX_INPUT, "centre"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["product"]),
        helper.make_node("Add", ["product", "intercept"], [ONNX_OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        LINEAR,
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, [BATCH, len(fit.weights)])],
        [helper.make_tensor_value_info(ONNX_OUTPUT, TensorProto.FLOAT, [BATCH, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
