"""Kept predictions: in blocks, for a bounded time, exported beside their truths as CSV and Parquet."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from complex_system.domain.dataset import Dataset
from complex_system.errors import BusyError, StoreUnavailableError
from complex_system.http.server import RestServer
from complex_system.monitoring import prediction_export, rest
from complex_system.monitoring.aggregates import HOUR, Served
from complex_system.monitoring.history import STATES, History
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.prediction_export import SCHEMA, Format, exported
from complex_system.monitoring.prediction_log import BLOCK_ROWS, DAY, MAX_UNWRITTEN, PREDICTIONS, PredictionLog
from complex_system.monitoring.rest import make_app, streamed
from complex_system.protocol.serving import PredictedRecord, PredictionMade
from kept import KeptDocuments
from support import eventually

A, B = (Served("ml_serving_mlflow", "lab-lightgbm", version, origin="live") for version in "12")
NOW = 1_800_000_000.0


class WithTargets(KeptDocuments):
    def __init__(self, known: dict[str, float] | None = None) -> None:
        super().__init__()
        self.known = known or {}

    async def between(self, *given: Any, **options: Any) -> Any:
        if self.away:
            raise StoreUnavailableError("away")
        return await super().between(*given, **options)

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        return {key: self.known[key] for key in keys if key in self.known}


def made(*values: float, key: str = "k") -> list[tuple[PredictedRecord, str]]:
    return [(PredictedRecord(id=f"{key}{i}", record={}, prediction=v), "") for i, v in enumerate(values)]


async def content(log: PredictionLog, documents: KeptDocuments, form: Format = "csv", start: float = 0.0, end: float = 2e9,
                  **which: str) -> bytes:  # fmt: skip
    return b"".join([part async for part in exported(log, documents, form, start, end, **which)])


async def rows(*given: Any, **options: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((await content(*given, **options)).decode())))


async def test_predictions_are_exported_beside_their_truths() -> None:
    log, documents = PredictionLog(30, 1000), WithTargets({"k0": 2.5})
    log.add(NOW, A, made(1.25, 3.0))
    log.add(NOW + 0.25, A, [(PredictedRecord(id=None, record={}, prediction=-4.0), "x is outside of its range")])
    log.add(NOW + 0.5, B, made(7.0), half_width=1.5)
    log.add(NOW + 1, A, made(float("nan")))
    await log.save(documents, NOW + 5)
    found = await rows(log, documents)
    assert [tuple(each) for each in found] == [tuple(SCHEMA.names)] * 4
    values = [(each["key"], each["prediction"], each["truth"]) for each in found]
    assert values == [("k0", "1.25", "2.5"), ("k1", "3", ""), ("", "-4", ""), ("k0", "7", "2.5")]
    assert [each["time"] for each in found] == [f"2027-01-15 08:00:00.{ms}Z" for ms in ("000", "000", "250", "500")]
    assert [(each["lower"], each["upper"]) for each in found] == [("", "")] * 3 + [("5.5", "8.5")]
    assert [each["warnings"] for each in found] == ["", "", "x is outside of its range", ""]
    by = {(each["model"], each["version"], each["service"], each["origin"]) for each in found}
    assert by == {("lab-lightgbm", version, "ml_serving_mlflow", "live") for version in "12"}


async def test_a_period_and_a_model_are_chosen_and_parquet_has_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_export, "ROW_GROUP", 40)
    log, documents = PredictionLog(30, 10_000), WithTargets({"t3": 1.0})
    for i in range(200):  # several blocks a model, several pages
        log.add(NOW + 30 * i, A if i % 2 else B, made(float(i), key=f"t{i}"))
    await log.save(documents, NOW + 6000)
    assert len(await rows(log, documents)) == 200
    some = await rows(log, documents, start=NOW + 300, end=NOW + 600)
    assert sorted(float(each["prediction"]) for each in some) == [float(i) for i in range(10, 20)]
    assert {each["version"] for each in await rows(log, documents, version="2")} == {"2"}
    assert await rows(log, documents, model="lab-pytorch") == []
    table = parquet.read_table(pa.BufferReader(await content(log, documents, "parquet")))
    assert (table.schema.remove_metadata(), table.num_rows) == (SCHEMA, 200)
    assert [f"{each:g}" for each in table["prediction"].to_pylist()] == [e["prediction"] for e in await rows(log, documents)]
    empty = parquet.read_table(pa.BufferReader(await content(log, documents, "parquet", model="other")))
    assert (empty.schema.remove_metadata(), empty.num_rows) == (SCHEMA, 0)


async def test_a_block_grows_for_a_minute_and_predictions_are_written_once() -> None:
    log, documents = PredictionLog(30, 1_000_000), WithTargets()
    for i in range(10):
        log.add(NOW + i, A, made(float(i)))
        await log.save(documents, NOW + i)
    assert documents.count(PREDICTIONS) == 1
    log.add(NOW + 10, A, made(*range(2 * BLOCK_ROWS)))
    log.add(NOW + 61, A, made(1.0))
    await log.save(documents, NOW + 61)
    assert documents.count(PREDICTIONS) == 4
    assert len(await rows(log, documents)) == 2 * BLOCK_ROWS + 11
    log.add(NOW + 62, A, [(PredictedRecord(id="\0" * 200, record={}, prediction=1.0), "\0" * 100)] * 2 * BLOCK_ROWS)
    await log.save(documents, NOW + 62)
    assert len(await rows(log, documents)) == 4 * BLOCK_ROWS + 11, "the longest keys fit, too"


async def hours(log: PredictionLog, documents: KeptDocuments) -> set[int]:
    return {int(float(each["prediction"])) for each in await rows(log, documents)}


async def test_the_oldest_are_deleted_by_age_and_by_number_also_after_a_restart() -> None:
    documents = WithTargets()
    for hour in range(50):
        log = PredictionLog(1, 3000)  # every hour another process
        log.add(NOW + hour * HOUR, A, made(*[float(hour)] * (200 if hour < 40 else 10)))
        await log.save(documents, NOW + hour * HOUR)
    assert await hours(log, documents) == set(range(26, 50)), "3,000 at most"
    await log.save(documents, NOW + 60 * HOUR)
    assert await hours(log, documents) == set(range(35, 50)), "a day, and the hour in which it begins"
    await log.save(documents, NOW + 60 * HOUR + 2 * DAY)
    assert documents.count(PREDICTIONS) == 0
    assert documents.count(STATES) == 1


async def test_nothing_is_kept_where_nothing_is_to_be_kept() -> None:
    log, documents = PredictionLog(30, 0), WithTargets()
    log.add(NOW, A, made(1.0))
    await log.save(documents, NOW)
    assert documents.count(PREDICTIONS) == 0
    assert await rows(log, documents) == []


async def test_while_the_database_is_away_predictions_wait_up_to_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    log, documents = PredictionLog(30, 1_000_000), WithTargets()
    documents.away = True
    for i in range(MAX_UNWRITTEN // BLOCK_ROWS + 5):
        log.add(NOW + i, A, made(*[float(i)] * BLOCK_ROWS))
        if i == 3:
            with pytest.raises(StoreUnavailableError):
                await log.save(documents, NOW)
    documents.away = False
    await log.save(documents, NOW + 300)
    await log.save(documents, NOW + 300)
    found = await rows(log, documents)
    assert len(found) == MAX_UNWRITTEN
    assert found[0]["prediction"] == "5", "the newest are kept"
    assert f"{5 * BLOCK_ROWS} predictions are not kept" in caplog.text


async def test_a_spreadsheet_takes_no_text_for_a_formula() -> None:
    log, documents = PredictionLog(30, 1000), WithTargets()
    for key in ("=HYPERLINK(1)", "+1+1", "@x", "-12", "-a", 'a"b\n', "plain"):
        log.add(NOW, A, [(PredictedRecord(id=key, record={}, prediction=-1.5), "")])
    await log.save(documents, NOW)
    found = [each["key"] for each in await rows(log, documents)]
    assert found == ["'=HYPERLINK(1)", "'+1+1", "'@x", "-12", "'-a", 'a"b\n', "plain"]
    exact = parquet.read_table(pa.BufferReader(await content(log, documents, "parquet")))
    assert exact["key"].to_pylist()[0] == "=HYPERLINK(1)"


async def answers(
    paths: Iterable[str], documents: KeptDocuments, dataset: Dataset, headers: dict[str, str] | None = None
) -> list[httpx.Response]:
    monitor = Monitor(dataset, 100, History(), log=PredictionLog(30, 1000), now=lambda: NOW)
    record = {"material_id": "11111111", "rohwert_1_labormessung": 3.0}
    monitor.predicted(PredictionMade(service="ml_serving_mlflow", model="lab", version="1",
                                     predictions=(PredictedRecord(id="a", record=record, prediction=1.0),)))  # fmt: skip
    if not documents.away:
        await monitor.log.save(documents, NOW)
    transport = httpx.ASGITransport(make_app(monitor, "secret", documents=documents))
    async with httpx.AsyncClient(transport=transport, base_url="http://monitoring") as client:
        return [await client.get(path, headers=headers) for path in paths]


KEY = {"X-API-Key": "secret"}
PERIOD = f"from={NOW - 60}&to={NOW + 60}"


async def test_the_interface_asks_for_the_key_and_refuses_nonsense(dataset: Dataset) -> None:
    documents = WithTargets({"a": 4.0})
    [refused] = await answers([f"/api/predictions.csv?{PERIOD}"], WithTargets(), dataset)
    assert refused.status_code == 401
    paths = [f"/api/predictions.{form}?{PERIOD}" for form in ("csv", "parquet")]
    text, table, wrong = await answers([*paths, "/api/predictions.csv?from=5&to=4"], documents, dataset, KEY)
    assert (text.status_code, text.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert text.headers["content-disposition"] == 'attachment; filename="predictions-lab.csv"'
    assert text.text.splitlines()[1] == '"a",2027-01-15 08:00:00.000Z,1,,,4,"lab","1",,"ml_serving_mlflow","live"'
    assert parquet.read_table(pa.BufferReader(table.content))["truth"].to_pylist() == [4.0]
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_database_that_is_away_is_told_before_anything_is_sent(dataset: Dataset) -> None:
    documents = WithTargets()
    documents.away = True
    for answer in await answers(
        [f"/api/predictions.{form}?{PERIOD}" for form in ("csv", "parquet")], documents, dataset, KEY
    ):
        assert answer.status_code == 503
        assert answer.json()["error"] == {
            "code": "store_unavailable", "message": "The predictions cannot be read, try again later. away",
        }  # fmt: skip


async def test_only_so_many_exports_run_at_the_same_time() -> None:
    async def parts() -> AsyncGenerator[bytes]:
        yield b"1"
        yield b"2"

    places = asyncio.Semaphore(1)
    first = await streamed(parts(), places, "text/csv", "a.csv")
    with pytest.raises(BusyError):
        await streamed(parts(), places, "text/csv", "b.csv")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)  # a connection that is full lets its sender wait
        sent.append(message)

    await first({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]  # the client says nothing
    assert [message["body"] for message in sent[1:]] == [b"1", b"2", b""]
    assert not places.locked()

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    await (await streamed(parts(), places, "text/csv", "a.csv"))({"type": "http"}, gone, send)
    assert len(sent) == 4, "the client has gone before anything was sent"
    assert not places.locked()


@pytest.mark.parametrize("reads", ["nothing", "a little now and then"])
async def test_nobody_holds_a_place_by_not_reading(reads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real connection: one that stands still is left, and one that goes on slowly has a time limit."""
    monkeypatch.setattr(rest, "EXPORT_SECONDS", 1.0)
    places = asyncio.Semaphore(1)

    async def parts() -> AsyncGenerator[bytes]:
        while True:
            yield bytes(200_000)

    async def export(_: Request) -> Response:
        return await streamed(parts(), places, "text/csv", "a.csv")

    server = RestServer(Starlette(routes=[Route("/export", export)]), "127.0.0.1", 0)
    await server.start()
    try:
        address = urlsplit(server.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET /export HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(places.locked)

        async def released() -> bool:
            if reads != "nothing":
                with contextlib.suppress(ConnectionError):
                    await reader.read(65_536)
            return not places.locked()

        await eventually(released)
        writer.close()
    finally:
        await server.stop()


async def test_the_monitor_keeps_intervals_and_warnings(dataset: Dataset) -> None:
    content = dataset.as_content()
    columns = [{**column, "outside": "warn"} if column.get("range") else column for column in content["columns"]]
    lenient = Dataset.parse_obj({**content, "columns": columns})
    monitor, documents = Monitor(lenient, 100, History(), log=PredictionLog(30, 1000), now=lambda: NOW), WithTargets()
    record = {"material_id": "11111111", "rohwert_1_labormessung": 31.0}
    monitor.predicted(PredictionMade(
        service="ml_serving_mlflow", model="lab", version="1", half_width=0.5,
        predictions=tuple(PredictedRecord(id="a", record=record, prediction=1.0, distance=each) for each in (None, 0.5, 2.0)),
    ))  # fmt: skip
    await monitor.log.save(documents, NOW)
    found = await rows(monitor.log, documents)
    outside = "rohwert_1_labormessung is outside of its range"
    assert [each["warnings"] for each in found] == [outside, outside, f"{outside}; far from the training data"]
    assert {(each["lower"], each["upper"]) for each in found} == {("0.5", "1.5")}
