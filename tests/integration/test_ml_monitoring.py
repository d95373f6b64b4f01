"""The monitoring over the real broker, database, serving and MLflow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import Page, processed_schema
from complex_system.domain.records import Record
from complex_system.errors import TrackingRefusedError, TrackingUnavailableError
from complex_system.local.mlflow_server import collect_metrics
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.messaging.service import SystemService
from complex_system.monitoring.mlflow_log import MonitoringRun, Point
from complex_system.monitoring.points import Figures
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import GET_MONITORING, ServedModel
from complex_system.protocol.serving import PREDICTION_MADE, TRUTH_KNOWN, PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.protocol.training import CHAMPION_CHANGED
from complex_system.settings import Settings
from complex_system.testing.proxy import Proxy, SilentServer
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import linear_onnx, register_onnx
from monitoring_page.messages import champion
from support import TesterService, eventually, running


class PatientMonitoring(MlMonitoringService):
    """Ends with all points written, however slow the machine is."""

    last_write = 60.0


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"monitoring_interval": 0.2, "monitoring_window": 200, "serving_mlflow_port": 0, "monitoring_port": 0}


async def save_training_data(tester: SystemService, dataset: Dataset, count: int) -> None:
    records = list(Laboratory(5).records(count))
    database = DatabaseClient(tester)
    await database.save_raw(records)
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    await database.upsert_processed(Page(table, None, {"version": dataset.version}))


def event(
    dataset: Dataset, records: list[Record], error: float = 0.0, version: str = "1", service: str = "ml_serving_mlflow"
) -> PredictionMade:
    predictions = [PredictedRecord(id=r[ID], record=r, prediction=(truth_of(r) or 0.0) + error) for r in records]
    return PredictionMade(
        service=service, model="lab-lightgbm", version=version, pipeline_version=dataset.version, milliseconds=4.0,
        predictions=tuple(predictions),
    )  # fmt: skip


def truths(records: list[Record]) -> TruthKnown:
    return TruthKnown(truths=tuple(Truth(id=record[ID], truth=truth_of(record) or 0.0) for record in records))


def logged(settings: Settings) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


async def test_served_predictions_are_watched_and_logged(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    await save_training_data(tester, dataset, 1500)
    await asyncio.to_thread(
        register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset, 160.0), prefix=settings.model_prefix
    )
    laboratory = Laboratory(9)
    records = [laboratory.complete_record() for _ in range(120)]
    for record in records:
        record["rohwert_2_labormessung"] *= 0.3  # a shift that drift must show
    async with running(PatientMonitoring, settings), running(MlServingMlflowService, settings) as serving:
        await eventually(lambda: serving.champion.current)
        predictions = await ServingClient(tester).predict(records)
        await tester.announce(TRUTH_KNOWN, truths(records))

        async def complete() -> Any:
            snapshot = await tester.ask(GET_MONITORING, Empty())
            return snapshot if snapshot.performance.get("count") == 120 and snapshot.drift else None

        snapshot = await eventually(complete)
        errors = [p - (truth_of(r) or 0.0) for p, r in zip(predictions, records, strict=True)]
        assert snapshot.performance["rmse"] == pytest.approx((sum(e * e for e in errors) / 120) ** 0.5, rel=1e-3)
        assert snapshot.performance["bias"] == pytest.approx(sum(errors) / 120, rel=1e-3)
        assert snapshot.latency["latency_ms_p99"] > 0
        assert snapshot.drift["rohwert_2_labormessung"] > 0.25
        assert snapshot.drift["rohwert_3_labormessung"] < 0.25
        assert 0 < snapshot.system["system_memory_usage_percentage"] <= 100
        assert snapshot.samples == 120

        async def written() -> Any:
            runs = await asyncio.to_thread(logged, settings)
            metrics = runs[0].data.metrics if runs else {}
            # A point may have been taken between the predictions and their truths.
            return metrics if metrics.get("performance/count") == 120 and "drift/psi_max" in metrics else None

        metrics = await eventually(written)
    assert metrics["performance/rmse"] == pytest.approx(snapshot.performance["rmse"])
    assert metrics["drift/psi/rohwert_2_labormessung"] == pytest.approx(snapshot.drift["rohwert_2_labormessung"])
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(metrics)
    assert "performance/latency_ms_p95" in metrics
    (run,) = logged(settings)
    assert run.info.run_name == f"monitoring-{datetime.now(UTC).date()}"
    assert run.info.status == "FINISHED"


async def test_points_wait_while_mlflow_is_away_and_the_run_is_gone_on_with(
    settings: Settings, tester: TesterService, dataset: Dataset, mlflow_server: Server
) -> None:
    proxy = Proxy(mlflow_server.port)
    await proxy.join()
    await proxy.cut()
    through = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{proxy.port}"})
    records = [Laboratory(1).complete_record()]
    try:
        async with running(PatientMonitoring, through) as service:
            await tester.announce(TRUTH_KNOWN, truths(records))
            await tester.announce(PREDICTION_MADE, event(dataset, records, error=2.0))
            await eventually(lambda: service.health().state == "failing", 120)

            async def joined() -> Any:
                return (await tester.ask(GET_MONITORING, Empty())).performance.get("bias")

            assert await eventually(joined) == pytest.approx(2.0, abs=1e-3)
            waited = await eventually(lambda: len(service._buffer) > 3 and len(service._buffer))
            assert logged(settings) == []
            await proxy.join()
            await eventually(lambda: service.health().state == "ready" and len(service._buffer) < 3, 120)
        async with running(PatientMonitoring, through) as service:
            await eventually(lambda: service._run.run_id)
    finally:
        await proxy.cut()
    from mlflow import MlflowClient

    (run,) = logged(settings)
    history = MlflowClient(tracking_uri=settings.mlflow_tracking_uri).get_metric_history(
        run.info.run_id, "system/cpu_utilization_percentage"
    )
    assert len(history) > waited
    assert [point.timestamp for point in history] == sorted({point.timestamp for point in history})


async def test_a_new_model_renews_the_reference_even_if_its_event_was_missed(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    laboratory = Laboratory(3)
    async with running(PatientMonitoring, settings) as service:
        await eventually(lambda: service.monitor.at)
        assert service.monitor.reference is None
        await save_training_data(tester, dataset, 600)
        first = await eventually(lambda: service.monitor.reference)  # no event: the data are looked for until they are there
        await tester.announce(CHAMPION_CHANGED, champion("lab-lightgbm", "1"))
        second = await eventually(lambda: service.monitor.reference is not first and service.monitor.reference)
        await tester.announce(PREDICTION_MADE, event(dataset, [laboratory.complete_record()], version="1"))
        third = await eventually(lambda: service.monitor.reference is not second and service.monitor.reference)
        await tester.announce(PREDICTION_MADE, event(dataset, [laboratory.complete_record()], version="2"))
        await eventually(lambda: service.monitor.reference is not third)
        assert service.monitor.reference.samples == second.samples


async def test_figures_are_those_of_one_model_of_one_service(
    settings: Settings, tester: TesterService, dataset: Dataset
) -> None:
    laboratory = Laboratory(1)
    records = [laboratory.complete_record() for _ in range(3)]
    async with running(PatientMonitoring, settings) as service:
        await tester.announce(TRUTH_KNOWN, truths(records))
        await tester.announce(PREDICTION_MADE, event(dataset, records, error=50.0, service="ml_serving"))
        await tester.announce(PREDICTION_MADE, event(dataset, records, error=9.0, version="1"))
        await tester.announce(PREDICTION_MADE, event(dataset, records[:2], error=2.0, version="2"))
        await eventually(lambda: service.monitor.figures.number("performance/count") == 2)
        snapshot = await tester.ask(GET_MONITORING, Empty())
    assert snapshot.model == ServedModel(model="lab-lightgbm", version="2")
    assert snapshot.performance["rmse"] == pytest.approx(2.0, abs=1e-3)
    assert snapshot.services["ml_serving_mlflow"].performance == snapshot.performance
    assert snapshot.services["ml_serving"].performance["rmse"] == pytest.approx(50.0, abs=1e-3)
    assert snapshot.services["ml_serving"].performance["count"] == 3
    (run,) = logged(settings)
    assert run.data.metrics["performance/rmse"] == pytest.approx(2.0, abs=1e-3)
    assert run.data.metrics["performance/ml_serving_mlflow/rmse"] == pytest.approx(2.0, abs=1e-3)
    assert run.data.metrics["performance/ml_serving/rmse"] == pytest.approx(50.0, abs=1e-3)
    assert run.data.metrics["performance/ml_serving/latency_ms_mean"] == 4.0


async def test_points_are_never_written_beside_each_other_also_at_the_end(settings: Settings, tester: TesterService) -> None:
    at_work = most = 0
    entered, written = threading.Event(), list[Point]()

    async with running(PatientMonitoring, settings) as service:
        write, close = service._run.write, service._run.close

        def watched(call: Callable[[], None]) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            entered.set()
            time.sleep(0.3)  # long enough for the end of the service to come in between
            call()
            at_work -= 1

        def write_watched(points: list[Point]) -> None:
            watched(lambda: write(points))
            written.extend(points)

        service._run.write, service._run.close = write_watched, lambda: watched(close)  # type: ignore[method-assign]
        await eventually(entered.is_set)
    assert most == 1
    assert len({id(point) for point in written}) == len(written)
    (run,) = logged(settings)
    assert run.info.status == "FINISHED"


async def test_the_service_stops_soon_while_mlflow_hangs(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with SilentServer() as silent, asyncio.timeout(90):
        hanging = settings.copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{silent.port}"})
        async with running(MlMonitoringService, hanging):
            await silent.asked.wait()
            begin = time.monotonic()
        assert time.monotonic() - begin < 25.0  # MLflow's client waits for 30 s, three times
    assert "points are lost: MLflow did not take them in time" in caplog.text


async def test_an_event_that_is_not_as_declared_costs_nothing_else(
    settings: Settings, tester: TesterService, dataset: Dataset
) -> None:
    async with running(PatientMonitoring, settings) as service:
        for bad in (None, {"predictions": 3}, {"milliseconds": "x", "predictions": []}):
            await tester.announce(PREDICTION_MADE, bad)
            await tester.announce(TRUTH_KNOWN, bad)
        records = [Laboratory(1).complete_record()]
        await tester.announce(PREDICTION_MADE, event(dataset, records))
        await tester.announce(TRUTH_KNOWN, truths(records))
        await eventually(lambda: service.monitor.figures.number("performance/count") == 1)


async def test_many_metrics_may_be_written_again_after_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, "lab")
    points = [
        Point(datetime.now(UTC) + timedelta(seconds=s), Figures.of_flat({f"m{i}": float(i) for i in range(250)}))
        for s in range(3)
    ]
    send = MonitoringRun._send

    def fail_afterwards(self: MonitoringRun, client: Any, metrics: list[Any]) -> None:
        send(self, client, metrics)
        if metrics:
            raise TrackingUnavailableError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(MonitoringRun, "_send", fail_afterwards)
        with pytest.raises(TrackingUnavailableError):
            await asyncio.to_thread(run.write, points[:2])
    await asyncio.to_thread(run.write, points)
    await asyncio.to_thread(run.write, points)  # who called the last time was gone before it ended
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=settings.mlflow_tracking_uri).get_metric_history(str(run.run_id), "m249")
    assert len(history) == 3


async def test_each_day_has_a_run_of_its_own(settings: Settings) -> None:
    run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, "lab")
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    points = [Point(midnight + timedelta(seconds=s), Figures.of_flat({"a": float(s), "b": float("nan")})) for s in (-1, 1)]
    await asyncio.to_thread(run.write, points)
    await asyncio.to_thread(run.close)
    runs = await asyncio.to_thread(logged, settings)
    assert {r.info.run_name: r.data.metrics for r in runs} == {
        f"monitoring-{points[0].at.date()}": {"a": -1.0},
        f"monitoring-{points[1].at.date()}": {"a": 1.0},
    }
    assert {r.info.status for r in runs} == {"FINISHED"}


async def test_mlflow_keeps_the_metrics_of_some_days_only(settings: Settings, mlflow_server: Server) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    today = datetime.now(UTC)
    uri, experiment = settings.mlflow_tracking_uri, settings.mlflow_experiment
    points = [Point(today - timedelta(days=days), Figures.of_flat({"a": 1.0})) for days in (9, 8, 3, 2, 0)]
    await asyncio.to_thread(MonitoringRun(uri, experiment, "another", days=2).write, points[:1])
    await asyncio.to_thread(MonitoringRun(uri, experiment, "lab", days=3).write, points[:-1])
    await asyncio.to_thread(MonitoringRun(uri, experiment, "lab", days=2).write, points[-1:])
    kept = [(each.data.tags["dataset"], each.info.run_name) for each in await asyncio.to_thread(logged, settings)]
    days = [f"monitoring-{(today - timedelta(days=days)).date()}" for days in (2, 0)]
    assert sorted(kept) == [("another", f"monitoring-{points[0].at.date()}"), *(("lab", day) for day in days)]
    # What was deleted is marked only; its room is freed later, and the other runs keep theirs.
    store = f"sqlite:///{mlflow_server.directory / 'mlflow.db'}"
    collect_metrics(store)  # so does the server now and then
    assert collect_metrics(store) == 0
    client = MlflowClient(tracking_uri=uri)
    ids = [client.get_experiment_by_name(experiment).experiment_id]
    deleted = await asyncio.to_thread(client.search_runs, ids, run_view_type=ViewType.DELETED_ONLY)
    assert [(each.data.metrics, client.get_metric_history(each.info.run_id, "a")) for each in deleted] == [({}, [])] * 3
    assert [each.data.metrics for each in await asyncio.to_thread(logged, settings)] == [{"a": 1.0}] * 3


async def test_columns_of_any_name_have_their_metrics_in_mlflow(settings: Settings) -> None:
    columns = [
        "x",
        "Temp. [°C]",
        "Temp. (°C)",
        "Größe",
        "n/m²",
        "a//b",
        "..",
        "/",
        "%",
        "select;drop",
        "two\nlines",
        "long " * 60,
    ]
    run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, "lab")
    metrics = {f"data/missing/{name}": float(place) for place, name in enumerate(columns)}
    await asyncio.to_thread(run.write, [Point(datetime.now(UTC), Figures.of_flat(metrics))])
    [found] = await asyncio.to_thread(logged, settings)
    assert sorted(found.data.metrics.values()) == sorted(metrics.values())
    assert {"data/missing/x", "data/missing/Größe"} <= set(found.data.metrics)
    assert "data/missing/Temp. _C_" in {name[:-7] for name in found.data.metrics}


async def test_a_run_that_somebody_deleted_is_replaced(settings: Settings) -> None:
    from mlflow import MlflowClient

    run = MonitoringRun(settings.mlflow_tracking_uri, settings.mlflow_experiment, "lab")
    point = Point(datetime.now(UTC), Figures.of_flat({"a": 1.0}))
    await asyncio.to_thread(run.write, [point])
    deleted = run.run_id
    MlflowClient(tracking_uri=settings.mlflow_tracking_uri).delete_run(deleted)
    later = Point(datetime.now(UTC), Figures.of_flat({"a": 2.0}))
    with pytest.raises(TrackingRefusedError):
        await asyncio.to_thread(run.write, [later])
    await asyncio.to_thread(run.write, [later])
    assert run.run_id != deleted
    assert [each.data.metrics for each in await asyncio.to_thread(logged, settings)] == [{"a": 2.0}]
