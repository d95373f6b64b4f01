"""The linear model: ridge regression. A baseline, and where it is best the model that is served."""

from __future__ import annotations

from collections.abc import Iterator
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


PENALTIES = np.logspace(-8, 1, 28)
"""Penalties to choose from, each a multiple of the number of records; the smallest is least squares but for its rounding."""
_MAX_LEVERAGE = 1 - 1e-6
"""A penalty with which a record is predicted by its own target alone cannot be judged by leaving the record out."""
_BLOCK = 16_384
"""Records in double precision at the same time."""


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear function: ``(x - centre) @ weights + intercept``.

    Attributes:
        penalty: That was chosen, of ``PENALTIES``.
    """

    centre: Matrix
    weights: npt.NDArray[np.float64]
    intercept: float
    penalty: float

    def __call__(self, x: Matrix) -> Matrix:
        """Predict: features of shape (n, features) to shape (n,)."""
        return ((x - self.centre) @ self.weights + self.intercept).astype(np.float32)


def fit_linear(train: Samples) -> LinearFit:
    """Fit ridge regression with an intercept: the features scaled to deviation 1, the penalty with the least leave-one-out error.

    The error of a record that was left out follows from its residual r and its leverage h as r / (1 - h), without another fit:
    D. Allen, The Relationship between Variable Selection and Data Augmentation and a Method for Prediction, Technometrics 16 (1974).

    Of all records there is a sum of products only, so the memory does not grow with their number.
    """
    n, mean = len(train), float(train.y.mean(dtype=np.float64))
    centre = train.x.mean(axis=0, dtype=np.float64).astype(np.float32)  # as the ONNX model subtracts it

    def blocks() -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        for begin in range(0, n, _BLOCK):
            place = slice(begin, begin + _BLOCK)
            yield train.x[place].astype(np.float64) - centre, train.y[place].astype(np.float64) - mean

    rest = np.sum([x.sum(axis=0) for x, _ in blocks()], axis=0) / n
    scale = np.sqrt(np.sum([((x - rest) ** 2).sum(axis=0) for x, _ in blocks()], axis=0) / n)
    scale[scale <= 1e-9 * np.abs(train.x).max(axis=0)] = 1.0  # a constant's deviation is what its mean was rounded by
    products, moments = np.zeros((len(centre), len(centre))), np.zeros(len(centre))
    for x, y in blocks():
        scaled = (x - rest) / scale
        products, moments = products + scaled.T @ scaled, moments + scaled.T @ y
    values, vectors = np.linalg.eigh(products)
    moments = vectors.T @ moments
    shrunk = 1 / (np.maximum(values, 0)[:, None] + n * PENALTIES)
    errors, largest = np.zeros(len(PENALTIES)), np.zeros(len(PENALTIES))
    for x, y in blocks():
        turned = (x - rest) / scale @ vectors
        leverages = turned**2 @ shrunk + 1 / n
        left_out = (y[:, None] - turned @ (shrunk * moments[:, None])) / np.maximum(1 - leverages, 1 - _MAX_LEVERAGE)
        errors, largest = errors + (left_out**2).sum(axis=0), np.maximum(largest, leverages.max(axis=0))
    judged = np.where(largest <= _MAX_LEVERAGE, errors, np.inf)
    chosen = len(PENALTIES) - 1 - int(np.argmin(judged[::-1]))  # of equal ones the largest
    weights = vectors @ (shrunk[:, chosen] * moments) / scale
    return LinearFit(centre, weights, float(mean - rest @ weights), float(PENALTIES[chosen]))


class LinearModel(TrainedModel):
    """A linear model; its native form is the ONNX model."""

    flavor: ClassVar[str] = "onnx"

    def __init__(self, data: TrainingData) -> None:
        """Fit on the training part; the validation part is only scored, because nothing stops early."""
        self.fit = fit_linear(data.train)
        scores = [score(part.y, self.fit(part.x)).rmse for part in (data.train, data.validation)]
        super().__init__(
            data.feature_names,
            {"method": "ridge", "penalty": self.fit.penalty},
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
