"""Every new version gets a card in MLflow, which the page shows: with a real trainer, consumer and monitoring."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.protocol.training import TRAIN_MODEL, TrainRequest
from complex_system.settings import Settings
from complex_system.tracking.promotion import CARD, CARD_HTML, CARD_MARKDOWN, PromotionRegistry
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, fill


@pytest.fixture
def fields() -> dict[str, Any]:
    """No round begins by itself."""
    return {
        "trainers": "lightgbm",
        "min_labelled": 10_000,
        "prediction_interval": 60.0,
        "monitoring_port": 0,
        "stack": False,
    }


@pytest.mark.long
async def test_a_version_has_a_card_which_the_page_shows_without_running_anything_in_it(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    await fill(tester, dataset, 1, 1500)
    registry = PromotionRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    async with running(QuickConsumer, settings), running(MlLightgbmRegressionMlflowService, settings):
        await tester.ask(TRAIN_MODEL, TrainRequest(round="mine", trainers=["lightgbm"]))
        told = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
    [result] = told.results
    ref = await asyncio.to_thread(registry.find, result.model, result.version)
    card = await asyncio.to_thread(registry.read, ref, CARD, (CARD_HTML, CARD_MARKDOWN))
    text = card[CARD_MARKDOWN].decode()
    assert text.startswith(f"# {result.model} {result.version}")
    assert f"fiot extras retrain {ref.run_id}" in text
    assert f"| Hold-out part, which no trainer saw | {told.holdout} | {result.rmse:.2f} |" in text
    assert told.explanation is not None
    assert f"| {told.explanation.importance[0].column} |".replace("_", r"\_") in text
    assert f"of the {told.holdout} hold-out records lie within" in text
    async with running(MlMonitoringService, settings) as monitoring, httpx.AsyncClient(base_url=monitoring.url) as http:
        known = {"model": result.model, "version": result.version}
        answer = await http.get("/card", params=known)
        assert answer.status_code == 200
        assert answer.content == card[CARD_HTML]
        assert "sandbox; default-src 'none'" in answer.headers["content-security-policy"]
        for params in ({**known, "version": "99"}, {**known, "model": "other-model"}, {}):
            assert (await http.get("/card", params=params)).status_code == 404
