"""Whether a champion is better than a baseline, in a word, in figures and in a sentence that is honest about what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from complex_system.evaluation.baselines import LINEAR, MEAN
from complex_system.evaluation.validation import Interval

Word = Literal["better", "unclear", "not better"]
_CALLED = {MEAN: "predicting the mean", LINEAR: "a linear model"}


@dataclass(frozen=True)
class Verdict:
    """The champion against one baseline.

    Attributes:
        difference: RMSE of the baseline less that of the champion: how much better the champion is, on the same records.
    """

    baseline: str
    difference: Interval

    @property
    def word(self) -> Word:
        """``better`` only where the interval of the difference lies above 0."""
        if self.difference.value <= 0:
            return "not better"
        return "better" if self.difference.low > 0 else "unclear"

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
        return f"No model is better than predicting the mean: {champion} is worse by {_of(mean, -1, unit)}."
    words = [_about(verdict, champion, unit) for verdict in (mean, linear) if verdict is not None]
    return " ".join(each for each in words if each)


def _about(verdict: Verdict, champion: str, unit: str) -> str:
    called = _CALLED.get(verdict.baseline, verdict.baseline)
    if verdict.word == "better":
        return ""
    if verdict.word == "not better":
        return f"{champion} is not better than {called}: its RMSE is larger by {_of(verdict, -1, unit)}."
    return f"Whether {champion} is better than {called} cannot be told: its RMSE is smaller by {_of(verdict, 1, unit)}."


def _of(verdict: Verdict, sign: int, unit: str) -> str:
    ends = sorted((sign * verdict.difference.low, sign * verdict.difference.high))
    figure = f"{shown(abs(verdict.difference.value))}{f' {unit}' if unit else ''}"
    return f"{figure} (95 % interval {shown(ends[0])} to {shown(ends[1])})"


def shown(value: float) -> str:
    """A figure with two decimals, with more where it is small: three digits always count."""
    size = abs(value)
    if size >= 1 or size == 0:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"
