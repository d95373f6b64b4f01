"""LightGBM: gradient boosted trees. The only module that imports ``lightgbm``; import it where it is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import lightgbm as lgb
import numpy as np
from typing_extensions import override

from complex_system.domain.dataset import Loss
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainedModel, Trainer, huber_threshold
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.onnx import with_declared_names

EARLY_STOPPING_ROUNDS = 30
_OBJECTIVES: dict[Loss, tuple[str, str]] = {
    "squared": ("regression", "rmse"),
    "absolute": ("regression_l1", "l1"),
    "huber": ("huber", "huber"),
}
"""Objective and metric by loss: early stopping goes by what is made small."""
BOOSTING: dict[str, Parameter] = {
    "objective": "regression",
    "boosting": "gbdt",
    "metric": "rmse",
    "num_leaves": 10,
    "max_depth": 4,
    "learning_rate": 0.05,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
"""Leaves, learning rate and early stopping are the blueprint's; depth and bagging were chosen on five seeds of the lab data."""
_FEW = 240
"""Training samples below which leaves may be smaller than LightGBM's 20: else nothing would be left to split."""


class LightGBMModel(TrainedModel):
    """A booster. Trees need no scaling, and LightGBM starts from the target's mean."""

    flavor: ClassVar[str] = "lightgbm"

    @override
    def predict(self, x: Matrix) -> Matrix:
        predicted = self.native.predict(x, num_threads=1)
        return np.asarray(predicted, dtype=np.float32)

    @override
    def saved(self) -> bytes:
        text: str = self.native.model_to_string()
        return text.encode()

    @override
    def to_onnx(self) -> bytes:
        import onnx
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        width = len(self.feature_names)
        text, mean = in_single_precision(self.native.model_to_string())
        model = onnxmltools.convert_lightgbm(
            lgb.Booster(model_str=text), initial_types=[("features", FloatTensorType([None, width]))]
        )
        (trees,) = (node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
        trees.attribute.append(onnx.helper.make_attribute("base_values", [mean]))
        return with_declared_names(model)


class LightGBMTrainer(Trainer):
    """Boosts until the validation loss has not improved for 30 rounds."""

    framework: ClassVar[str] = "lightgbm"

    @override
    def prepare(self) -> None:
        import onnxmltools
        import onnxruntime

        del onnxmltools, onnxruntime  # loaded now, so that the first training does not wait

    @override
    def fit(self, data: TrainingData, on_progress: ProgressCallback) -> LightGBMModel:
        settings = {**BOOSTING, "seed": self.parameters.seed}
        objective, metric = _OBJECTIVES[data.loss]
        if data.loss != "squared":
            settings["objective"], settings["metric"] = objective, f"{metric},rmse"
        if data.loss == "huber":
            settings["alpha"] = huber_threshold(data.train.y)
        if len(data.train) < _FEW:
            settings["min_data_in_leaf"] = max(2, len(data.train) // 12)
        names = _accepted_names(data.feature_names)
        train = lgb.Dataset(data.train.x, data.train.y, feature_name=names, free_raw_data=False)
        validation = train.create_valid(data.validation.x, data.validation.y)
        history: list[Progress] = []
        rounds = self.parameters.boosting_rounds

        def report(env: Any) -> None:
            errors = {name: float(value) for name, kind, value, *_ in env.evaluation_result_list if kind == "rmse"}
            history.append(Progress(env.iteration + 1, rounds, errors["train"], errors["validation"]))
            on_progress(history[-1])

        report.order = 5  # type: ignore[attr-defined]  # before early stopping (30), which ends a round by an exception
        booster = lgb.train(
            settings,
            train,
            rounds,
            valid_sets=[train, validation],
            valid_names=["train", "validation"],
            callbacks=[report, lgb.early_stopping(EARLY_STOPPING_ROUNDS, first_metric_only=True, verbose=False)],
        )
        best = booster.best_iteration or len(history)
        parameters = {**settings, "boosting_rounds": rounds, "early_stopping_rounds": EARLY_STOPPING_ROUNDS}
        return LightGBMModel(data.feature_names, parameters, history, best, booster)

    @override
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> LightGBMModel:
        try:
            booster = lgb.Booster(model_str=saved.decode())
        except lgb.basic.LightGBMError as error:
            raise ValueError(str(error)) from error
        return LightGBMModel(feature_names, parameters, history, best_step, booster)


def in_single_precision(model: str) -> tuple[str, float]:
    """Return a booster's text for trees that are added up in float32, and what to add to their sum.

    Every threshold is the next float32 below it. Features are float32, so the trees stay the same. ONNX keeps thresholds as the
    nearest float32, which may be the one above: there, a feature with just that value would take the other branch.

    Every tree's leaves are less the middle of their range. The first tree holds the target's mean; were that large against the spread,
    each further sum would be rounded to what float32 keeps of the mean. A forest's trees are divided by their number, to be added up.
    """
    forest = re.search(r"^average_output$", model, flags=re.MULTILINE) is not None
    number = model.count("\nleaf_value=") if forest else 1
    middles: list[float] = []

    def below(match: re.Match[str]) -> str:
        exact = np.array(match[1].split(), dtype=np.float64)
        nearest = exact.astype(np.float32)
        rounded = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
        return "threshold=" + " ".join(repr(float(each)) for each in rounded)

    def centred(match: re.Match[str]) -> str:
        leaves = np.array(match[1].split(), dtype=np.float64) / number
        middles.append(float(leaves.min() + leaves.max()) / 2)
        return "leaf_value=" + " ".join(repr(float(each)) for each in leaves - middles[-1])

    # The sizes in bytes have changed; without them, the trees are read one after the other.
    text = re.sub(r"^(tree_sizes=.*|average_output)\n", "", model, flags=re.MULTILINE)
    text = re.sub(r"^threshold=(.*)$", below, text, flags=re.MULTILINE)
    text = re.sub(r"^leaf_value=(.*)$", centred, text, flags=re.MULTILINE)
    return text, float(np.sum(middles))


def _accepted_names(names: tuple[str, ...]) -> list[str]:
    """Return the names if LightGBM accepts all of them (it refuses JSON's special characters), else names by position."""
    if all(re.fullmatch(r"[A-Za-z0-9_.\-]+", name) for name in names):
        return list(names)
    return [f"feature_{i}" for i in range(len(names))]
