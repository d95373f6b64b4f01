"""Live errors beside those of the evaluation that decided on the model: how many times as large, how surely, and since when."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.change_points import Change, ChangeDetector, parting_of
from complex_system.monitoring.history import Pair
from complex_system.monitoring.performance import Errors, ErrorWindow, WindowPair
from complex_system.protocol.base import Message
from complex_system.protocol.scores import Residuals
from complex_system.protocol.training import ComparisonFinished

log = logging.getLogger(__name__)

MAX_CHANGES = 50
MAX_DETECTORS = 8
SURE = 3.4
"""Standard deviations that live errors must be above the reference's: more than the 2.3 of a single look at 1 %, because there is one
look after the other, at several windows. ``benchmarks/validity/alarms.py`` measures what follows from it."""
NEWEST = (50, 75, 100)
"""Newest pairs that are judged beside the whole window, so that a large change is found before it fills the window."""
_MEAN, _VARIANCE = 1 / 3, 4 / 45
"""Of the square of a number that is uniform in (0, 1)."""
_LARGEST = 1000.0
"""Ratio that is not exceeded, where the reference's errors are 0."""


class ErrorReference(Message, frozen=True, kw_only=True):
    """The errors of the evaluation that decided on a model: what its live errors are judged by.

    Attributes:
        rmse: In the target's unit.
        count: Records that were predicted.
        residuals: The errors; None from an earlier release, where the RMSE stands for them.
    """

    rmse: float
    count: int
    residuals: Residuals | None = None

    @property
    def usual(self) -> float:
        """The median absolute error; a twentieth of the records may be outliers without a change of it. 0 where it is not known."""
        if self.residuals is None:
            return 0.0
        return float(np.median(self.residuals.quantiles))

    @property
    def usual_score(self) -> float:
        """The mean of :meth:`scores` of errors like the reference's; without residuals about their mean, for normal errors."""
        return _MEAN if self.residuals is not None else self.rmse * math.sqrt(2 / math.pi)

    def scores(self, errors: Errors) -> Errors:
        """Return the square of every absolute error's place among the reference's, 0 to 1; a tie stands in the middle.

        For errors like the reference's these are squares of uniform numbers, so that no single one counts more than any other that is
        larger than all of the reference's. Without residuals they are the errors themselves.
        """
        if self.residuals is None:
            return errors
        known = np.asarray(self.residuals.quantiles)
        places = (np.searchsorted(known, errors, "left") + np.searchsorted(known, errors, "right")) / 2
        squared: Errors = ((places + 0.5) / (len(known) + 1)) ** 2
        return squared

    def judge(self, errors: Errors) -> dict[str, float]:
        """Return how many times as large live errors are, and the multiple that they surely have.

        The test of A. Mood (On the asymptotic efficiency of certain nonparametric two-sample tests, 1954) for absolute errors: the
        mean of :meth:`scores`, whose variance is 4/45 (1/live + 1/reference). The ratio is the number by which the live errors must
        be divided to have the mean of errors like the reference's; divided by the lower one they still are ``SURE`` standard
        deviations above it. Both are from ranks, so a few outliers on either side change little.

        Args:
            errors: Absolute errors, the newest last, at least one.

        Returns:
            ``rmse_relative`` (of all), ``error_ratio_low`` (the largest lower bound, of all and of the newest), and ``error_ratio``
            (of those that this bound is of).
        """
        rmse = math.sqrt(float(np.mean(errors**2)))
        relative = {"rmse_relative": rmse / self.rmse} if self.rmse else {}
        windows = [errors[-size:] for size in sorted({*NEWEST, len(errors)}) if size <= len(errors)]
        if self.residuals is None:
            if not self.rmse or not rmse:
                return relative
            surest = max(windows, key=self._lower_by_rmse)
            ratio = math.sqrt(float(np.mean(surest**2))) / self.rmse
            return {**relative, "error_ratio": ratio, "error_ratio_low": self._lower_by_rmse(surest)}
        lower, place = max((self._divisor(window, SURE), place) for place, window in enumerate(windows))
        return {**relative, "error_ratio": self._divisor(windows[place], 0.0), "error_ratio_low": lower}

    def limit(self, live: int, deviations: float = SURE) -> float:
        """Return the mean score so many standard deviations above that of so many errors like the reference's."""
        known = self.residuals or Residuals(count=self.count, quantiles=())
        return _MEAN + deviations * math.sqrt(_VARIANCE * (1 / live + 1 / known.count) * known.alike)

    def _divisor(self, errors: Errors, deviations: float) -> float:
        wanted = self.limit(len(errors), deviations)
        low, high = -math.log(_LARGEST), math.log(_LARGEST)
        for _ in range(30):  # the mean falls with the divisor
            middle = (low + high) / 2
            is_larger = float(self.scores(errors / math.exp(middle)).mean()) > wanted
            low, high = (middle, high) if is_larger else (low, middle)
        return math.exp(low)

    def _lower_by_rmse(self, errors: Errors) -> float:
        """Return the lower bound of the ratio of RMSEs by the delta method, where the reference's errors vary as the live ones do.

        They are taken to vary at least as normal errors do: a few may be alike by chance.
        """
        squares = errors**2
        mean = float(squares.mean())
        if not mean:
            return 0.0
        varies = max(float(squares.std()) / mean, math.sqrt(2))
        spread = varies / 2 * math.sqrt(1 / len(errors) + 1 / max(1, self.count))
        return math.sqrt(mean) / self.rmse * math.exp(-SURE * spread)


class KeptComparison(ComparisonFinished, frozen=True, kw_only=True):
    """The last comparison, as it is kept.

    Attributes:
        crowned_rmse: RMSE on the hold-out part with which the champion was crowned, by ``<model> <version>``.
        crowned_by: The errors that decided when it was crowned; empty from an earlier release.
    """

    crowned_rmse: dict[str, float] = msgspec.field(default_factory=dict)
    crowned_by: dict[str, ErrorReference] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, event: ComparisonFinished, before: KeptComparison | None) -> KeptComparison:
        """Return a comparison with what its champion was crowned by: one that stays is not judged by the newest data."""
        name = f"{event.champion.model} {event.champion.version}"
        rmse = (before.crowned_rmse if before else {}).get(name, event.champion.rmse)
        by = (before.crowned_by if before else {}).get(name) or references(event).get(name)
        crowned = {"crowned_rmse": {name: rmse} if event.champion.rmse else {}, "crowned_by": {name: by} if by else {}}
        return cls(**{**msgspec.structs.asdict(event), **crowned})

    def holdout_rmse(self, served: Served) -> float | None:
        """Return the RMSE of a version on the hold-out part: the champion's as it was crowned, another one's of this comparison."""
        compared = (each.rmse for each in self.results if (each.model, each.version) == served[1:3])
        return self.crowned_rmse.get(f"{served.model} {served.version}") or next(compared, None) or None

    def reference(self, served: Served) -> ErrorReference | None:
        """Return the errors of a version in the evaluation that decided; None where it was in none."""
        name = f"{served.model} {served.version}"
        return self.crowned_by.get(name) or references(self).get(name)


def references(comparison: ComparisonFinished) -> dict[str, ErrorReference]:
    """Return the errors of each compared model in the evaluation that decided, by ``<model> <version>``."""
    by_folds = comparison.ranked_by == "cross-validation"
    found = {}
    for each in comparison.results:
        decided = each.cv if by_folds and each.cv is not None else each
        count = each.residuals.count if each.residuals else comparison.holdout
        found[f"{each.model} {each.version}"] = ErrorReference(rmse=decided.rmse, count=count, residuals=each.residuals)
    return found


class Changes(Message, frozen=True, kw_only=True):
    """The newest changes in the errors of champions.

    Attributes:
        changes: Oldest first.
    """

    changes: tuple[Change, ...] = ()


class ChangeWatch:
    """Watches the errors of the models of one service for changes, and names outliers.

    Attributes:
        changes: The newest changes, the newest last.
    """

    def __init__(self) -> None:
        self.changes: tuple[Change, ...] = ()
        self._detectors: OrderedDict[tuple[Served, bool], ChangeDetector] = OrderedDict()
        self._detect = False
        self._named: set[str] = set()

    def prepare(self) -> None:
        """Import what takes seconds; to be called in a thread."""
        self._detect = ChangeDetector().is_there

    def joined(self, pair: Pair, reference: ErrorReference | None) -> Change | None:
        """Take a pair; return the change that it made visible."""
        if not self._detect:
            return None
        change = self._add(pair.served, pair.at, abs(pair.residual), reference)
        if change is None:
            return None
        by = pair.served
        found = msgspec.structs.replace(change, model=by.model, version=by.version, origin=by.origin)
        self.changes = (*self.changes, found)[-MAX_CHANGES:]
        return found

    def _add(self, served: Served, at: float, error: float, reference: ErrorReference | None) -> Change | None:
        score = None if reference is None or reference.residuals is None else float(reference.scores(np.array([error]))[0])
        key = served, score is None
        if key not in self._detectors:
            self._detectors[key] = ChangeDetector()
        self._detectors.move_to_end(key)
        if len(self._detectors) > MAX_DETECTORS:
            self._detectors.popitem(last=False)
        return self._detectors[key].add(at, error, score)

    def changed_for(
        self, at: float, served: Served, window: ErrorWindow, reference: ErrorReference | None, low: float
    ) -> float:
        """Return for how many seconds the errors of a model have been larger; 0 where they are not.

        Args:
            at: The present time.
            served: The model, and whose requests count.
            window: Its newest errors.
            reference: What they are judged by; None where that is not known.
            low: The multiple of the reference's that they surely have.
        """
        mine = (served.model, served.version, served.origin)
        of_model = [change for change in self.changes if (change.model, change.version, change.origin) == mine]
        began = of_model[-1].began if of_model and of_model[-1].rose else 0.0
        if reference is not None and low > 1.0 and began < window.pairs[0].at:
            scores = reference.scores(window.errors)
            place = parting_of(scores)
            # A change that ADWIN knows of and that fills the window began before it; else ADWIN has not noticed this one yet.
            usual, now = reference.usual_score, float(scores[place:].mean())
            if not began or place == 0 or float(scores[:place].mean()) < (usual + now) / 2:
                began = window.pairs[place].at
        return max(0.0, at - began) if began else 0.0

    def replay(self, kept: Iterable[tuple[Served, Sequence[WindowPair]]], comparison: KeptComparison | None) -> None:
        """Take the pairs of an earlier process, so that the end of a change that it noticed is noticed, too."""
        for served, pairs in kept:
            reference = comparison.reference(served) if comparison else None
            for pair in pairs if self._detect else ():
                self._add(served, pair.at, abs(pair.prediction - pair.truth), reference)

    def outliers(self, window: ErrorWindow, reference: ErrorReference | None) -> list[WindowPair]:
        """Return the outliers of a window, the oldest first; each is logged once with its key."""
        found = window.outliers(reference.usual if reference else 0.0)
        for pair in found:
            if pair.key and pair.key not in self._named:
                log.warning(
                    "Record %s is an outlier: measured %.6g, predicted %.6g. Perhaps a slip; it raises no alert.",
                    pair.key, pair.truth, pair.prediction,
                )  # fmt: skip
        self._named = {pair.key for pair in found}
        return found
