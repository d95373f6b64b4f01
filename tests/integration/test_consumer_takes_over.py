"""The consumer that takes over, or comes back: what it finds in MLflow, and whose champion counts."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.settings import Settings
from complex_system.tracking.registry import CHAMPION, ModelRegistry, ModelVersionRef
from models import linear_onnx, register_onnx
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, fill


@pytest.fixture
def fields() -> dict[str, Any]:
    """No round begins by itself."""
    return {"trainers": "lightgbm,pytorch", "min_labelled": 10_000, "prediction_interval": 60.0}


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    return ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)


async def register(settings: Settings, dataset: Dataset, trainer: str, bias: float, round_id: str) -> tuple[str, str]:
    """Registers a model as a trainer does whose event nobody hears."""
    return await asyncio.to_thread(
        register_onnx, settings.mlflow_tracking_uri, dataset, linear_onnx(dataset, bias),
        prefix=settings.model_prefix, trainer=trainer, champion=False, round=round_id,
    )  # fmt: skip


async def champions(registry: ModelRegistry) -> list[tuple[str, str]]:
    return [(ref.model, ref.version) for ref in await asyncio.to_thread(registry.champions)]


@pytest.mark.long
async def test_models_that_were_made_while_the_consumer_was_away_are_compared_once(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, registry: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await fill(tester, dataset, 1, 400)
    superseded = await register(settings, dataset, "pytorch", 150.0, "first")
    worse = await register(settings, dataset, "lightgbm", 50.0, "second")
    better = await register(settings, dataset, "pytorch", 140.0, "third")
    async with running(QuickConsumer, settings):
        comparison = await eventually(lambda: ear.comparisons and ear.comparisons[0], 120)
        await eventually(lambda: ear.champions)
    assert {(each.model, each.version) for each in comparison.results} == {worse, better}
    assert superseded not in {(each.model, each.version) for each in comparison.results}
    assert comparison.cause == "schedule"
    assert await champions(registry) == [better]
    # What was compared is known in MLflow, so another process does not do it again, nor with a model that cannot be loaded.
    async with running(QuickConsumer, settings) as consumer:
        await eventually(lambda: consumer._rounds._looked > 0)
        assert not consumer._rounds._outside
    broken = await asyncio.to_thread(
        register_onnx, settings.mlflow_tracking_uri, dataset, b"no model", prefix=settings.model_prefix, trainer="tensorflow",
        champion=False,
    )  # fmt: skip
    with monkeypatch.context() as patch:  # on a host whose clock is an hour behind
        patch.setattr("complex_system.evaluation.mlflow_log.time", SimpleNamespace(time=lambda: time.time() - 3600))
        async with running(QuickConsumer, settings) as consumer:
            await eventually(lambda: len(ear.comparisons) == 2, 120)  # with the champion alone
            last = await asyncio.to_thread(consumer._log.last)
    assert last is not None
    assert last.round == ear.comparisons[1].round != ear.comparisons[0].round
    assert broken not in {(each.model, each.version) for each in ear.comparisons[1].results}
    async with running(QuickConsumer, settings) as consumer:
        await eventually(lambda: consumer._rounds._looked > 0)
        assert not consumer._rounds._outside


@pytest.mark.long
async def test_the_alias_is_moved_back_where_a_replica_without_the_lease_moved_it_but_not_where_a_person_did(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, registry: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    monkeypatch.setattr(QuickConsumer, "uphold_interval", 0.1)
    await fill(tester, dataset, 1, 400)
    other = await register(settings, dataset, "lightgbm", 50.0, "one")
    decided = await register(settings, dataset, "pytorch", 150.0, "one")
    client = MlflowClient(settings.mlflow_tracking_uri)
    async with running(QuickConsumer, settings) as consumer:
        await eventually(lambda: ear.comparisons, 120)
        assert await champions(registry) == [decided]

        async def looked_twice() -> None:
            upheld = [consumer._upheld]
            await eventually(lambda: upheld.append(consumer._upheld) or len(set(upheld)) > 2)

        # A person moves it, and back. Nobody looks between the two requests: it would be taken for a move that was cut off.
        async with consumer._promoting:
            client.set_registered_model_alias(other[0], CHAMPION, other[1])
            client.delete_registered_model_alias(decided[0], CHAMPION)
        await looked_twice()
        assert await champions(registry) == [other]
        async with consumer._promoting:
            client.set_registered_model_alias(decided[0], CHAMPION, decided[1])
            client.delete_registered_model_alias(other[0], CHAMPION)
        await looked_twice()
        assert await champions(registry) == [decided]

        # A replica that was frozen in the middle of its round moves it, and does not end its round.
        await asyncio.to_thread(registry.set_champion, registry.find(*other), "never finished")
        assert await champions(registry) == [other]
        await eventually(lambda: champions_are(registry, decided))
        # ... or is cut off between the two requests of a move.
        client.set_registered_model_alias(other[0], CHAMPION, other[1])
        await eventually(lambda: champions_are(registry, decided))
        assert len(ear.comparisons) == 1

    # The next process knows the decision from MLflow.
    await asyncio.to_thread(registry.set_champion, registry.find(*other), "never finished")
    async with running(QuickConsumer, settings):
        await eventually(lambda: champions_are(registry, decided))


async def champions_are(registry: ModelRegistry, wanted: tuple[str, str]) -> bool:
    return await champions(registry) == [wanted]


async def test_a_consumer_that_loses_its_lease_while_it_moves_the_alias_ends_nothing_and_the_next_one_does(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, registry: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await fill(tester, dataset, 1, 400)
    only = await register(settings, dataset, "pytorch", 150.0, "one")
    moved = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(QuickConsumer, settings) as consumer:
        lease = consumer.lease
        assert lease is not None
        move = ModelRegistry.set_champion

        def freeze_and_move(self: ModelRegistry, ref: ModelVersionRef, round_id: str = "") -> None:
            lease._clock = lambda: float("inf")  # as after a long standstill, however often it is renewed
            move(self, ref, round_id)
            loop.call_soon_threadsafe(moved.set)

        with monkeypatch.context() as patch:
            patch.setattr(ModelRegistry, "set_champion", freeze_and_move)
            await asyncio.wait_for(moved.wait(), 120)
            await eventually(lambda: consumer.health().state == "waiting")
            assert await champions(registry) == [only]
            assert ear.comparisons == ear.champions == []
            assert await asyncio.to_thread(consumer._log.last) is None
    async with running(QuickConsumer, settings):
        await eventually(lambda: ear.comparisons, 120)
    assert await champions(registry) == [only]
