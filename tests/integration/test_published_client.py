"""Programs written against the published blueprint: FastIoT's own connection and kio's facade, both unchanged.

FastIoT knows host and port of the broker only, so the host brings user and password along. The user ``fiot`` is theirs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import kio.ml_lifecycle_broker_facade as facade
import pytest
from fastiot.core import FastIoTService, loop
from fastiot.core.broker_connection import NatsBrokerConnection

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.local.servers import HOST, Server
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import linear_onnx, register_onnx
from support import BROKER_PASSWORD, eventually, running

SERVICES = {"mongo": (DatabaseMongoService, "MongoDB"), "maria": (DatabaseMariaService, "MariaDB")}
EVERY_FUNCTION = {name for name in dir(facade) if name.startswith("request_") and "wrapper" not in name}


class PublishedClient(FastIoTService):
    """What a user of the blueprint writes."""


class DummyDataGenerationService(FastIoTService):
    """The blueprint's source: saves new records again and again."""

    saved: list[dict[str, Any]]

    @loop
    async def generate(self) -> Any:
        records = [
            {name: value for name, value in record.items() if name != "_id"} for record in Laboratory(seed=2).records(5)
        ]
        self.saved.append(await facade.request_save_many_raw_data_points(self, data=records))
        return asyncio.sleep(0.2)


class MlConsumerService(FastIoTService):
    """The blueprint's consumer: asks for predictions of two random records again and again."""

    predicted: list[list[list[float]]]

    @loop
    async def consume(self) -> Any:
        record = {
            "material_id": random.choice(["00000000", "11111111"]),
            "rohwert_1_labormessung": random.uniform(0, 30),
            "rohwert_2_labormessung": random.uniform(0, 30),
            "rohwert_3_labormessung": random.uniform(0, 2),
        }
        self.predicted.append(await facade.request_get_prediction(self, data=[record, record]))
        return asyncio.sleep(0.2)


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(
    database: str,
    request: pytest.FixtureRequest,
    nats_server: Server,
    mlflow_server: Server,
    make_settings: Callable[..., Settings],
    dataset: Dataset,
) -> AsyncIterator[PublishedClient]:
    """The client, with a database service, data processing and serving on the broker."""
    prefix = f"published{uuid4().hex[:10]}"
    server = request.getfixturevalue(f"{database}_server")
    name = {"mongo_name": prefix, "maria_name": prefix}
    settings = make_settings(
        nats_server, server, mlflow_server, serving_mlflow_port=0, model_prefix=prefix, processing_interval=0.05, **name
    )
    register_onnx(mlflow_server.url, dataset, linear_onnx(dataset, bias=5.0), prefix=prefix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTIOT_NATS_HOST", f"fiot:{BROKER_PASSWORD}@{HOST}")
        connection = await NatsBrokerConnection.connect()
    async with AsyncExitStack() as stack:
        for service in (SERVICES[database][0], DataProcessingService):
            await stack.enter_async_context(running(service, settings))
        serving = await stack.enter_async_context(running(MlServingMlflowService, settings))
        await eventually(lambda: serving.champion.current)
        yield PublishedClient(broker_connection=connection)
    await connection.close()


async def test_every_function_of_the_facade_works(client: PublishedClient, database: str, dataset: Dataset) -> None:
    used: set[str] = set()

    async def call(name: str, **arguments: Any) -> Any:
        used.add(name)
        return await getattr(facade, name)(client, **arguments)

    records = list(Laboratory(seed=11).records(60))
    for record in records[:10]:
        del record["_id"]  # the published source gives no keys
    saved = await call("request_save_many_raw_data_points", data=records)
    assert saved["acknowledged"] is True
    assert saved["db"] == SERVICES[database][1]

    raw = await call("request_get_all_raw_data_points")
    assert len(raw) == 60
    assert all(isinstance(record["_id"], str) for record in raw)

    async def processed_count() -> bool:
        return bool(await call("request_get_processed_data_points_count") == 60)

    await eventually(processed_count)
    everything = await call("request_get_all_processed_data_points")
    assert [list(record) for record in everything] == [list(dataset.processed_names)] * 60
    page = await call("request_get_processed_data_points_page", page=1, page_size=25)
    assert page == [{k: v for k, v in record.items() if k != "_id"} for record in everything[25:50]]
    assert await call("request_get_processed_data_points_page", page=9, page_size=25) == []

    labelled = await call("request_get_labeled_dataset")
    assert len(labelled) == sum(record["aufbereiteter_wert"] is not None for record in records)
    assert all(record["aufbereiteter_wert"] == pytest.approx(_truths(raw)[record["_id"]]) for record in labelled)

    processed = await call("request_get_processed_data_points_from_raw_data", data=raw[:7])
    assert {p["_id"]: p for p in everything}[raw[3]["_id"]] == processed[3]
    rows = await call("request_get_prediction", data=raw[:7])
    assert rows == [[pytest.approx(5.0 + sum(p[n] for n in dataset.feature_names), rel=1e-5)] for p in processed]

    upserted = await call(
        "request_upsert_many_processed_data_points", data=[{**processed[0], "rohwert_2_labormessung": 0.25}]
    )
    assert (upserted["acknowledged"], upserted["db"]) == (True, SERVICES[database][1])
    again = await call("request_get_all_processed_data_points")
    assert len(again) == 60
    assert next(p for p in again if p["_id"] == processed[0]["_id"])["rohwert_2_labormessung"] == 0.25
    assert used == EVERY_FUNCTION


def _truths(raw: list[dict[str, Any]]) -> dict[str, float | None]:
    return {record["_id"]: truth_of(record) for record in raw}


async def test_an_error_reaches_the_published_client_at_once(client: PublishedClient) -> None:
    # kio looks the error's type up in its own module, which raises KeyError with the type's name; what matters is that
    # it comes as a reply and not as a time-out, and that the next request is answered.
    record = Laboratory(seed=1).record()
    for call, data in [
        (facade.request_save_many_raw_data_points, [{**record, "material_id": 3}]),
        (facade.request_upsert_many_processed_data_points, [{"_id": "x"}]),
        (facade.request_get_processed_data_points_from_raw_data, [{**record, "material_id": "unknown"}]),
        (facade.request_get_prediction, [{**record, "material_id": "unknown"}]),
    ]:
        with pytest.raises(KeyError, match="InvalidRecordError"):
            await call(client, data=data, timeout=5)
    with pytest.raises(KeyError, match="InvalidRequestError"):
        await facade.request_get_processed_data_points_page(client, page=-1, timeout=5)
    assert len(await facade.request_get_prediction(client, data=[record])) == 1


async def test_the_blueprints_two_client_services_work_beside_ours(client: PublishedClient) -> None:
    source = DummyDataGenerationService(broker_connection=client.broker_connection)
    consumer = MlConsumerService(broker_connection=client.broker_connection)
    source.saved, consumer.predicted = [], []
    async with source, consumer:
        await eventually(lambda: len(source.saved) >= 2 and len(consumer.predicted) >= 2)
    assert all(reply["acknowledged"] for reply in source.saved)
    assert [len(rows) for rows in consumer.predicted[:2]] == [2, 2]
