"""How sure it is that live records are not distributed as the training data: a sequential test of every feature.

The scores of a feature (``reference.scores_of``) are summed up, for both directions, with cumulative sums that begin again at zero (E.
S. Page, 1954), as e-detectors (J. Shin, A. Ramdas, A. Rinaldo, 2023): the level holds however often one looks, and for the average of
several of them, so for all features together. Records that follow each other are alike, so a record counts as the share of an
independent one that it is worth by the reference. What the reference itself does not know, its own mean, is allowed for.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.moves import Move, clock_features
from complex_system.monitoring.reference import NumberReference, Reference, Score, Values, scores_of
from complex_system.protocol.base import Message

RATES = np.array([0.5, 1.0, 2.0])
"""Shifts that the sums are tuned for, in standard deviations of a score."""
ALLOWED = 3.0
"""Standard errors of the reference's mean within which a shift is none, where the reference is worth many records."""
MIN_EFFECTIVE = 30.0
"""Independent records that the reference must be worth for a feature to be judged."""
MIN_DEVIATION = 0.2
"""Standard deviation that a score counts with, at least: of a rare category, or of a feature that is nearly always the same."""
CLIPPED = 3.0
"""Standard deviations that a record counts with, at most: a few records prove nothing."""
MAX_NUMBERS = 2_000_000
"""Sums that are held at a time, at most: of thousands of features only a few records are taken at once."""
LARGEST = 12.0
"""Bound of the evidence: so an alert ends in a bounded time."""

SURE, NOTICEABLE = 6.0, 3.0
"""Evidence with which the shipped rule raises an alert, and that with which it ends."""

Aspect = Literal["location", "spread", "skewness", "tails", "share"]
ASPECTS: tuple[Aspect, ...] = ("location", "spread", "skewness", "tails")


class Evidence(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The evidence that a feature has moved.

    Attributes:
        value: Decimal logarithm of the number of independent records among which so much evidence occurs once by chance, all features
            together.
        aspect: What has moved: ``share`` of an indicator.
        rising: The direction.
        since: When it began, seconds since 1970: the time of the first record of the sum.
        records: Records since then.
        effective: Independent records that these are worth.
        move: From what to what, where there is much evidence.
    """

    value: float
    aspect: Aspect = "location"
    rising: bool = True
    since: float = 0.0
    records: int = 0
    effective: float = 0.0
    move: Move | None = None


class KeptTest(Message, frozen=True, kw_only=True):
    """The sums of a test, for the next process.

    Attributes:
        reference: Digest of the reference.
        sums: Those above zero: place, sum, time and number of the records since it was zero.
        asked_at: As of ``flow.LiveWindow``.
    """

    reference: str = ""
    asked_at: float = 0.0
    sums: tuple[tuple[int, float, float, int], ...] = ()


class SequentialTest:
    """Tests live records, one after another, against a reference.

    Attributes:
        features: Those that are judged.
        reference: What they are tested against.
        unjudged: Independent records that the reference is worth, by feature for which these are too few.
        independent: Whether records are taken as independent, because a reference of an earlier release does not say otherwise.
    """

    def __init__(self, reference: Reference, dataset: Dataset) -> None:
        """Make a test.

        Args:
            reference: Of the champion.
            dataset: Its order of features; those that follow the clock are left out.
        """
        self.reference = reference
        self.features: list[str] = []
        self.unjudged: dict[str, float] = {}
        self.independent = False
        left_out = clock_features(dataset)
        rows: list[_Row] = []
        self._columns: list[int] = []
        self._references: list[NumberReference] = []
        for place, name in enumerate(dataset.feature_names):
            column = reference.processed.get(name)
            if not isinstance(column, NumberReference) or name in left_out:
                continue
            self.independent |= not column.scores
            # Values stay at an end as long as the slowest score stays there, so that the records of all scores are worth what its are.
            dependence = max((score.dependence for score in column.scores), default=1.0)
            known = column.samples * (1 - column.missing)
            effective = known / dependence
            if (least := known / max([dependence, *(score.at_most for score in column.scores)])) < MIN_EFFECTIVE:
                self.unjudged[name] = least
                continue
            self.features.append(name)
            self._columns.append(place)
            self._references.append(column)
            # Where only a share of the records is known, drawn at random, the correlations add up to this share of their sum.
            weight = 1 / (1 + (dependence - 1) / reference.density)
            degrees = range(1 if column.indicator else len(ASPECTS))
            rows += [_Row(column, degree, weight, effective) for degree in degrees]
        self._means, self._deviations, self._weights = (
            np.array([getattr(row, name) for row in rows]) for name in ("mean", "deviation", "weight")
        )
        self._costs = np.array([row.costs for row in rows]).reshape(len(rows), 2, len(RATES))
        self._considered = len(self.features) + len(self.unjudged)
        sizes = [1 if each.indicator else len(ASPECTS) for each in self._references]
        self._begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._sums = np.zeros(self._costs.shape)
        self._since = np.zeros(self._costs.shape)
        self._counts = np.zeros(self._costs.shape, dtype=np.int64)

    def update(self, times: Values, features: npt.NDArray[np.floating]) -> Values:
        """Take records; return the evidence after each, shape (records, judged features).

        Args:
            times: Of each, seconds since 1970, rising.
            features: Shape (records, features of the data set).
        """
        if not self.features:
            return np.zeros((len(times), 0))
        step = max(1, MAX_NUMBERS // self._sums.size)
        parts = [
            self._updated(times[begin : begin + step], features[begin : begin + step])
            for begin in range(0, len(times), step)
        ]
        return np.concatenate([np.zeros((0, len(self.features))), *parts])

    def _updated(self, times: Values, features: npt.NDArray[np.floating]) -> Values:
        path = self._advance(features)
        zero = path <= 0
        last = len(times) - 1 - np.argmax(zero[::-1], axis=0)
        began = zero.any(axis=0)
        counted = np.where(began, len(times) - 1 - last, self._counts + len(times))
        first = np.where(began, np.minimum(last + 1, len(times) - 1), 0)
        self._since = np.where(began | (self._counts == 0), times[first], self._since)
        self._counts = counted
        self._sums = np.minimum(path[-1], self._bounds)
        return self._values(path)

    def weight_of(self, feature: str) -> float:
        """Return the share of an independent record that a record of a judged feature is worth."""
        return float(self._weights[self._begins[self.features.index(feature)]])

    def kept(self) -> KeptTest:
        """Return the sums, for the next process."""
        places = np.flatnonzero(self._sums > 0).tolist()
        every = zip(places, *(each.flat[places].tolist() for each in (self._sums, self._since, self._counts)), strict=True)
        return KeptTest(reference=self._digest, sums=tuple((at, round(value, 3), since, n) for at, value, since, n in every))

    def restore(self, kept: KeptTest) -> None:
        """Go on with the sums of an earlier process, if they are against the same reference."""
        if kept.reference != self._digest:
            return
        for place, *values in kept.sums:
            if values[0] > self._sums.flat[place]:
                for array, value in zip((self._sums, self._since, self._counts), values, strict=True):
                    array.flat[place] = value

    @property
    def _digest(self) -> str:
        return hashlib.sha256(b"".join(each.tobytes() for each in (self._means, self._costs, self._weights))).hexdigest()[
            :16
        ]

    def evidence(self) -> dict[str, Evidence]:
        """Return the evidence by feature."""
        if not self.features:
            return {}
        values = self._values(self._sums)
        found: dict[str, Evidence] = {}
        for i, name in enumerate(self.features):
            begin, end = self._begins[i : i + 2]
            place = np.unravel_index(int(np.argmax(self._sums[begin:end])), self._sums[begin:end].shape)
            at = (begin + int(place[0]), *place[1:])
            records = int(self._counts[at])
            found[name] = Evidence(
                value=float(values[i]),
                aspect="share" if self._references[i].indicator else ASPECTS[int(place[0])],
                rising=int(place[1]) == 0,
                since=float(self._since[at]),
                records=records,
                effective=records * float(self._weights[at[0]]),
            )
        return found

    @property
    def _bounds(self) -> Values:
        sizes = np.diff(self._begins)
        bounds: Values = LARGEST * math.log(10) + np.log(np.repeat(sizes, sizes) * 2 * len(RATES) * self._considered)
        return bounds[:, None, None]

    def _advance(self, features: npt.NDArray[np.floating]) -> Values:
        """Return the sums after each record, shape (records, scores, 2 directions, rates)."""
        scores = np.concatenate(
            [
                scores_of(each.quantiles, features[:, column].astype(np.float64), indicator=each.indicator)
                for column, each in zip(self._columns, self._references, strict=True)
            ],
            axis=1,
        )
        standard = np.clip((scores - self._means) / self._deviations, -CLIPPED, CLIPPED)
        path: Values = np.stack([standard, -standard], axis=2)[..., None] - self._costs
        path *= RATES * self._weights[:, None, None]
        if not np.isfinite(standard).all():
            np.nan_to_num(path, copy=False)
        np.cumsum(path, axis=0, out=path)
        path += self._sums
        lowest = np.minimum.accumulate(path, axis=0)
        path -= np.minimum(lowest, 0.0, out=lowest)
        return path

    def _values(self, sums: Values) -> Values:
        """Return the evidence by feature: the logarithm of the average of all e-detectors of a feature, over the features."""
        sizes = np.diff(self._begins) * 2 * len(RATES)
        totals = np.add.reduceat(np.exp(np.minimum(sums, self._bounds)).sum(axis=(-1, -2)), self._begins[:-1], axis=-1)
        values: Values = np.clip(np.log10(totals / sizes) - math.log10(self._considered), 0.0, LARGEST)
        return values


class _Row:
    """One score of a feature: how it is standardized, what a record of it is worth, what a step costs by direction and rate."""

    def __init__(self, column: NumberReference, degree: int, weight: float, effective: float) -> None:
        grid, shares = _distribution(column)
        values = scores_of(column.quantiles, grid, indicator=column.indicator)[:, degree]
        if column.scores:
            known = column.scores[degree]
        else:
            mean = float(shares @ values)
            known = Score(mean, math.sqrt(float(shares @ (values - mean) ** 2)))
        self.mean = known.mean
        self.deviation = max(known.deviation, MIN_DEVIATION)
        self.weight = weight
        standard = np.clip((values - self.mean) / self.deviation, -CLIPPED, CLIPPED)
        # Few independent records do not know their own spread either: quantiles of Student's t.
        allowed, spread = float(stdtrit(effective, ndtr(ALLOWED))), known.deviation
        if column.indicator:  # a share of 0 or 1 is not sure either: two records more of each (A. Agresti, B. Coull, 1998)
            share = (known.mean * effective + 2) / (effective + 4)
            spread = max(spread, math.sqrt(share * (1 - share)))
        error = allowed * spread / self.deviation / math.sqrt(effective)
        self.costs = [
            [max(rate / 2, math.log(float(shares @ np.exp(rate * sign * standard))) / rate) + error for rate in RATES]
            for sign in (1, -1)
        ]


def _distribution(column: NumberReference) -> tuple[Values, Values]:
    """Return values of a column and their shares."""
    if column.indicator:
        return np.array([0.0, 1.0]), column.counts / column.counts.sum()
    shares = np.ones(len(column.quantiles))
    shares[[0, -1]] = 0.5
    return column.quantiles, shares / shares.sum()
