"""The methods that are compared: ours as the system trains them, and references of scikit-learn."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import complex_system
from complex_system.evaluation.baselines import for_folds
from complex_system.training.base import Trainer, TrainingParameters
from complex_system.training.cross_validation import Keyed, Predict, TrainerFit, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import fit_linear
from complex_system.training.out_of_fold import OutOfFold
from complex_system.training.stack import stacked

SOURCES = Path(complex_system.__file__).parent / "training"
PROTOCOL = 1
"""Changes with how methods are given their data, so that earlier results are not taken for present ones."""


@dataclass(frozen=True)
class Outcome:
    """A fitted method.

    Attributes:
        predict: Predictions for new records.
        crossed: Cross-validation of the records that it was trained with; None for references, which nobody chooses by it.
    """

    predict: Predict
    crossed: OutOfFold | None = None


class Runs:
    """The methods on the records outside one fold. Each is trained once, also where the stack needs it again."""

    def __init__(self, records: Keyed, names: tuple[str, ...]) -> None:
        self.records, self.names = records, names
        self._done: dict[str, Outcome] = {}

    def outcome(self, method: str) -> Outcome:
        """Train with a method, unless it was done before."""
        if method not in self._done:
            self._done[method] = METHODS[method].run(self)
        return self._done[method]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        run: Trains.
        sources: Modules of ``complex_system.training`` whose change makes earlier results invalid.
        packages: Packages whose version does.
        parameters: Fields of ``TrainingParameters`` whose default does.
        ours: Whether it can become champion.
    """

    run: Callable[[Runs], Outcome]
    sources: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    ours: bool = False

    @property
    def digest(self) -> str:
        """What a result depends on: sources without comments and docstrings, and versions."""
        found = hashlib.sha256(str(PROTOCOL).encode())
        for name in self.sources:
            found.update(ast.dump(_without_docstrings(ast.parse((SOURCES / f"{name}.py").read_text("utf-8")))).encode())
        for package in self.packages:
            found.update(f"{package} {version(package)}".encode())
        found.update(repr([getattr(TrainingParameters(), name) for name in self.parameters]).encode())
        return found.hexdigest()[:12]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return tree


def parts_of(records: Keyed) -> tuple[Samples, Samples]:
    """Divide records for the model that is registered: 15 of 85 parts stop the training early, as in the system's split."""
    order = sorted(range(len(records.groups)), key=lambda at: hashlib.sha256(records.groups[at].encode()).digest())
    held = np.isin(np.arange(len(order)), order[: round(len(order) * 15 / 85)])
    return records.samples.of(~held), records.samples.of(held)


def _trained(make: Callable[[], Trainer]) -> Callable[[Runs], Outcome]:
    """As a training job: search, fit, cross-validation with what was found."""

    def run(runs: Runs) -> Outcome:
        train, validation = parts_of(runs.records)
        data = TrainingData(runs.names, "target", train, validation)
        trainer = make()
        trainer.prepare()
        trainer = trainer.tuned(data, runs.records)
        fit = TrainerFit.of(trainer, data)
        return Outcome(fit(train, validation), out_of_fold(fit, runs.records))

    return run


def _lightgbm(trials: int) -> Callable[[], Trainer]:
    def make() -> Trainer:
        from complex_system.training.lightgbm import LightGBMTrainer

        # No time limit that matters: results on machines of different speed are then the same.
        return LightGBMTrainer(TrainingParameters(lightgbm_trials=trials, lightgbm_seconds=3600))

    return make


def _pytorch() -> Trainer:
    from complex_system.training.pytorch import PiecewiseTrainer

    return PiecewiseTrainer()


def _pytorch_wandb() -> Trainer:
    from complex_system.training.pytorch import PyTorchTrainer

    return PyTorchTrainer()


def _keras() -> Trainer:
    from complex_system.training.tensorflow import TensorFlowTrainer

    return TensorFlowTrainer()


def _linear(runs: Runs) -> Outcome:
    fit = for_folds(fit_linear)
    return Outcome(fit(*parts_of(runs.records)), out_of_fold(fit, runs.records))


def _stack(runs: Runs) -> Outcome:
    members = [runs.outcome(name) for name in MEMBERS]
    weights, crossed = stacked([each.crossed for each in members if each.crossed])
    return Outcome(lambda x: np.column_stack([each.predict(x) for each in members]) @ weights, crossed)


def _reference(make: Callable[[], Any]) -> Callable[[Runs], Outcome]:
    return lambda runs: Outcome(make().fit(runs.records.samples.x, runs.records.samples.y).predict)


def _boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(random_state=0)


def _ridge() -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-6, 4, 31)))


def _extra_trees() -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(300, random_state=0)


_TREES, _NETWORK = ("lightgbm", "lightgbm_search"), ("seed", "epochs", "patience", "learning_rate", "network_batch")
_BOOSTED = ("seed", "boosting_rounds")
BASE = "hgb"
"""The method that errors are divided by."""
METHODS: dict[str, Method] = {
    BASE: Method(_reference(_boosting), packages=("scikit-learn",)),
    "ridge": Method(_reference(_ridge), packages=("scikit-learn",)),
    "extra trees": Method(_reference(_extra_trees), packages=("scikit-learn",)),
    "linear": Method(_linear, ("linear",), ours=True),
    "lightgbm default": Method(_trained(_lightgbm(0)), _TREES[:1], ("lightgbm",), _BOOSTED),
    "lightgbm": Method(_trained(_lightgbm(30)), _TREES, ("lightgbm", "optuna"), _BOOSTED, ours=True),
    "pytorch": Method(_trained(_pytorch), ("pytorch", "network"), ("torch",), _NETWORK, ours=True),
    "pytorch-wandb": Method(_trained(_pytorch_wandb), ("pytorch", "network"), ("torch",), _NETWORK, ours=True),
    "keras": Method(_trained(_keras), ("tensorflow", "network"), ("tensorflow",), _NETWORK, ours=True),
}
MEMBERS = tuple(name for name, method in METHODS.items() if method.ours)
_parts = [METHODS[name] for name in MEMBERS]
METHODS["stack"] = Method(
    _stack,
    ("stack", *(name for each in _parts for name in each.sources)),
    tuple(name for each in _parts for name in each.packages),
    tuple(name for each in _parts for name in each.parameters),
    ours=True,
)
CHAMPION = "champion"
"""Of our own methods the one with the lowest inner error on a fold; it is not trained again."""


def champion_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the result that the rules for a first champion choose, of one fold's results of our methods."""
    return min(rows, key=lambda row: row["inner"])
