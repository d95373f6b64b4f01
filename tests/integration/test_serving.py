"""Serving over REST and NATS: real NATS, real MLflow, real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import msgspec
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import (
    InvalidRecordError,
    InvalidRequestError,
    NoModelError,
    StartError,
    UnsupportedByModelError,
)
from complex_system.local.servers import Server, free_port
from complex_system.messaging.clients import ServingClient
from complex_system.messaging.subjects import PREDICT, event_subject
from complex_system.protocol.serving import PREDICTION_MADE, PredictedRecord, PredictionMade
from complex_system.protocol.training import CHAMPION_CHANGED, ChampionChanged
from complex_system.protocol.trial import SUGGEST_SETTINGS, SuggestRequest
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.models.mlflow import MlflowChampionSource
from complex_system.settings import Settings
from complex_system.tracking.model_files import SAMPLE_FILE
from complex_system.tracking.registry import ModelRegistry
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import crown, linear_onnx, register_onnx
from support import Ear, TesterService, eventually, running
from trainings import quick_sample

# MLflow's client and the libraries below it warn of their own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(nats_server: Server, mlflow_server: Server, make_settings: MakeSettings, prefix: str) -> Settings:
    return make_settings(nats_server, mlflow_server, model_prefix=prefix, serving_mlflow_port=0, model_poll_interval=0.2)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[MlServingMlflowService, httpx.AsyncClient]]:
    async with (
        running(MlServingMlflowService, settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=10) as client,
    ):
        yield service, client


async def ready(client: httpx.AsyncClient) -> None:
    async def is_ready() -> bool:
        return (await client.get("/health/ready")).status_code == 200

    await eventually(is_ready)


async def test_before_the_first_model_the_service_is_up_and_says_so(
    settings: Settings, tester: TesterService, laboratory: Laboratory
) -> None:
    async with serving(settings) as (service, client):
        record = laboratory.complete_record()
        assert (await client.get("/health/live")).status_code == 200
        for answer in (await client.get("/health/ready"), await client.post("/predict", json=record)):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "no_model"
            assert "no model yet" in answer.json()["error"]["message"]
        with pytest.raises(NoModelError, match="no model yet"):
            await ServingClient(tester).predict([record])
        assert (await client.get("/model")).json()["model"] is None
        await eventually(lambda: service.health().state == "waiting")
        assert service.health().detail.startswith("no model yet")


async def test_predictions_by_rest_and_by_the_broker_are_the_models(
    settings: Settings, tester: TesterService, publish: Any, dataset: Dataset, laboratory: Laboratory
) -> None:
    name, version = await asyncio.to_thread(publish, 100.0)
    async with serving(settings) as (service, client):
        await ready(client)
        records = list(laboratory.records(50))
        expected = [100.0 + float(row.sum()) for row in service.champion.pipeline.features(records)]
        for body in ({"records": records}, records):
            answer = (await client.post("/predict", json=body)).json()
            assert answer["predictions"] == pytest.approx(expected, rel=1e-5)
        assert answer["model"] == {"name": name, "version": version, "framework": "lightgbm"}
        assert answer["pipeline_version"] == dataset.version
        assert answer["request_id"]
        one = (await client.post("/predict", json=records[0], headers={"X-Request-ID": "mine-1"})).json()
        assert one["predictions"] == pytest.approx(expected[:1], rel=1e-5)
        assert one["request_id"] == "mine-1"
        assert await ServingClient(tester).predict(records) == pytest.approx(expected, rel=1e-5)
        assert await tester.ask(PREDICT, []) == []
        assert service.health().state == "ready"
        assert service.health().detail == f"{name} v{version}"


PLANT = Dataset.parse(
    """
name: plant
target: quality
id: Charge
columns:
  - {name: temp, type: number, range: [0, 100]}
  - {name: pressure, type: number, range: [0, 10]}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: temp}
  - {step: scale, column: pressure}
"""
)


async def test_the_same_numbers_give_the_same_answer_on_every_protocol_and_the_key_goes_along(
    settings: Settings, tester: TesterService, mlflow_server: Server, prefix: str
) -> None:
    """The features are called as the raw columns, and the key by its own name."""
    row = {"Charge": "B-0007", "temp": 50.0, "pressure": 3.0}
    names = list(row)
    await asyncio.to_thread(register_onnx, mlflow_server.url, PLANT, linear_onnx(PLANT, 2.0), prefix=prefix)
    async with (
        running(Ear, settings) as ear,
        running(MlServingMlflowService, settings, PLANT) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        await ready(client)
        answers = [(await client.post("/predict", json=row)).json()["predictions"]]
        for content in (
            {"dataframe_split": {"columns": names, "data": [list(row.values())]}},
            {"dataframe_records": [row]},
            {"instances": [row]},
            {"inputs": {name: [value] for name, value in row.items()}},
        ):
            answers.append((await client.post("/invocations", json=content)).json()["predictions"])
        table = "Charge;temp;pressure\nB-0007;50,0;3,0\n"
        csv = await client.post("/invocations", content=table, headers={"content-type": "text/csv"})
        answers.append(csv.json()["predictions"])
        tensors = [
            {"name": name, "shape": [1], "datatype": "BYTES" if name == "Charge" else "FP64", "data": [value]}
            for name, value in row.items()
        ]
        oip = await client.post("/v2/models/champion/infer", json={"inputs": tensors})
        answers.append(oip.json()["outputs"][0]["data"])
        answers.append(await ServingClient(tester).predict([row]))
        page = await ServingClient(tester).predict_table(pa.Table.from_pylist([row]))
        answers.append(page.column("prediction").to_pylist())
        assert answers == [[pytest.approx(2.8)]] * 9
        assert page.column("Charge").to_pylist() == ["B-0007"]
        await eventually(lambda: len(ear.predictions) == len(answers))
        assert {each.id for each in ear.predictions} == {"B-0007"}


async def test_a_champion_event_swaps_at_once_and_back(
    settings: Settings, tester: TesterService, publish: Any, mlflow_server: Server, laboratory: Laboratory
) -> None:
    old = await asyncio.to_thread(publish, 1000.0)
    # The next look by polling would be far away, so only the event can bring the new model in time.
    async with serving(settings.copy(update={"model_poll_interval": 600.0})) as (service, client):
        await ready(client)
        record = laboratory.complete_record()
        before = (await client.post("/predict", json=record)).json()["predictions"][0]
        new = await asyncio.to_thread(publish, 2000.0, trainer="tensorflow")
        for model, shift in ((new, 1000.0), (old, 0.0)):
            await asyncio.to_thread(crown, mlflow_server.url, *model)
            await tester.announce(
                CHAMPION_CHANGED, ChampionChanged(model=model[0], version=model[1], framework="lightgbm", rmse=15.0)
            )
            await eventually(lambda name=model[0]: service.health().detail == f"{name} v1")
            after = (await client.post("/predict", json=record)).json()
            assert after["predictions"][0] == pytest.approx(before + shift, rel=1e-6)
            assert after["model"]["name"] == model[0]


async def test_a_champion_of_another_pipeline_is_refused_and_the_old_one_stays(
    settings: Settings, publish: Any, laboratory: Laboratory
) -> None:
    await asyncio.to_thread(publish, 1.0)
    async with serving(settings) as (service, client):
        await ready(client)
        _, refused = await asyncio.to_thread(publish, 2.0, pipeline_version="000000000000")

        async def is_refused() -> bool:
            problem = (await client.get("/model")).json()["problem"]
            return bool(problem) and problem["version"] == refused

        await eventually(is_refused)
        answer = await client.post("/predict", json=laboratory.complete_record())
        assert answer.json()["model"]["version"] == "1"
        assert (await client.get("/health/ready")).status_code == 200
        await eventually(lambda: "000000000000" in service.health().detail)
        assert service.health().state == "ready"
        _, good = await asyncio.to_thread(publish, 3.0)
        await eventually(lambda: service.health().detail.endswith(f"v{good}"))


async def test_a_model_that_no_trainer_of_the_deployment_made_is_not_served(
    settings: Settings, publish: Any, laboratory: Laboratory
) -> None:
    own = settings.copy(update={"model_key": "the deployment's"})
    await asyncio.to_thread(publish, 1.0, model_key="another's")
    async with serving(own) as (service, client):
        await eventually(lambda: "is not signed by a trainer of this deployment" in service.health().detail)
        assert (await client.post("/predict", json=laboratory.complete_record())).status_code == 503
        _, ours = await asyncio.to_thread(publish, 2.0, model_key="the deployment's")
        await ready(client)
        await asyncio.to_thread(publish, 3.0)
        await eventually(lambda: "is not signed" in service.health().detail)
        answer = await client.post("/predict", json=laboratory.complete_record())
        assert answer.json()["model"]["version"] == ours


async def test_mlflow_being_away_does_not_end_the_service(settings: Settings, publish: Any, laboratory: Laboratory) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with serving(settings.copy(update={"mlflow_tracking_uri": away})) as (service, client):
        await eventually(lambda: "does not answer" in service.health().detail, 30)
        assert service.health().state == "waiting"
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.post("/predict", json=laboratory.complete_record())).status_code == 503
    await asyncio.to_thread(publish, 1.0)
    async with serving(settings) as (service, client):
        await ready(client)
        service.champion.source = MlflowChampionSource(ModelRegistry(away, "any"))
        await eventually(lambda: "does not answer" in service.health().detail, 30)
        assert service.health().state == "ready"
        assert (await client.post("/predict", json=laboratory.complete_record())).status_code == 200


async def test_predictions_are_announced_at_most_a_thousand_of_a_request(
    settings: Settings, tester: TesterService, publish: Any, laboratory: Laboratory
) -> None:
    name, version = await asyncio.to_thread(publish, 5.0)
    events: list[PredictionMade] = []

    async def hear(thing: Any) -> None:
        events.append(PREDICTION_MADE.decode(thing.value))

    subscription = await tester.broker.subscribe(event_subject(PREDICTION_MADE), hear)
    await tester.broker.settle()
    try:
        async with serving(settings) as (_, client):
            await ready(client)
            records = list(laboratory.records(1500))
            few = (await client.post("/predict", json=records[:2], headers={"X-Prediction-Origin": "probe"})).json()[
                "predictions"
            ]
            await eventually(lambda: len(events) == 1)
            assert (await client.post("/predict", json=records)).status_code == 200
            assert len(await ServingClient(tester, origin="own").predict(records[:3])) == 3
            await eventually(lambda: len(events) == 3)
            whole = {name: value for name, value in laboratory.complete_record().items() if value is not None}
            await ServingClient(tester, origin="own").predict_table(pa.Table.from_pylist([whole]))
            # Who tries the model is answered, and nobody hears of it.
            assert len(await ServingClient(tester, origin="trial").predict(records[:3])) == 3
            await client.post("/predict", json=records[:1], headers={"X-Prediction-Origin": "trial"})
            await client.post("/predict", json=records[:1], headers={"X-Prediction-Origin": "<img>"})
            await eventually(lambda: len(events) == 5)
    finally:
        await subscription.unsubscribe()
    first, second, third, *_ = events
    assert [each.origin for each in events] == ["probe", "live", "own", "own", "live"]
    assert (first.service, first.model, first.version) == ("ml_serving_mlflow", name, version)
    assert first.milliseconds > 0
    assert first.predictions == tuple(
        PredictedRecord(id=record["_id"], record=record, prediction=value)
        for record, value in zip(records[:2], few, strict=True)
    )
    assert len(second.predictions) == 1000
    assert len(third.predictions) == 3


async def test_settings_are_searched_over_nats_with_a_model_that_carries_its_sample(
    settings: Settings, tester: TesterService, publish: Any
) -> None:
    raw = "rohwert_2_labormessung"
    asked = SuggestRequest(goal="maximum", free=[raw], record={"material_id": "00000000"}, count=1)
    await asyncio.to_thread(publish, 5.0)
    async with serving(settings) as (_, client):
        await ready(client)
        with pytest.raises(UnsupportedByModelError, match="trained before"):
            await tester.ask(SUGGEST_SETTINGS, asked)
        files = {SAMPLE_FILE: await asyncio.to_thread(quick_sample)}
        _, version = await asyncio.to_thread(publish, 6.0, files=files)

        async def is_new() -> bool:
            return (await client.get("/model")).json()["model"]["version"] == version

        await eventually(is_new)
        found = await tester.ask(SUGGEST_SETTINGS, asked)
        assert found.suggestions[0].record == {"material_id": "00000000", raw: pytest.approx(30.0, abs=0.1)}
        assert found.version == version
        with pytest.raises(InvalidRequestError, match="colour"):
            await tester.ask(SUGGEST_SETTINGS, msgspec.structs.replace(asked, free=["colour"]))


async def test_bad_requests_over_nats_cost_an_error_and_the_next_is_answered(
    settings: Settings, tester: TesterService, publish: Any, laboratory: Laboratory
) -> None:
    await asyncio.to_thread(publish, 5.0)
    async with serving(settings) as (_, client):
        await ready(client)
        record = laboratory.complete_record()
        for value in (None, 5, "records", {}, {"records": [record]}):
            with pytest.raises(InvalidRequestError):
                await tester.ask(PREDICT, value)
        nan, infinite = ({**record, "rohwert_1_labormessung": float(value)} for value in ("nan", "inf"))
        without = {**record, "rohwert_1_labormessung": None}
        assert await tester.ask(PREDICT, [nan]) == await tester.ask(PREDICT, [without])  # a gap of one sensor
        for value in ([1], [None], [{}], [{**record, "colour": 1}], [infinite], [{**record, "material_id": "x"}]):
            with pytest.raises(InvalidRecordError):
                await tester.ask(PREDICT, value)
        assert len(await ServingClient(tester).predict([record])) == 1


async def test_processing_elsewhere_gives_the_same_predictions_and_faults(
    settings: Settings, publish: Any, laboratory: Laboratory
) -> None:
    await asyncio.to_thread(publish, 5.0)
    by_broker = settings.copy(update={"serving_pipeline": "broker"})
    records = list(laboratory.records(1200))
    async with serving(settings) as (_, local), serving(by_broker) as (_, remote):
        await ready(local)
        await ready(remote)
        alone = await remote.post("/predict", json=records[:2])
        assert alone.status_code == 503  # nobody processes
        assert alone.json()["error"]["code"] == "nobody_listens"
        async with running(DataProcessingService, settings):
            for batch in (records[:1], records):
                own, other = [(await each.post("/predict", json=batch)).json() for each in (local, remote)]
                assert other["predictions"] == own["predictions"]
                assert other["model"] == own["model"]
            bad = [records[0], {**records[1], "laborant": "NOBODY"}, {**records[2], "rohwert_3_labormessung": -1}]
            own, other = [await each.post("/predict", json=bad) for each in (local, remote)]
            assert (own.status_code, other.status_code) == (422, 422)
            assert own.json() == other.json()


async def test_processing_by_a_default_broker_takes_as_many_records_as_rest_does(
    settings: Settings, default_nats_server: Server, publish: Any
) -> None:
    """5,000 records are more than a message of one megabyte holds, and so is the answer."""
    await asyncio.to_thread(publish, 5.0)
    settings = settings.copy(update={"nats_port": default_nats_server.port})
    records = list(Laboratory(seed=4).records(7000))
    async with (
        running(DataProcessingService, settings) as processing,
        serving(settings) as (_, local),
        serving(settings.copy(update={"serving_pipeline": "broker"})) as (_, remote),
    ):
        assert len(msgspec.msgpack.encode(records[:5000])) > processing.broker.max_payload
        await ready(local)
        await ready(remote)
        own, other = [(await each.post("/predict", json=records, timeout=60)).json() for each in (local, remote)]
        assert other["predictions"] == own["predictions"]
        bad = [*records[:6000], {**records[6000], "laborant": "NOBODY"}, *records[6001:]]
        (fault,) = (await remote.post("/predict", json=bad, timeout=60)).json()["error"]["faults"]
        assert (fault["record"], fault["id"], fault["field"]) == (6000, records[6000]["_id"], "laborant")


async def test_a_taken_port_ends_the_start_and_names_the_setting(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fixed = settings.copy(update={"serving_mlflow_port": taken.getsockname()[1]})
        with pytest.raises(StartError, match="COMPLEX_SYSTEM_SERVING_MLFLOW_PORT"):
            async with running(MlServingMlflowService, fixed):
                pass


async def test_over_grpc_the_service_predicts_announces_and_ends_open_calls(
    settings: Settings, tester: TesterService, publish: Any, laboratory: Laboratory
) -> None:
    name, version = await asyncio.to_thread(publish, 100.0)
    port = free_port()
    own = settings.copy(update={"serving_mlflow_grpc_port": port, "api_key": "secret"})
    record = laboratory.complete_record()
    request = pb.ModelInferRequest(model_name="champion")
    for field in ("material_id", "rohwert_1_labormessung"):
        datatype = "BYTES" if field == "material_id" else "FP64"
        request.inputs.add(name=field, shape=[1], datatype=datatype)
    request.inputs[0].contents.bytes_contents.append(record["material_id"].encode())
    request.inputs[1].contents.fp64_contents.append(record["rohwert_1_labormessung"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        async with running(Ear, settings) as ear, serving(own) as (_, client):
            await ready(client)
            answer = await infer(request, metadata=(("x-api-key", "secret"),), wait_for_ready=True, timeout=20)
            assert (answer.parameters["registered_name"].string_param, answer.model_version) == (name, version)
            raw = {field: record[field] for field in ("material_id", "rohwert_1_labormessung")}
            body = {"records": [raw]}
            over_rest = (await client.post("/predict", json=body, headers={"X-API-Key": "secret"})).json()
            assert list(answer.outputs[0].contents.fp32_contents) == over_rest["predictions"]
            await eventually(lambda: len(ear.predictions) == 2)
            assert ear.predictions[0].prediction == ear.predictions[1].prediction == over_rest["predictions"][0]
            text = (await client.get("/metrics", headers={"X-API-Key": "secret"})).text
            assert 'route="/inference.GRPCInferenceService/ModelInfer",status="200"' in text
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(request, timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await infer(request, timeout=20)
        assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(StartError, match="COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT"),
    ):
        async with running(MlServingMlflowService, own):
            pass


_SERVE_ONCE = """
import asyncio, json, sys
from complex_system.domain.laboratory import Laboratory
from complex_system.messaging.connection import ServiceConnection
from complex_system.settings import Settings
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService

async def main():
    settings = Settings()
    connection = await ServiceConnection.open(settings, "ml_serving_mlflow")
    async with MlServingMlflowService(broker_connection=connection, settings=settings) as service:
        async with asyncio.timeout(60):
            while service.champion.current is None:
                await asyncio.sleep(0.05)
        result = await service.engine.predict([Laboratory(1).complete_record()])
    await connection.close()
    frameworks = {"torch", "tensorflow", "keras", "lightgbm", "sklearn", "wandb", "onnx", "pymongo", "mariadb", "grpc"}
    print(json.dumps({"predictions": result.predictions, "imported": sorted(frameworks & set(sys.modules))}))

asyncio.run(main())
"""


async def test_serving_imports_no_training_framework(
    settings: Settings, nats_server: Server, mlflow_server: Server, publish: Any, prefix: str
) -> None:
    await asyncio.to_thread(publish, 5.0)
    own = {"COMPLEX_SYSTEM_MODEL_PREFIX": prefix, "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "0"}
    environment = {**os.environ, **nats_server.environment(), **mlflow_server.environment(), **own}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _SERVE_ONCE], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["predictions"]) == 1
    assert report["imported"] == []
