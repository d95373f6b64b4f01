"""Whether a champion is better than a baseline, in a word, in figures and in a sentence that is honest about what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from complex_system.evaluation.baselines import LINEAR, MEAN
from complex_system.evaluation.statistics import Interval

Word = Literal["better", "unclear", "not better"]
_SHORT = {MEAN: "the mean", LINEAR: "the linear model"}
_CALLED = {MEAN: "predicting the mean", LINEAR: "a linear model"}


@dataclass(frozen=True)
class Verdict:
    """The champion against one baseline.

    Attributes:
        rmse: Of the champion.
        difference: RMSE of the baseline less that of the champion: how much better the champion is, on the same records.
    """

    baseline: str
    rmse: float
    difference: Interval

    @property
    def word(self) -> Word:
        """``better`` only where the interval of the difference lies above 0."""
        if self.difference.value <= 0:
            return "not better"
        return "better" if self.difference.low > 0 else "unclear"

    @property
    def is_worse(self) -> bool:
        """Whether the champion is surely worse: the interval of the difference lies below 0."""
        return self.difference.high < 0

    def as_dict(self) -> dict[str, Any]:
        """As events carry it."""
        found = self.difference
        return {"verdict": self.word, "better_by": found.value, "low": found.low, "high": found.high}


def sentence(verdicts: Mapping[str, Verdict], champion: str, unit: str = "") -> str:
    """What must be known of the champion; empty where it is surely better than every baseline.

    Args:
        verdicts: By baseline.
        champion: Name and version.
        unit: Of the target.
    """
    mean, linear = verdicts.get(MEAN), verdicts.get(LINEAR)
    if mean is not None and mean.word == "not better":
        even = ", and the best is worse" if mean.is_worse else ""
        return f"No model is better than predicting the mean{even}: {champion} has {_figures(mean, unit)}."
    words = [_about(verdict, champion, unit) for verdict in (mean, linear) if verdict is not None]
    return " ".join(each for each in words if each)


def _about(verdict: Verdict, champion: str, unit: str) -> str:
    called, figures = _CALLED[verdict.baseline], _figures(verdict, unit)
    if verdict.word == "better":
        return ""
    if verdict.word == "not better":
        return f"{champion} is {'worse' if verdict.is_worse else 'not better'} than {called}: it has {figures}."
    return f"It cannot be told whether {champion} is better than {called}: it has {figures}."


def _figures(verdict: Verdict, unit: str) -> str:
    named = f" {unit}" if unit else ""
    baseline = format_figure(verdict.rmse + verdict.difference.value)
    difference = f"{format_figure(verdict.difference.low)} to {format_figure(verdict.difference.high)}"
    return (
        f"RMSE {format_figure(verdict.rmse)}{named}, {_SHORT[verdict.baseline]} {baseline}{named} "
        f"(95 % interval of the difference {difference})"
    )


def format_figure(value: float) -> str:
    """A figure with two decimals, with more where it is small: three digits always count."""
    size = abs(value)
    if size >= 1 or size == 0:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"
