"""``fiot run --scenario``: lets something happen to the lab and watches how the system gets along with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from complex_system.errors import ComplexSystemError
from complex_system.local.scenario import (
    ALERT,
    BEGUN,
    CHAMPION,
    DECIDED,
    DRIFT,
    ENDED,
    ERROR_DOWN,
    NORMAL,
    ROUND,
    STEPS,
)
from complex_system.local.state import RunState, ScenarioState, ScenarioStep
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.subjects import (
    ALERT_ENDED,
    ALERT_RAISED,
    COMPARISON_FINISHED,
    MONITORING_SUBJECT,
    SET_SCENARIO_SUBJECT,
    TRAINING_ROUND,
)

ENOUGH_PAIRS = 100
"""Predictions with their truth that an error is judged by."""
DRIFTED = 0.25
"""Stability index of a drift that is significant by convention."""
GOOD_AGAIN = 1.2
"""Multiple of the champion's error on the hold-out set that is as good as before."""


class Demonstration:
    """Begins the scenario once the first champion serves, and notes each step as it comes."""

    def __init__(self, name: str, state: RunState, client: Callable[[], Awaitable[SystemClient]]) -> None:
        """Prepares it.

        Args:
            name: Of the scenario.
            state: What is known of the run; the steps are noted there.
            client: Gives the connection to the broker, once there is one.
        """
        self._state = state
        self._client = client
        self._scenario = ScenarioState(name, [ScenarioStep(step) for step in STEPS[name]])
        state.scenario = self._scenario

    @property
    def missing(self) -> str:
        """The step that is waited for; empty when all have come."""
        return next((step.step for step in self._scenario.steps if step.seconds is None), "")

    async def run(self) -> None:
        """Goes through the steps; returns when the last one has come."""
        client = await self._client()
        for subject, handler in (
            (ALERT_RAISED, self._alerted), (ALERT_ENDED, self._ended), (TRAINING_ROUND, self._round),
            (COMPARISON_FINISHED, self._compared),
        ):  # fmt: skip
            await client.hear(subject, handler)
        while self.missing:
            await self._measure(client)
            if self.missing == NORMAL and self._scenario.pairs >= ENOUGH_PAIRS and not self._open:
                self._came(NORMAL, self._error())
            if self.missing == BEGUN:
                with contextlib.suppress(ComplexSystemError):
                    await client.ask(SET_SCENARIO_SUBJECT, {"scenario": self._scenario.name})
                    self._came(BEGUN, self._scenario.name)
            await asyncio.sleep(0.5)

    async def _measure(self, client: SystemClient) -> None:
        """Takes the newest figures of ``ml_monitoring``."""
        scenario, champion = self._scenario, self._state.champion
        try:
            told = await client.ask(MONITORING_SUBJECT, {}, 5.0)
        except ComplexSystemError:
            return
        served, performance = told.get("model") or {}, told.get("performance") or {}
        if champion is None or (served.get("model"), str(served.get("version"))) != (champion.model, champion.version):
            return
        scenario.pairs = int(performance.get("count") or 0)
        scenario.rmse = performance.get("rmse")
        scenario.rmse_relative = scenario.rmse / champion.rmse if scenario.rmse is not None and champion.rmse else None
        scenario.psi_max = max((told.get("drift") or {}).values(), default=None)
        self._state.changed = True
        if scenario.psi_max is not None and scenario.psi_max > DRIFTED and self._has(BEGUN):
            self._came(DRIFT, f"PSI {scenario.psi_max:.2f}")
        good = scenario.rmse_relative is not None and scenario.rmse_relative <= GOOD_AGAIN
        if good and scenario.pairs >= ENOUGH_PAIRS and self._has(CHAMPION):
            self._came(ERROR_DOWN, self._error())
        self._look_for_end()

    async def _alerted(self, alert: dict[str, Any]) -> None:
        if not self._has(BEGUN):
            return
        drift = str(alert["metric"]).startswith("drift/")
        if drift:  # it was seen, or there would be no alert
            self._came(DRIFT, f"PSI {alert['value']:.2f}")
        if drift or not any(step.step == DRIFT for step in self._scenario.steps):
            self._came(ALERT, str(alert["sentence"]))

    async def _ended(self, alert: dict[str, Any]) -> None:
        self._state.alerts.pop(str(alert["key"]), None)
        self._look_for_end()

    @property
    def _open(self) -> bool:
        """Whether an alert about the data or the error is open; a machine that is short of cores for a moment does not count."""
        return any(alert.get("retrain") for alert in self._state.alerts.values())

    def _look_for_end(self) -> None:
        if self._has(ERROR_DOWN) and not self._open:
            self._came(ENDED, "none is open")

    async def _round(self, event: dict[str, Any]) -> None:
        if event["stage"] == "started" and event["cause"] == "alert":
            self._came(ROUND, f"round {event['round']}")

    async def _compared(self, event: dict[str, Any]) -> None:
        if event["cause"] != "alert":
            return
        champion = event["champion"]
        new = f"{champion['model']} version {champion['version']}, RMSE {float(champion['rmse']):.2f} on the newest hold-out data"
        self._came(DECIDED, event["kept"] or new)
        if not event["kept"]:
            self._came(CHAMPION, new)

    def _error(self) -> str:
        scenario = self._scenario
        relative = "" if scenario.rmse_relative is None else f", {scenario.rmse_relative:.2f} times the hold-out RMSE"
        return f"RMSE {scenario.rmse or 0:.2f}{relative}"

    def _has(self, name: str) -> bool:
        return any(step.step == name and step.seconds is not None for step in self._scenario.steps)

    def _came(self, name: str, text: str) -> None:
        for step in self._scenario.steps:
            if step.step == name and step.seconds is None:
                step.seconds, step.text = round(self._state.seconds, 1), text
                self._state.note(f"scenario {self._scenario.name}: {name}: {text}")
