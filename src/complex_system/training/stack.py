"""A stack: the weighted mean of what several models predict, as one ONNX model.

The weights are not negative and their sum is 1, so a stack follows every shift and scale of the target, and predicts nothing beyond
what its members predict. Source: L. Breiman, Stacked Regressions, Machine Learning 24 (1996).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from complex_system.errors import TrainingFailedError
from complex_system.training.base import Parameter, Progress, TrainedModel, score
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.onnx import BATCH, ONNX_INPUT, ONNX_OUTPUT, run_onnx
from complex_system.training.out_of_fold import OutOfFold

STACK = "stack"
"""The trainer and the framework of a stack."""
MIN_WEIGHT = 0.02
"""Members with less are left out: they would cost more time in every prediction than they are worth."""

PRIOR = 0.3
"""Standard deviation of the weights around equal ones before any record is seen. Where members differ little beside the noise, as in
the lab, 125 records tell their weights apart badly: without it the stack was 10 % farther from the law there (simulated), and with
1,000 records 1 %; where one member is far better than the others, it costs 4 % with 125 records and nothing with 1,000."""

Weights = npt.NDArray[np.float64]


def stack_weights(predictions: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Weights:
    """Return the weights of the members that make the squared error of their weighted mean small, and are not far from equal ones.

    With weights w of sum 1 the error is the weighted sum E w of the members' errors, and |w|^2 is their distance from equal weights
    but for a constant. So w makes |E w|^2 / v + |w|^2 / PRIOR^2 smallest, the most probable weights for normal errors of variance v,
    which is taken from the best member. Non-negative least squares of these rows beside one row of equal numbers s, with s on the
    right, has the solution t w for some t > 0: for any t, its cost t^2 (...) + s^2 (t - 1)^2 is smallest for the same w. So dividing
    it by its sum gives the weights, whatever s is.

    Args:
        predictions: Of records that no member has seen, shape (n, members).
        truth: Shape (n,).

    Returns:
        Shape (members,): each 0 or at least ``MIN_WEIGHT``, and together 1.
    """
    from scipy.optimize import nnls  # takes a moment to import

    errors = predictions.astype(np.float64) - truth.astype(np.float64)[:, None]
    squares = np.mean(errors**2, axis=0)
    spread = float(np.sqrt(max(squares.min(), 1e-12 * squares.max()))) or 1.0
    kept, total = np.arange(errors.shape[1]), np.sqrt(len(errors))
    while True:
        rows = np.vstack([errors[:, kept] / spread, np.eye(len(kept)) / PRIOR, np.full(len(kept), total)])
        found, _ = nnls(rows, np.append(np.zeros(len(rows) - 1), total), maxiter=100 * len(kept))
        shares = found / found.sum()
        if shares.min() >= MIN_WEIGHT:
            weights = np.zeros(errors.shape[1])
            weights[kept] = shares
            return weights
        kept = kept[shares >= MIN_WEIGHT]


def fold_weights(members: Sequence[OutOfFold], records: npt.NDArray[np.bool_]) -> Weights:
    """Return the weights for what the members predict for these records in all repeats."""
    predictions = np.column_stack([member.predictions[:, records].ravel() for member in members])
    return stack_weights(predictions, np.tile(members[0].truth[records], len(members[0].folds)))


def stacked(members: Sequence[OutOfFold], split_by: str = "key") -> tuple[Weights, OutOfFold]:
    """Return the weights of a stack, and what it predicts out of fold.

    The weights are those for all records but the hold-out part, so that the stack has seen as little of that as its members. Each fold
    is predicted with weights for the other folds, or, with a split by time, for the earlier ones, and the first with equal weights: so
    its cross-validation is one of models and weights, and compares with that of the members.

    Args:
        members: Predictions of the same records in the same folds (``OutOfFold.is_like``), at least one.
        split_by: What the split goes by (``Split.by``).
    """
    first = members[0]
    predictions = np.empty_like(first.predictions)
    for repeat, folds in enumerate(first.folds):
        for fold in range(int(folds.max()) + 1):
            others = folds < fold if split_by == "time" else folds != fold
            weights = fold_weights(members, others) if others.any() else np.full(len(members), 1 / len(members))
            inside = folds == fold
            predictions[repeat, inside] = np.column_stack([each.predictions[repeat, inside] for each in members]) @ weights
    return fold_weights(members, ~first.held_out), replace(first, predictions=predictions)


@dataclass(frozen=True)
class Member:
    """A model of a stack.

    Attributes:
        model: Registered name.
        version: Its version; empty for a model that is registered as a part of the stack only.
        weight: Above 0.
        onnx_model: ``features`` float32 (n, F) to ``prediction`` float32 (n, 1).
    """

    model: str
    version: str
    weight: float
    onnx_model: bytes

    def about(self) -> dict[str, str | float]:
        """Return what is told of it in the stack's metadata."""
        return {"model": self.model, "version": self.version, "weight": round(self.weight, 4)}


class StackModel(TrainedModel):
    """A stack; its native form is the merged ONNX model, and :meth:`predict` asks the members one by one."""

    flavor: ClassVar[str] = "onnx"

    def __init__(
        self, members: Sequence[Member], data: TrainingData, parameters: Mapping[str, Parameter], validation_rmse: float
    ) -> None:
        """Merge the members.

        Args:
            members: At least one.
            data: What its training error is logged for; the stack itself learns nothing from it.
            parameters: How the weights were found.
            validation_rmse: Its error on records that no member has seen.

        Raises:
            TrainingFailedError: The members cannot be merged.
        """
        self.members = tuple(members)
        weights = {f"weight_of_{member.model}": round(member.weight, 4) for member in members}
        merged = merged_onnx(members, len(data.feature_names))
        super().__init__(data.feature_names, {**parameters, **weights}, [], 1, merged)
        (predicted,) = run_onnx(self.to_onnx(), [data.train.x])
        self.history.append(Progress(1, 1, score(data.train.y, predicted[:, 0]).rmse, validation_rmse))

    @override
    def predict(self, x: Matrix) -> Matrix:
        parts = [member.weight * run_onnx(member.onnx_model, [x])[0][:, 0].astype(np.float64) for member in self.members]
        total: Matrix = np.sum(parts, axis=0).astype(np.float32)
        return total

    @override
    def saved(self) -> bytes:
        return self.to_onnx()

    @override
    def to_onnx(self) -> bytes:
        serialized: bytes = self.native.SerializeToString()
        return serialized


def merged_onnx(members: Sequence[Member], width: int) -> Any:
    """Return one ONNX model (``onnx.ModelProto``) of the weighted sum of the members.

    Their graphs stand side by side, with prefixes before all names, and share the input. They come from different exporters: the
    standard operators are converted to the newest version that a member has. The sum is in double precision, so that it rounds once.

    Args:
        members: At least one.
        width: Features.

    Raises:
        TrainingFailedError: A member cannot be converted, or needs operators that another one has in another version.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    models = [onnx.load_model_from_string(member.onnx_model) for member in members]
    opset = max(_opsets(model).get("", 1) for model in models)
    others: dict[str, int] = {}
    parts: list[Any] = []
    for place, (member, model) in enumerate(zip(members, models, strict=True)):
        label = f"{member.model} {member.version}".rstrip()
        if model.functions:
            raise TrainingFailedError(f"{label} cannot be part of a stack: its ONNX model has functions of its own.")
        try:
            converted = onnx.version_converter.convert_version(model, opset)
        except (RuntimeError, ValueError) as error:  # what the converter raises for operators that it cannot convert
            raise TrainingFailedError(f"{label} cannot be part of a stack: {error}") from error
        used = {node.domain for node in converted.graph.node}
        for domain, version in _opsets(converted).items():
            if domain and domain in used and others.setdefault(domain, version) != version:
                raise TrainingFailedError(
                    f"{label} cannot be part of a stack: it needs version {version} of {domain}, another member {others[domain]}."
                )
        parts.append(onnx.compose.add_prefix(converted, f"member_{place}/").graph)
    nodes = [helper.make_node("Identity", [ONNX_INPUT], [graph.input[0].name]) for graph in parts]
    nodes += [node for graph in parts for node in graph.node]
    nodes += [
        helper.make_node("Concat", [graph.output[0].name for graph in parts], ["predictions"], axis=1),
        helper.make_node("Cast", ["predictions"], ["exact"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["exact", "weights"], ["sum"]),
        helper.make_node("Cast", ["sum"], [ONNX_OUTPUT], to=TensorProto.FLOAT),
    ]
    weights = np.array([[member.weight] for member in members], dtype=np.float64)
    graph = helper.make_graph(
        nodes,
        STACK,
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, [BATCH, width])],
        [helper.make_tensor_value_info(ONNX_OUTPUT, TensorProto.FLOAT, [BATCH, 1])],
        [*(each for part in parts for each in part.initializer), numpy_helper.from_array(weights, "weights")],
        sparse_initializer=[each for part in parts for each in part.sparse_initializer],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **others}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=max(model.ir_version for model in models))


def _opsets(model: Any) -> dict[str, int]:
    return {"" if each.domain == "ai.onnx" else each.domain: each.version for each in model.opset_import}
