"""Events of predictions, with the real broker: none is lost when a service ends in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.local.servers import Server
from complex_system.messaging.subjects import event_subject
from complex_system.protocol.serving import PREDICTION_MADE
from complex_system.service_layer.serving import events
from complex_system.serving.models.source import LoadedModel, ModelReference, ModelSource
from complex_system.settings import Settings
from complex_system_services.ml_serving.ml_serving_service import MlServingService
from models import ManyModels
from support import TesterService, eventually, running


class StuckChallenger(ManyModels):
    """A source that does not come to an end with the challenger."""

    released = threading.Event()

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        if reference.name == "lab-pytorch":
            self.released.wait(60)
        return super().load(reference)


class OwnModelsService(MlServingService):
    """Serves two models of the test's own."""

    @override
    def make_source(self) -> ModelSource:
        source = StuckChallenger(self.dataset)
        source.publish("lab-lightgbm", 1.0, champion=True)
        source.publish("lab-pytorch", 2.0)
        return source


async def test_what_was_predicted_is_announced_although_the_service_ends_at_once(
    nats_server: Server,
    make_settings: Callable[..., Settings],
    tester: TesterService,
    dataset: Dataset,
    laboratory: Laboratory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "STOP_SECONDS", 60.0)  # how long it takes is a matter of the machine
    settings = make_settings(nats_server, serving_port=0, serving_shadow_share=0.5, serving_shadow_models="lab-pytorch")
    records = [laboratory.complete_record() for _ in range(120)]
    announced: dict[str, float] = {}

    async def hear(thing: Any) -> None:
        for each in PREDICTION_MADE.decode(thing.value).predictions:
            assert each.id is not None
            announced[each.id] = each.prediction

    subscription = await tester.broker.subscribe(event_subject(PREDICTION_MADE), hear)
    await tester.broker.settle()
    try:
        async with running(OwnModelsService, settings, dataset) as service, httpx.AsyncClient(timeout=20) as client:

            async def is_ready() -> bool:
                return (await client.get(f"{service.url}/readyz")).status_code == 200

            await eventually(is_ready)
            asked = (client.post(f"{service.url}/predict", json=record) for record in records)
            answers = await asyncio.gather(*asked)
        expected = {record["_id"]: answer.json()["predictions"][0] for record, answer in zip(records, answers, strict=True)}
        assert len(expected) == len(records)
        await eventually(lambda: announced == expected)
    finally:
        StuckChallenger.released.set()
        await subscription.unsubscribe()
