"""Hears how the run goes and keeps the run's state by it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from complex_system.errors import ComplexSystemError
from complex_system.local.display import champion_error, comparison_lines, training_line
from complex_system.local.plan import PAGE_SERVICE, SOURCE, Plan
from complex_system.local.state import READY_STATES, Champion, RunState
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_COUNTS
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, SERVICE_HEARTBEAT, Alert, Heartbeat
from complex_system.protocol.promotion import GET_PROMOTION, Promotion
from complex_system.protocol.training import (
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    GET_COMPARISON,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
    ChampionSummary,
    ComparisonFinished,
    TrainingFinished,
    TrainingProgress,
)

if TYPE_CHECKING:
    from complex_system.messaging.clients import SystemClient


class Watcher:
    """Keeps the run's state by the events of the system."""

    def __init__(self, plan: Plan, state: RunState, client: SystemClient, on_ready: Callable[[str], None]) -> None:
        """Prepare a watcher.

        Args:
            plan: What runs.
            state: The state to keep.
            client: The connection to the broker.
            on_ready: Called with a service's name when it says that it is ready.
        """
        self._plan = plan
        self._state = state
        self._client = client
        self._on_ready = on_ready

    async def start(self) -> None:
        """Subscribe to the events."""
        hear = self._client.hear
        await hear(SERVICE_HEARTBEAT, self.heartbeat)
        await hear(TRAINING_PROGRESS, self.progress)
        await hear(TRAINING_FINISHED, self.trained)
        await hear(COMPARISON_FINISHED, self.compared)
        await hear(CHAMPION_CHANGED, self.champion)
        await hear(ALERT_RAISED, self.alerted)
        await hear(ALERT_ENDED, self.alert_ended)
        await self._client.broker.settle()

    async def count_records(self) -> None:
        """Ask for the numbers of records about once a second; less often where counting takes the database long."""
        while self._plan.database:
            began = time.monotonic()
            with contextlib.suppress(ComplexSystemError):
                counts = await self._client.ask(GET_COUNTS, Empty())
                if counts != self._state.records or not self._state.counted:
                    self._state.records = counts
                    self._state.counted = self._state.changed = True
            await asyncio.sleep(max(1.0, min(4 * (time.monotonic() - began), 5.0)))

    async def recall_comparison(self) -> None:
        """Ask for the comparison of an earlier run: a champion that is still the best is not announced again."""
        while self._plan.has("ml_consumer") and not self._state.comparison:
            with contextlib.suppress(ComplexSystemError):
                last = await self._client.ask(GET_COMPARISON, Empty(), 10.0)
                if last:
                    promotion = await self._client.ask(GET_PROMOTION, Empty(), 10.0)
                    if not self._state.comparison:
                        await self.recalled(last, promotion)
            await asyncio.sleep(2.0)

    async def recalled(self, last: ComparisonFinished, promotion: Promotion) -> None:
        """Take the comparison of an earlier run. Its champion may be another one by now: a person may have decided."""
        champion, candidate = promotion.champion, promotion.candidate
        if champion:
            self._state.note("an earlier run has a champion already")
        elif candidate:
            self._state.note(f"an earlier run has a candidate, {candidate.label}, but no champion yet")
        else:
            self._state.note("an earlier run has compared models, but there is no champion")
        self._take(last)
        self._state.recalled = True
        if champion is None:
            return
        if champion.label == f"{last.champion.model} {last.champion.version}":
            await self.champion(last.champion)
        elif champion.rmse is not None:
            model, version, framework = champion.model, champion.version, champion.framework
            await self.champion(ChampionSummary(model=model, version=version, framework=framework, rmse=champion.rmse))

    async def heartbeat(self, beat: Heartbeat) -> None:
        """Take the state of a service."""
        process = self._state.services.get(beat.service)
        if process is None or process.pid != beat.pid:
            return  # of another deployment on the same broker, or from before a restart
        process.url = beat.url or process.url
        before = process.state
        new = self._state.set_process(process, beat.state, beat.detail)
        if process.ready or is_up(beat.state, beat.detail):
            self._on_ready(process.name)
        is_read = (
            process.name == SOURCE and before == "working" and beat.state == "ready"
        )  # it says what became of its records
        if new and (is_read or beat.state not in READY_STATES or before not in READY_STATES):
            page = f", its page is at {process.url}" if process.name == PAGE_SERVICE and beat.state == "ready" else ""
            self._state.note(f"{process.name}: {beat.state}{f', {beat.detail}' if beat.detail else ''}{page}")

    async def progress(self, message: TrainingProgress) -> None:
        """Take the progress of a training."""
        before = self._same_round(message)
        if message.validation_rmse is None and isinstance(before, TrainingProgress):
            message = replace(message, validation_rmse=before.validation_rmse)
        self._state.trainings[message.trainer] = message
        self._state.changed = True

    async def trained(self, message: TrainingFinished) -> None:
        """Take the end of a training."""
        self._same_round(message)
        self._state.trainings[message.trainer] = message
        self._state.note(training_line(message))

    async def compared(self, message: ComparisonFinished) -> None:
        """Take a comparison of models, and its champion."""
        self._take(message)
        self._state.recalled = False
        if message.candidate != message.champion:  # where a person decides, the first winner is not the champion yet
            await self.champion(message.champion)

    def _take(self, message: ComparisonFinished) -> None:
        self._state.comparison = message
        for line in comparison_lines(message):
            self._state.note(line)

    async def champion(self, message: Champion) -> None:
        """Take the champion."""
        before = self._state.champion
        self._state.champion = message
        self._state.changed = True
        if before is None or (before.model, before.version) != (message.model, message.version):
            error = champion_error(message, self._state.comparison)
            self._state.note(f"champion: {message.model} version {message.version} ({message.framework}), {error}")

    async def alerted(self, alert: Alert) -> None:
        """Take an alert that begins."""
        self._state.alerts[alert.key] = alert
        self._state.note(f"ALERT ({alert.severity}): {alert.sentence}")

    async def alert_ended(self, alert: Alert) -> None:
        """Take the end of an alert."""
        self._state.alerts.pop(alert.key, None)
        self._state.note(f"alert over: {alert.over}")

    def _same_round(self, message: TrainingProgress | TrainingFinished) -> TrainingProgress | TrainingFinished | None:
        """Return the trainer's message before this one; None where this is the first of its round."""
        before = self._state.trainings.get(message.trainer)
        if before is not None and before.round == message.round:
            return before
        self._state.note(f"{message.trainer}: training begins")
        return None


def is_up(state: str, detail: str) -> bool:
    """Whether a service answers: it is ready, or a serving service that only waits for its first model."""
    return state in READY_STATES or (state == "waiting" and detail.startswith("no model"))
