"""Labels that come later, the whole way: saved without, processed, predicted, labelled, joined, trained, champion."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import kio.ml_lifecycle_broker_facade as kio
import polars as pl
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ReplyTimeoutError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import GET_MONITORING
from complex_system.protocol.training import ComparisonFinished
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from complex_system_services.ml_consumer.ml_consumer_service import MlConsumerService
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from support import Ear, eventually, running

# MLflow warns of its own deprecations.
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
]

DATABASES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
TARGET = Dataset.load().target
EARLY, LATE = 120, 480
"""Records that come with their label, and those whose label comes later: a third each by file, by message and by request."""
THIRD = LATE // 3
SECONDS = 120.0


@pytest.fixture(params=list(DATABASES))
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    database: str,
    request: pytest.FixtureRequest,
    nats_server: Server,
    mlflow_server: Server,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> Settings:
    name = f"t{uuid4().hex[:8]}"
    server: Server = request.getfixturevalue(f"{database}_server")
    return make_settings(
        nats_server, server, mlflow_server, mongo_name=name, maria_name=name, mlflow_experiment=name, model_prefix=name,
        trainers="lightgbm", min_labelled=100, prediction_interval=3600.0, processing_interval=0.5, boosting_rounds=60,
        monitoring_interval=1.0, monitoring_window=1000, serving_mlflow_port=0, monitoring_port=0,
        config_dir=str(tmp_path), source_file="lab.csv",
    )  # fmt: skip


def write(settings: Settings, records: list[Record]) -> None:
    path = Path(settings.config_dir) / settings.source_file
    pl.DataFrame(records, infer_schema_length=None).write_csv(path)
    os.utime(path, (time.time(), time.time()))


async def slowly(check: Callable[[], Awaitable[Any]]) -> Any:
    """Polls what asks a service; all of them share this process."""

    async def after_a_pause() -> Any:
        await asyncio.sleep(0.5)
        with contextlib.suppress(ReplyTimeoutError):  # of a busy machine
            return await check()

    return await eventually(after_a_pause, SECONDS)


async def read_file(settings: Settings) -> None:
    """Starts the source anew, and ends it when it has read the file."""
    async with running(DummyDataGenerationService, settings) as source:
        await eventually(lambda: source.health().state == "ready", SECONDS)
        assert source.health().detail.startswith(f"{EARLY + LATE} of {EARLY + LATE} records saved")


async def test_a_label_that_comes_later_reaches_everything_and_a_correction_starts_a_round(
    settings: Settings, database: str, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlMonitoringService, "ask_interval", 5.0)
    laboratory, client = Laboratory(11), DatabaseClient(ear)
    records = [{**laboratory.measured_record(), ID: f"B-{i:04}"} for i in range(EARLY + LATE)]
    late = records[EARLY:]
    without = [*records[:EARLY], *({**record, TARGET: None} for record in late)]
    async with AsyncExitStack() as services:
        start = services.enter_async_context
        await start(running(DATABASES[database], settings.copy(update={"on_conflict": "replace"})))
        await start(running(DataProcessingService, settings))
        monitoring = await start(running(MlMonitoringService, settings))
        write(settings, without)
        await read_file(settings)
        await start(running(MlLightgbmRegressionMlflowService, settings))
        await start(running(MlConsumerService, settings))
        first = await eventually(lambda: ear.comparisons and ear.comparisons[0], SECONDS)
        assert first.records == EARLY

        # Predicted by REST, as a batch of rows with their keys.
        serving = await start(running(MlServingMlflowService, settings))
        await eventually(lambda: serving.champion.current, SECONDS)
        rows = [{name: value for name, value in record.items() if name != TARGET} for record in late]
        async with httpx.AsyncClient(timeout=30) as web:
            answer = await web.post(f"{serving.url}/predict", json={"records": rows})
        predictions = answer.raise_for_status().json()["predictions"]
        await eventually(lambda: monitoring.monitor.join.waiting == LATE, SECONDS)

        # The labels come: a third by the file, a third by messages, a third by kio's request.
        write(settings, [*records[: EARLY + THIRD], *without[EARLY + THIRD :]])
        await read_file(settings)
        for record in late[THIRD : 2 * THIRD]:
            await ear.broker.client.publish("ingest-raw-datapoints.lims", json.dumps(record).encode())
        saved = await kio.request_save_many_raw_data_points(ear, late[2 * THIRD :])
        assert (saved["filled"], saved["conflicts"]) == (THIRD, 0)

        truths = {record[ID]: record[TARGET] for record in records}

        async def labelled() -> bool:
            return await client.targets(list(truths)) == truths

        await slowly(labelled)

        async def joined() -> Any:
            performance = (await ear.ask(GET_MONITORING, Empty())).performance
            return performance if performance.get("count") == LATE else None

        performance = await slowly(joined)
        squares = [(p - record[TARGET]) ** 2 for p, record in zip(predictions, late, strict=True)]
        assert performance["rmse"] == pytest.approx(math.sqrt(sum(squares) / LATE), rel=1e-3)

        # The next training has them, and its model is champion.
        def of_all() -> list[ComparisonFinished]:
            return [each for each in ear.comparisons if each.records == EARLY + LATE]

        second = (await eventually(of_all, SECONDS))[0]
        trained = {outcome.round: sum(outcome.samples.values()) for outcome in ear.finished}
        assert trained[second.round] > 2 * trained[first.round]
        assert second.champion.version != first.champion.version
        await eventually(lambda: serving.champion.current.info.version == second.champion.version, SECONDS)

        # Corrected labels count as new ones; what was joined stays as it was joined.
        corrected = [{**record, TARGET: record[TARGET] + 500.0} for record in records[:170]]
        assert (await client.save_raw(corrected)).replaced == 170
        await eventually(lambda: len(of_all()) == 2, SECONDS)
        assert (await client.targets([records[0][ID]]))[records[0][ID]] == corrected[0][TARGET]
        again = await joined()
        assert again == {**(again or {}), "rmse": performance["rmse"]}
