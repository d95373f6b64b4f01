"""Shows a run: as a plain log here, as a live view on a terminal (:mod:`live_display`)."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod

from typing_extensions import override

from complex_system.evaluation.verdict import format_figure
from complex_system.local.plan import Plan
from complex_system.local.state import RunState, Training


class Display(ABC):
    """Shows a run while it goes on."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something happened."""

    @abstractmethod
    def refresh(self) -> None:
        """The state may have changed; called a few times a second."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Prints below all else, as it stands: summaries and errors, when the view is closed."""

    def close(self) -> None:  # noqa: B027 - a log needs no end
        """Ends the view."""


class LogDisplay(Display):
    """One line an event, with the seconds since the start."""

    def __init__(self, plan: Plan, state: RunState) -> None:
        self._plan = plan
        self._state = state
        self._shown_records = (0, 0)
        self._next_records = 0.0
        self._shown_steps: dict[str, tuple[str, int]] = {}

    @override
    def note(self, text: str) -> None:
        self.say(f"{self._state.seconds:7.1f} s  {text}")

    @override
    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    @override
    def refresh(self) -> None:
        self._note_records()
        for training in self._state.trainings.values():
            self._note_training(training)

    def _note_records(self) -> None:
        records = self._state.records
        done = records["processed"] + records["rejected"]
        want = self._state.wanted_records or records["raw"]
        # How many records a file has, only its source knows: then every change would seem to be the last one.
        full = bool(self._state.wanted_records) and min(records["raw"], done) >= want
        shown = (min(records["raw"], want), min(done, want))
        if shown == self._shown_records or (self._state.seconds < self._next_records and not full):
            return
        self._shown_records, self._next_records = shown, self._state.seconds + 2.0
        self.note(
            f"records: {records['raw']:,} saved, {records['processed']:,} processed, {records['labelled']:,} labelled, "
            f"{records['rejected']:,} rejected"
        )

    def _note_training(self, training: Training) -> None:
        if training.status != "training" or not training.steps:
            return
        quarter = 4 * training.step // training.steps
        step = (training.stage, quarter)
        if self._shown_steps.get(training.trainer) == step or quarter == 0:
            return
        self._shown_steps[training.trainer] = step
        known = training.validation_rmse is not None and training.stage == "training"
        rmse = f", validation RMSE {format_figure(training.validation_rmse or 0.0)}" if known else ""
        self.note(f"{training.trainer}: {training.stage} {training.step} of {training.steps}{rmse}")
