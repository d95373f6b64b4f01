"""How models and baselines did, as a run keeps it, tells it in its log and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from complex_system.evaluation.verdict import format_figure


@dataclass(frozen=True)
class Crossed:
    """Errors by cross-validation, in the target's unit, with the ends of the RMSE's 95 % interval."""

    rmse: float
    mae: float
    r2: float
    rmse_low: float
    rmse_high: float


@dataclass(frozen=True)
class Figures:
    """Errors on the hold-out set in the target's unit, and by cross-validation where the records are few."""

    rmse: float
    mae: float
    r2: float
    rmse_low: float | None = None
    rmse_high: float | None = None
    cv: Crossed | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``status.json``; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def words(self, ranked_by: str = "hold-out") -> str:
        """The figures in a line: first what the ranking goes by."""
        ends = _ends(self.rmse_low, self.rmse_high)
        if self.cv is None:
            where = (
                "" if ranked_by == "hold-out" else "hold-out "
            )  # a champion of before, among models that were cross-validated
            return f"{where}RMSE {format_figure(self.rmse):>6}{ends}  MAE {format_figure(self.mae):>6}  R2 {self.r2:.4f}"
        cv = self.cv
        return (
            f"RMSE {format_figure(cv.rmse):>6}{_ends(cv.rmse_low, cv.rmse_high)}  MAE {format_figure(cv.mae):>6}  R2 {cv.r2:7.4f}; "
            f"hold-out RMSE {format_figure(self.rmse)}{ends}"
        )


def figures_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Figures` in a result as it is announced."""
    found: dict[str, Any] = {name: float(row[name]) for name in ("rmse", "mae", "r2")}
    found |= {name: float(row[name]) for name in ("rmse_low", "rmse_high") if row.get(name) is not None}
    if cv := row.get("cv"):
        found["cv"] = Crossed(**{name: float(cv[name]) for name in Crossed.__dataclass_fields__})
    return found


@dataclass
class Judgement:
    """What a comparison says beside its results.

    Attributes:
        ranked_by: ``hold-out`` or ``cross-validation``.
        records: That were cross-validated; 0 where none were.
        folds: In a repeat.
        repeats: Of the folds.
        baselines: By name, e.g. ``mean``.
        verdicts: By baseline, as announced.
        verdict: What must be known of the champion beside the baselines, in a sentence.
    """

    ranked_by: str = "hold-out"
    records: int = 0
    folds: int = 0
    repeats: int = 0
    baselines: dict[str, Figures] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdict: str = ""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Judgement:
        """What an announced comparison says."""
        crossed = event.get("cross_validation") or {}
        return cls(
            ranked_by=str(event.get("ranked_by") or "hold-out"),
            **{name: int(crossed.get(name, 0)) for name in ("records", "folds", "repeats")},
            baselines={str(name): Figures(**figures_of(row)) for name, row in (event.get("baselines") or {}).items()},
            verdicts={str(name): dict(verdict) for name, verdict in (event.get("verdicts") or {}).items()},
            verdict=str(event.get("verdict") or ""),
        )

    def basis(self, holdout: int) -> str:
        """What the figures stand on."""
        if self.ranked_by != "cross-validation":
            return f"on {holdout:,} hold-out records"
        again = f", {self.repeats} times" if self.repeats > 1 else ""
        return f"by cross-validation of {self.records:,} records ({self.folds} folds{again}), beside {holdout:,} hold-out records"

    def as_dict(self) -> dict[str, Any]:
        """For ``status.json``: nothing where there are neither baselines nor folds."""
        if not self.baselines and not self.records:
            return {}
        crossed = {"records": self.records, "folds": self.folds, "repeats": self.repeats} if self.records else None
        return {
            "ranked_by": self.ranked_by,
            "cross_validation": crossed,
            "baselines": {name: figures.as_dict() for name, figures in self.baselines.items()},
            "verdicts": self.verdicts,
            "verdict": self.verdict,
        }


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({format_figure(low)} to {format_figure(high)})"
