"""Predictions beside the lab's values: from the broker through a real database to files, also a million of them."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import Page, processed_schema
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.prediction_export import exported
from complex_system.monitoring.prediction_log import PredictionLog
from complex_system.pipeline.pipeline import Pipeline
from complex_system.predict.client import PredictError, RestClient
from complex_system.predict.predictions import predictions_command
from complex_system.protocol.serving import PREDICTION_MADE, PredictedRecord, PredictionMade
from complex_system.settings import Settings
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from support import TesterService, eventually, running


class QuickMonitoring(MlMonitoringService):
    """Writes more often."""

    last_write = 60.0
    keep_interval = 0.1


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"monitoring_interval": 0.2, "monitoring_port": 0, "heartbeat_interval": 0.3, "silent_after": 4.0}


async def save_truths(tester: TesterService, dataset: Dataset, count: int) -> list[str]:
    laboratory = Laboratory(3)
    records = [laboratory.complete_record() for _ in range(count)]
    rows = [{**record, dataset.target: truth_of(record)} for record in records]
    table = Pipeline(dataset).process(rows).to_arrow().cast(processed_schema(dataset))
    await DatabaseClient(tester).upsert_processed(Page(table, None, {"version": dataset.version}))
    return [str(record[ID]) for record in records]


async def test_predictions_outlive_a_restart_and_are_exported_by_the_command(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset, tmp_path: Path
) -> None:
    keys = await save_truths(tester, dataset, 20)
    event = PredictionMade(
        service="ml_serving_mlflow", model="lab-lightgbm", version="3", pipeline_version=dataset.version, half_width=1.5,
        predictions=(
            *(PredictedRecord(id=key, record={}, prediction=float(i)) for i, key in enumerate(keys)),
            PredictedRecord(id="never-measured", record={}, prediction=-1.0),
        ),
    )  # fmt: skip
    seen: list[str] = []
    async with running(QuickMonitoring, settings) as service:
        await tester.announce(PREDICTION_MADE, event)
        await eventually(lambda: service.monitor.history.loaded and service.monitor.join.waiting, 40)
    locked = settings.copy(update={"api_key": "secret"})
    async with running(QuickMonitoring, locked) as again:

        async def complete() -> bool:
            async with httpx.AsyncClient(headers={"X-API-Key": "secret"}) as client:
                answer = await client.get(f"{again.url}/api/predictions.csv")
            return answer.status_code == 200 and answer.text.count("\n") == 22

        await eventually(complete, 40)

        def command(name: str, key: str = "secret", **options: Any) -> Path:
            asked = {"since": "", "until": "", "form": "", "model": "", "version": "", "force": False, **options}
            predictions_command(
                RestClient(again.url, key, kind="monitoring service"), output=tmp_path / name, out=io.BytesIO(), say=seen.append,
                **asked,
            )  # fmt: skip
            return tmp_path / name

        file = await asyncio.to_thread(command, "week.parquet")
        table = parquet.read_table(file).sort_by("prediction")
        truths = await DatabaseClient(tester).targets(keys)
        assert table["key"].to_pylist() == ["never-measured", *keys]
        assert table["truth"].to_pylist() == [None, *(truths[key] for key in keys)]
        assert table["upper"].to_pylist() == [0.5, *(i + 1.5 for i in range(20))]
        assert seen[-1].startswith(f"{file} has the predictions from ")
        text = await asyncio.to_thread(command, "week.csv", version="3")
        assert len(list(csv.DictReader(io.StringIO(text.read_text())))) == 21
        for name, options, message in (
            ("week.csv", {}, "exists already"), ("x.csv", {"form": "xlsx"}, "--format takes csv or parquet, not 'xlsx'"),
            ("x.csv", {"since": "yesterday"}, "--from takes a time such as"),
            ("x.csv", {"since": "2030-01-01", "until": "2029-01-01"}, "answered 400: 'from'"),
        ):  # fmt: skip
            with pytest.raises(PredictError, match=message):
                await asyncio.to_thread(command, name, **options)
        assert not [*tmp_path.glob("x*")], "a failure leaves no file"


async def test_without_a_database_the_export_says_so(settings: Settings) -> None:
    async with running(MlMonitoringService, settings) as service, httpx.AsyncClient(base_url=service.url) as client:
        answer = await client.get("/api/predictions.csv")
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "store_unavailable"
        assert error["message"].startswith("The predictions cannot be read, try again later. ")


MILLION, WEEK = 1_000_000, 7 * 86_400


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_week_of_a_million_predictions_streams_at_constant_memory(
    form: Any, settings: Settings, database: None, tester: TesterService, dataset: Dataset, record_property: Any
) -> None:
    """The peak is of the process that reads and encodes; the database service runs in it, too."""
    keys = await save_truths(tester, dataset, 5000)
    log, documents, now = PredictionLog(30, 2 * MILLION), DocumentClient(tester), time.time()
    begin = float(int(now - WEEK))
    for number in range(MILLION // 1000):
        at = begin + number * WEEK / 1000
        rows = [PredictedRecord(id=keys[(number * 1000 + i) % 5000], record={}, prediction=float(i)) for i in range(1000)]
        log.add(at, Served("ml_serving_mlflow", "lab-lightgbm", "1", origin="live"), [(row, "") for row in rows])
        await log.save(documents, at)
    process, size, lines, peaks = psutil.Process(), 0, 0, []
    before, began = process.memory_info().rss, time.perf_counter()
    chunks: list[bytes] = []
    async with aclosing(exported(log, documents, form, begin, now + 1)) as parts:
        async for part in parts:
            size += len(part)
            lines += part.count(b"\n") if form == "csv" else 0
            peaks.append(process.memory_info().rss - before)
            if form == "parquet":
                chunks.append(part)
    seconds = time.perf_counter() - began
    record_property(f"{form}: a million rows", f"{size / 1e6:.0f} MB in {seconds:.1f} s, peak +{max(peaks) / 1e6:.0f} MB")
    if form == "parquet":
        assert parquet.ParquetFile(pa.BufferReader(b"".join(chunks))).metadata.num_rows == MILLION
    else:
        assert lines == MILLION + 1
        assert max(peaks) < 100e6
    half = len(peaks) // 2
    assert max(peaks[half:]) - max(peaks[:half]) < 30e6, "it does not grow with the rows"
