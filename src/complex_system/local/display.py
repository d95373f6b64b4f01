"""The lines that a run writes about the system's messages, and its display as a plain log (:mod:`live` is the live view)."""

from __future__ import annotations

import errno
import sys
from abc import ABC, abstractmethod

from typing_extensions import override

from complex_system.evaluation.verdict import format_figure
from complex_system.local.state import Champion, RunState
from complex_system.protocol.training import (
    ComparisonFinished,
    Quality,
    ScoresWithInterval,
    TrainingFinished,
    TrainingProgress,
)
from complex_system.terminal import printable


def training_line(message: TrainingFinished) -> str:
    """Return how a training ended, in one line."""
    if message.status == "failed":
        return f"{message.trainer}: training failed: {message.error or 'no reason given'}"
    scores = message.validation
    errors = (
        f"; validation RMSE {format_figure(scores.rmse)}, MAE {format_figure(scores.mae)}, R2 {scores.r2:.4f}"
        if scores
        else ""
    )
    return f"{message.trainer}: trained in {message.seconds:.1f} s{errors}"


def comparison_lines(message: ComparisonFinished) -> list[str]:
    """Return a comparison: what it is based on, models and baselines, and what must be known of the champion."""
    by = message.ranked_by
    lines = [f"comparison {comparison_basis(message)}:"]
    for place, model in enumerate(message.results, 1):
        lines.append(f"  {place}. {model.trainer:<14} {quality_text(model, by)}  ({model.model} version {model.version})")
    lines += [f"  -  {name:<14} {quality_text(quality, by)}  (baseline)" for name, quality in message.baselines.items()]
    told = (message.answers, message.verdict, message.kept, message.intervals)
    return lines + [text for text in told if text]


def comparison_basis(message: ComparisonFinished) -> str:
    """Return what the figures of a comparison are based on."""
    crossed, holdout = message.cross_validation, f"{message.holdout:,} hold-out records"
    if message.ranked_by != "cross-validation" or crossed is None:
        return f"on {holdout}"
    repeats = f", {crossed.repeats} times" if crossed.repeats > 1 else ""
    return f"by cross-validation of {crossed.records:,} records ({crossed.folds} folds{repeats}), beside {holdout}"


def quality_text(quality: Quality, ranked_by: str) -> str:
    """Return the errors of a model or baseline, first those that the ranking goes by."""
    cv, interval = quality.cv, _interval(quality)
    if cv is None:
        # A previous champion, among models that were cross-validated, has hold-out figures only.
        where = "" if ranked_by == "hold-out" else "hold-out "
        return f"{where}RMSE {format_figure(quality.rmse):>6}{interval}  MAE {format_figure(quality.mae):>6}  R2 {quality.r2:.4f}"
    return (
        f"RMSE {format_figure(cv.rmse):>6}{_interval(cv)}  MAE {format_figure(cv.mae):>6}  R2 {cv.r2:7.4f}; "
        f"hold-out RMSE {format_figure(quality.rmse)}{interval}"
    )


def champion_error(champion: Champion, comparison: ComparisonFinished | None) -> str:
    """Return the champion's error: by cross-validation where the models were ranked by that, and on the hold-out set."""
    for result in comparison.results if comparison else ():
        if (result.model, result.version) == (champion.model, champion.version) and result.cv is not None:
            return f"RMSE {format_figure(result.cv.rmse)} by cross-validation, {format_figure(champion.rmse)} on the hold-out set"
    return f"RMSE {format_figure(champion.rmse)} on the hold-out set"


def _interval(scores: ScoresWithInterval) -> str:
    low, high = scores.rmse_low, scores.rmse_high
    return "" if low is None or high is None else f" ({format_figure(low)} to {format_figure(high)})"


class Display(ABC):
    """Shows a run while it goes on."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a line of the run's log."""

    @abstractmethod
    def refresh(self) -> None:
        """Show the present state; called a few times a second."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a summary or an error as it stands, after the view is closed."""

    def close(self) -> None:  # noqa: B027 - a log needs no end
        """End the view."""


class LogDisplay(Display):
    """One line an event, with the seconds since the start."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._shown_records = (0, 0, 0)
        self._next_records = 0.0
        self._shown_steps: dict[str, tuple[str, int]] = {}

    @override
    def note(self, text: str) -> None:
        self.say(f"{self._state.seconds:7.1f} s  {text}")

    @override
    def say(self, text: str) -> None:
        try:
            sys.stdout.write(f"{printable(text)}\n")
            sys.stdout.flush()
        except OSError as error:
            # Our output goes to a file whose disk is full: this line may be lost, and the run goes on.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    @override
    def refresh(self) -> None:
        self._note_records()
        for training in self._state.trainings.values():
            if isinstance(training, TrainingProgress):
                self._note_progress(training)

    def _note_records(self) -> None:
        records = self._state.records
        done = records.processed + records.rejected
        want = self._state.wanted_records or records.raw
        # How many records a file has, only its source knows; without this condition every change would be shown at once.
        full = bool(self._state.wanted_records) and min(records.raw, done) >= want
        now = (min(records.raw, want), min(done, want), records.conflicts)
        if now == self._shown_records or (self._state.seconds < self._next_records and not full):
            return
        self._shown_records, self._next_records = now, self._state.seconds + 2.0
        self.note(
            f"records: {records.raw:,} saved, {records.processed:,} processed, {records.labelled:,} labelled, "
            f"{records.rejected:,} rejected"
            + (f", {records.conflicts:,} came with other values under a known key" if records.conflicts else "")
        )

    def _note_progress(self, training: TrainingProgress) -> None:
        """Show every quarter of a training."""
        quarter = 4 * training.step // training.steps if training.steps else 0
        step = (training.stage, quarter)
        if quarter == 0 or self._shown_steps.get(training.trainer) == step:
            return
        self._shown_steps[training.trainer] = step
        known = training.validation_rmse is not None and training.stage == "training"
        rmse = f", validation RMSE {format_figure(training.validation_rmse or 0.0)}" if known else ""
        self.note(f"{training.trainer}: {training.stage} {training.step} of {training.steps}{rmse}")
