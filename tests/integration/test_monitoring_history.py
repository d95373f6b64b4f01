"""What ml_monitoring keeps and shows: over the real broker and database, through restarts, by REST."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import Page, processed_schema
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, DocumentClient, ServingClient
from complex_system.monitoring import joining
from complex_system.monitoring.history import WAITING
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.serving import PREDICTION_MADE, TRUTH_KNOWN, PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.protocol.training import CHAMPION_CHANGED, COMPARISON_FINISHED
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelRegistry
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import linear_onnx, register_onnx
from monitoring_page.messages import alert, champion, compared, comparison
from support import TesterService, eventually, running

TESTS = Path(__file__).resolve().parents[1]


class QuickMonitoring(MlMonitoringService):
    """Writes, and asks, more often."""

    last_write = 60.0
    keep_interval = 0.1
    ask_interval = 0.1


@pytest.fixture
def fields() -> dict[str, Any]:
    return {
        "monitoring_interval": 0.2, "monitoring_window": 200, "serving_mlflow_port": 0, "monitoring_port": 0,
        "heartbeat_interval": 0.3, "silent_after": 4.0,
    }  # fmt: skip


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions without a truth are written at once."""
    monkeypatch.setattr(joining, "SAVED_AFTER", 0.0)


def event(dataset: Dataset, records: list[Record], error: float) -> PredictionMade:
    predictions = [PredictedRecord(id=r[ID], record=r, prediction=(truth_of(r) or 0.0) + error) for r in records]
    return PredictionMade(
        service="ml_serving_mlflow", model="lab-lightgbm", version="1", pipeline_version=dataset.version, milliseconds=4.0,
        predictions=tuple(predictions),
    )  # fmt: skip


def truths(records: list[Record]) -> TruthKnown:
    return TruthKnown(truths=tuple(Truth(id=record[ID], truth=truth_of(record) or 0.0) for record in records))


def drawn(count: int, seed: int = 1) -> list[Record]:
    laboratory = Laboratory(seed)
    return [laboratory.complete_record() for _ in range(count)]


def view(service: MlMonitoringService, name: str) -> Callable[[], Any]:
    async def fetch() -> Any:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{service.url}/api/{name}")
        answer.raise_for_status()
        return answer.json()

    return fetch


async def has(service: MlMonitoringService, name: str, check: Callable[[Any], Any]) -> Any:
    async def look() -> Any:
        found = await view(service, name)()
        return found if check(found) else None

    return await eventually(look, 120)


async def test_the_history_is_there_again_after_a_restart(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    records = drawn(60)
    async with running(QuickMonitoring, settings) as service:
        await eventually(lambda: service.monitor.history.loaded, 120)
        await tester.announce(CHAMPION_CHANGED, champion("lab-lightgbm", "1", 2.0))
        await tester.announce(COMPARISON_FINISHED, comparison(compared("lab-lightgbm", "1", 2.0)))
        await tester.announce(PREDICTION_MADE, event(dataset, records, 3.0))
        await tester.announce(TRUTH_KNOWN, truths(records))
        service.monitor.history.alert(alert("a", time.time()))
        before = await has(service, "predictions", lambda found: found["joined"] == 60)
        await has(service, "overview", lambda found: found["champion"] and found["champion"]["performance"]["count"] == 60)
    async with running(QuickMonitoring, settings) as again:
        after = await has(again, "predictions", lambda found: found["joined"] == 60)
        assert after["windows"][0]["total"] == pytest.approx(before["windows"][0]["total"])
        assert {line["group"] for line in after["groups"]} == {line["group"] for line in before["groups"]}
        assert len(after["sample"]) == 60
        overview = await has(again, "overview", lambda found: found["champion"]["performance"]["count"] == 60)
        assert overview["champion"]["performance"]["rmse"] == pytest.approx(3.0, abs=1e-3)
        assert overview["champion"]["holdout_rmse"] == 2.0
        models = await has(again, "models", lambda found: found["champions"])
        assert models["comparison"]["results"][0]["version"] == "1"
        assert [alert["key"] for alert in (await view(again, "alerts")())["open"]] == ["a"]
        system = await view(again, "system")()
        assert sum(len(points) for points in system["series"].values()) > 0
        await eventually(lambda: again.monitor.figures.number("performance/rmse_relative") == pytest.approx(1.5, abs=1e-3))


async def test_a_truth_finds_its_prediction_after_a_restart_and_a_label_in_the_database_is_found(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset, at_once: None
) -> None:
    announced, labelled, never = drawn(30), drawn(30, seed=2), drawn(5, seed=3)
    documents = DocumentClient(tester)

    async def waiting() -> list[str]:
        return sorted(d.key for d in await documents.between(WAITING, 0.0, 1e11))

    async with running(QuickMonitoring, settings) as service:
        await tester.announce(PREDICTION_MADE, event(dataset, [*announced, *labelled, *never], 3.0))

        async def kept() -> bool:
            return len(await waiting()) == 65

        await eventually(kept, 120)
    async with running(QuickMonitoring, settings) as service:
        await tester.announce(TRUTH_KNOWN, truths(announced))
        rows = [{**record, dataset.target: truth_of(record)} for record in labelled]
        table = Pipeline(dataset).process(rows).to_arrow().cast(processed_schema(dataset))
        await DatabaseClient(tester).upsert_processed(Page(table, None, {"version": dataset.version}))
        shown = await has(service, "predictions", lambda found: found["joined"] == 60)
        assert shown["windows"][0]["total"]["bias"] == pytest.approx(3.0, abs=1e-3)

        async def joined() -> bool:
            return await waiting() == sorted(str(r[ID]) for r in never)

        await eventually(joined, 120)
        # A figure is of the last interval.
        await eventually(lambda: (service.monitor.figures.number("performance/waiting") or 0) >= 5, 120)


async def test_failed_predictions_are_told_by_kind(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    await asyncio.to_thread(
        register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset), prefix=settings.model_prefix
    )
    bad = {**drawn(1)[0], "material_id": "99999999"}
    async with running(QuickMonitoring, settings) as service, running(MlServingMlflowService, settings) as serving:
        await eventually(lambda: serving.champion.current, 120)
        for _ in range(3):
            with pytest.raises(InvalidRecordError):
                await ServingClient(tester).predict([bad])
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"{serving.url}/predict", content=b"{")).status_code == 400
        shown = await has(service, "predictions", lambda found: sum(each["count"] for each in found["failures"]) == 4)
    assert {each["code"]: each["count"] for each in shown["failures"]} == {"invalid_record": 3, "invalid_request": 1}


@pytest.mark.long
async def test_a_service_that_vanishes_is_silent_and_one_that_stops_is_not(
    settings: Settings, nats_server: Server, tester: TesterService
) -> None:
    environment = {**os.environ, **nats_server.environment(), "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.3"}
    named = "type('DataProcessingService', (TesterService,), {}).main()"
    code = f"import sys; sys.path[:0] = [{str(TESTS)!r}]; from support import TesterService; {named}"

    async with running(MlMonitoringService, settings) as service:

        def replicas(state: str) -> list[Any]:
            found = [each for each in service.monitor.services.services() if each.service == "data_processing"]
            return [replica for each in found for replica in each.replicas if replica.state == state]

        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", code, env={**environment, "FASTIOT_SERVICE_ID": name})
            for name in ("vanishing", "stopping")
        ]
        try:
            names = {"vanishing", "stopping"}
            await eventually(lambda: names <= {each.replica for each in replicas("ready")}, 60)
            assert all(replica.memory_megabytes > 10 for replica in replicas("ready"))
            processes[0].kill()
            processes[1].terminate()
            await eventually(lambda: [each.replica for each in replicas("stopped")] == ["stopping"], 120)
            await eventually(lambda: [each.replica for each in replicas("silent")] == ["vanishing"], 120)
            await eventually(lambda: service.monitor.figures.number("services/silent", "data_processing") == 1.0, 120)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def test_the_champions_own_reference_is_taken_and_the_database_stands_in(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    from mlflow import MlflowClient

    records = [r for r in Laboratory(4).records(400) if r[dataset.target] is not None]
    await DatabaseClient(tester).save_raw(records)
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    await DatabaseClient(tester).upsert_processed(Page(table, None, {"version": dataset.version}))
    async with running(QuickMonitoring, settings) as service:
        reference = await eventually(lambda: service.monitor.reference, 120)
        assert reference.source == "database"
        assert set(reference.raw) == {"material_id", "laborant", *(f"rohwert_{i}_labormessung" for i in (1, 2, 3))}
        await asyncio.to_thread(
            register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset), prefix=settings.model_prefix
        )
        registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
        crowned = await asyncio.to_thread(registry.champion)
        assert crowned is not None
        made = Reference.of(dataset, Pipeline(dataset).features(records[:77])).encoded().decode()
        client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
        await asyncio.to_thread(client.log_text, crowned.run_id, made, "reference/reference.json")
        await tester.announce(CHAMPION_CHANGED, champion(crowned.model, crowned.version))
        await eventually(lambda: service.monitor.reference.source == "champion", 120)
        assert service.monitor.reference.samples == 77
        data = await view(service, "data")()
        assert data["reference"] == {"source": "champion", "samples": 77}


async def test_the_interface_guards_its_views_and_refuses_nonsense(settings: Settings) -> None:
    async with (
        running(MlMonitoringService, settings.copy(update={"api_key": "secret"})) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        for path in ("/api/overview", "/metrics"):
            assert (await client.get(path)).status_code == 401
        client.headers["X-API-Key"] = "secret"
        assert (await client.get("/api/overview")).status_code == 200
        for query in ("from=x", "from=nan", "from=5&to=3", "to=1e300"):
            answer = await client.get(f"/api/predictions?{query}")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["code"] == "invalid_request"
        assert (await client.get(f"/api/metric?name={'x' * 501}")).status_code == 400
        for host, status in (("ml_monitoring:8003", 200), ("ml-monitoring", 200), ("evil.example", 421)):
            assert (await client.get("/health", headers={"Host": host})).status_code == status
        assert (await client.get("/health")).status_code == 200
        await eventually(lambda: service.monitor.at)
        metrics = await client.get("/metrics")
        assert "monitoring_system_cpu_utilization_percentage" in metrics.text
