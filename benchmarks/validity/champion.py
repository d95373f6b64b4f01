"""How often the champion changes without need, and how soon a better new model becomes champion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, public_table, random
from complex_system.evaluation.baselines import for_folds
from complex_system.evaluation.decision import decide, ranked_by_folds
from complex_system.evaluation.results import Result
from complex_system.evaluation.statistics import Evaluation
from complex_system.protocol.scores import CrossValidation
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.cross_validation import Keyed, TrainerFit, cross_validate
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.linear import LINEAR, fit_linear
from complex_system.training.out_of_fold import standard_error
from complex_system.training.split import Part, parts_of

LEVEL = Settings().champion_level
HOLDOUT_NEWEST = Settings().holdout_newest
FEW = Settings().cross_validate_below
HOLDOUT, FOLDS = 0.15, 5
TRAINERS = 4
NEW = 0.2
"""Share of new records that a round comes with, about as with the growth of 0.25 that starts one."""
BEFORE, WITHIN = 2, 3
"""Rounds before a trainer becomes better by 5 %, and those in which its model must become champion."""
MISSED, SEEN_LATER = 0.1, 0.119
"""Variance that a trainer does not explain, beside a noise of 1, and what it explains when it is better: sqrt(1.1 / 1.219) = 0.95."""
FIT, FITS_DIFFER = 0.01, 0.5
"""Variance that a fit adds, and the standard deviation of its logarithm from model to model."""
COUNTS = (300, 600, 1200, 1900, 4000, 8000, 10_000, 14_000)
ENOUGH = 1400
"""Records that decide, from which on both aims have to be met."""
NOTE = (
    "The errors of {trainers} equally good trainers are drawn: a noise that all share, what each does not explain, and what each fit "
    "adds, which differs from model to model; errors of two models correlate at 0.82. The library compares them, below {few:,} "
    "records by cross-validation, too, on at most {newest:,} hold-out records, at the level {level:g}. *Deciding* are the hold-out "
    "records, or those that both models were validated with. *Changes* are those in 200 rounds without need, the mean of {worlds} "
    "runs; in a round {new:.0%} of the records are new, and as many old ones leave. *Truly worse* are those after which the true "
    "error was higher by more than 1 %, *lowest error* the rounds in which another model had the lowest error, which decided before. "
    "*Crowned* is how often a trainer that becomes better by 5 % had the champion within {within} rounds, with {new:.0%} more records "
    "in each ({trials} times)."
)
Errors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A model of one trainer: how good it truly is, and the seed of what its fit adds."""

    trainer: int
    made: int
    better: bool
    fit: float
    cross: CrossValidation | None

    @property
    def rmse(self) -> float:
        return float(np.sqrt(1 + MISSED + (0 if self.better else SEEN_LATER) + self.fit))


def measure(*, quick: bool) -> Iterator[Table]:
    rounds, worlds, trials = (100, 1, 30) if quick else (200, 2, 100)
    note = NOTE.format(
        trainers=TRAINERS, new=NEW, few=FEW, newest=HOLDOUT_NEWEST, level=LEVEL, worlds=worlds, within=WITHIN, trials=trials
    )
    table = Table("The champion", note, ["records", "deciding", "changes", "truly worse", "lowest error", "crowned"])
    claims = []
    for count in (600, 14_000) if quick else COUNTS:
        changes = np.zeros((worlds, 3))
        for number in range(worlds):
            world = World(random("champion", count, number), count)
            for _ in progress(f"champion, {count} records, run {number + 1}", range(rounds), rounds):
                changes[number] += world.round()
        changes *= 200 / rounds
        crowned = np.mean([_is_crowned(count, n) for n in progress(f"champion, {count} records", range(trials), trials)])
        decisive = round(count / (1 + NEW) ** BEFORE) if count < FEW else min(HOLDOUT_NEWEST, round(HOLDOUT * count))
        means, most = changes.mean(axis=0), changes[:, 0].max()
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
    records = Keyed(tuple(f"car {each}" for each in range(len(y))), Samples(x, y))
    names = tuple(f"feature_{each}" for each in range(x.shape[1]))
    boosted = TrainerFit.of(LightGBMTrainer(), TrainingData(names, "hwy", records.samples, records.samples))
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
        if world.champion is not None and world.champion.better:
            return True
    return False


class World:
    """A process with its records, oldest first, and trainers that each leave something unexplained.

    Attributes:
        better: The trainer that explains more than the others; -1 for none.
        champion: The champion.
    """

    def __init__(self, numbers: np.random.Generator, count: int, *, grows: bool = False) -> None:
        self.numbers, self.grows = numbers, grows
        self.better, self.rounds, self.first = -1, 0, 0
        self.champion: Model | None = None
        self.records = self.draw(count)

    def draw(self, count: int) -> Errors:
        """Draw for each record the noise, what each trainer does not explain, in two parts, and whether it is held out."""
        drawn = self.numbers.standard_normal((2 + 2 * TRAINERS, count))
        drawn[-1] = self.numbers.random(count) < HOLDOUT
        return drawn

    def round(self) -> Errors:
        """Carry out a round; return whether the champion changed, whether for a truly worse one, and whether another was lowest."""
        if self.rounds:
            new = round(NEW * self.records.shape[1])
            self.first += 0 if self.grows else new
            self.records = np.concatenate([self.records[:, 0 if self.grows else new :], self.draw(new)], axis=1)
        models = {f"{trainer} {self.rounds}": self._trained(trainer) for trainer in range(TRAINERS)}
        results = [self._result(model, incumbent=False) for model in models.values()]
        before, self.rounds = self.champion, self.rounds + 1
        if before is not None:
            results.append(self._result(before, incumbent=True))
        results.sort(key=lambda result: (result.quality.rmse, not result.incumbent))
        results = ranked_by_folds(results) or results
        best, _ = decide(results, LEVEL)
        if best.incumbent or before is None:
            self.champion = self.champion if best.incumbent else models[best.label]
            return np.array([0.0, 0.0, float(before is not None and not results[0].incumbent)])
        self.champion = models[best.label]
        return np.array([1.0, float(self.champion.rmse > 1.01 * before.rmse), float(not results[0].incumbent)])

    def _trained(self, trainer: int) -> Model:
        fit = FIT * float(np.exp(FITS_DIFFER * self.numbers.standard_normal()))
        made = Model(trainer, self.rounds, trainer == self.better, fit, None)
        count = self.records.shape[1]
        if count >= FEW:
            return made
        squares = self._errors(made, slice(None)) ** 2
        rmses = tuple(
            float(np.sqrt(each.mean())) for each in np.array_split(squares[self.numbers.permutation(count)], FOLDS)
        )
        cross = CrossValidation(
            rmse=float(np.mean(rmses)), mae=0.0, r2=0.0, rmses=rmses, standard_error=standard_error(rmses, FOLDS),
            records=count, folds=FOLDS, digest=f"round {self.rounds}", squares=tuple(squares.tolist()),
            groups=tuple(range(self.first, self.first + count)),
        )  # fmt: skip
        return Model(trainer, self.rounds, made.better, fit, cross)

    def _errors(self, model: Model, chosen: slice | npt.NDArray[np.intp]) -> Errors:
        """Return errors of some records; what the fit adds is drawn anew, because these records were not fitted to."""
        noise, missed, later = (self.records[row, chosen] for row in (0, 1 + 2 * model.trainer, 2 + 2 * model.trainer))
        explained = 0.0 if model.better else np.sqrt(SEEN_LATER)
        fit: Errors = np.sqrt(model.fit) * self.numbers.standard_normal(len(noise))
        return noise + np.sqrt(MISSED) * missed + explained * later + fit

    def _result(self, model: Model, *, incumbent: bool) -> Result:
        newest = np.flatnonzero(self.records[-1])[-HOLDOUT_NEWEST:]
        errors = self._errors(model, newest).astype(np.float32)
        holdout = Samples(np.empty((len(errors), 0), dtype=np.float32), np.zeros(len(errors), dtype=np.float32))
        ref = ModelVersionRef(str(model.trainer), str(model.made), "", str(model.trainer), "", "", {}, datetime.now(UTC))
        return Result(ref=ref, incumbent=incumbent, **vars(Evaluation.of(errors, holdout, model.cross)))
