"""How wrong predictions are, the spread of the errors, what a cross-validation found, and how two models compare."""

from __future__ import annotations

from typing import Literal

from complex_system.protocol.base import Message

Basis = Literal["hold-out", "cross-validation"]
"""Which records decide between models."""


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
        squares: Squared errors, the mean of the repeats, added up over each group of records; groups in the order of their times with
            a split by time.
        sizes: Records of each group; empty where every group is a single record.
        groups: CRC-32 of the name of each group, by which those of two models are paired.
    """

    rmses: tuple[float, ...]
    standard_error: float = 0.0
    records: int
    folds: int
    digest: str
    residuals: Residuals | None = None
    squares: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()

    @property
    def repeats(self) -> int:
        """How often the records were divided, each time differently."""
        return len(self.rmses) // self.folds


class Challenge(Message, frozen=True, kw_only=True):
    """How a new model did beside the champion that was there before it, on the same records.

    Attributes:
        outcome: ``better`` where that is sure, ``cheaper`` where it is not worse and far smaller: such a model can become champion.
            Otherwise ``unclear`` or ``worse``.
        by: Which records: those of the hold-out part, or those that both were cross-validated with.
        records: How many.
        better_by: RMSE of the champion less its own, in the target's unit.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        p: Probability of a difference at least as large if it is not better.
        limit: Below this, p makes it ``better``.
    """

    outcome: Literal["better", "cheaper", "unclear", "worse"]
    by: Basis
    records: int
    better_by: float
    low: float
    high: float
    p: float
    limit: float
