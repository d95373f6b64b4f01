"""Whether a champion is better than a baseline: a verdict with figures, and a message that claims no more than is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from complex_system.evaluation.baselines import LINEAR, MEAN
from complex_system.evaluation.statistics import Evaluation, Interval, cross_difference, rmse_difference
from complex_system.protocol.scores import CrossValidation
from complex_system.protocol.training import Verdict, VerdictOnBaseline
from complex_system.training.split import Copies

Basis = Literal["hold-out", "cross-validation"]
"""What the new models are ranked by."""

MIN_UNSEEN = 30
"""Hold-out records that neither the champion nor the new models have seen, from which on these alone decide."""

_SHORT = {MEAN: "the mean", LINEAR: "the linear model"}
_LONG = {MEAN: "predicting the mean", LINEAR: "a linear model"}


def judge_champion(
    champion: Evaluation, label: str, baselines: Mapping[str, Evaluation], basis: Basis, unit: str = ""
) -> tuple[dict[str, VerdictOnBaseline], str]:
    """Judge the champion against each baseline: by folds of the same records, where it is ranked by them, else on the hold-out part.

    Args:
        champion: How it did.
        label: Its name and version.
        baselines: How the baselines did.
        basis: What the champion was chosen by.
        unit: Of the target.

    Returns:
        The verdicts, and the message about them.
    """
    rmse, verdicts = champion.quality.rmse, {}
    for name, baseline in baselines.items():
        ours, theirs = champion.cross, baseline.cross
        if basis == "cross-validation" and ours and theirs and _same_folds(ours, theirs):
            rmse, difference = ours.rmse, cross_difference(ours, theirs)
        else:
            difference = rmse_difference(champion.errors, baseline.errors)
        verdicts[name] = judge(difference)
    return verdicts, verdict_message(verdicts, rmse, label, unit)


def judge(difference: Interval) -> VerdictOnBaseline:
    """Judge a champion by the RMSE of the baseline less its own on the same records."""
    verdict: Verdict = "better" if difference.low > 0 else "unclear"
    if difference.value <= 0:
        verdict = "not better"
    return VerdictOnBaseline(verdict=verdict, better_by=difference.value, low=difference.low, high=difference.high)


def verdict_message(verdicts: Mapping[str, VerdictOnBaseline], rmse: float, champion: str, unit: str = "") -> str:
    """Return what people must know of the champion; empty where it is clearly better than every baseline.

    Args:
        verdicts: By baseline.
        rmse: Of the champion.
        champion: Name and version.
        unit: Of the target.
    """
    mean = verdicts.get(MEAN)
    if mean is not None and mean.verdict == "not better":
        worse = ", and the best is worse" if _is_worse(mean) else ""
        return f"No model is better than predicting the mean{worse}: {champion} has {_figures(MEAN, mean, rmse, unit)}."
    messages = []
    for name in (MEAN, LINEAR):
        verdict = verdicts.get(name)
        if verdict is None or verdict.verdict == "better":
            continue
        figures = _figures(name, verdict, rmse, unit)
        if verdict.verdict == "not better":
            how = "worse" if _is_worse(verdict) else "not better"
            messages.append(f"{champion} is {how} than {_LONG[name]}: it has {figures}.")
        else:
            messages.append(f"It is not clear whether {champion} is better than {_LONG[name]}: it has {figures}.")
    return " ".join(messages)


def copies_message(copies: Copies) -> str:
    """Return what people must know of copies among the labelled records; empty where there is nothing."""
    if copies.are_few or (copies.by_chance and not copies.together):
        return ""
    found = (
        f"{copies.count} of {copies.records} labelled records have the same features and the same target as an earlier one"
    )
    if not copies.together:
        return f"{found}; they count as measurements of their own, so a score may be that of memory (split: copies)."
    found += ": copies are in one part of the split and in one fold, and count once in the hold-out part."
    if not copies.by_chance:
        return found
    return (
        f"{found} But most records with the same features have another target, as measurements of their own have that came out alike: "
        "then declare split: {copies: apart}."
    )


def split_message(label: str, split: str, holdout: int, unseen: int, *, stays: bool) -> str:
    """Return how a champion was compared that was trained with another split than the new models.

    Args:
        label: Its name and version.
        split: Its split.
        holdout: Hold-out records that decided.
        unseen: Hold-out records that neither it nor the new models have seen.
        stays: Whether it is still the champion.
    """
    trained = f"{label} was trained with another split (by {split})"
    if unseen >= MIN_UNSEEN:
        return f"{trained}: compared on the {holdout} hold-out records that neither it nor the new models have seen."
    found = (
        f"{trained} and has seen {holdout - unseen} of the {holdout} hold-out records, so its error is higher with new ones; a fair "
        f"comparison needs {MIN_UNSEEN} that no model has seen."
    )
    return f"{found} To have a new model all the same, give it the alias champion in MLflow." if stays else found


def format_figure(value: float) -> str:
    """Return a figure with two decimals, or with three significant digits where it is small."""
    size = abs(value)
    if size >= 1 or size == 0:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"


def _is_worse(verdict: VerdictOnBaseline) -> bool:
    return verdict.high < 0


def _figures(baseline: str, verdict: VerdictOnBaseline, rmse: float, unit: str) -> str:
    named = f" {unit}" if unit else ""
    return (
        f"RMSE {format_figure(rmse)}{named}, {_SHORT[baseline]} {format_figure(rmse + verdict.better_by)}{named} "
        f"(95 % interval of the difference {format_figure(verdict.low)} to {format_figure(verdict.high)})"
    )


def _same_folds(one: CrossValidation, other: CrossValidation) -> bool:
    return one.digest == other.digest and len(one.rmses) == len(other.rmses)
