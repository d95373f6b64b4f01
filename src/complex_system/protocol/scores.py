"""How wrong predictions are: scores, the spread of the errors, and what a cross-validation found."""

from __future__ import annotations

from complex_system.protocol.base import Message


class Scores(Message, frozen=True, kw_only=True):
    """Errors of predictions against the truth.

    Attributes:
        rmse: Root mean squared error, in the target's unit.
        mae: Mean absolute error, in the target's unit.
        r2: Coefficient of determination.
    """

    rmse: float
    mae: float
    r2: float


class Residuals(Message, frozen=True, kw_only=True):
    """How large the errors of an evaluation were, so that later errors can be judged by them and not by one figure.

    Attributes:
        count: Records that were predicted, each once.
        quantiles: Of the absolute errors, in the target's unit: all of them in ascending order where they are few, else evenly spaced
            ones from the smallest to the largest.
        alike: Records that count as one, because errors of one group are alike (the design effect); 1 for independent records.
    """

    count: int
    quantiles: tuple[float, ...]
    alike: float = 1.0


class CrossValidation(Scores, frozen=True, kw_only=True):
    """What a cross-validation found. ``rmse`` and ``mae`` are means over the folds; ``r2`` is the mean over the repeats.

    Attributes:
        rmses: RMSE of each fold of each repeat.
        standard_error: Of ``rmse``, corrected for the overlap of the training sets.
        records: Records that were divided into folds.
        folds: Folds of one repeat.
        digest: Digest of the records' keys and targets: only results with the same digest can be compared.
        residuals: The errors of the records while their fold was left out; None in models of an earlier release.
        squares: Squared errors added up over each group of records, the mean of the repeats; groups in the order of their names.
        sizes: Records of each group; empty where every group is a single record.
    """

    rmses: tuple[float, ...]
    standard_error: float = 0.0
    records: int
    folds: int
    digest: str
    residuals: Residuals | None = None
    squares: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def repeats(self) -> int:
        """How often the records were divided, each time differently."""
        return len(self.rmses) // self.folds
