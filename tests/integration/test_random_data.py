"""Random declarations and random records within them on the whole path, on both databases at once."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record, raw_check
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, ProcessingClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.settings import Settings
from complex_system.training.base import TrainingParameters
from complex_system.training.data import SampleCollector
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.onnx import export_onnx
from complex_system.training.split import Part
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from models import MemorySource, onnx_metadata, rest_server
from random_data import Declaration, dataset_of, declarations, labelled_records
from support import TesterService, eventually, running

EXAMPLES = int(os.environ.get("RANDOM_DATA_EXAMPLES", "25"))
"""With the variable set it is a hunt, each time another one (``--timeout=0``): 300 examples take 200 s on two cores."""
SERVICES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
PAGE = 17


@pytest.fixture
def each_settings(
    nats_server: Server,
    default_nats_server: Server,
    mongo_server: Server,
    maria_server: Server,
    make_settings: Callable[..., Settings],
) -> dict[str, Settings]:
    """A broker for each database, because both services answer the same subjects."""
    fields = {"processing_interval": 0.05, "request_timeout": 30.0}
    return {
        "mongo": make_settings(nats_server, mongo_server, **fields),
        "maria": make_settings(default_nats_server, maria_server, **fields),
    }


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as made:
        yield made


def exact(rows: list[Record]) -> list[list[Any]]:
    """Rows that are equal only bit by bit: 1 is not 1.0; the stores keep no sign of zero."""

    def bits(value: Any) -> Any:
        if isinstance(value, float):
            return (value + 0.0).hex()
        return [bits(each) for each in value] if isinstance(value, list) else (type(value).__name__, value)

    return [[(name, bits(value)) for name, value in row.items()] for row in sorted(rows, key=lambda row: str(row[ID]))]


class Found:
    """What came out of one database."""

    raw: list[Record]
    processed: list[Record]
    asked: list[Record]
    collector: SampleCollector


async def through(
    database: str, settings: Settings, tester: TesterService, dataset: Dataset, records: list[Record]
) -> Found:
    """Saves records, has them processed, and reads all of it in small pages."""
    name = f"random_{uuid4().hex[:12]}"
    settings = settings.copy(update={"mongo_name": name, "maria_name": name})
    client, found = DatabaseClient(tester), Found()
    async with running(SERVICES[database], settings, dataset), running(DataProcessingService, settings, dataset):
        assert (await client.save_raw(records)).inserted == len(records)

        async def done() -> bool:
            counts = await client.counts()
            assert counts.rejected == 0, await client_rejections(client, tester)
            left = await client.unprocessed(dataset.version, 10, None)
            return counts.processed == len(records) and not left.table.num_rows

        await eventually(done, 60)
        found.raw, after = [], None
        while True:
            page = await client.unprocessed("none", PAGE, after)
            found.raw += page.table.to_pylist()
            after = page.next
            if after is None:
                break
        found.processed = [row async for page in client.processed_pages(limit=PAGE) for row in page.table.to_pylist()]
        found.asked = await ProcessingClient(tester).process(records)
        found.collector = SampleCollector(dataset, list(Part))
        columns = found.collector.columns
        async for page in client.processed_pages(columns, labelled=True, version=dataset.version, limit=PAGE):
            found.collector.add(page.table)
    return found


async def client_rejections(client: DatabaseClient, tester: TesterService) -> Any:
    """Why records were put aside, for the message of a failure."""
    return await client.rejected(limit=5)


async def whole_path(
    each_settings: dict[str, Settings], testers: dict[str, TesterService], dataset: Dataset, seed: int
) -> tuple[Predictor, bytes, list[Record]]:
    """Everything up to a small model; returns it as it is served, and the records."""
    records = labelled_records(dataset, seed)
    expected = Pipeline(dataset).process(raw_check(dataset)(records)).to_dicts()
    found = dict(
        zip(
            SERVICES,
            await asyncio.gather(
                *(through(name, each_settings[name], testers[name], dataset, records) for name in SERVICES)
            ),
            strict=True,
        )
    )
    for each in found.values():
        assert exact(each.raw) == exact(raw_check(dataset)(records))
        assert exact(each.processed) == exact(expected)
        assert exact(each.asked) == exact(expected)
    data, other = (each.collector.training_data() for each in found.values())
    for part in ("train", "validation"):
        for samples in ("x", "y"):
            assert getattr(getattr(data, part), samples).tobytes() == getattr(getattr(other, part), samples).tobytes()
    model = LightGBMTrainer(TrainingParameters(seed=seed % 1000, boosting_rounds=10)).fit(data, lambda progress: None)
    onnx = export_onnx(model, data.validation.x)
    predictor = Predictor(Pipeline(dataset), "random", "1", onnx, onnx_metadata(dataset, onnx, "random"))
    native = model.predict(Pipeline(dataset).features(records)).astype(float)
    assert np.allclose(predictor.predict(records), native, rtol=1e-3, atol=1e-3)
    return predictor, onnx, records


@asynccontextmanager
async def both_testers(each_settings: dict[str, Settings]) -> Any:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(running(TesterService, of)) for name, of in each_settings.items()}


NASTY: Declaration = {
    "name": "nasty",
    "target": '"Höhe" \\ mm',
    "columns": [
        {"name": "Temp.\n[°C]", "type": "number", "range": [0.0, 1.0]},
        {"name": "Liste", "type": "list of categories", "categories": ["A", "a"]},
        {"name": "liste", "type": "list of shares", "optional": True},
        {"name": '"Höhe" \\ mm', "type": "number", "optional": True},
    ],
    "pipeline": [
        {"step": "scale", "column": "Temp.\n[°C]", "to": [1, 1e-9], "as": "down", "feature": False},
        {"step": "bins", "column": "down", "edges": [1e-9, 0.5, 1], "labels": ["low", "high"]},
        {"step": "shares", "column": "Liste", "shares": "liste"},
    ],
}
"""What the hunt found: names with quotation marks and line feeds, bins of a computed value, empty lists with empty shares."""


@pytest.mark.long
def test_random_data_survive_the_whole_path_on_both_databases_with_equal_values(
    each_settings: dict[str, Settings], runner: asyncio.Runner
) -> None:
    testers = both_testers(each_settings)
    clients = runner.run(testers.__aenter__())

    @examples(
        derandomize="RANDOM_DATA_EXAMPLES" not in os.environ,
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @example(NASTY, 1)
    @given(declarations(), st.integers(0, 2**32))
    def survives(content: Declaration, seed: int) -> None:
        runner.run(whole_path(each_settings, clients, dataset_of(content), seed))

    try:
        survives()
    finally:
        runner.run(testers.__aexit__(None, None, None))


async def test_a_model_of_random_data_answers_by_rest_what_it_answers_here(each_settings: dict[str, Settings]) -> None:
    dataset = dataset_of(NASTY)
    async with both_testers(each_settings) as testers:
        predictor, onnx, records = await whole_path(each_settings, testers, dataset, 2)
    source = MemorySource()
    source.publish(dataset, 0.0, onnx)
    expected = predictor.predict(records)
    async with rest_server(dataset, source) as (_, client):
        for body in (records, {"records": records}):
            answer = await client.post("/predict", json=body)
            assert answer.status_code == httpx.codes.OK, answer.text
            assert answer.json()["predictions"] == expected
        one = await client.post("/predict", json=records[0])
        assert one.json()["predictions"] == expected[:1]
        wrong = await client.post("/predict", json={**records[0], "Temp.\n[°C]": "warm"})
        assert wrong.status_code == httpx.codes.UNPROCESSABLE_ENTITY
        assert "field 'Temp.\n[°C]': must be a number, not the text 'warm'" in wrong.json()["error"]["message"]
    assert all(map(math.isfinite, expected))
