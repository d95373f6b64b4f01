"""The linear model: least squares of the features as they are, with a penalty where the data ask for one.

A baseline, and where it is best the model that is served.
"""

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
PENALTIES = np.logspace(-6, 4, 31)
"""Penalties that are tried, for features of standard deviation 1."""
PENALTY_BELOW = 20_000
"""Records from which on least squares need no penalty."""
_GAIN = 0.99
"""Leave-one-out error by that of least squares above which these stay."""
_OPSET, _IR_VERSION = 17, 9


@dataclass(frozen=True)
class LinearFit:
    """What least squares found: ``(x - centre) @ weights + intercept``, with the penalty of a ridge regression or none."""

    centre: Matrix
    weights: npt.NDArray[np.float64]
    intercept: float
    penalty: float = 0.0

    def __call__(self, x: Matrix) -> Matrix:
        """Predict: features of shape (n, features) to shape (n,)."""
        return ((x - self.centre) @ self.weights + self.intercept).astype(np.float32)


def fit_linear(train: Samples) -> LinearFit:
    """Fit least squares with an intercept; of several solutions, as with one-hot features, take the one of the smallest norm.

    Where features are nearly as many as records, or nearly the same, as wavelengths of a spectrum are, least squares fit the noise.
    There, a ridge regression is taken instead if it has a leave-one-out error that is smaller by more than a hundredth.
    """
    centre = train.x.mean(axis=0, dtype=np.float64).astype(np.float32)  # as the ONNX model subtracts it
    x, mean = train.x.astype(np.float64) - centre, train.y.mean(dtype=np.float64)
    centred, y = x - x.mean(axis=0), train.y - mean
    penalty, weights = _ridge(centred, y) if len(train) < PENALTY_BELOW else (0.0, None)
    if weights is None:
        weights, *_ = np.linalg.lstsq(centred, y, rcond=None)
    return LinearFit(centre, weights, float(mean - x.mean(axis=0) @ weights), penalty)


def _ridge(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64] | None]:
    """Return the penalty with the smallest leave-one-out error, and its weights; 0 and None where least squares are as good.

    With the singular values s of the scaled features, a penalty p shrinks the component of each by s^2 / (s^2 + p). A prediction
    without its own record has the error e / (1 - h), with h from the diagonal of the hat matrix: G. Golub, M. Heath and G. Wahba,
    Generalized cross-validation as a method for choosing a good ridge parameter, Technometrics 21 (1979).

    Args:
        x: Features less their means, shape (n, features).
        y: Targets less their mean, shape (n,).
    """
    spread = x.std(axis=0)
    spread[spread == 0] = 1.0
    u, s, vt = np.linalg.svd(x / spread, full_matrices=False)
    found = s > np.finfo(np.float64).eps * max(x.shape) * s.max(initial=0.0)
    u, s, vt = u[:, found], s[found], vt[found]
    along, squares = u.T @ y, u**2

    def error(shrunk: npt.NDArray[np.float64]) -> float:
        left = 1 - 1 / len(y) - squares @ shrunk
        return float(np.sqrt(np.mean(((y - u @ (shrunk * along)) / np.maximum(left, np.finfo(np.float64).tiny)) ** 2)))

    errors = [error(s**2 / (s**2 + penalty)) for penalty in PENALTIES]
    best = float(PENALTIES[np.argmin(errors)])
    # A record that least squares fit exactly has no error without itself but in the limit of a small penalty.
    if min(errors) >= _GAIN * error(s**2 / (s**2 + PENALTIES[0] / 100)):
        return 0.0, None
    return best, vt.T @ (s / (s**2 + best) * along) / spread


class LinearModel(TrainedModel):
    """A linear model; its native form is the ONNX model."""

    flavor: ClassVar[str] = "onnx"

    def __init__(self, data: TrainingData) -> None:
        """Fit on the training part; the validation part is only scored, because nothing stops early."""
        self.fit = fit_linear(data.train)
        scores = [score(part.y, self.fit(part.x)).rmse for part in (data.train, data.validation)]
        super().__init__(
            data.feature_names,
            {"method": "least squares", "penalty": self.fit.penalty},
            [Progress(1, 1, *scores)],
            1,
            _onnx_model(self.fit),
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
