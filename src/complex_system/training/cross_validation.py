"""Cross-validation where the records are few: folds that are the same for every trainer and baseline, and what they score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import original_key
from complex_system.training.base import Scores
from complex_system.training.data import MIN_SAMPLES, Matrix, Samples

FOLDS = 5
REPEATS = 2
FEW_FOR_REPEATS = 500
"""Records from which on one round of folds is enough: a repeat would cost as much again and say little more."""
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
    """Samples with their keys, in the same order."""

    keys: tuple[str, ...]
    samples: Samples

    @property
    def digest(self) -> str:
        """Tells whether two cross-validations had the same records with the same targets."""
        order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
        found = hashlib.sha256("\n".join(self.keys[i] for i in order).encode())
        found.update(np.ascontiguousarray(self.samples.y[order], dtype="<f4").tobytes())
        return found.hexdigest()[:16]


class FewRecords:
    """Collects all labelled records, whatever their part of the split, as long as they are few."""

    def __init__(self, dataset: Dataset, below: int) -> None:
        """Makes a collector.

        Args:
            dataset: Whose records they are.
            below: So many records are too many; 0 to collect none.
        """
        self._dataset = dataset
        self._below = below
        self._keys: list[str] = []
        self._x: list[Matrix] = []
        self._y: list[Matrix] = []
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        """Takes a page of labelled processed records."""
        self._seen += table.num_rows
        if self._seen >= self._below:
            self._keys, self._x, self._y = [], [], []
            return
        self._keys += table.column(ID).to_pylist()
        columns = [table.column(name).to_numpy() for name in self._dataset.feature_names]
        self._x.append(np.column_stack(columns).astype(np.float32))
        self._y.append(table.column(self._dataset.target).to_numpy().astype(np.float32))

    def keyed(self) -> Keyed | None:
        """The records; None where they are too many, or too few for folds."""
        if not FEWEST <= self._seen < self._below:
            return None
        return Keyed(tuple(self._keys), Samples(np.concatenate(self._x), np.concatenate(self._y)))


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found, in the target's unit.

    Attributes:
        rmses: Of every fold, in order.
        mae: Mean over the folds.
        r2: 1 - SSE / SST of all out-of-fold predictions of a repeat, mean over the repeats: a fold alone has too few records for it.
        records: How many records took part; each is predicted once a repeat.
        folds: In a repeat.
        digest: Of the records, see :class:`Keyed`.
    """

    rmses: tuple[float, ...]
    mae: float
    r2: float
    records: int
    folds: int
    digest: str

    @property
    def repeats(self) -> int:
        """How often all records were divided into folds."""
        return len(self.rmses) // self.folds

    @property
    def rmse(self) -> float:
        """The mean over the folds."""
        return float(np.mean(self.rmses))

    @property
    def standard_error(self) -> float:
        """Of the mean over the folds, see :func:`standard_error`."""
        return standard_error(self.rmses, self.folds)

    def as_dict(self) -> dict[str, Any]:
        """As it is kept beside a model."""
        return {
            "rmse": self.rmse, "mae": self.mae, "r2": self.r2, "standard_error": self.standard_error,
            "rmses": list(self.rmses), "records": self.records, "folds": self.folds, "digest": self.digest,
        }  # fmt: skip

    @classmethod
    def parse(cls, value: object) -> CrossValidation | None:
        """What :meth:`as_dict` made; None for anything else."""
        if not isinstance(value, Mapping):
            return None
        try:
            rmses = tuple(float(each) for each in value["rmses"])
            found = cls(
                rmses,
                float(value["mae"]),
                float(value["r2"]),
                int(value["records"]),
                int(value["folds"]),
                str(value["digest"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
        whole = found.folds > 1 and len(rmses) >= found.folds and all(math.isfinite(each) for each in rmses)
        return found if whole else None


def standard_error(values: Sequence[float], folds: int) -> float:
    """Standard error of the mean of fold scores, corrected for the overlap of the training sets: s sqrt(1/m + 1/(k-1)).

    The scores of m folds are not independent, because the folds' training sets share most of their records; the plain s / sqrt(m)
    would be too small. 1/(k-1) is the size of a fold over that of its training set. Source: C. Nadeau and Y. Bengio, Inference for
    the Generalization Error, Machine Learning 52 (2003); for repeated folds R. Bouckaert and E. Frank, Evaluating the Replicability
    of Significance Tests for Comparing Learning Algorithms, PAKDD 2004.
    """
    spread = float(np.std(np.asarray(values, dtype=np.float64), ddof=1))
    return spread * math.sqrt(1 / len(values) + 1 / (folds - 1))


def fold_numbers(keys: Sequence[str], folds: int, repeat: int) -> npt.NDArray[np.int64]:
    """The fold of every record: equal parts of the records in the order of a hash of their keys.

    They depend on nothing but the keys, so every trainer has the same ones. A record that a source has sent again under another
    key (``domain.records.repeated``) is in the fold of the first one, else its copy would be among the training records.
    """
    originals = [original_key(key) for key in keys]
    ranks = {key: rank for rank, key in enumerate(_shuffled(set(originals), f"fold {repeat}"))}
    return np.array([ranks[key] * folds // len(ranks) for key in originals])


def cross_validate(
    fit: Fit, records: Keyed, on_fold: Callable[[int, int], None] = lambda done, of: None, repeats: int | None = None
) -> CrossValidation:
    """Fits without each fold in turn, and scores the fit on that fold.

    A fit gets what lies outside its fold, divided once more: the larger part to train on, the smaller to stop early by. So neither
    scaling nor early stopping has seen a record that is scored.

    Args:
        fit: What is fitted; it must estimate everything anew.
        records: All labelled records.
        on_fold: Called after every fold with the number of those done and of all.
        repeats: How often the records are divided; by their number unless given.
    """
    repeats = repeats or (REPEATS if len(records.keys) < FEW_FOR_REPEATS else 1)
    y = records.samples.y
    scores: list[Scores] = []
    r2: list[float] = []
    for repeat in range(repeats):
        numbers = fold_numbers(records.keys, FOLDS, repeat)
        predicted = np.empty(len(y), dtype=np.float32)
        for fold in range(FOLDS):
            train, validation = _divided(records, numbers != fold, f"validation {repeat} {fold}")
            scored = numbers == fold
            predicted[scored] = fit(train, validation)(records.samples.x[scored])
            scores.append(Scores.of(y[scored], predicted[scored]))
            on_fold(len(scores), repeats * FOLDS)
        r2.append(Scores.of(y, predicted).r2)
    return CrossValidation(
        rmses=tuple(each.rmse for each in scores),
        mae=float(np.mean([each.mae for each in scores])),
        r2=float(np.mean(r2)),
        records=len(records.keys),
        folds=FOLDS,
        digest=records.digest,
    )


def _divided(records: Keyed, outside: npt.NDArray[np.bool_], salt: str) -> tuple[Samples, Samples]:
    """What lies outside a fold, as training and validation samples."""
    places = np.flatnonzero(outside)
    originals = [original_key(records.keys[place]) for place in places]
    order = _shuffled(set(originals), salt)
    held_back = set(order[: max(round(_VALIDATION_SHARE * len(order)), min(MIN_SAMPLES, len(order) // 3))])
    validation = np.array([key in held_back for key in originals])
    x, y = records.samples.x, records.samples.y
    return (
        Samples(x[places[~validation]], y[places[~validation]]),
        Samples(x[places[validation]], y[places[validation]]),
    )


def _shuffled(keys: set[str], salt: str) -> list[str]:
    # Not CRC-32, which the split goes by: two of it with different salts differ by a constant, so that repeats would be alike.
    def place(key: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{salt} {key}".encode(), digest_size=8).digest(), key

    return sorted(keys, key=place)
