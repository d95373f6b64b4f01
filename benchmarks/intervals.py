"""Do 90 % intervals hold 90 % of the true values? Ten public tables, 30 splits each.

``python -m benchmarks.intervals [--minutes N] [--methods linear,lightgbm] [--keep] [TABLE ...]`` measures the splits that
``intervals.jsonl`` does not have yet, and prints the tables. A result counts as long as the sources of intervals and model are the
same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.tables import TABLES, PublicTable, load
from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table
from complex_system.domain.dataset import Dataset
from complex_system.evaluation.baselines import for_folds
from complex_system.training import conformal, cross_validation, linear
from complex_system.training.base import Trainer, TrainingParameters
from complex_system.training.conformal import INTERVALS_FILE, Intervals, interval_files, set_apart
from complex_system.training.cross_validation import Fit, Keyed, Predict, TrainerFit, out_of_fold
from complex_system.training.data import Samples, TrainingData

SPLITS, HELD_OUT, LEVEL = 30, 0.2, 0.9
SEED = 16
FEW = 2000
"""``COMPLEX_SYSTEM_CROSS_VALIDATE_BELOW``, as it is shipped."""
AIM = (0.87, 0.93)
FILE = Path(__file__).parent / "intervals.jsonl"
NOTE = (
    f"Share of the true values within {LEVEL:.0%} intervals: mean over {SPLITS} splits (seed {SEED}) with its standard error, least "
    f"and most of a split. A fifth of the records is predicted; the rest is divided as for a training: from {FEW} on with "
    "calibration records set apart, else cross-validated. The width is that of the whole interval by the target's standard deviation "
    "(a normal target without a model: 3.29)."
)
Trained = Callable[[TrainingData], Predict]


@dataclass(frozen=True)
class Method:
    """A model with what it is cross-validated by.

    Attributes:
        train: Trains the model that is served.
        fit: What the folds are fitted with.
        sources: Modules that a result is of.
    """

    train: Trained
    fit: Callable[[TrainingData], Fit]
    sources: tuple[Any, ...]

    @cached_property
    def digest(self) -> str:
        """Digest of the sources when this process began: they may change while it runs."""
        found = hashlib.sha256()
        for module in (conformal, cross_validation, *self.sources):
            found.update(Path(str(module.__file__)).read_bytes())
        return found.hexdigest()[:12]


def _lightgbm_trainer() -> Trainer:
    from complex_system.training.lightgbm import LightGBMTrainer

    # Without a search, which chooses for each fold anew (``LightGBMTrainer.tuned``) and takes 30 times as long.
    return LightGBMTrainer(TrainingParameters(lightgbm_trials=1))


def _lightgbm(data: TrainingData) -> Predict:
    return _lightgbm_trainer().fit(data, lambda _: None).predict


def _lightgbm_folds(data: TrainingData) -> Fit:
    return TrainerFit.of(_lightgbm_trainer(), data)


def _methods() -> dict[str, Method]:
    from complex_system.training import lightgbm

    return {
        "linear": Method(lambda data: linear.LinearModel(data).predict, lambda _: for_folds(linear.fit_linear), (linear,)),
        "lightgbm": Method(_lightgbm, _lightgbm_folds, (lightgbm,)),
    }


METHODS = _methods()
DATASET = Dataset.parse(
    "name: public\ntarget: y\ncolumns: [{name: a, type: number, range: [0, 1]}, {name: y, type: number, optional: true}]\n"
    "pipeline: [{step: keep, column: a}]\n"
)
"""Declares the usual split: by key, copies together."""


def split(table: PublicTable, number: int) -> tuple[TrainingData, Keyed, Samples]:
    """Return training and validation part, all labelled records, and those that nothing of a training knows.

    As in a training, 15 % of the labelled records are the hold-out part: the model is not trained on them, and the folds are made of
    all.
    """
    order = np.random.default_rng([SEED, *table.seed, number]).permutation(len(table.samples))
    held = round(HELD_OUT * len(order))
    known = table.samples.of(order[held:])
    part = round(0.15 * len(known))
    train, validation = np.arange(2 * part, len(known)), np.arange(part, 2 * part)
    data = TrainingData(table.names, "y", known.of(train), known.of(validation))
    return data, Keyed(tuple(f"{place}" for place in order[held:]), known), table.samples.of(order[:held])


def measured(method: Method, table: PublicTable, number: int) -> dict[str, Any]:
    """Return how many of the held-out values lie within the intervals of one split."""
    data, keyed, held_out = split(table, number)
    crossed = None
    if len(keyed.samples) < FEW:
        crossed = out_of_fold(method.fit(data), keyed)
    else:
        data = set_apart(DATASET, data)
    predict = method.train(data)
    intervals = Intervals.decoded(interval_files(DATASET, predict, data, crossed)[INTERVALS_FILE])
    half = intervals.half_width(LEVEL)
    within = np.abs(predict(held_out.x) - held_out.y) <= half
    return {"within": int(within.sum()), "of": len(within), "width": float(f"{2 * half / table.samples.y.std():.5g}"),
            "units": intervals.units}  # fmt: skip


class Results:
    """The splits that were measured, in a file that is committed."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        digests = {name: method.digest for name, method in METHODS.items()}
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            row = json.loads(line)
            if digests.get(row["method"]) == row["digest"]:
                self._rows[row["table"], row["method"], row["split"]] = row

    def of(self, table: str, method: str) -> list[dict[str, Any]]:
        """Return the results of a table and a method."""
        return [row for (name, by, _), row in self._rows.items() if (name, by) == (table, method)]

    def fill(self, names: Sequence[str], methods: Sequence[str], splits: int, minutes: float) -> None:
        """Measure what is missing, split by split of all tables, until the time is over."""
        until = time.monotonic() + 60 * minutes
        loaded = {name: load(name) for name in names}
        for method in methods:
            for number in range(splits):
                for name, table in loaded.items():
                    if (name, method, number) in self._rows:
                        continue
                    if time.monotonic() > until:
                        return
                    self._add((name, method, number), measured(METHODS[method], table, number))

    def _add(self, key: tuple[str, str, int], found: dict[str, Any]) -> None:
        row = dict(zip(("table", "method", "split"), key, strict=True), digest=METHODS[key[1]].digest, **found)
        self._rows[key] = row
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def tables(results: Results) -> Iterator[Table]:
    """Return the coverage by table and method, and whether it is as it should be."""
    claims = []
    for method in METHODS:
        found = Table(
            f"90 % intervals of {method}", NOTE, ["table", "splits", "coverage", "least", "most", "width", "calibrated"]
        )
        for name in TABLES:
            rows = results.of(name, method)
            if not rows:
                continue
            shares = np.array([row["within"] / row["of"] for row in rows])
            mean, spread = float(shares.mean()), float(shares.std(ddof=1) / len(shares) ** 0.5) if len(shares) > 1 else 0.0
            width, units = (float(np.mean([row[key] for row in rows])) for key in ("width", "units"))
            found.rows.append([
                name, str(len(rows)), f"{mean:.1%} ± {spread:.1%}", f"{shares.min():.0%}", f"{shares.max():.0%}", f"{width:.2f}",
                f"{units:.0f}",
            ])  # fmt: skip
            if len(rows) >= SPLITS:
                holds = AIM[0] <= mean <= AIM[1]
                claims.append(Claim(f"{method}, {name}", f"{mean:.1%}", f"{AIM[0]:.0%} to {AIM[1]:.0%}", holds=holds))
        if found.rows:
            yield found
    if claims:
        yield claims_table("90 % intervals, aims", f"Of the tables above with all {SPLITS} splits.", claims)


def measure(*, quick: bool) -> Iterator[Table]:
    """Measure what is missing, and return the tables."""
    results = Results()
    results.fill(list(TABLES), list(METHODS), 3 if quick else SPLITS, float("inf"))
    yield from tables(results)


if __name__ == "__main__":
    from benchmarks.run import keep_tables, write_page

    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__)
    parser.add_argument(
        "tables", nargs="*", metavar="table", help=f"those to measure; all unless given: {', '.join(TABLES)}"
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas; all unless given")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no split after so many")
    parser.add_argument("--keep", action="store_true", help="write docs/benchmarks.md with what there is")
    given = parser.parse_args()
    methods = given.methods.split(",")
    for kind, names, known in (("table", given.tables, TABLES), ("method", methods, METHODS)):
        if unknown := set(names) - set(known):
            parser.error(f"unknown {kind}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    kept = Results()
    kept.fill(given.tables or list(TABLES), methods, SPLITS, given.minutes)
    made = list(tables(kept))
    print("\n".join(table.markdown() for table in made))
    if given.keep:
        keep_tables("intervals", made, quick=False)
        write_page()
