"""A bounded search for LightGBM's parameters. The only module that imports ``optuna``, when a search begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.training.base import Parameter
from complex_system.training.executor import SEQUENTIAL, Executor, Look, Tasks, never

log = logging.getLogger(__name__)

LEAVES = 48
"""Leaves of a tree at most: with hundreds of rounds, more would make the model large and slow to serve."""
STARTUP = 10
"""Trials that are drawn at random, before those that learn from the others."""
PLATEAU = 0.002
"""Loss beyond the least, relative to it, that is given up for fewer rounds: near their end, curves are flat."""
_PRUNE_AFTER = 5
"""Number of first trials that are never pruned: they make the first medians."""

Curve = npt.NDArray[np.float64]
"""Loss on a validation part after every round."""
Settings = Mapping[str, Parameter]
"""Of LightGBM, in place of the default ones."""
Curves = Callable[[tuple[Settings, int], Look], Sequence[float]]
"""Settings and the number of a fold to the losses on its validation part, round by round; a task of ``training.executor``."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        settings: In place of the default ones; empty where none was better.
        rounds: The best number of boosting rounds over all folds, by the samples of a fold; 0 where nothing was found.
        trials: Settings that were tried, the default ones and those that were given up early included.
        in_time: Whether all trials were made; with a time limit that is hit, another run may find something else.
        gain: Loss of the settings divided by that of the default ones; a little too good, because they are the best of many.
    """

    settings: Mapping[str, Parameter] = field(default_factory=dict)
    rounds: float = 0.0
    trials: int = 0
    in_time: bool = True
    gain: float = 1.0

    @property
    def logged(self) -> dict[str, Parameter]:
        """What is logged with the model beside the settings."""
        return {"search_trials": self.trials, "search_complete": self.in_time, "search_loss_ratio": round(self.gain, 4)}


_Begun = tuple[Any, Settings, Generator[Sequence[float], None, None]]
"""A trial, its settings, and the losses of its folds as they come."""


class _TimeIsUp(Exception):
    """Ends a fit when the search has no time left."""


def search(
    curves: Curves,
    folds: int,
    samples: int,
    trials: int,
    seconds: float,
    seed: int,
    look: Look = never,
    executor: Executor = SEQUENTIAL,
) -> Found:
    """Look for better settings than the default ones, which are the first trial.

    A trial counts by the least of its losses as a mean over the folds, each divided by that of the fold's first round with the default
    settings: the number of rounds is the same for all folds. A mean of each fold's own least loss would praise curves that scatter.
    After each fold, a trial is given up where it is worse than the median of the earlier ones (Optuna's median pruner). New settings
    are proposed by the tree-structured Parzen estimator.

    The folds of a trial, and the first trials, which are drawn at random whatever the losses, may run at the same time. The others
    wait for all trials before them, so that what is proposed, and found, is the same wherever the fits run.

    Source: J. Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011.

    Args:
        curves: Fits and scores.
        folds: Number of folds.
        samples: Records that a fold trains on.
        trials: Settings that are tried at most, the default ones included.
        seconds: Time limit; what is running then is given up.
        seed: Of the proposals.
        look: Called in every fit; an exception that it raises ends the search.
        executor: Runs the fits.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER),
    )
    study.enqueue_trial(_near_the_defaults(samples))

    def check() -> None:
        look()
        if time.monotonic() > until:
            raise _TimeIsUp

    def begin(number: int, run: Tasks[tuple[Settings, int], Sequence[float]]) -> _Begun:
        trial = study.ask()
        proposed = proposal(trial, samples)
        settings = proposed if number else {}
        return trial, settings, run([(settings, fold) for fold in range(folds)], check)

    def begun(run: Tasks[tuple[Settings, int], Sequence[float]]) -> Iterator[_Begun]:
        yield from [begin(number, run) for number in range(min(STARTUP, trials))]
        for number in range(STARTUP, trials):
            yield begin(number, run)  # when all before it are told

    first: list[float] = []
    losses: list[float] = []
    best = Found()
    with executor.tasks(curves, look) as run:
        until = time.monotonic() + seconds  # a cluster is connected now
        for number, (trial, settings, fitted) in enumerate(begun(run)):
            found: list[Curve] = []
            try:
                while len(found) < folds and not (found and number and trial.should_prune()):
                    curve = np.asarray(next(fitted), dtype=np.float64)
                    if not number:
                        first.append(float(curve[0]) or 1.0)
                    found.append(curve / first[len(found)])
                    trial.report(float(_mean(found).min()), len(found) - 1)
            except _TimeIsUp:
                log.info(
                    "The search for LightGBM's parameters ended after %d of %d trials: %g s are over",
                    number,
                    trials,
                    seconds,
                )
                return replace(best, trials=number, in_time=False)
            if len(found) < folds:
                fitted.close()
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            mean = _mean(found)
            losses.append(float(mean.min()))
            study.tell(trial, losses[-1])
            if losses[-1] < min(losses[:-1], default=np.inf):
                enough = int(np.argmax(mean <= (1 + PLATEAU) * losses[-1]))  # the first such round
                best = Found(settings, (1 + enough) / samples, gain=losses[-1] / losses[0] if losses[0] else 1.0)
    return replace(best, trials=trials)


def _mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean over the folds; one that stopped early stays where it ended."""
    longest = max(map(len, curves))
    return np.mean([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves], axis=0)  # type: ignore[no-any-return]


def proposal(trial: Any, samples: int) -> dict[str, Parameter]:
    """Return the settings that a trial suggests: boosting or a forest, split at the best or at a random threshold.

    Linear trees are not among them, because ONNX has none.
    """
    forest = trial.suggest_categorical("forest", [False, True])
    fraction = "feature_fraction_bynode" if forest else "feature_fraction"
    settings: dict[str, Parameter] = {
        "boosting": "rf" if forest else "gbdt",
        "extra_trees": trial.suggest_categorical("extra_trees", [False, True]),
        "num_leaves": trial.suggest_int("num_leaves", 4, LEAVES, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 12),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 1, _largest_leaf(samples), log=True),
        fraction: trial.suggest_float("feature_fraction", 0.3, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 0.95),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 30.0, log=True),
    }
    if not forest:
        settings["learning_rate"] = trial.suggest_float("learning_rate", 0.03, 0.2, log=True)
    return settings


def _largest_leaf(samples: int) -> int:
    return max(4, min(60, samples // 8))


def _near_the_defaults(samples: int) -> dict[str, Parameter]:
    """Return the point of the space that the default settings stand for; it is not fitted itself."""
    leaf = min(20, max(2, samples // 12))
    return {
        "forest": False, "extra_trees": False, "num_leaves": 10, "max_depth": 4, "min_data_in_leaf": leaf, "feature_fraction": 1.0,
        "bagging_fraction": 0.8, "lambda_l2": 1e-3, "learning_rate": 0.05,
    }  # fmt: skip
