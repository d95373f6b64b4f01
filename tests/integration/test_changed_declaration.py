"""The declaration changes while the system is in use: the old model answers as before until one of the new version is champion."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import new_key
from complex_system.domain.records import Record
from complex_system.errors import DeclarationError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.monitoring import views
from complex_system.pipeline.pipeline import Pipeline
from complex_system.service_layer.rounds.round import RoundTimes
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_consumer.ml_consumer_service import MlConsumerService
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from support import Ear, eventually, running

# MLflow and LightGBM warn of their own and each other's deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
]

BEFORE = """
name: ovens
target: quality
columns:
  - {name: Temp, type: number, range: [0, 100]}
  - {name: Alloy, type: category, categories: [A, B]}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp}
  - {step: one_hot, column: Alloy}
"""
AFTER = """
name: ovens
target: quality
columns:
  - {name: Moisture, type: number, range: [0, 1], optional: true, fill: 0.5}
  - {name: temp, type: text, optional: true}
  - {name: Temp, type: number, range: [0, 200]}
  - {name: Alloy, type: category, categories: [A, B]}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp, to: [-1, 1]}
  - {step: one_hot, column: Alloy}
  - {step: keep, column: Moisture}
"""
DATABASES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}


class QuickConsumer(MlConsumerService):
    """The consumer with the patience of a test."""

    look_interval = 0.2
    round_times = RoundTimes(patience=60.0, ask_again=0.2, check_again=0.5)


@pytest.fixture(params=DATABASES)
def settings(
    request: pytest.FixtureRequest, nats_server: Server, mlflow_server: Server, make_settings: Callable[..., Settings]
) -> Settings:
    server: Server = request.getfixturevalue(f"{request.param}_server")
    name = f"t{new_key().replace('-', '')[-12:]}"
    own = {"mongo_name": name, "maria_name": name, "mlflow_experiment": name, "model_prefix": name}
    return make_settings(
        nats_server, mlflow_server, server, **own, trainers="lightgbm", min_labelled=100, boosting_rounds=20,
        processing_interval=0.05, prediction_interval=0.2, model_poll_interval=0.2, monitoring_interval=0.2,
        serving_mlflow_port=0, monitoring_port=0,
    )  # fmt: skip


def made(count: int, seed: int) -> list[Record]:
    draw = random.Random(seed)
    rows = [(draw.uniform(0, 100), draw.choice("AB")) for _ in range(count)]
    return [
        {ID: new_key(), "Temp": temp, "Alloy": alloy, "quality": 3 * temp + 50 * (alloy == "A") + draw.gauss(0, 1)}
        for temp, alloy in rows
    ]


async def processed(client: DatabaseClient, dataset: Dataset, records: list[Record]) -> bool:
    """Whether all records have their processed record of the data set's version, as its pipeline makes it."""
    left = await client.unprocessed(dataset.version, 10, None)
    if left.table.num_rows:
        return False
    rows = [row async for page in client.processed_pages(version=dataset.version) for row in page.table.to_pylist()]
    full = [{**dict.fromkeys(dataset.raw_names), **record} for record in records]
    return rows == Pipeline(dataset).process(full).to_dicts()


@pytest.mark.long
@pytest.mark.parametrize("settings", ["mongo", "maria"], indirect=True)
async def test_the_old_model_answers_until_one_of_the_new_version_is_champion(
    settings: Settings, ear: Ear, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    database = DATABASES[request.node.callspec.params["settings"]]
    old, new = Dataset.parse(BEFORE), Dataset.parse(AFTER)
    assert old.version != new.version
    client, serving_client = DatabaseClient(ear), ServingClient(ear)
    records = made(500, 1)
    asked = [{name: record[name] for name in ("Temp", "Alloy")} for record in made(20, 2)]

    async def answer(rest: httpx.AsyncClient, rows: list[Record]) -> dict[str, Any]:
        reply = await rest.post("/predict", json={"records": rows})
        assert reply.status_code == 200, reply.text
        content: dict[str, Any] = reply.json()
        return content

    async with (
        running(database, settings, old),
        running(DataProcessingService, settings, old),
        running(MlLightgbmRegressionMlflowService, settings, old),
        running(QuickConsumer, settings, old),
        running(MlServingMlflowService, settings, old) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=20) as rest,
    ):
        await client.save_raw(records)
        await eventually(lambda: serving.champion.current, 120)
        before = await answer(rest, asked)
        assert before["pipeline_version"] == old.version
        assert await processed(client, old, records)

    ear.predictions.clear()
    caplog.clear()
    async with (
        running(database, settings, new),
        running(DataProcessingService, settings, new),
        running(MlMonitoringService, settings, new) as monitoring,
        running(MlServingMlflowService, settings, new) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=20) as rest,
    ):
        await eventually(lambda: serving.champion.current, 60)
        assert (await answer(rest, asked)) | {"request_id": ""} == before | {"request_id": ""}
        assert "is served with that pipeline until there is a model of version" in caplog.text
        await eventually(lambda: f"of pipeline version {old.version}, with its own pipeline" in serving.health().detail)
        # The old declaration judges; what only the new one has may be sent, and is checked as that declares it.
        with_more = [{**record, "Moisture": 0.9, "temp": "warm"} for record in asked]
        assert (await answer(rest, with_more))["predictions"] == before["predictions"]
        assert (await serving_client.predict(with_more)) == pytest.approx(before["predictions"], rel=1e-6)
        wrong = await rest.post("/predict", json=[{**asked[0], "Temp": 150}, {**asked[0], "Moisture": "x"}])
        assert {fault["field"] for fault in wrong.json()["error"]["faults"]} == {"Temp", "Moisture"}
        document = (await rest.get("/openapi.json")).json()
        assert list(document["components"]["schemas"]["RawRecord"]["properties"]) == [ID, *old.raw_names]
        assert "The declaration of the data set has changed" in document["info"]["description"]
        # In the background the records are processed again, and the consumer goes on with the model that is there.
        await eventually(lambda: processed(client, new, records), 60)
        async with running(QuickConsumer, settings, new):
            await eventually(lambda: len(ear.predictions) > 5 and ear.truths, 60)
            await eventually(lambda: monitoring.monitor.at, 60)
            assert views.snapshot(monitoring.monitor)
            assert not ear.comparisons or ear.comparisons[-1].champion.version == "1"
            async with running(MlLightgbmRegressionMlflowService, settings, new):
                await eventually(lambda: serving.champion.current.info.pipeline_version == new.version, 120)
                # The alias moves before it is told, and a consumer that ends tells nothing more.
                await eventually(lambda: ear.champions[-1].pipeline_version == new.version, 60)
        assert {result.version for result in ear.comparisons[-1].results} == {"2"}  # the old ones do not compete
        await eventually(lambda: "pipeline version" not in serving.health().detail)
        after = await answer(rest, with_more)
        assert (after["pipeline_version"], after["model"]["version"]) == (new.version, "2")
        assert (await answer(rest, [{**asked[0], "Temp": 150.0}]))["predictions"]
        document = (await rest.get("/openapi.json")).json()
        assert list(document["components"]["schemas"]["RawRecord"]["properties"]) == [ID, *new.raw_names]
        reference = await eventually(
            lambda: (found := monitoring.monitor.reference) and found.source == "champion" and found, 60
        )
        assert reference.pipeline_version == new.version
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_change_that_kept_values_cannot_follow_ends_the_database_service_with_the_reason(
    settings: Settings, ear: Ear, request: pytest.FixtureRequest
) -> None:
    database = DATABASES[request.node.callspec.params["settings"]]
    other = Dataset.parse(BEFORE.replace("Alloy, type: category, categories: [A, B]", "Alloy, type: integer, range: [0, 9]")
                          .replace("one_hot", "scale"))  # fmt: skip
    async with running(database, settings, Dataset.parse(BEFORE)):
        await DatabaseClient(ear).save_raw(made(3, 1))
    with pytest.raises(DeclarationError, match="'Alloy' was declared as a category and is declared as an integer now"):
        async with running(database, settings, other):
            pass
    async with running(database, settings, Dataset.parse(BEFORE)):
        assert (await DatabaseClient(ear).counts()).raw == 3
