"""Cross-validation where the records are few, with the same folds for every trainer and baseline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.errors import TrainingFailedError
from complex_system.protocol.scores import CrossValidation, Scores
from complex_system.training.base import score
from complex_system.training.data import MIN_SAMPLES, Matrix, Samples
from complex_system.training.split import groups_of

FOLDS = 5
REPEATS = 2
FEW_FOR_REPEATS = 500
"""Records from which on one repeat is enough: another one would cost as much again and add little."""
FEWEST = FOLDS * MIN_SAMPLES
"""Records below which there is no cross-validation."""
_VALIDATION_SHARE = 15 / 85
"""Of the records outside a fold, as in the split: 15 % of all beside 70 %."""

Predict = Callable[[Matrix], Matrix]
"""Features of shape (n, features) to predictions of shape (n,), in the target's unit."""
Fit = Callable[[Samples, Samples], Predict]
"""Fits on the first samples and may stop early by the second ones."""


@dataclass(frozen=True)
class Keyed:
    """Samples with their groups (``training.data.groups_of``), in the same order."""

    groups: tuple[str, ...]
    samples: Samples

    @property
    def digest(self) -> str:
        """Digest of groups and targets: equal where two cross-validations had the same records."""
        order = sorted(range(len(self.groups)), key=self.groups.__getitem__)
        found = hashlib.sha256("\n".join(self.groups[i] for i in order).encode())
        found.update(np.ascontiguousarray(self.samples.y[order], dtype="<f4").tobytes())
        return found.hexdigest()[:16]


class FewRecords:
    """Collects all labelled records, whatever their part of the split, as long as they are few."""

    def __init__(self, dataset: Dataset, below: int) -> None:
        """Make a collector.

        Args:
            dataset: Whose records they are.
            below: As many records are too many; 0 to collect none.
        """
        self._dataset = dataset
        self._below = below
        self._groups: list[str] = []
        self._x: list[Matrix] = []
        self._y: list[Matrix] = []
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records."""
        self._seen += table.num_rows
        if self._seen >= self._below:
            self._groups, self._x, self._y = [], [], []
            return
        self._groups += groups_of(self._dataset, table)
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        self._x.append(np.column_stack(columns).astype(np.float32))
        self._y.append(table.column(self._dataset.target).to_numpy().astype(np.float32))

    def keyed(self) -> Keyed | None:
        """Return the records; None where they are too many, or too few for folds: copies count as one."""
        if self._seen >= self._below or len(set(self._groups)) < FEWEST:
            return None
        return Keyed(tuple(self._groups), Samples(np.concatenate(self._x), np.concatenate(self._y)))


def standard_error(values: Sequence[float], folds: int) -> float:
    """Return the standard error of the mean of fold scores, corrected for the overlap of the training sets: s sqrt(1/m + 1/(k-1)).

    The scores of m folds are not independent, because the folds' training sets share most of their records; the plain s / sqrt(m)
    would be too small. 1/(k-1) is the size of a fold over that of its training set. Source: C. Nadeau and Y. Bengio, Inference for
    the Generalization Error, Machine Learning 52 (2003); for repeated folds R. Bouckaert and E. Frank, Evaluating the Replicability
    of Significance Tests for Comparing Learning Algorithms, PAKDD 2004.
    """
    spread = float(np.std(np.asarray(values, dtype=np.float64), ddof=1))
    return spread * math.sqrt(1 / len(values) + 1 / (folds - 1))


def fold_numbers(groups: Sequence[str], folds: int, repeat: int) -> npt.NDArray[np.int64]:
    """Return the fold of every record: equal parts of the groups in the order of a hash of their names.

    They depend on the groups only, so every trainer has the same ones, and no copy of a record is among those that it is predicted by.
    """
    ranks = {group: rank for rank, group in enumerate(_shuffled(set(groups), f"fold {repeat}"))}
    return np.array([ranks[group] * folds // len(ranks) for group in groups])


def cross_validate(
    fit: Fit, records: Keyed, on_fold: Callable[[int, int], None] = lambda done, of: None, repeats: int | None = None
) -> CrossValidation:
    """Fit without each fold in turn, and score the fit on that fold.

    A fit gets the records outside its fold, divided once more: the larger part to train on, the smaller for early stopping. So
    neither scaling nor early stopping has seen a record that is scored.

    Args:
        fit: What is fitted; it must estimate everything anew.
        records: All labelled records.
        on_fold: Called after every fold with the number of folds done and of all folds.
        repeats: How often the records are divided; by their number unless given.

    Raises:
        TrainingFailedError: A fit predicts values that are not finite.
    """
    repeats = repeats or (REPEATS if len(records.groups) < FEW_FOR_REPEATS else 1)
    y = records.samples.y
    scores: list[Scores] = []
    r2: list[float] = []
    for repeat in range(repeats):
        numbers = fold_numbers(records.groups, FOLDS, repeat)
        predicted = np.empty(len(y), dtype=np.float32)
        for fold in range(FOLDS):
            train, validation = _divided(records, numbers != fold, f"validation {repeat} {fold}")
            scored = numbers == fold
            predicted[scored] = fit(train, validation)(records.samples.x[scored])
            scores.append(score(y[scored], predicted[scored]))
            on_fold(len(scores), repeats * FOLDS)
        r2.append(score(y, predicted).r2)
    rmses = tuple(each.rmse for each in scores)
    if not np.all(np.isfinite(rmses)):
        raise TrainingFailedError("A fold was predicted with values that are not finite.")
    return CrossValidation(
        rmse=float(np.mean(rmses)),
        rmses=rmses,
        standard_error=standard_error(rmses, FOLDS),
        mae=float(np.mean([each.mae for each in scores])),
        r2=float(np.mean(r2)),
        records=len(records.groups),
        folds=FOLDS,
        digest=records.digest,
    )


def _divided(records: Keyed, outside: npt.NDArray[np.bool_], salt: str) -> tuple[Samples, Samples]:
    """Return the records outside a fold, as training and validation samples."""
    places = np.flatnonzero(outside)
    groups = [records.groups[place] for place in places]
    order = _shuffled(set(groups), salt)
    held_back = set(order[: max(round(_VALIDATION_SHARE * len(order)), min(MIN_SAMPLES, len(order) // 3))])
    validation = np.array([group in held_back for group in groups])
    x, y = records.samples.x, records.samples.y
    return (
        Samples(x[places[~validation]], y[places[~validation]]),
        Samples(x[places[validation]], y[places[validation]]),
    )


def _shuffled(keys: set[str], salt: str) -> list[str]:
    # Not CRC-32: with different salts it differs by a constant only, so that repeats would be alike.
    def place(key: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{salt} {key}".encode(), digest_size=8).digest(), key

    return sorted(keys, key=place)
