"""Whether a champion is better than a baseline: a verdict with figures, and a message that claims no more than is known."""

from __future__ import annotations

from collections.abc import Mapping

from complex_system.evaluation.baselines import MEAN
from complex_system.evaluation.statistics import (
    HEAVY_TAILS,
    MIN_UNITS,
    Evaluation,
    Interval,
    Squares,
    cross_difference,
    rmse_difference,
)
from complex_system.protocol.scores import Basis
from complex_system.protocol.training import Verdict, VerdictOnBaseline
from complex_system.training.linear import LINEAR
from complex_system.training.split import Copies

_SHORT = {MEAN: "the mean", LINEAR: "the linear model"}
_LONG = {MEAN: "predicting the mean", LINEAR: "a linear model"}


def judge_champion(
    champion: Evaluation,
    label: str,
    baselines: Mapping[str, Evaluation],
    basis: Basis,
    unit: str = "",
    split_by: str = "key",
) -> tuple[dict[str, VerdictOnBaseline], str]:
    """Judge the champion against each baseline: by folds of the same records, where it is ranked by them, else on the hold-out part.

    Args:
        champion: How it did.
        label: Its name and version.
        baselines: How the baselines did.
        basis: What the champion was chosen by.
        unit: Of the target.
        split_by: What the split goes by (``Split.by``).

    Returns:
        The verdicts, and the message about them.
    """
    rmse, verdicts = champion.quality.rmse, {}
    for name, baseline in baselines.items():
        difference: Interval | None = None
        if basis == "cross-validation" and champion.cross and baseline.cross:
            difference, _ = cross_difference(champion.cross, baseline.cross, split_by)
            rmse = rmse if difference is None else champion.cross.rmse
        difference = difference or rmse_difference(champion.squares, baseline.squares)
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


def intervals_message(champion: Evaluation, basis: Basis, holdout: int, split_by: str) -> str:
    """Return what the 95 % intervals of a comparison are of, and where they cannot be trusted.

    Args:
        champion: How the champion did.
        basis: What it was chosen by.
        holdout: Number of hold-out samples.
        split_by: What the split goes by (``Split.by``).
    """
    cross = champion.cross if basis == "cross-validation" else None
    squares = Squares.of_folds(cross, split_by) if cross and cross.squares else champion.squares
    unit = {"group": "groups", "time": "blocks of time"}.get(split_by, "records")
    counted = f"{squares.units:,} {unit}"
    if cross is not None:
        found = f"95 % intervals are over {len(cross.rmses)} folds of {counted}, corrected for what the folds' training sets share."
    else:
        found = f"95 % intervals are over {counted}" + (
            " of the hold-out part." if unit == "records" else f" with {holdout:,} hold-out records."
        )
    if squares.units < MIN_UNITS:
        found += f" They are rough, and rather too narrow, with fewer than {MIN_UNITS} {unit}."
    if squares.kurtosis > HEAVY_TAILS:
        made = f"kurtosis {squares.kurtosis:.0f}, normal errors have 3"
        found += f" A few {unit} make much of the error ({made}), so the intervals are too narrow."
    return found


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


def replaced_message(label: str, split: str, present: str, *, held: bool = False) -> str:
    """Return why a champion was not compared with the new models.

    Args:
        label: Its name and version.
        split: What its records were divided by.
        present: What they are divided by now.
        held: A person decides whether it is replaced.
    """
    how = "before records came that moved the split" if split == present else f"with another split ({split}; now {present})"
    return (
        f"{label} was trained {how}, so it may have learned from the records that decide: it was not compared, and the best new model "
        f"{'is the candidate' if held else 'replaces it'}."
    )


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
