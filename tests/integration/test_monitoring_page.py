"""The page in a browser: over a history of days, and over the real service with its broker and database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import Page as RecordPage
from complex_system.domain.pages import processed_schema
from complex_system.http.auth import ApiKey
from complex_system.http.login import login_link
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page.app import VIEWS
from complex_system.monitoring.points import Figures
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.operations import Action
from complex_system.protocol.serving import PREDICTION_MADE, TRUTH_KNOWN, PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.protocol.training import CHAMPION_CHANGED, COMPARISON_FINISHED
from complex_system.settings import Settings
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from monitoring_page.browser import PATIENCE, PHONE, WIDE, browser, page_over, tab_at
from monitoring_page.history import make_monitor
from monitoring_page.messages import alert, champion, compared, comparison, crowned, heartbeat
from monitoring_page.trials import lab_trials
from support import TesterService, eventually, running

NOTHING_AWAITED = "() => !document.querySelector('main').innerText.includes('aiting for')"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


async def filled(tab: Page, view: str) -> None:
    """Waits until a view has its content: every figure drawn, every picture there."""
    await tab.wait_for_selector(f"[data-view='{view}']")
    await tab.wait_for_function(
        """() => document.querySelectorAll('[data-view] .card, [data-view] .answer').length > 0
          && [...document.querySelectorAll("[data-view] .plot")].every((each) => each.querySelector(".cartesianlayer"))
          && [...document.querySelectorAll("[data-view] .drawing")].every((each) => each.querySelector("svg"))
          && document.querySelector('#updated').textContent.startsWith('Updated')"""
    )


async def go(tab: Page, view: str) -> None:
    await tab.click(f"#link-{view}")
    await filled(tab, view)


@pytest.fixture(scope="module")
def days() -> Monitor:
    return make_monitor(time.time(), days=2.0, pairs_a_minute=1)


@pytest.mark.long
async def test_every_view_shows_days_of_history_in_light_and_dark(days: Monitor, chromium: Browser) -> None:
    async with page_over(days, trials=await lab_trials()) as url:
        for scheme in ("light", "dark"):
            async with tab_at(chromium, url, color_scheme=scheme) as (tab, _):
                assert await tab.evaluate("document.documentElement.dataset.theme") == scheme
                await tab.click("#period label:text-is('7 d')")
                for view in VIEWS if scheme == "light" else (VIEWS[2], VIEWS[-1]):
                    await go(tab, view.name)
                    # The period that was chosen arrives with one of the next updates.
                    await tab.wait_for_function(NOTHING_AWAITED)
                await expect(tab.locator("main")).to_contain_text("new champion", timeout=PATIENCE)


async def test_every_view_fits_a_phone(days: Monitor, chromium: Browser) -> None:
    async with page_over(days) as url, tab_at(chromium, url, viewport=PHONE, is_mobile=True, has_touch=True) as (tab, _):
        for view in VIEWS:
            await go(tab, view.name)
            assert await tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], view.title
        await go(tab, "overview")
        assert await tab.is_visible("svg.flow.narrow")
        assert not await tab.is_visible("svg.flow.wide")


@pytest.mark.long
async def test_terms_are_explained_by_key_and_by_touch(days: Monitor, chromium: Browser) -> None:
    async with page_over(days, refresh=0.3) as url:
        async with tab_at(chromium, f"{url}/data") as (tab, watch):
            await filled(tab, "data")
            mark = tab.get_by_label("Terms in: Drift now")
            meaning = tab.get_by_text("Population stability index: how far")
            await expect(meaning.first).to_be_hidden()
            await mark.focus()
            await tab.keyboard.press("Enter")
            await expect(meaning.first).to_be_visible()
            before = len(watch.requests)
            await eventually(lambda: len(watch.requests) > before + 4)  # it stays open while the page is updated
            await expect(meaning.first).to_be_visible()
            await tab.keyboard.press("Escape")
            await expect(meaning.first).to_be_hidden()
        async with tab_at(chromium, url, viewport=PHONE, is_mobile=True, has_touch=True) as (tab, _):
            await filled(tab, "overview")
            await tab.get_by_label("Terms in: Champion").tap()
            meaning = tab.get_by_text("They are not from a plant.")
            await expect(meaning).to_be_visible()
            box = await meaning.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.long
async def test_the_theme_is_switched_and_remembered(days: Monitor, chromium: Browser) -> None:
    async with page_over(days) as url, tab_at(chromium, url, color_scheme="light") as (tab, _):
        await go(tab, "system")
        colour = "document.querySelector('#system-cpu .js-plotly-plot').layout.font.color"
        light = await tab.evaluate(colour)
        await tab.click("#theme")
        await tab.wait_for_function(f"() => {colour} !== '{light}'")
        assert await tab.evaluate("document.documentElement.dataset.theme") == "dark"
        await tab.reload()
        await filled(tab, "system")
        assert await tab.evaluate("document.documentElement.dataset.theme") == "dark"


async def test_an_open_page_follows_without_a_reload_keeps_the_zoom_and_leaves_what_has_not_changed(
    chromium: Browser,
) -> None:
    monitor = make_monitor(time.time(), days=0.2, pairs_a_minute=2)
    async with page_over(monitor) as url, tab_at(chromium, f"{url}/system") as (tab, watch):
        await filled(tab, "system")
        await tab.evaluate("() => { window.same = true; window.drawn = document.querySelector('#system-failures'); }")
        plot = "document.querySelector('#system-cpu .js-plotly-plot')"
        await tab.locator("#system-cpu").scroll_into_view_if_needed()
        box = await tab.locator("#system-cpu .nsewdrag").bounding_box()
        assert box is not None
        await tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        await tab.mouse.down()
        await tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
        await tab.mouse.up()
        await tab.wait_for_function(f"() => {plot}.layout.yaxis.range[0] > 0")
        zoomed = await tab.evaluate(f"{plot}.layout.yaxis.range")
        points = f"{plot}.data[0].y.at(-1)"
        before = await tab.evaluate(points)
        for _ in range(50):
            monitor.history.minute(time.time()).read(Figures.of_flat({"system/cpu_utilization_percentage": 99.0}))
            monitor.history.minute(time.time()).failed("ml_serving", "overloaded", 1)
        await expect(tab.locator("#system-failures")).to_contain_text("overloaded", timeout=PATIENCE)
        await tab.wait_for_function(f"() => {points} !== {before}")
        assert await tab.evaluate(f"{plot}.layout.yaxis.range") == zoomed
        assert await tab.evaluate("window.same && document.querySelector('#system-failures') === window.drawn")
        assert sum(each.endswith("/system") for each in watch.requests) == 1


async def test_a_hidden_tab_asks_for_nothing_and_catches_up_when_it_is_seen(chromium: Browser) -> None:
    monitor = make_monitor(time.time(), days=0.05, pairs_a_minute=2)
    async with page_over(monitor) as url, tab_at(chromium, f"{url}/alerts") as (tab, watch):
        await filled(tab, "alerts")

        async def hide(hidden: str) -> None:
            await tab.evaluate(
                f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}}); "
                "document.dispatchEvent(new Event('visibilitychange'))"
            )

        await hide("true")
        asked = -1
        while asked != len(watch.requests):  # until what was asked before is answered, and what follows from that
            asked = len(watch.requests)
            await tab.wait_for_timeout(1500)
        monitor.history.alert(alert("n", time.time(), severity="info", sentence="Something new."))
        await tab.wait_for_timeout(2500)  # two refreshes, if it asked
        assert len(watch.requests) == asked
        await hide("false")
        await expect(tab.locator("#alerts-open")).to_contain_text("Something new.", timeout=PATIENCE)


async def test_a_page_whose_service_is_gone_says_so(chromium: Browser) -> None:
    monitor = make_monitor(time.time(), days=0.05, pairs_a_minute=2)
    context = await chromium.new_context(viewport=WIDE)
    context.set_default_timeout(PATIENCE)
    tab = await context.new_page()
    async with page_over(monitor) as url:
        await tab.goto(f"{url}/alerts")
        await filled(tab, "alerts")
        assert not await tab.is_visible(".lost")
    await tab.evaluate("() => { const now = Date.now; Date.now = () => now() + 60000; }")  # a minute later
    await tab.wait_for_selector(".lost", state="visible", timeout=PATIENCE)
    await context.close()


async def test_text_from_events_stays_text(chromium: Browser) -> None:
    monitor = make_monitor(time.time(), days=0.05, pairs_a_minute=2)
    now = time.time()
    beat = heartbeat(EVIL, replica=EVIL, state=EVIL, detail=EVIL, url="javascript:alert(1)")
    monitor.services.heartbeat_received(beat)
    monitor.history.crowned(crowned(now, champion(EVIL, EVIL, 3.0, framework=EVIL)))
    action = Action(round=EVIL, at=now, what=EVIL)
    evil = alert("e", now, rule=EVIL, severity=EVIL, metric=EVIL, sentence=EVIL, actions=(action,))
    monitor.history.alert(evil)
    async with page_over(monitor) as url, tab_at(chromium, url) as (tab, _):
        for view in VIEWS:
            await go(tab, view.name)
            assert await tab.locator("main img").count() == 0, view.title
        await expect(tab.locator("#alerts-open")).to_contain_text(EVIL)
        await tab.goto(f"{url}/report")
        assert await tab.locator("img").count() == 0


async def test_a_new_system_says_what_is_awaited(dataset: Dataset, chromium: Browser) -> None:
    monitor = Monitor(dataset, 100, History())
    async with page_over(monitor) as url, tab_at(chromium, url) as (tab, _):
        await tab.wait_for_selector("[data-view='overview'] .answer")
        assert await tab.locator(".answer.none").count() == 3
        for view in VIEWS:
            await tab.click(f"#link-{view.name}")
            await tab.wait_for_selector(f"[data-view='{view.name}']")
            await expect(tab.locator("main")).to_contain_text(
                {"overview": "first heartbeats", "models": "first training round", "predictions": "Waiting for true values",
                 "data": "No drift yet",
                 "try-it": "Waiting for the service", "system": "first reading of the host", "alerts": "No open alerts"}[view.name],
                timeout=PATIENCE,
            )  # fmt: skip


async def test_the_report_is_one_file_that_asks_for_nothing(days: Monitor, chromium: Browser) -> None:
    async with page_over(days) as url:
        async with tab_at(chromium, f"{url}/report?period=7d&zone=Europe/Berlin") as (tab, watch):
            content = await tab.inner_text("body")
            assert await tab.locator("svg").count() >= 6
            assert [each for each in watch.requests if not each.endswith("favicon.ico")] == [watch.requests[0]]
        for words in ("Monitoring of lab", "lab-pytorch v5", "new champion", "rohwert_2_labormessung", "p99 (ms)"):
            assert words in content
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"{url}/report", params={"period": "nonsense", "zone": "no/zone"})).text
        assert "<script" not in text
        assert "src=" not in text
        assert "24 hours" in text


# Over the real service


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"monitoring_interval": 0.3, "monitoring_window": 200, "monitoring_port": 0}


async def announce(tester: TesterService, dataset: Dataset, records: list[dict[str, Any]], error: float) -> None:
    truths = [truth_of(record) or 0.0 for record in records]
    predictions = tuple(
        PredictedRecord(id=r[ID], record=r, prediction=truth + error * (-1) ** i)
        for i, (r, truth) in enumerate(zip(records, truths, strict=True))
    )
    made = PredictionMade(
        service="ml_serving_mlflow", model="lab-lightgbm", version="2", pipeline_version=dataset.version, milliseconds=4.0,
        predictions=predictions,
    )  # fmt: skip
    await tester.announce(PREDICTION_MADE, made)
    known = tuple(Truth(id=r[ID], truth=truth) for r, truth in zip(records, truths, strict=True))
    await tester.announce(TRUTH_KNOWN, TruthKnown(truths=known))


async def test_the_service_serves_the_page_beside_its_interface(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset, chromium: Browser
) -> None:
    laboratory, client = Laboratory(5), DatabaseClient(tester)
    training = list(laboratory.records(1500))
    await client.save_raw(training)
    table = Pipeline(dataset).process(training).to_arrow().cast(processed_schema(dataset))
    for start in range(0, table.num_rows, 500):  # a page each, so that a busy machine answers in time
        await client.upsert_processed(RecordPage(table.slice(start, 500), None, {"version": dataset.version}))
    records = [laboratory.complete_record() for _ in range(240)]
    async with running(MlMonitoringService, settings) as service:
        await eventually(lambda: service.monitor.history.loaded)
        await tester.announce(CHAMPION_CHANGED, champion("lab-lightgbm", "2", 15.0, pipeline_version=dataset.version))
        row = compared("lab-lightgbm", "2", 15.0, trainer="lightgbm", framework="lightgbm")
        await tester.announce(COMPARISON_FINISHED, comparison(row, holdout=200, run_url="http://m/#/r"))
        await announce(tester, dataset, records[:120], 15.0)
        await eventually(lambda: service.monitor.figures.number("data/psi_max") is not None, 60)
        await eventually(lambda: service.monitor.flow.counts)
        async with tab_at(chromium, service.url) as (tab, _):
            for view in VIEWS:
                await go(tab, view.name)
            await go(tab, "data")
            await expect(tab.locator("#data-columns")).to_contain_text("PSI")
            await go(tab, "models")
            await expect(tab.locator("#models-live")).to_contain_text("lab-lightgbm v2")
            await go(tab, "overview")
            await expect(tab.locator("#overview-champion")).to_contain_text("15.00", timeout=PATIENCE)
            await expect(tab.locator("#overview-services")).to_contain_text("database_mongo", timeout=PATIENCE)
            await go(tab, "predictions")
            await expect(tab.locator("#predictions-figures")).to_contain_text("120", timeout=PATIENCE)
            await announce(tester, dataset, records[120:], 15.0)
            await expect(tab.locator("#predictions-figures")).to_contain_text("240", timeout=PATIENCE)
        async with httpx.AsyncClient(base_url=service.url) as http:
            assert (await http.get("/api/overview")).json()["champion"]["model"] == "lab-lightgbm"
            assert b"monitoring_system_cpu" in (await http.get("/metrics")).content
            assert (await http.get("/nowhere")).status_code == 200  # the page, which shows its overview
        assert service.health().url == service.url


@pytest.fixture
def make_locked(make_settings: Callable[..., Settings], nats_server: Any) -> Callable[[], Settings]:
    return lambda: make_settings(nats_server, monitoring_port=0, api_key="s3cret")


async def test_with_an_api_key_a_browser_has_to_know_it(make_locked: Callable[[], Settings], chromium: Browser) -> None:
    async with running(MlMonitoringService, make_locked()) as service:
        async with httpx.AsyncClient(base_url=service.url) as http:
            for path in ("/", "/report", "/_dash-layout", "/assets/page.js"):
                refused = await http.get(path)
                assert refused.status_code == 401, path
                assert "s3cret" not in refused.text
            assert (await http.get("/report", headers={"x-api-key": "s3cret"})).status_code == 200
        async with tab_at(chromium, f"{service.url}/models") as (tab, watch):
            await tab.fill("input[type=password]", "wrong")
            await tab.click("button >> nth=0")
            await expect(tab.locator("[role=alert]")).to_contain_text("not the key")
            await tab.fill("input[type=password]", "s3cret")
            await tab.click("button >> nth=0")
            await tab.wait_for_selector("[data-view=models]")  # where the browser wanted to go
            assert "s3cret" not in await tab.content()
            assert not await tab.evaluate("document.cookie")
            watch.problems = [each for each in watch.problems if "401" not in each]  # the wrong key
        async with tab_at(chromium, login_link(service.url, ApiKey("s3cret"))) as (tab, _):
            await tab.wait_for_selector(".answer")
