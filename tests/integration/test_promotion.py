"""People decide about the champion: over the real broker, database and MLflow, by command and on the page."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs
from playwright.async_api import expect

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, InvalidRequestError, TrackingUnavailableError, UnknownModelError
from complex_system.http.auth import ApiKey
from complex_system.http.login import login_link
from complex_system.local.servers import Server
from complex_system.messaging.clients import DocumentClient
from complex_system.protocol.base import Empty
from complex_system.protocol.promotion import DECIDE_ON_CHAMPION, GET_PROMOTION, Action, ChampionRequest, Promotion
from complex_system.protocol.training import TRAINING_FINISHED, ComparisonFinished, TrainingFinished
from complex_system.service_layer.rounds.decisions import DECISIONS
from complex_system.settings import Settings
from complex_system.tracking import registry as tracking_registry
from complex_system.tracking.promotion import (
    APPROVED,
    CANDIDATE,
    PINNED,
    RESTORED,
    ROLLED_BACK,
    PromotionRegistry,
    decision_in,
)
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from models import linear_onnx, register_onnx
from monitoring_page.browser import browser
from support import Ear, TesterService, eventually, running
from training_rounds import QuickConsumer, fill

ROOT = Path(__file__).parents[2]
BAD, GOOD, BETTER = -900.0, 0.0, 100.0
"""Biases of models; the larger one has the smaller error."""


class Deciders(QuickConsumer):
    uphold_interval = 0.1


class QuickMonitoring(MlMonitoringService):
    ask_interval = 0.3

    @classmethod
    def service_name(cls) -> str:
        return "ml_monitoring"


class Plant:
    """A running consumer, its registry, and models that trainers have made on their own schedule."""

    def __init__(self, settings: Settings, dataset: Dataset, tester: TesterService, ear: Ear) -> None:
        self.settings, self.dataset, self.tester, self.ear = settings, dataset, tester, ear
        self.registry = PromotionRegistry(settings.mlflow_tracking_uri, settings.model_prefix)

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator[Deciders]:
        async with running(Deciders, self.settings) as service:
            await eventually(lambda: service._rounds._looked > 0)
            yield service

    async def trained(self, trainer: str, bias: float) -> tuple[tuple[str, str], ComparisonFinished]:
        """Registers a model and returns it with the comparison that it took part in."""
        before, round_id = len(self.ear.comparisons), f"{trainer}{bias}"
        model = await asyncio.to_thread(
            register_onnx, self.settings.mlflow_tracking_uri, self.dataset, linear_onnx(self.dataset, bias),
            prefix=self.settings.model_prefix, trainer=trainer, champion=False, round=round_id,
        )  # fmt: skip
        await self.finished(trainer, *model, round_id)
        return model, await eventually(lambda: len(self.ear.comparisons) > before and self.ear.comparisons[-1], 40)

    async def finished(self, trainer: str, model: str, version: str, round_id: str) -> None:
        message = TrainingFinished(
            trainer=trainer, framework=trainer, round=round_id, status="finished", model=model, version=version
        )
        await self.tester.announce(TRAINING_FINISHED, message)

    async def decide(self, action: Action, **fields: str) -> Promotion:
        request = ChampionRequest(**{"action": action, "who": "anna", "why": f"to {action}", **fields})
        return await self.tester.ask(DECIDE_ON_CHAMPION, request)

    async def refused(self, action: Action, **fields: str) -> str:
        with pytest.raises(ComplexSystemError) as error:
            await self.decide(action, **fields)
        return error.value.message

    async def champion(self) -> tuple[str, str] | None:
        found = await asyncio.to_thread(self.registry.champion)
        return (found.model, found.version) if found else None

    async def upheld(self, consumer: Deciders) -> None:
        """Waits until the consumer has looked at the alias twice more."""
        looks = {consumer._upheld}
        await eventually(lambda: looks.add(consumer._upheld) or len(looks) > 2)


@pytest.fixture
def fields() -> dict[str, Any]:
    """No round begins by itself."""
    return {
        "trainers": "lightgbm,pytorch",
        "min_labelled": 10_000,
        "prediction_interval": 60.0,
        "monitoring_port": 0,
        "stack": False,
    }


@pytest.fixture
async def plant(settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset) -> Plant:
    await fill(tester, dataset, 1, 400)
    return Plant(settings, dataset, tester, ear)


async def command(broker: Server, *options: str) -> tuple[int | None, str]:
    """Runs ``fiot extras champion`` and returns its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("fiot")), "extras", "champion", *options,
        cwd=ROOT, env={**os.environ, **broker.environment()}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_with_approved_a_winner_is_candidate_until_a_person_approves_it(plant: Plant, nats_server: Server) -> None:
    plant.settings = plant.settings.copy(update={"promotion": "approved"})
    async with plant.consumer():
        assert await plant.refused("approve") == "There is no candidate; name a version to approve."
        assert await plant.refused("pin") == "There is no champion to pin."
        first, told = await plant.trained("pytorch", BAD)
        assert told.candidate == told.champion
        assert told.kept == f"{' '.join(first)} won and is the candidate, because a person approves every champion " + (
            "(COMPLEX_SYSTEM_PROMOTION)."
        )
        assert await plant.champion() is None
        found = await asyncio.to_thread(plant.registry.find, first[0], CANDIDATE)
        assert found.version == first[1]
        with pytest.raises(InvalidRequestError, match="'why'"):
            await plant.decide("approve", why="")

        code, said = await command(nats_server, "approve", "mongo", "--reason", "checked on line 4", "--who", "anna")
        assert (code, said.splitlines()[-1]) == (0, f"{' '.join(first)} is champion.")
        changed = await eventually(lambda: plant.ear.champions and plant.ear.champions[0])
        assert (changed.model, changed.version, changed.decided) == (*first, "approve by anna")
        assert changed.rmse == pytest.approx(told.results[0].rmse)
        assert await plant.champion() == first
        assert "candidate" not in (await asyncio.to_thread(plant.registry.listed))[0][1]

        second, told = await plant.trained("lightgbm", GOOD)
        assert (told.champion.model, told.champion.version) == first
        assert told.candidate is not None
        assert (told.candidate.model, told.candidate.version) == second
        assert told.kept.startswith(f"{' '.join(first)} stays champion: {' '.join(second)} won and is the candidate, ")
        assert await plant.champion() == first

    async with plant.consumer() as consumer:  # another process knows the same
        await eventually(lambda: consumer._rounds.growth)
        state = await plant.tester.ask(GET_PROMOTION, Empty())
        assert (state.mode, state.champion.label, state.candidate.label) == ("approved", " ".join(first), " ".join(second))
        [decision] = state.decisions
        assert (decision.action, decision.who, decision.why, decision.before) == ("approve", "anna", "checked on line 4", "")
        assert structs.asdict(decision) == json.loads(found_tags(plant, first)[APPROVED])
        [kept] = await DocumentClient(plant.tester).between(DECISIONS, 0, 1e11)
        assert kept.body == structs.asdict(decision)
        code, said = await command(nats_server, "list", "mongo")
        assert code == 0
        assert f"candidate     {' '.join(second)}, hold-out RMSE " in said
        assert "approve   " + " ".join(first) + " (before: none), anna: checked on line 4" in said
        code, said = await command(nats_server, "unpin", "mongo", "--reason", "never was")
        assert (code, said.splitlines()[-1]) == (1, f"fiot extras champion unpin: {' '.join(first)} is not pinned.")


def found_tags(plant: Plant, model: tuple[str, str]) -> dict[str, str]:
    return dict(plant.registry.find(*model).tags)


async def test_a_pinned_champion_stays_and_what_was_rolled_back_is_not_crowned_by_a_round(plant: Plant) -> None:
    async with plant.consumer() as consumer:
        first, _ = await plant.trained("pytorch", BAD)
        assert await plant.champion() == first
        assert await plant.refused("approve", model="nowhere") == "MLflow's registry has no model 'nowhere'."
        assert await plant.refused("roll-back") == "There is no earlier champion to roll back to."
        assert (await plant.decide("pin")).pinned.who == "anna"
        second, told = await plant.trained("lightgbm", GOOD)
        assert told.kept.endswith(f"because {' '.join(first)} is pinned by anna (to pin).")
        assert await plant.champion() == first
        assert await plant.refused("approve") == f"{' '.join(first)} is pinned by anna (to pin); unpin it first."
        assert (await plant.decide("unpin")).pinned is None
        approved = await plant.decide("approve", model=second[0], version=second[1])
        assert approved.message == f"{' '.join(second)} is champion; it replaces {' '.join(first)}."
        assert approved.previous.label == " ".join(first)

        back = await plant.decide("roll-back", who="ben", why="scrap on line 4")
        assert back.champion.label == " ".join(first)
        assert [each.action for each in back.decisions] == ["roll-back", "approve", "unpin", "pin"]
        assert (
            await eventually(lambda: len(plant.ear.champions) == 3 and plant.ear.champions[-1])
        ).decided == "roll-back by ben"
        await plant.upheld(consumer)
        assert await plant.champion() == first
        assert decision_in(plant.registry.find(*second), ROLLED_BACK).why == "scrap on line 4"
        assert decision_in(plant.registry.find(*first), RESTORED).before == " ".join(second)

        # A replica without the lease does not undo it either, nor does a trainer that announces the version again.
        await asyncio.to_thread(plant.registry.set_champion, plant.registry.find(*second), "never finished")
        await eventually(lambda: is_champion(plant, first))
        consumer._rounds._compared.clear()
        before = len(plant.ear.comparisons)
        await plant.finished("lightgbm", *second, "again")
        told = await eventually(lambda: len(plant.ear.comparisons) > before and plant.ear.comparisons[-1], 40)
        assert (told.champion.model, told.champion.version) == first
        assert {(each.model, each.version) for each in told.results} == {first}

        # What is newly trained may win.
        third, told = await plant.trained("lightgbm", BETTER)
        assert await plant.champion() == third
        assert told.kept == ""
        # A person may also return to what was rolled back.
        again = await plant.decide("roll-back", model=second[0], version=second[1])
        assert again.champion.label == " ".join(second)
        assert ROLLED_BACK not in found_tags(plant, second)


async def is_champion(plant: Plant, wanted: tuple[str, str]) -> bool:
    return await plant.champion() == wanted


@pytest.mark.long
async def test_a_decision_during_a_comparison_counts_and_one_without_the_database_is_kept_later(
    settings: Settings, tester: TesterService, ear: Ear, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = Plant(settings, dataset, tester, ear)
    async with running(DatabaseMongoService, settings):
        await fill(tester, dataset, 1, 400)
        async with plant.consumer() as consumer:
            first, _ = await plant.trained("pytorch", BAD)
            # The comparison is made, MLflow fails to log it once, and meanwhile a person pins the champion.
            log_it, failed = consumer._log.log, asyncio.Event()
            loop = asyncio.get_running_loop()

            def fails_once(*given: Any) -> str:
                if not failed.is_set():
                    loop.call_soon_threadsafe(failed.set)
                    raise UnknownModelError("The disk is full.")
                return log_it(*given)

            monkeypatch.setattr(consumer._log, "log", fails_once)
            training = asyncio.create_task(plant.trained("lightgbm", GOOD))
            await asyncio.wait_for(failed.wait(), 40)
            # The decision is carried out, and its answer is lost.
            state = consumer._decisions._state

            def away(*given: Any) -> Promotion:
                monkeypatch.setattr(consumer._decisions, "_state", state)
                raise TrackingUnavailableError("MLflow is away.")

            monkeypatch.setattr(consumer._decisions, "_state", away)
            assert await plant.refused("pin") == "MLflow is away."
            _, told = await training
            assert told.candidate is not None
            assert await plant.champion() == first
    async with plant.consumer():
        state = await plant.decide("unpin")
        assert [each.action for each in state.decisions] == ["unpin"], "the database is away"
        async with running(DatabaseMongoService, settings):
            state = await plant.tester.ask(GET_PROMOTION, Empty())
            assert [each.action for each in state.decisions] == ["unpin", "pin"]
            assert len(await DocumentClient(plant.tester).between(DECISIONS, 0, 1e11)) == 2


@pytest.mark.long
async def test_on_the_page_one_who_has_logged_in_decides(plant: Plant, make_settings: Callable[..., Settings]) -> None:
    settings = plant.settings.copy(update={"api_key": "s3cret", "monitoring_interval": 0.3})
    async with plant.consumer(), running(QuickMonitoring, settings) as monitoring:
        first, _ = await plant.trained("pytorch", BAD)
        await plant.decide("pin", why="<img src=x onerror=alert(1)>")
        async with browser() as chromium:
            tab = await chromium.new_page()
            await tab.goto(login_link(monitoring.url, ApiKey("s3cret")))
            await tab.click("#link-models")
            await expect(tab.locator("#promotion-now")).to_contain_text("<img src=x onerror=alert(1)>", timeout=30_000)
            await tab.click("#decide-unpin")
            await expect(tab.locator("#decide-said")).to_contain_text("Enter your name and the reason", timeout=30_000)
            assert await tab.locator("#decide-pin").is_disabled()
            await tab.fill("#decide-who", "Carla")
            await tab.fill("#decide-why", "the trial is over")
            await tab.click("#decide-unpin")
            await expect(tab.locator("#decide-said")).to_contain_text("is no longer pinned", timeout=30_000)
            await expect(tab.locator("#promotion-decisions")).to_contain_text("Carla", timeout=30_000)
            await expect(tab.locator("#decide-pin")).to_have_text(f"Pin {' '.join(first)}")
            assert await tab.locator("main img").count() == 0
        assert decision_in(plant.registry.find(*first), PINNED) is None
        async with httpx.AsyncClient(base_url=monitoring.url) as http:
            pressed = press("pin", first)
            assert (await http.post("/_dash-update-component", json=pressed)).status_code == 401
            known = {"x-api-key": "s3cret"}
            foreign = await http.post("/_dash-update-component", json=pressed, headers={**known, "origin": "http://evil"})
            assert foreign.status_code == 403
            plain = await http.post("/_dash-update-component", content=json.dumps(pressed), headers=known)
            assert plain.status_code in (400, 415)
            assert await plant.champion() == first
            assert (await http.get("/api/models", headers=known)).json()["promotion"]["decisions"][0]["who"] == "Carla"
            assert (await http.post("/_dash-update-component", json=pressed, headers=known)).status_code == 200
            assert decision_in(plant.registry.find(*first), PINNED) is not None


async def test_without_a_login_the_page_decides_nothing(plant: Plant) -> None:
    async with plant.consumer(), running(MlMonitoringService, plant.settings) as monitoring:
        first, _ = await plant.trained("pytorch", BAD)
        async with httpx.AsyncClient(base_url=monitoring.url) as http:
            answer = await http.post("/_dash-update-component", json=press("pin", first))
        assert "need a login" in answer.text
        assert decision_in(plant.registry.find(*first), PINNED) is None


def press(action: str, about: tuple[str, str]) -> dict[str, Any]:
    """What a browser sends when a button is pressed."""
    names = ("approve", "pin", "unpin", "roll-back")
    inputs = [{"id": f"decide-{name}", "property": "n_clicks", "value": 1 if name == action else None} for name in names]
    state = {"decide-who": "mallory", "decide-why": "because", "decide-about": {action: list(about)}}
    return {
        "output": "decide-said.children", "outputs": {"id": "decide-said", "property": "children"}, "inputs": inputs,
        "changedPropIds": [f"decide-{action}.n_clicks"],
        "state": [{"id": name, "property": "data" if name.endswith("about") else "value", "value": value}
                  for name, value in state.items()],
    }  # fmt: skip


def test_the_earlier_champion_is_found_in_one_request_however_many_versions_came_since(
    settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_registry, "MAX_VERSIONS", 2)
    server, prefix = settings.mlflow_tracking_uri, settings.model_prefix
    registry = PromotionRegistry(server, prefix)
    made = [
        registry.find(*register_onnx(
            server, dataset, linear_onnx(dataset, float(number)), prefix=prefix, trainer=trainer, champion=False
        ))
        for number, trainer in enumerate(["lightgbm", "lightgbm", "linear", "lightgbm", "lightgbm", "lightgbm"])
    ]  # fmt: skip
    other = register_onnx(server, dataset, linear_onnx(dataset), prefix=f"{prefix}-2", champion=False)
    PromotionRegistry(server, f"{prefix}-2").set_champion(registry.find(*other))
    assert registry.previous(None) is None
    for ref in (made[0], made[-1]):
        registry.set_champion(ref)
    asked: list[str] = []
    search = registry._client.search_model_versions

    def counted(**options: Any) -> Any:
        asked.append(options["filter_string"])
        return search(**options)

    monkeypatch.setattr(registry._client, "search_model_versions", counted)
    monkeypatch.setattr(registry._client, "search_registered_models", None)
    assert registry.previous(made[-1]) == made[0]
    assert len(asked) == 1
    registry.tag(made[0], {ROLLED_BACK: "{}"})
    assert registry.previous(made[-1]) is None
