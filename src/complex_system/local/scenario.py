"""``fiot run --scenario``: lets something happen to the lab, and follows how the system notices, learns and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from complex_system.errors import ComplexSystemError, StartError
from complex_system.local.state import RunState, ScenarioProgress, ScenarioStep
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import (
    ALERT_ENDED,
    ALERT_RAISED,
    GET_MONITORING,
    SET_SCENARIO,
    Alert,
    ScenarioRequest,
)
from complex_system.protocol.training import COMPARISON_FINISHED, TRAINING_ROUND, ComparisonFinished, TrainingRound

if TYPE_CHECKING:
    from complex_system.messaging.clients import SystemClient

NORMAL, BEGUN = "normal operation measured", "scenario begins"
DRIFT, ALERT, ROUND = "drift seen", "alert raised", "training round begins"
DECIDED, CHAMPION = "models compared", "new champion"
ERROR_DOWN, ENDED = "error back down", "alerts ended"

STEPS = {
    "shift": (NORMAL, BEGUN, DRIFT, ALERT, ROUND, CHAMPION, ERROR_DOWN, ENDED),
    "concept": (NORMAL, BEGUN, ALERT, ROUND, CHAMPION, ERROR_DOWN, ENDED),
    "noise": (NORMAL, BEGUN, ALERT, ROUND, DECIDED),
    "missing": (NORMAL, BEGUN, DRIFT, ALERT),
    "new_category": (NORMAL, BEGUN, ALERT),
}
"""The expected steps of each scenario, in order. Steps that a scenario does not list may happen as well."""

RULES = "COMPLEX_SYSTEM_ALERT_RULES"
QUICK = {
    "COMPLEX_SYSTEM_LIVE_RATE": "40",
    "COMPLEX_SYSTEM_PREDICTION_INTERVAL": "1",
    "COMPLEX_SYSTEM_PREDICTION_RECORDS": "20",
    "COMPLEX_SYSTEM_MONITORING_INTERVAL": "2",
    "COMPLEX_SYSTEM_MONITORING_WINDOW": "300",
    "COMPLEX_SYSTEM_SCENARIO_RAMP": "15",
    "COMPLEX_SYSTEM_RETRAIN_NEWEST": "1000",
    "COMPLEX_SYSTEM_RETRAIN_PAUSE": "30",
    # Only alerts may start a round here; at this rate the growth of the data would start one every minute.
    "COMPLEX_SYSTEM_RETRAIN_GROWTH": "1000",
}
"""Settings with which a scenario takes minutes, for those that the environment does not set."""

PLANT = "plant"
PLANT_QUICK = {
    **QUICK,
    "COMPLEX_SYSTEM_RECORDS": "200",
    "COMPLEX_SYSTEM_MIN_LABELLED": "150",
    "COMPLEX_SYSTEM_LIGHTGBM_TRIALS": "8",
    "COMPLEX_SYSTEM_EPOCHS": "100",
}
"""The same with the simulated plant, which makes two parts a second: records that the run waits for, and labels for a training."""

POLL = 0.5
"""Seconds between two looks at the figures of monitoring."""
ENOUGH_PAIRS = 100
"""Predictions with a known truth that an error is judged by."""
DRIFTED = 6.0
"""Evidence at which the shipped rule raises an alert."""
GOOD_AGAIN = 1.2
"""Multiple of the champion's error on the hold-out set up to which the error counts as back down."""


def scenario_environment(name: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a run with a scenario that are not set already; empty without a scenario.

    Args:
        name: Name of the scenario, or None.
        environment: Variables of the deployment's ``.env``; our own environment counts as well.

    Raises:
        StartError: There is no scenario of that name.
    """
    if name is None:
        return {}
    if name not in (*STEPS, PLANT):
        raise StartError(f"There is no scenario '{name}'; there are {', '.join((*STEPS, PLANT))}.")
    rules = str(resources.files("complex_system.monitoring.alerts") / "alerts-quick.yaml")
    known = {**os.environ, **environment}
    quick = {**(PLANT_QUICK if name == PLANT else QUICK), RULES: rules}
    return {variable: value for variable, value in quick.items() if not known.get(variable)}


class ScenarioDemo:
    """Begins the scenario once the first champion serves, and notes each step as it happens."""

    def __init__(
        self, name: str, state: RunState, client: Callable[[], Awaitable[SystemClient]], steps: Sequence[str] = ()
    ) -> None:
        """Prepare the demo.

        Args:
            name: Name of the scenario.
            state: State of the run; the steps are noted there.
            client: Returns the connection to the broker, once there is one.
            steps: The expected steps; by default those of the lab's scenario of that name.
        """
        self._state = state
        self._client = client
        self._scenario = ScenarioProgress(name, [ScenarioStep(step) for step in steps or STEPS[name]])
        state.scenario = self._scenario

    @property
    def missing(self) -> str:
        """The next expected step; empty when all have happened."""
        return next((step.step for step in self._scenario.steps if step.seconds is None), "")

    async def run(self) -> None:
        """Go through the steps; return when the last one has happened."""
        client = await self._client()
        await client.hear(ALERT_RAISED, self._alerted)
        await client.hear(ALERT_ENDED, self._ended)
        await client.hear(TRAINING_ROUND, self._round)
        await client.hear(COMPARISON_FINISHED, self._compared)
        while self.missing:
            await self._measure(client)
            if self.missing == NORMAL and self._scenario.pairs >= ENOUGH_PAIRS and not self._alert_is_open:
                self._happened(NORMAL, self._error())
            if self.missing == BEGUN:
                with contextlib.suppress(ComplexSystemError):
                    await client.ask(SET_SCENARIO, ScenarioRequest(scenario=self._scenario.name))
                    self._happened(BEGUN, self._scenario.name)
            await asyncio.sleep(POLL)

    async def _measure(self, client: SystemClient) -> None:
        """Take the newest figures of ``ml_monitoring`` that are about the champion."""
        scenario, champion = self._scenario, self._state.champion
        try:
            snapshot = await client.ask(GET_MONITORING, Empty(), 5.0)
        except ComplexSystemError:
            return
        served = snapshot.model
        if champion is None or served is None or (served.model, served.version) != (champion.model, champion.version):
            return
        scenario.pairs = int(snapshot.performance.get("count", 0))
        scenario.rmse, scenario.origin = snapshot.performance.get("rmse"), snapshot.origin
        scenario.rmse_relative = scenario.rmse / champion.rmse if scenario.rmse is not None and champion.rmse else None
        scenario.psi_max = max(snapshot.drift.values(), default=None)
        self._state.changed = True
        scenario.evidence = snapshot.metrics.get("drift/evidence_max")
        if scenario.evidence is not None and scenario.evidence > DRIFTED and self._has(BEGUN):
            self._happened(DRIFT, f"evidence {scenario.evidence:.2f}")
        good = scenario.rmse_relative is not None and scenario.rmse_relative <= GOOD_AGAIN
        if good and scenario.pairs >= ENOUGH_PAIRS and self._has(CHAMPION):
            self._happened(ERROR_DOWN, self._error())
        self._check_end()

    async def _alerted(self, alert: Alert) -> None:
        if not self._has(BEGUN):
            return
        drift = alert.metric.startswith("drift/")
        if drift:  # an alert about drift means that drift was seen
            figure = "PSI" if "psi" in alert.metric else "evidence"
            self._happened(DRIFT, f"{figure} {alert.value:.2f} of {alert.subject}")
        if drift or not any(step.step == DRIFT for step in self._scenario.steps):
            self._happened(ALERT, alert.sentence)

    async def _ended(self, alert: Alert) -> None:
        self._state.alerts.pop(alert.key, None)
        self._check_end()

    @property
    def _alert_is_open(self) -> bool:
        """Whether an alert about the data or the error is open; one about the host does not count."""
        return any(alert.retrain for alert in self._state.alerts.values())

    def _check_end(self) -> None:
        if self._has(ERROR_DOWN) and not self._alert_is_open:
            self._happened(ENDED, "none is open")

    async def _round(self, message: TrainingRound) -> None:
        if message.stage == "started" and message.cause == "alert":
            self._happened(ROUND, f"round {message.round}")

    async def _compared(self, message: ComparisonFinished) -> None:
        if message.cause != "alert":
            return
        champion = message.champion
        new = f"{champion.model} version {champion.version}, RMSE {champion.rmse:.2f} on the newest hold-out data"
        self._happened(DECIDED, message.kept or new)
        if not message.kept:
            self._happened(CHAMPION, new)

    def _error(self) -> str:
        scenario = self._scenario
        relative = "" if scenario.rmse_relative is None else f", {scenario.rmse_relative:.2f} times the hold-out RMSE"
        return f"RMSE {scenario.rmse or 0:.2f} on {scenario.basis}{relative}"

    def _has(self, name: str) -> bool:
        return any(step.step == name and step.seconds is not None for step in self._scenario.steps)

    def _happened(self, name: str, text: str) -> None:
        for step in self._scenario.steps:
            if step.step == name and step.seconds is None:
                step.seconds, step.text = round(self._state.seconds, 1), text
                self._state.note(f"scenario {self._scenario.name}: {name}: {text}")
