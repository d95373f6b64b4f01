"""Predictions of records while their fold was left out: a cross-validation scores them, and a stack fits its weights on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.pages import Page, decode_page, encode_page
from complex_system.errors import InvalidRequestError, ModelRefusedError
from complex_system.protocol.scores import CrossValidation
from complex_system.training.base import residuals_of, score
from complex_system.training.data import Matrix

OUT_OF_FOLD_FILE = "out_of_fold.arrow"
"""Beside a cross-validated model: :meth:`OutOfFold.encoded`."""


def standard_error(values: Sequence[float], folds: int) -> float:
    """Return the standard error of the mean of fold scores, corrected for the overlap of the training sets: s sqrt(1/m + 1/(k-1)).

    The scores of m folds are not independent, because the folds' training sets share most of their records; the plain s / sqrt(m)
    would be too small. 1/(k-1) is the size of a fold over that of its training set. Source: C. Nadeau and Y. Bengio, Inference for
    the Generalization Error, Machine Learning 52 (2003); for repeated folds R. Bouckaert and E. Frank, Evaluating the Replicability
    of Significance Tests for Comparing Learning Algorithms, PAKDD 2004.
    """
    spread = float(np.std(np.asarray(values, dtype=np.float64), ddof=1))
    return spread * math.sqrt(1 / len(values) + 1 / (folds - 1))


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of the n records that a fold scores, each by fits that had not seen it; every repeat has other folds.

    Attributes:
        digest: Of all records and their targets (``Keyed.digest``). With the same one, the rows are the same records.
        records: How many there were, with those that no fold scores.
        groups: CRC-32 of the name of each group of records, shape (groups,), in the order of ``CrossValidation.groups``.
        units: Place in ``groups`` of every record, shape (n,).
        held_out: Which records are in the hold-out part of the split, shape (n,).
        truth: Targets, shape (n,).
        folds: Fold of every record in each repeat, shape (repeats, n).
        predictions: Shape (repeats, n).
    """

    digest: str
    records: int
    groups: npt.NDArray[np.uint32]
    units: npt.NDArray[np.intp]
    held_out: npt.NDArray[np.bool_]
    truth: Matrix
    folds: npt.NDArray[np.int8]
    predictions: Matrix

    @property
    def mean(self) -> Matrix:
        """The mean prediction of the repeats, shape (n,)."""
        mean: Matrix = self.predictions.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    @property
    def errors(self) -> Matrix:
        """Prediction less truth, shape (repeats, n)."""
        return self.predictions - self.truth

    def is_like(self, other: OutOfFold) -> bool:
        """Whether the other predictions are of the same records in the same folds."""
        return (
            self.digest == other.digest
            and np.array_equal(self.truth, other.truth)
            and np.array_equal(self.units, other.units)
            and np.array_equal(self.folds, other.folds)
        )

    def summary(self) -> CrossValidation:
        """Return the figures that are kept of it: how each fold was predicted, and the errors of the records."""
        count = int(self.folds.max()) + 1
        found = [
            score(self.truth[folds == fold], predicted[folds == fold])
            for folds, predicted in zip(self.folds, self.predictions, strict=True)
            for fold in range(count)
        ]
        rmses = tuple(each.rmse for each in found)
        sizes = np.bincount(self.units)
        squares = np.bincount(self.units, weights=np.square(self.errors, dtype=np.float64).mean(axis=0))
        return CrossValidation(
            rmse=float(np.mean(rmses)),
            rmses=rmses,
            standard_error=standard_error(rmses, count),
            mae=float(np.mean([each.mae for each in found])),
            r2=float(np.mean([score(self.truth, predicted).r2 for predicted in self.predictions])),
            records=self.records,
            folds=count,
            digest=self.digest,
            residuals=residuals_of(self.errors, self.units),
            squares=tuple(float(f"{each:.6g}") for each in squares),
            sizes=tuple(sizes.tolist()) if np.any(sizes > 1) else (),
            groups=tuple(self.groups.tolist()),
        )

    def encoded(self) -> bytes:
        """Return the predictions as an Arrow IPC stream.

        A row is a record: ``group`` (CRC-32), ``unit``, ``held_out``, ``truth``, the mean ``prediction``, and for each repeat
        ``fold_0`` and ``prediction_0``, ``fold_1`` and ``prediction_1`` ...; the schema's metadata have ``digest`` and ``records``.
        """
        columns: dict[str, npt.NDArray[np.generic]] = {
            "group": self.groups[self.units],
            "unit": self.units.astype(np.int32),
            "held_out": self.held_out,
            "truth": self.truth,
            "prediction": self.mean,
        }
        for repeat, (folds, predicted) in enumerate(zip(self.folds, self.predictions, strict=True)):
            columns |= {f"fold_{repeat}": folds, f"prediction_{repeat}": predicted}
        notes = {"digest": self.digest, "records": str(self.records)}
        return encode_page(Page(pa.table(columns), notes=notes))

    @classmethod
    def decoded(cls, content: bytes) -> OutOfFold:
        """Read what :meth:`encoded` wrote.

        Raises:
            ModelRefusedError: The content is not of this format.
        """
        try:
            page = decode_page(content)
            columns = {name: page.table.column(name).to_numpy() for name in page.table.column_names}
            repeats = range(sum(name.startswith("fold_") for name in columns))
            units = columns["unit"].astype(np.intp)
            groups = np.zeros(int(units.max()) + 1, dtype=np.uint32)
            groups[units] = columns["group"]
            return cls(
                page.notes["digest"], int(page.notes["records"]), groups, units, columns["held_out"], columns["truth"],
                np.array([columns[f"fold_{repeat}"] for repeat in repeats]),
                np.array([columns[f"prediction_{repeat}"] for repeat in repeats]),
            )  # fmt: skip
        except (InvalidRequestError, KeyError, ValueError, IndexError) as error:
            raise ModelRefusedError(f"{OUT_OF_FOLD_FILE} cannot be read: {error!r}") from error
