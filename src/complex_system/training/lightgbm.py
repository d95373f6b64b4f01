"""LightGBM: gradient boosted trees. The only module that imports ``lightgbm``; import it where it is needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import lightgbm as lgb
import msgspec
import numpy as np
from typing_extensions import override

from complex_system.domain.dataset import Loss
from complex_system.training.base import (
    Parameter,
    Progress,
    ProgressCallback,
    TrainedModel,
    Trainer,
    TrainingParameters,
    huber_threshold,
)
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.executor import SEQUENTIAL, Executor, Look, never
from complex_system.training.lightgbm_search import Found, search
from complex_system.training.onnx import with_declared_names
from complex_system.training.peers import ALONE, Peers

if TYPE_CHECKING:
    from complex_system.training.cross_validation import Keyed

EARLY_STOPPING_ROUNDS = 30
"""Rounds without a better validation loss that end a training, at the default learning rate; at a lower one more."""
REFIT_BELOW = 100_000
"""Training samples from which on there is no refit: it would double the time, for a fifth more of what is plenty."""
SEARCH_FROM, SEARCH_BELOW = 100, 50_000
"""Samples from which on there is a search: with fewer, chance chooses. And from which on there is none: its time would not suffice."""
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
    """Boosts until the validation loss stops improving, and trains again on both parts with the best number of rounds."""

    framework: ClassVar[str] = "lightgbm"
    distributes: ClassVar[bool] = True

    def __init__(self, parameters: TrainingParameters | None = None, found: Found | None = None) -> None:
        """Make a trainer.

        Args:
            parameters: Those of every training.
            found: What :meth:`tuned` found; the default settings without.
        """
        super().__init__(parameters)
        self.found = found

    @override
    def prepare(self) -> None:
        import onnxmltools
        import onnxruntime

        del onnxmltools, onnxruntime  # loaded now, so that the first training does not wait

    @property
    @override
    def searches(self) -> bool:
        return self.parameters.lightgbm_trials > 1

    @override
    def tuned(
        self, data: TrainingData, few: Keyed | None, look: Look = never, executor: Executor = SEQUENTIAL
    ) -> LightGBMTrainer:
        """Return a trainer with the settings that a search found.

        Few records are searched on the folds of the cross-validation: each fold's fit is judged on its part for early stopping, never
        on the part that is scored. Those parts are, together, nearly all records, so the cross-validation of the found settings is
        optimistic, but little: with a choice for each fold of which the records that it scores had no part, its RMSE was 0.3 % higher
        (standard error 0.4 %; 13 searches among the same trials, on three public tables).
        """
        parameters = self.parameters
        if not self.searches or not SEARCH_FROM <= len(data.train) + len(data.validation) < SEARCH_BELOW:
            return LightGBMTrainer(parameters)
        parts = [(data.train, data.validation)]
        if few is not None:
            folds = [fold for repeat in few.folds() for fold in repeat]
            parts = [(few.samples.of(fold.train), few.samples.of(fold.validation)) for fold in folds]
        samples = min(len(train) for train, _ in parts)
        curves = _Curves(
            LightGBMTrainer(parameters),
            [replace(data, train=train, validation=validation, calibration=None) for train, validation in parts],
        )
        limits = parameters.lightgbm_trials, parameters.lightgbm_seconds, parameters.seed
        return LightGBMTrainer(parameters, search(curves, len(parts), samples, *limits, look, executor))

    def losses(self, settings: Mapping[str, Parameter], data: TrainingData, look: Look) -> list[float]:
        """Return the losses on the validation part, round by round, with settings in place of the default ones."""
        losses: list[float] = []

        def note(results: list[Any]) -> None:
            look()
            losses.append(results[0][2])

        settings = self._settings(data, data.train, settings)
        self._boosted(settings, data, data.train, data.validation, note, with_train=False)
        return losses

    @property
    @override
    def searched(self) -> dict[str, Any]:
        return asdict(self.found) if self.found else {}

    @override
    def with_searched(self, found: Mapping[str, Any]) -> LightGBMTrainer:
        return LightGBMTrainer(self.parameters, Found(**found) if found else None)

    @override
    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> LightGBMModel:
        """Train as the base class says; then again on both parts, by as many more rounds as there are more samples.

        After a search these are the best rounds over all of its folds, which depend less on chance than those of one validation part.
        The history, and ``validation_predictions``, are of the first fit: the second one has seen the validation part.

        Workers that train together grow the same trees, each from the histograms of all; they do not train again.
        """
        train, validation, rounds = data.train, data.validation, self.parameters.boosting_rounds
        common = peers.common(train, seed=self.parameters.seed)
        settings = self._settings(data, common, self.found.settings if self.found else {})
        kept = peers.kept()
        course = msgspec.json.decode(kept, type=_Course) if kept else _Course()
        history = course.history

        def report(results: list[Any]) -> None:
            errors = {name: float(value) for name, kind, value, *_ in results if kind == "rmse"}
            history.append(Progress(len(history) + 1, rounds, errors["train"], errors["validation"]))
            on_progress(history[-1])

        together = _Together(peers, common, course)
        booster = self._boosted(settings, data, train, validation, report, with_train=True, together=together)
        best = booster.best_iteration or len(history)
        parameters = {
            **settings,
            "boosting_rounds": rounds,
            "early_stopping_rounds": _patience(settings),
            **(self.found.logged if self.found else {}),
        }
        model = LightGBMModel(data.feature_names, parameters, history, best, booster)
        if peers.count == 1 and len(train) < REFIT_BELOW:
            model.validation_predictions = model.predict(validation.x)
            both = Samples(np.concatenate([train.x, validation.x]), np.concatenate([train.y, validation.y]))
            per_sample = self.found.rounds if self.found and self.found.rounds else best / len(train)
            again = min(rounds, max(1, round(per_sample * len(both))))
            model.native = lgb.train(settings, _dataset(data, both), again)
            model.parameters = {**parameters, "refit_rounds": again}
        return model

    def _settings(self, data: TrainingData, train: Samples, found: Mapping[str, Parameter]) -> dict[str, Parameter]:
        settings = {**BOOSTING, "seed": self.parameters.seed}
        objective, metric = _OBJECTIVES[data.loss]
        if data.loss != "squared":
            settings["objective"], settings["metric"] = objective, f"{metric},rmse"
        if data.loss == "huber":
            settings["alpha"] = huber_threshold(train.y)
        if len(train) < _FEW:
            settings["min_data_in_leaf"] = max(2, len(train) // 12)
        return {**settings, **found}

    def _boosted(
        self,
        settings: Mapping[str, Parameter],
        data: TrainingData,
        train: Samples,
        validation: Samples,
        each_round: Callable[[list[Any]], None],
        *,
        with_train: bool,
        together: _Together | None = None,
    ) -> lgb.Booster:
        """Boost until the validation loss has not become smaller for many rounds.

        Args:
            settings: LightGBM's.
            data: Names the features.
            train: What is trained on.
            validation: What is evaluated after every round.
            each_round: Gets the evaluations; it may raise.
            with_train: Whether the training part is evaluated, too, which takes time.
            together: The workers that boost together; their evaluations are those of all samples.
        """
        peers, course = (together.peers, together.course) if together else (ALONE, _Course())
        bins = None
        if together and peers.count > 1:
            # The bins are everybody's: LightGBM would take those of a feature from the samples of one worker.
            bins = _dataset(data, together.common, params=dict(settings)).construct()
            settings = {
                **settings,
                "tree_learner": "data",
                "pre_partition": True,
                "num_threads": peers.threads,
                **peers.machines,
            }
        made = _dataset(data, train, reference=bins)
        watched = {"train": made} if with_train else {}
        watched["validation"] = made.create_valid(validation.x, validation.y)
        sizes = {"train": len(train), "validation": len(validation)}
        totals = dict(zip(sizes, peers.total(list(sizes.values())), strict=True))
        rounds, patience, losses = self.parameters.boosting_rounds, _patience(settings), course.losses

        def report(env: Any) -> None:
            results = env.evaluation_result_list
            if peers.count > 1:
                results = _combined(results, peers, sizes, totals)
            each_round(results)
            losses.append(next(float(value) for name, _, value, *_ in results if name == "validation"))
            best = min(range(len(losses)), key=losses.__getitem__)
            if len(losses) == rounds or len(losses) - 1 - best >= patience:
                raise lgb.callback.EarlyStopException(best, [])
            peers.keep(lambda: msgspec.json.encode(_Course(env.model.model_to_string(), losses, course.history)))

        return lgb.train(
            dict(settings),
            made,
            rounds - len(losses),
            valid_sets=list(watched.values()),
            valid_names=list(watched),
            init_model=lgb.Booster(model_str=course.model) if course.model else None,
            callbacks=[report],
        )

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


@dataclass(frozen=True)
class _Curves:
    """The losses that a search asks for: of settings, on the part that stops a fold's fit early."""

    trainer: LightGBMTrainer
    folds: Sequence[TrainingData]

    def __call__(self, item: tuple[Mapping[str, Parameter], int], look: Look) -> list[float]:
        settings, fold = item
        return self.trainer.losses(settings, self.folds[fold], look)


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


def _patience(settings: Mapping[str, Parameter]) -> int:
    slower = float(BOOSTING["learning_rate"]) / float(settings["learning_rate"])
    return round(EARLY_STOPPING_ROUNDS * max(1.0, slower))


class _Course(msgspec.Struct):
    """A boosting as far as it has come: a model, and the validation loss and the progress of every round."""

    model: str = ""
    losses: list[float] = []
    history: list[Progress] = []


class _Together(NamedTuple):
    """Workers that boost together, a sample of everybody's training samples, and what has been boosted."""

    peers: Peers
    common: Samples
    course: _Course


def _combined(
    results: list[Any], peers: Peers, sizes: Mapping[str, int], totals: Mapping[str, float]
) -> list[tuple[str, str, float]]:
    """Return the evaluations of everybody's samples, by those of each worker: means, and roots of mean squares."""
    sums = peers.total([sizes[name] * (value**2 if kind == "rmse" else value) for name, kind, value, *_ in results])
    means = [total / totals[name] for total, (name, *_) in zip(sums, results, strict=True)]
    return [
        (name, kind, math.sqrt(mean) if kind == "rmse" else mean)
        for mean, (name, kind, *_) in zip(means, results, strict=True)
    ]


def _dataset(data: TrainingData, samples: Samples, **options: Any) -> lgb.Dataset:
    names = _accepted_names(data.feature_names)
    return lgb.Dataset(samples.x, samples.y, feature_name=names, free_raw_data=False, **options)


def _accepted_names(names: tuple[str, ...]) -> list[str]:
    """Return the names if LightGBM accepts all of them (it refuses JSON's special characters), else names by position."""
    if all(re.fullmatch(r"[A-Za-z0-9_.\-]+", name) for name in names):
        return list(names)
    return [f"feature_{i}" for i in range(len(names))]
