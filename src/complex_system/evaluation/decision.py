"""Who becomes champion: a new model that is surely better, or far smaller and not worse; the best one where there is none yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from complex_system.evaluation.results import Result
from complex_system.evaluation.statistics import Difference, cross_difference, rmse_difference
from complex_system.protocol.scores import Basis, Challenge

SMALLER = 10
"""How many times smaller an ONNX model must be to become champion without being surely better ..."""
MARGIN = 0.01
"""... and by which share of the champion's RMSE it may be worse at most, as surely as its 95 % interval says."""


def ranked_by_folds(results: Sequence[Result]) -> list[Result] | None:
    """Return the results by their cross-validation, or None where the new models were not all validated with the same records.

    A previous champion that was trained on other records has no such figure, and the linear model has none where records came since
    the trainers read them; these are compared with the best new model on the hold-out part, which none has seen, and stand first
    or last.
    """
    trained = [result for result in results if not result.incumbent and result.ref.version]
    digests = {result.cross.digest if result.cross else "" for result in trained}
    if len(digests) != 1 or "" in digests:
        return None
    same = [(result.cross.rmse, not result.incumbent, result.ref.model, result)
            for result in results if result.cross and result.cross.digest in digests]  # fmt: skip
    order = [result for *_, result in sorted(same, key=lambda each: each[:3])]
    others = [result for result in results if all(result is not each for each in order)]
    better = [result for result in others if result.quality.rmse <= order[0].quality.rmse]
    worse = [result for result in others if result.quality.rmse > order[0].quality.rmse]
    return [*better, *order, *worse]


def decide(results: Sequence[Result], level: float, split_by: str = "key") -> tuple[Result, dict[str, Challenge]]:
    """Return the champion, and how each new model did beside the previous one.

    The new models share the level (Bonferroni): however many there are, a round changes the champion with about this probability at
    most where none is better. The best of those that pass is champion.

    Args:
        results: Best first, at least one; the previous champion is the one that is marked so.
        level: Probability of a change without need, in a round.
        split_by: What the split goes by (``Split.by``).

    Returns:
        The champion, and the challenges by label; no challenges where there was no champion.
    """
    old = next((result for result in results if result.incumbent), None)
    new = [result for result in results if not result.incumbent]
    if old is None:
        return new[0], {}
    challenges = {each.label: challenge(each, old, level / len(new), split_by) for each in new}
    passed = (each for each in new if challenges[each.label].outcome in ("better", "cheaper"))
    return next(passed, old), challenges


def challenge(new: Result, old: Result, limit: float, split_by: str = "key") -> Challenge:
    """Compare a new model with the champion: on the hold-out part, or on those records that both were cross-validated with, if more.

    A model that is surely worse on the hold-out part does not pass by cross-validation, which judges others than this very fit. Where
    the inputs have moved, only the hold-out records since then decide, and a model that is surely worse on all of them does not pass.

    Args:
        new: The new model.
        old: The champion.
        limit: What p must be below.
        split_by: What the split goes by (``Split.by``).
    """
    by: Basis = "hold-out"
    rmse, difference, records = old.quality.rmse, rmse_difference(new.squares, old.squares), len(new.errors)
    if new.overall is None and new.cross and old.cross and difference.high >= 0:
        found, common = cross_difference(new.cross, old.cross, split_by)
        if found is not None and common > records:
            by, rmse, difference, records = "cross-validation", old.cross.rmse, found, common
    outcome = _outcome(difference, limit, smaller=0 < SMALLER * new.size <= old.size, margin=MARGIN * rmse)
    if new.overall is not None and old.overall is not None and rmse_difference(new.overall, old.overall).high < 0:
        outcome = "worse"
    return Challenge(
        outcome=outcome, by=by, records=records, better_by=difference.value, low=difference.low, high=difference.high,
        p=difference.p, limit=limit,
    )  # fmt: skip


def _outcome(
    difference: Difference, limit: float, *, smaller: bool, margin: float
) -> Literal["better", "cheaper", "unclear", "worse"]:
    if difference.p < limit:
        return "better"
    if smaller and difference.value >= 0 and difference.low > -margin:
        return "cheaper"
    return "worse" if difference.high < 0 else "unclear"
