"""The steps of a scenario, from the messages that show them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from complex_system.local.scenario import STEPS, ScenarioDemo
from complex_system.local.state import RunState
from complex_system.protocol.base import Event, Request
from complex_system.protocol.operations import (
    ALERT_ENDED,
    ALERT_RAISED,
    GET_MONITORING,
    SET_SCENARIO,
    Alert,
    MonitoringSnapshot,
    ScenarioRequest,
    ScenarioState,
    ServedModel,
)
from complex_system.protocol.training import (
    COMPARISON_FINISHED,
    TRAINING_ROUND,
    ChampionSummary,
    ComparisonFinished,
    TrainingRound,
)
from support import eventually

OLD = ChampionSummary(model="lab-lightgbm", version="1", framework="lightgbm", rmse=14.0)
NEW = replace(OLD, version="2", rmse=15.0)
ALERT = Alert(
    key="k", rule="drift", metric="drift/evidence/x", subject="x", severity="critical", retrain=True, since=0.0, began=1.0,
    value=7.3, newest=7.3, threshold=6, sentence="x has drifted.",
)  # fmt: skip


class FakeClient:
    """The connection to the broker: monitoring answers with ``snapshot``, and a test sends the events."""

    def __init__(self) -> None:
        self.snapshot = MonitoringSnapshot()
        self.handlers: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self.begun: list[str] = []

    async def hear(self, event: Event[Any], handler: Callable[[Any], Awaitable[None]]) -> None:
        self.handlers[event.name] = handler

    async def send(self, event: Event[Any], message: object) -> None:
        await self.handlers[event.name](message)

    async def ask(self, request: Request[Any, Any], value: Any, seconds: float | None = None) -> Any:
        if request is SET_SCENARIO:
            assert isinstance(value, ScenarioRequest)
            self.begun.append(value.scenario)
            return ScenarioState(scenario=value.scenario, began=0.0, ramp=1.0)
        assert request is GET_MONITORING
        return self.snapshot


def measured(champion: ChampionSummary, rmse: float, evidence: float) -> MonitoringSnapshot:
    return MonitoringSnapshot(
        model=ServedModel(model=champion.model, version=champion.version),
        performance={"count": 200.0, "rmse": rmse},
        origin="probe",
        drift={"x": 0.1},
        metrics={"drift/evidence_max": evidence},
    )


async def test_a_shift_goes_from_normal_operation_to_a_new_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("complex_system.local.scenario.POLL", 0.01)
    client, state = FakeClient(), RunState("here", champion=OLD)
    logged: list[str] = []
    state.on_note.append(logged.append)

    async def connected() -> Any:
        return client

    demo = ScenarioDemo("shift", state, connected)
    run = asyncio.create_task(demo.run())
    await eventually(lambda: client.handlers)
    await client.send(ALERT_RAISED, ALERT)  # before the scenario begins it is none of its steps
    client.snapshot = measured(OLD, 14.5, 0.5)
    await eventually(lambda: client.begun == ["shift"])
    client.snapshot = measured(OLD, 30.0, 7.25)
    await eventually(lambda: demo.missing == "alert raised")
    state.alerts["k"] = ALERT
    await client.send(ALERT_RAISED, ALERT)
    await client.send(TRAINING_ROUND, TrainingRound(round="r", stage="started", cause="growth"))
    assert demo.missing == "training round begins"
    await client.send(TRAINING_ROUND, TrainingRound(round="r", stage="started", cause="alert"))
    comparison = ComparisonFinished(round="r", results=(), champion=NEW, holdout=700, cause="alert")
    await client.send(COMPARISON_FINISHED, replace(comparison, kept="The old champion stays."))
    assert demo.missing == "new champion"
    await client.send(COMPARISON_FINISHED, comparison)
    client.snapshot = measured(OLD, 14.0, 7.25)  # of the model before: not yet the new champion's error
    state.champion = NEW
    await asyncio.sleep(0.05)
    assert demo.missing == "error back down"
    client.snapshot = measured(NEW, 15.0, 7.25)
    await eventually(lambda: demo.missing == "alerts ended")
    await client.send(ALERT_ENDED, ALERT)
    await asyncio.wait_for(run, 60)
    assert state.scenario is not None
    assert [step.step for step in state.scenario.steps] == list(STEPS["shift"])
    assert (state.scenario.rmse_relative, state.scenario.pairs) == (1.0, 200)
    assert "scenario shift: drift seen: evidence 7.25" in logged
    assert "scenario shift: alert raised: x has drifted." in logged
    assert "scenario shift: normal operation measured: RMSE 14.50 on 200 probes, 1.04 times the hold-out RMSE" in logged
    assert logged[-1] == "scenario shift: alerts ended: none is open"


@pytest.mark.parametrize(("metric", "told"), [("drift/evidence/x", "evidence 6.42 of x"), ("drift/psi/x", "PSI 6.42 of x")])
async def test_an_alert_about_drift_says_what_its_value_is(metric: str, told: str) -> None:
    """Seen: an evidence of 6.42 as "PSI 6.42"."""
    state = RunState("here", champion=OLD)
    demo = ScenarioDemo("shift", state, client=None)  # type: ignore[arg-type]
    demo._happened("scenario begins", "shift")
    await demo._alerted(replace(ALERT, metric=metric, value=6.42))
    assert state.scenario is not None
    assert {step.step: step.text for step in state.scenario.steps}["drift seen"] == told
