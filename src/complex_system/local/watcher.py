"""Hears on the broker how the run goes, and keeps the run's state by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from complex_system.errors import ComplexSystemError
from complex_system.evaluation.verdict import format_figure
from complex_system.local.plan import PAGE_SERVICE, Plan
from complex_system.local.quality import Judgement, figures_of
from complex_system.local.state import READY_STATES, Champion, Result, RunState, Scores, Training
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.messaging.subjects import (
    ALERT_ENDED,
    ALERT_RAISED,
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    GET_COMPARISON_SUBJECT,
    SERVICE_HEARTBEAT,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
)
from complex_system.protocol.base import to_wire

log = logging.getLogger(__name__)

EventHandler = Callable[[Any], Awaitable[None]]


class Watcher:
    """Translates events of the system into the run's state."""

    def __init__(self, plan: Plan, state: RunState, client: SystemClient, on_ready: Callable[[str], None]) -> None:
        """Prepares a watcher.

        Args:
            plan: What runs.
            state: What is kept.
            client: The connection to the broker.
            on_ready: Called with a service's name when it says that it is ready.
        """
        self._plan = plan
        self._state = state
        self._client = client
        self._on_ready = on_ready
        self._database = DatabaseClient(client)

    async def start(self) -> None:
        """Subscribes to the events."""
        for subject, handler in (
            (SERVICE_HEARTBEAT, self.heartbeat),
            (TRAINING_PROGRESS, self.progress),
            (TRAINING_FINISHED, self.trained),
            (COMPARISON_FINISHED, self.compared),
            (CHAMPION_CHANGED, self.champion),
            (ALERT_RAISED, self.alerted),
            (ALERT_ENDED, self.alert_ended),
        ):
            await self._client.hear(subject, _tolerant(handler))
        await self._client.broker.settle()

    async def count_for_ever(self) -> None:
        """Asks for the numbers of records, about once a second; less often where counting takes the database long."""
        while self._plan.database:
            began = time.monotonic()
            with contextlib.suppress(ComplexSystemError):
                counts = to_wire(await self._database.counts())
                if counts != self._state.records or not self._state.counted:
                    self._state.records = {name: int(counts.get(name, 0)) for name in self._state.records}
                    self._state.counted = self._state.changed = True
            await asyncio.sleep(max(1.0, min(4 * (time.monotonic() - began), 5.0)))

    async def recall_for_ever(self) -> None:
        """Asks for the comparison of an earlier run until there is one: a champion that is still the best is not crowned again."""
        while self._plan.has("ml_consumer") and not self._state.results:
            with contextlib.suppress(ComplexSystemError):
                last = await self._client.ask(GET_COMPARISON_SUBJECT, {}, 10.0)
                if last and not self._state.results:
                    self._state.note("an earlier run has a champion already")
                    await _tolerant(self.compared)(last)
                    self._state.recalled = bool(self._state.results)
            await asyncio.sleep(2.0)

    async def heartbeat(self, beat: dict[str, Any]) -> None:
        """A service says how it is."""
        process = self._state.services.get(beat["service"])
        if process is None or process.pid != beat["pid"]:
            return  # another deployment's on the same broker, or a last word from before a restart
        process.url = beat.get("url") or process.url
        state, detail = beat["state"], beat.get("detail", "")
        before = process.state
        new = self._state.set_process(process, state, detail)
        if process.ready or is_up(state, detail):
            self._on_ready(process.name)
        if new and (state not in READY_STATES or before not in READY_STATES):
            page = f", its page is at {process.url}" if process.name == PAGE_SERVICE and state == "ready" else ""
            self._state.note(f"{process.name}: {state}{f', {detail}' if detail else ''}{page}")

    async def progress(self, event: dict[str, Any]) -> None:
        """A trainer is at work."""
        training = self._training(event)
        training.status = "training"
        training.stage = str(event["stage"])
        training.step, training.steps = int(event.get("step") or 0), int(event.get("steps") or 0)
        rmse = event.get("validation_rmse")
        training.validation_rmse = float(rmse) if rmse is not None else training.validation_rmse
        self._state.changed = True

    async def trained(self, event: dict[str, Any]) -> None:
        """A trainer ended."""
        training = self._training(event)
        training.seconds = float(event.get("seconds") or 0.0)
        training.stage = training.status = "finished" if event["status"] == "finished" else "failed"
        if training.status == "failed":
            training.error = str(event.get("error") or "no reason given")
            self._state.note(f"{training.trainer}: training failed: {training.error}")
            return
        training.validation = _scores(event["validation"])
        scores = training.validation
        self._state.note(
            f"{training.trainer}: trained in {training.seconds:.1f} s; "
            f"validation RMSE {format_figure(scores.rmse)}, MAE {format_figure(scores.mae)}, R2 {scores.r2:.4f}"
        )

    async def compared(self, event: dict[str, Any]) -> None:
        """The models were compared on the hold-out set."""
        self._state.results = [
            Result(
                trainer=str(row["trainer"]),
                framework=str(row["framework"]),
                model=str(row["model"]),
                version=str(row["version"]),
                **figures_of(row),
            )
            for row in event["results"]
        ]
        self._state.judgement = judgement = Judgement.of(event)
        self._state.recalled = False
        self._state.holdout = int(event.get("holdout") or 0)
        self._state.note(f"comparison {judgement.basis(self._state.holdout)}:")
        for place, row in enumerate(self._state.results, 1):
            words = row.figures.words(judgement.ranked_by)
            self._state.note(f"  {place}. {row.trainer:<14} {words}  ({row.model} version {row.version})")
        for name, figures in judgement.baselines.items():
            self._state.note(f"  -  {name:<14} {figures.words(judgement.ranked_by)}  (baseline)")
        if judgement.verdict:
            self._state.note(judgement.verdict)
        if event.get("kept"):
            self._state.note(str(event["kept"]))
        if event.get("champion"):
            await self.champion(event["champion"])

    async def champion(self, event: dict[str, Any]) -> None:
        """Another model is served from now on."""
        before = self._state.champion
        after = Champion(str(event["model"]), str(event["version"]), str(event["framework"]), float(event["rmse"]))
        self._state.champion = after
        self._state.changed = True
        if before is None or (before.model, before.version) != (after.model, after.version):
            self._state.note(
                f"champion: {after.model} version {after.version} ({after.framework}), {self._state.error_of(after)}"
            )

    async def alerted(self, alert: dict[str, Any]) -> None:
        """An alert begins."""
        self._state.alerts[str(alert["key"])] = alert
        self._state.note(f"ALERT ({alert['severity']}): {alert['sentence']}")

    async def alert_ended(self, alert: dict[str, Any]) -> None:
        """An alert is over."""
        self._state.alerts.pop(str(alert["key"]), None)
        self._state.note(f"alert over: {alert['over']}")

    def _training(self, event: dict[str, Any]) -> Training:
        name = str(event["trainer"])
        training = self._state.trainings.get(name)
        round_ = str(event.get("round") or "")
        if training is None or (training.round != round_ and training.round):
            training = self._state.trainings[name] = Training(name)
        training.round = round_
        if training.status == "waiting":
            training.status = "training"
            self._state.note(f"{name}: training begins")
        training.framework = str(event.get("framework") or training.framework)
        return training


def is_up(state: str, detail: str) -> bool:
    """Whether a service answers: ready, or a serving service that only waits for its first model."""
    return state in READY_STATES or (state == "waiting" and detail.startswith("no model"))


def _scores(values: dict[str, Any]) -> Scores:
    return Scores(float(values["rmse"]), float(values["mae"]), float(values["r2"]))


def _tolerant(handler: EventHandler) -> EventHandler:
    """An event of another shape (another version on the same broker) is left out, with a line in the runner's log."""

    async def handle(value: Any) -> None:
        try:
            await handler(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("An event of an unexpected shape was left out: %r (%r)", value, error)

    return handle
