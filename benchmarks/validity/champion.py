"""How often the champion changes without need, and how soon a better new model becomes champion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, public_table, random
from complex_system.evaluation.baselines import for_folds
from complex_system.evaluation.decision import decide, ranked_by_folds
from complex_system.evaluation.results import Result
from complex_system.evaluation.statistics import Evaluation
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.cross_validation import Fold, Keyed, Predict, cross_validate
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.linear import LINEAR, fit_linear
from complex_system.training.split import Part, parts_of

LEVEL = Settings().champion_level
HOLDOUT_NEWEST = Settings().holdout_newest
FEW = Settings().cross_validate_below
TRAINERS = 4
NEW = 0.2
"""Share of new records that a round comes with, about as with the growth of 0.25 that starts one."""
BEFORE, WITHIN = 2, 3
"""Rounds before a trainer becomes better by 5 %, and those in which its model must become champion."""
COLUMNS, OWN = 8, 6
MISSED, SEEN_LATER = np.sqrt(0.1), np.sqrt(0.119)
"""What a trainer does not see, beside a noise of 1, and what it sees when it is better: sqrt(1.1 / 1.219) = 0.95."""
FRESH = 20_000
COUNTS = (300, 600, 1200, 1600, 4000, 8000, 14_000)
ENOUGH = 1200
"""Records that decide, from which on both aims have to be met."""
NOTE = (
    "{trainers} trainers are equally good: each does not see two columns of its own, and each of its models has {own} random features "
    "of its own, so that models of one trainer differ, too: errors of two models correlate at 0.86. The models are fitted (least "
    "squares), cross-validated below {few:,} records and compared by the library, on at most {newest:,} hold-out records, at the "
    "level {level:g}. *Deciding* are the hold-out records, or those that both models were validated with. *Changes* are those in 200 "
    "rounds without need, the mean of {worlds} runs; in every round {new:.0%} of the records are new, and as many old ones leave. "
    "*Truly worse* are those after which the error on {fresh:,} other records was higher by more than 1 %; *lowest error* the rounds "
    "in which another model had the lowest error, which decided before. *Crowned* is how often a trainer that becomes better by 5 % "
    "had the champion within {within} rounds, with {new:.0%} more records in each ({trials} times)."
)
Tables = tuple[Matrix, Matrix]
Model = tuple[int, int, Predict]


def measure(*, quick: bool) -> Iterator[Table]:
    rounds, worlds, trials = (50, 1, 20) if quick else (200, 2, 60)
    note = NOTE.format(
        trainers=TRAINERS, own=OWN, new=NEW, few=FEW, newest=HOLDOUT_NEWEST, level=LEVEL, fresh=FRESH, worlds=worlds,
        within=WITHIN, trials=trials,
    )  # fmt: skip
    table = Table("The champion", note, ["records", "deciding", "changes", "truly worse", "lowest error", "crowned"])
    claims = []
    for count in (500, 14_000) if quick else COUNTS:
        changes = np.zeros((worlds, 3))
        for number in range(worlds):
            world = World(random("champion", count, number), count)
            for _ in progress(f"champion, {count} records, run {number + 1}", range(rounds), rounds):
                changes[number] += world.round()
        changes *= 200 / rounds
        crowned = np.mean([_is_crowned(count, n) for n in progress(f"champion, {count} records", range(trials), trials)])
        most, holdout = changes[:, 0].max(), min(HOLDOUT_NEWEST, round(0.15 * count))
        decisive = round(count / (1 + NEW)) if count < FEW else holdout
        means = changes.mean(axis=0)
        table.rows.append([f"{count:,}", f"{decisive:,}", *(f"{each:.1f}" for each in means), f"{crowned:.0%}"])
        claims.append(
            Claim(f"{count:,} records: changes in 200 rounds", f"{most:.0f}", "at most 10", holds=bool(most <= 10))
        )
        aim = "at least 90 %" if decisive >= ENOUGH else ""
        claims.append(Claim(f"{count:,} records: crowned", f"{crowned:.0%}", aim, holds=bool(crowned >= 0.9)))
    yield table
    note = f"Of the {worlds} runs the one with most changes; and `mpg` of ggplot2 (234 cars), whose relations are nearly linear."
    yield claims_table("The champion, aims", note, [*claims, _mpg()])


def _mpg() -> Claim:
    """Who becomes the first champion: LightGBM or the linear model, by cross-validation."""
    table = public_table("mpg", "ggplot2")
    numbers = [np.array(table[name], dtype=np.float64) for name in ("displ", "year", "cyl", "cty")]
    texts = [np.array(table[name], dtype=str) for name in ("manufacturer", "trans", "drv", "fl", "class")]
    one_hot = [column == value for column in texts for value in np.unique(column)]
    x, y = np.column_stack([*numbers, *one_hot]).astype(np.float32), np.array(table["hwy"], dtype=np.float32)
    records = SharedFolds(tuple(f"car {each}" for each in range(len(y))), Samples(x, y))
    trainer = LightGBMTrainer()

    def boosted(train: Samples, validation: Samples) -> Predict:
        names = tuple(f"feature_{each}" for each in range(x.shape[1]))
        return trainer.fit(TrainingData(names, "hwy", train, validation), lambda _: None).predict

    parts = parts_of(records.groups)
    held_out = Samples(x[parts == Part.HOLDOUT], y[parts == Part.HOLDOUT])
    train, validation = (Samples(x[parts == part], y[parts == part]) for part in (Part.TRAIN, Part.VALIDATION))
    results = []
    for name, fit in (("lightgbm", boosted), (LINEAR, for_folds(fit_linear))):
        evaluated = Evaluation.of(fit(train, validation)(held_out.x), held_out, cross_validate(fit, records))
        results.append(Result(ref=ModelVersionRef(name, "1", name, name, "", "", {}, datetime.now(UTC)), **vars(evaluated)))
    champion, _ = decide(ranked_by_folds(results) or results, LEVEL)
    figures = ", ".join(f"{each.ref.model} {each.cross.rmse:.2f}" for each in results if each.cross)
    return Claim("mpg: cross-validated RMSE", figures, "linear is champion", holds=champion.ref.model == LINEAR)


def _is_crowned(count: int, trial: int) -> bool:
    world = World(random("crowned", count, trial), round(count / (1 + NEW) ** BEFORE), grows=True)
    for _ in range(BEFORE):
        world.round()
    world.better = trial % TRAINERS
    for _ in range(WITHIN):
        world.round()
        if world.champion and world.champion[0] == world.better and world.champion[1] >= BEFORE:
            return True
    return False


class SharedFolds(Keyed):
    """Records that all trainers of a round divide: their folds are made once."""

    @cached_property
    def _folds(self) -> list[list[Fold]]:
        return super().folds()

    def folds(self, repeats: int | None = None) -> list[list[Fold]]:
        return self._folds if repeats is None else super().folds(repeats)


class World:
    """A process of a known law with its records, and trainers that each miss something of it.

    Attributes:
        better: The trainer that sees more than the others; -1 for none.
        champion: Trainer, round and prediction of the champion.
    """

    def __init__(self, numbers: np.random.Generator, count: int, *, grows: bool = False) -> None:
        self.numbers, self.grows = numbers, grows
        self.slopes = numbers.standard_normal(COLUMNS).astype(np.float32)
        self.better, self.rounds, self.made = -1, 0, 0
        self.champion: Model | None = None
        self.incumbent: Result | None = None
        self.models: dict[str, Model] = {}
        self.fresh = self.draw(FRESH)
        self.x, self.y = self.draw(count)
        self.keys = self.new_keys(count)

    def draw(self, count: int) -> Tables:
        """Features, the last two of each trainer unseen by it, and target."""
        x = self.numbers.standard_normal((count, COLUMNS + 2 * TRAINERS)).astype(np.float32)
        hidden = MISSED * x[:, COLUMNS::2].sum(axis=1) + SEEN_LATER * x[:, COLUMNS + 1 :: 2].sum(axis=1)
        y = x[:, :COLUMNS] @ self.slopes + hidden + self.numbers.standard_normal(count)
        return x, y.astype(np.float32)

    def new_keys(self, count: int) -> list[str]:
        self.made += count
        return [f"record {each}" for each in range(self.made - count, self.made)]

    def round(self) -> npt.NDArray[np.float64]:
        """Carry out a round; return whether the champion changed, whether for a truly worse one, and whether another was lowest."""
        if self.rounds:
            new = round(NEW * len(self.y))
            kept, (x, y) = slice(0 if self.grows else new, None), self.draw(new)
            self.x, self.y = np.concatenate([self.x[kept], x]), np.concatenate([self.y[kept], y])
            self.keys = [*self.keys[kept], *self.new_keys(new)]
        parts = parts_of(self.keys)
        train = Samples(self.x[parts == Part.TRAIN], self.y[parts == Part.TRAIN])
        newest = np.flatnonzero(parts == Part.HOLDOUT)[-HOLDOUT_NEWEST:]
        holdout = Samples(self.x[newest], self.y[newest])
        few = SharedFolds(tuple(self.keys), Samples(self.x, self.y)) if len(self.y) < FEW else None
        results = [self._trained(trainer, train, holdout, few) for trainer in range(TRAINERS)]
        if self.champion is not None and self.incumbent is not None:
            old = Evaluation.of(self.champion[2](holdout.x), holdout, self.incumbent.cross)
            results.append(replace(self.incumbent, incumbent=True, **vars(old)))
        results.sort(key=lambda result: (result.quality.rmse, not result.incumbent))
        results = ranked_by_folds(results) or results
        best, _ = decide(results, LEVEL)
        before, self.rounds = self.champion, self.rounds + 1
        if best.incumbent:
            return np.array([0.0, 0.0, float(not results[0].incumbent)])
        self.champion, self.incumbent = self.models[best.label], best
        if before is None:
            return np.zeros(3)
        worse = self._error(self.champion[2]) > 1.01 * self._error(before[2])
        return np.array([1.0, float(worse), float(not results[0].incumbent)])

    def _trained(self, trainer: int, train: Samples, holdout: Samples, few: Keyed | None) -> Result:
        seed = int(self.numbers.integers(2**32))

        def fit(samples: Samples) -> Predict:
            seen = self._features(trainer, seed)
            found = fit_linear(Samples(seen(samples.x), samples.y))
            return lambda x: found(seen(x))

        predict = fit(train)
        cross = cross_validate(for_folds(fit), few) if few else None
        name = f"trainer-{trainer}"
        ref = ModelVersionRef(name, str(self.rounds + 1), name, name, "", "", {}, datetime.now(UTC))
        result = Result(ref=ref, **vars(Evaluation.of(predict(holdout.x), holdout, cross)))
        self.models[result.label] = (trainer, self.rounds, predict)
        return result

    def _features(self, trainer: int, seed: int) -> Predict:
        """Return what a model makes of the columns: those that its trainer sees, and random features of its own."""
        hidden = [COLUMNS + 2 * trainer, *([] if trainer == self.better else [COLUMNS + 2 * trainer + 1])]
        own = np.random.default_rng(seed).standard_normal((COLUMNS, OWN)).astype(np.float32)
        return lambda x: np.column_stack([np.delete(x, hidden, axis=1), np.tanh(x[:, :COLUMNS] @ own)])

    def _error(self, predict: Predict) -> float:
        return float(np.sqrt(np.mean((predict(self.fresh[0]) - self.fresh[1]) ** 2)))
