"""Hosts whose clocks are an hour apart: what is decided does not depend on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import uuid7
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import GET_MONITORING
from complex_system.service_layer.monitoring.keeper import DatabaseClock
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.settings import Settings
from complex_system.sources.scenarios import Scenario
from complex_system.tracking import registry as registry_module
from complex_system.tracking.registry import CHAMPION, ModelRegistry
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from support import TesterService, eventually, running

AN_HOUR = 3600.0


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"monitoring_port": 0, "monitoring_interval": 0.3, "processing_interval": 0.2}


class AnHourAhead(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(hours=1)


@pytest.mark.parametrize("ahead", [AN_HOUR, -AN_HOUR])
async def test_records_since_an_alert_are_those_that_arrived_since_whatever_the_sources_clock_says(
    ahead: float, settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    client = DatabaseClient(tester)
    data = LabelledData(dataset, client)

    async def arrive(seed: int, later: float) -> list[Record]:
        made = await client.now() + ahead + later
        records = [record for record in Laboratory(seed).records(200) if record[dataset.target] is not None]
        records = [{**each, "_id": uuid7(int(1000 * made) + 10 * place, place)} for place, each in enumerate(records)]
        await client.save_raw(records)
        table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
        await client.upsert_processed(Page(table, None, {"version": dataset.version}))
        return records

    await arrive(1, 0.0)
    saved = await client.now()

    async def later() -> float | None:
        now = await client.now()
        return now if now > saved + 0.002 else None

    raised = await eventually(later, 60)
    assert await data.newest(10, raised) == (0, None)
    since = await arrive(2, 5.0)
    assert await data.newest(len(since), raised) == (len(since), raised)
    assert await data.newest(len(since) + 1, raised) == (len(since), None)


async def test_rejected_records_are_watched_whatever_the_sources_clock_says(
    settings: Settings, database: None, tester: TesterService
) -> None:
    records = [
        {**record, "material_id": "99999999", "_id": uuid7(int(1000 * (time.time() - AN_HOUR + place)), place)}
        for place, record in enumerate(Laboratory(5).records(4))
    ]
    async with running(MlMonitoringService, settings), running(DataProcessingService, settings):
        await DatabaseClient(tester).save_raw(records)

        async def watched() -> bool:
            return (await tester.ask(GET_MONITORING, Empty())).metrics.get("data/new_categories/material_id") == 4

        await eventually(watched, 60)


async def test_monitoring_goes_by_the_databases_clock(
    settings: Settings, database: None, tester: TesterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    clock = DatabaseClock()
    with monkeypatch.context() as patch:
        patch.setattr("complex_system.service_layer.monitoring.keeper.time.time", lambda: real() + AN_HOUR)
        assert clock() == pytest.approx(real() + AN_HOUR, abs=5)
        await clock.ask(DatabaseClient(tester))
        assert clock() == pytest.approx(real(), abs=5)
        await clock.ask(DatabaseClient(tester))
        assert clock() == pytest.approx(real(), abs=5)


def test_the_champion_is_the_one_whose_move_came_last_whatever_the_movers_clocks_say(
    settings: Settings,
    mlflow_server: Server,
    publish: Callable[..., tuple[str, str]],
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    registry = ModelRegistry(mlflow_server.url, prefix)
    first, second = (registry.find(*publish(0.0, trainer=trainer, champion=False)) for trainer in ("lightgbm", "pytorch"))
    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "datetime", AnHourAhead)
        registry.set_champion(first, "one")
    registry.set_champion(second, "two")
    # The mover was cut off before it took the alias from the other model.
    MlflowClient(mlflow_server.url).set_registered_model_alias(first.model, CHAMPION, first.version)
    assert len(registry.champions()) == 2
    assert registry.champion() == second


async def test_a_scenario_is_as_old_as_its_source_says_whatever_the_clocks_say() -> None:
    source = time.time() + AN_HOUR
    state = Scenario.named("shift", source - 30, 60).state(source)
    now = time.time()
    assert Scenario.named(state.scenario, state.began_by(now), state.ramp).extent(now) == pytest.approx(0.5)
