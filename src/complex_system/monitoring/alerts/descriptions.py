"""Parts of the messages of alerts: what has moved, and names, units, shares and times as the people at the plant read them."""

from __future__ import annotations

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.evidence import Evidence
from complex_system.monitoring.points import Figure, Figures

MIN_PAIRS = 30
"""True values from which on it is said whether the error has moved."""
MUCH_MISSING = 0.1
"""Share of missing values from which on they are named."""


def evidence_of(figure: Figure, drift: DataDrift | None) -> Evidence | None:
    """Return what a figure of drift is the evidence of; None for any other figure."""
    measured = drift.processed.get(figure.subject) if drift is not None and figure.name == "drift/evidence" else None
    return None if measured is None else measured.evidence


def moved_message(subject: str, figure: Figure, moved: Evidence, at: float, figures: Figures, dataset: Dataset) -> str:
    """Return what has moved, from what to what, since when, how sure that is, and whether the error has moved with it."""
    move, live = moved.move, f"the {moved.records:,} records of the last {duration(at - moved.since)}"
    if move is not None and 0 < move.records < moved.records:
        live = f"the newest {move.records:,} of {live}"
    texts = [f"{named(subject, dataset)} is no longer distributed as in the model's training data."]
    if move is not None and len(move.before) == 1:
        (before,), (after,) = move.before, move.after
        texts = [
            f"The share of {figure.subject} has moved: {percent(before)} of the training data, {percent(after)} of {live}."
        ]
    elif move is not None:
        unit = unit_of(move.column, dataset) if move.column else ""
        what = named(subject if move.column else figure.subject, dataset)
        (low, before, high), (lower, after, higher) = move.before, move.after
        texts = [
            f"{what} has moved: median {before:.4g}{unit} in the training data (80 % from {low:.4g} to {high:.4g}), "
            f"{after:.4g}{unit} in {live} (80 % from {lower:.4g} to {higher:.4g})."
        ]
    if move is not None and move.missing >= MUCH_MISSING:
        texts.append(f"{percent(move.missing)} of these have no value there: the declared fill stands for them.")
    texts.append(f"By chance that happens at most once in {10.0 ** int(moved.value):,.0f} independent records.")
    pairs, ratio = figures.number("performance/count") or 0.0, figures.number("performance/error_ratio")
    ratio = figures.number("performance/rmse_relative") if ratio is None else ratio
    surely = figures.number("performance/error_ratio_low")
    if ratio is None or pairs < MIN_PAIRS:
        texts.append(f"Whether the model's error has moved is not known yet: {pairs:.0f} true values.")
    else:
        has = "has moved, too" if surely is not None and surely > 1 else "has not surely moved"
        texts.append(f"The model's error {has}: {ratio:.2g} times that of its evaluation, {pairs:.0f} true values.")
    return " ".join(texts)


def named(subject: str, dataset: Dataset) -> str:
    """Return a column with its description, or what else it is about."""
    description = dataset.column(subject).description if subject in dataset.raw_names else ""
    return f"{subject} ({description[0].lower() + description[1:]})" if description else subject


def unit_of(column: str, dataset: Dataset) -> str:
    """Return the unit of a column as it follows a number; empty where none is declared."""
    unit = dataset.column(column).unit
    return f" {unit}" if unit else ""


def range_of(column: str, dataset: Dataset) -> str:
    """Return the declared range of a column with its unit; empty where none is declared."""
    limits = dataset.column(column).range if column in dataset.raw_names else None
    return f" {limits[0]:g} to {limits[1]:g}{unit_of(column, dataset)}" if limits else ""


def percent(share: float) -> str:
    """Return a share as percent."""
    return f"{100 * share:.3g} %"


def duration(seconds: float) -> str:
    """Return a duration in the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
