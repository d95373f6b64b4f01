"""A trainer: gradient boosting of scikit-learn, whose model is the ONNX model that skl2onnx makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx
from typing_extensions import override

from complex_system.training.base import (
    Parameter,
    Progress,
    ProgressCallback,
    TrainedModel,
    Trainer,
    score,
)
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.onnx import run_onnx, with_declared_names
from complex_system.training.peers import ALONE, Peers

LOSSES = {"squared": "squared_error", "absolute": "absolute_error", "huber": "huber"}
PATIENCE = 30


class BoostingModel(TrainedModel):
    """Trees as an ONNX model, which predicts, is saved, and is served."""

    flavor: ClassVar[str] = "onnx"

    @override
    def predict(self, x: Matrix) -> Matrix:
        return run_onnx(self.saved(), [x])[0][:, 0]

    @override
    def saved(self) -> bytes:
        return bytes(self.native.SerializeToString())

    @override
    def to_onnx(self) -> bytes:
        return self.saved()


class BoostingTrainer(Trainer):
    """Adds trees until the validation error has not fallen for ``PATIENCE`` trees, and keeps those of the best step."""

    framework: ClassVar[str] = "scikit-learn"

    @override
    def prepare(self) -> None:
        import skl2onnx
        import sklearn.ensemble

        del skl2onnx, sklearn  # loaded now, so that the first training does not wait

    @override
    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> BoostingModel:
        from sklearn.ensemble import GradientBoostingRegressor

        steps = self.parameters.boosting_rounds
        trees = GradientBoostingRegressor(
            loss=LOSSES[data.loss], learning_rate=0.05, max_depth=3, min_samples_leaf=10, subsample=0.5, max_features=0.5,
            n_estimators=steps, random_state=self.parameters.seed,
        )  # fmt: skip
        history: list[Progress] = []
        losses: list[float] = []
        train, validation = data.train, data.validation
        predicted: list[Any] = []

        def after_step(step: int, _: object, known: Mapping[str, Any]) -> bool:
            if not predicted:
                predicted.append(trees.init_.predict(validation.x).astype(np.float64).ravel())
            predicted[0] += trees.learning_rate * trees.estimators_[step, 0].predict(validation.x)
            errors = [score(train.y, known["raw_predictions"].ravel()).rmse, score(validation.y, predicted[0]).rmse]
            history.append(Progress(step + 1, steps, *errors))
            on_progress(history[-1])
            residual = np.abs(predicted[0] - validation.y)
            losses.append(float(np.mean(residual**2 if data.loss == "squared" else residual)))
            return step - int(np.argmin(losses)) >= PATIENCE

        trees.fit(train.x, train.y, monitor=after_step)
        best = int(np.argmin(losses)) + 1
        trees.estimators_, trees.n_estimators_, trees.n_estimators = trees.estimators_[:best], best, best
        return BoostingModel(
            data.feature_names, {"learning_rate": 0.05, "max_depth": 3}, history, best, _onnx(trees, train.x)
        )

    @override
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> BoostingModel:
        try:
            native = onnx.load_model_from_string(saved)
            onnx.checker.check_model(native)
        except Exception as error:
            raise ValueError(f"Not an ONNX model: {error}") from error
        return BoostingModel(feature_names, parameters, history, best_step, native)


def _onnx(trees: Any, x: Matrix) -> Any:
    from skl2onnx import to_onnx

    model = to_onnx(trees, x[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    return onnx.load_model_from_string(with_declared_names(model))
