"""The view "Try it" in a browser: over a model of the lab in this process, and over the real services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa
import pytest
from playwright.async_api import Browser, Page, expect

from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import raw_schema
from complex_system.errors import BusyError, NobodyListensError, NoModelError
from complex_system.local.servers import Server
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import Monitor
from complex_system.protocol.trial import TryRequest
from complex_system.settings import Settings
from complex_system.tracking.model_files import SAMPLE_FILE, encode_sample
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import linear_onnx
from monitoring_page.browser import PATIENCE, PHONE, browser, page_over, tab_at
from monitoring_page.trials import OwnTrials, lab_trials, trials_of
from support import eventually, running
from trainings import quick_sample

FOCUSED = "(document.activeElement.closest('label, button, summary') || document.activeElement).innerText"
"""Text of what has the focus."""
DRAG = """async (slider) => {
    const began = performance.now();
    for (let step = 0; step < 60; step++) {
        slider.stepUp();
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((done) => setTimeout(done, 20));
    }
    return (performance.now() - began) / 1000;
}"""
"""Drags a slider by 60 steps and returns the seconds, in the browser: how fast a test presses keys depends on the machine."""
R1, R2 = "rohwert_1_labormessung", "rohwert_2_labormessung"


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


@pytest.fixture(scope="module")
async def lab() -> OwnTrials:
    return await lab_trials()


@asynccontextmanager
async def trial_page(
    chromium: Browser, trials: OwnTrials, dataset: Dataset | None = None, **options: Any
) -> AsyncIterator[Page]:
    """The view over these trials, once it has a prediction or says why there is none."""
    monitor = Monitor(dataset or Dataset.load(), 100, History(seed=1), now=time.time)
    async with page_over(monitor, 0.3, trials=trials) as url, tab_at(chromium, f"{url}/try", **options) as (tab, _):
        await tab.wait_for_selector("#try-answer:not(:empty), #try-said:not(:empty)")
        yield tab


def box(tab: Page, name: str) -> Any:
    return tab.get_by_role("spinbutton", name=name, exact=False)


async def shown(tab: Page) -> float:
    return float((await tab.locator(".try-value strong").inner_text()).replace(",", ""))


async def predicted(trials: OwnTrials, **changes: Any) -> float:
    record = {**(await trials.inputs()).record, **changes}
    known = {name: value for name, value in record.items() if value is not None}
    return (await trials.engine.predict([known], "trial")).predictions[0]


async def shows(tab: Page, value: float) -> None:
    await expect(tab.locator(".try-value strong")).to_have_text(f"{value:,.2f}", timeout=PATIENCE)


async def test_the_prediction_follows_the_fields_by_keyboard_and_bad_values_are_named(
    lab: OwnTrials, chromium: Browser
) -> None:
    async with trial_page(chromium, lab) as tab:
        await shows(tab, await predicted(lab))
        said = await lab.try_record(TryRequest(record=(await lab.inputs()).record))
        assert said.half_width is not None
        assert said.base is not None
        assert said.base + sum(said.contributions.values()) == pytest.approx(said.prediction, abs=1e-3)
        ends = f"{said.prediction - said.half_width:.2f} to {said.prediction + said.half_width:.2f}"
        await expect(tab.locator("#try-answer")).to_contain_text(f"90 % interval: {ends}")
        bars = tab.locator(".bars tr")
        await expect(bars).to_have_count(2 + len(said.contributions))
        await expect(bars.first).to_contain_text(f"Mean of known records{said.base:.2f}")
        largest = max(said.contributions, key=lambda name: abs(said.contributions[name]))
        await expect(bars.nth(1)).to_have_text(f"{largest}{said.contributions[largest]:+,.4g}")
        await expect(tab.locator(".warned")).to_have_count(0)
        slider = tab.get_by_role("slider", name=R1)
        await slider.focus()
        await tab.keyboard.press("Home")
        await expect(box(tab, R1)).to_have_value("0")
        await shows(tab, await predicted(lab, **{R1: 0}))
        await tab.keyboard.press("Shift+Tab")
        await tab.keyboard.type("29")
        await expect(slider).to_have_value("29")
        await shows(tab, await predicted(lab, **{R1: 29}))
        await box(tab, R1).fill("")
        await shows(tab, await predicted(lab, **{R1: None}))
        await tab.get_by_role("group", name="material_id").get_by_label("00000000").check(force=True)
        await shows(tab, await predicted(lab, **{R1: None, "material_id": "00000000"}))
        await box(tab, R1).fill("99")
        await expect(tab.locator("#try-answer")).to_contain_text(f"{R1}: 99.0 is outside of [0, 30]")
        await tab.get_by_role("button", name="Typical record").click()
        await shows(tab, await predicted(lab))
        # A slider that is dragged asks now and then, and not for every step.
        lab.tried.clear()
        seconds = await slider.evaluate(DRAG)
        value = float(await slider.input_value())
        await eventually(lambda: lab.tried and lab.tried[-1].record[R1] == value, PATIENCE / 1000)
        await shows(tab, await predicted(lab, **{R1: value}))
        assert len(lab.tried) <= seconds / 0.4 + 2
        # Another view and back: the settings are still there.
        await tab.click("#link-alerts")
        await tab.click("#link-try-it")
        await expect(box(tab, R1)).to_have_value(f"{value:g}", timeout=PATIENCE)


async def test_settings_are_found_and_taken_into_the_fields(lab: OwnTrials, chromium: Browser) -> None:
    async with trial_page(chromium, lab, viewport=PHONE, is_mobile=True, has_touch=True, color_scheme="dark") as tab:
        await tab.get_by_role("button", name="Find settings").click()
        await expect(tab.locator("#try-found-said")).to_contain_text("Enter the value")
        await tab.get_by_label("Value", exact=True).fill("120")
        await tab.get_by_role("button", name="Find settings").click()
        take = tab.get_by_role("button", name="Use solution 2")
        await take.tap(timeout=PATIENCE)
        wanted = (await tab.locator("#try-found tbody tr").nth(1).locator("td").first.inner_text()).split()[0]
        await shows(tab, float(wanted))
        assert await shown(tab) == pytest.approx(120, abs=1)
        assert await tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        await expect(tab.locator(".try-value")).to_be_in_viewport()
        await tab.get_by_role("group", name="Find settings for").get_by_label("the maximum").check(force=True)
        await expect(tab.get_by_label("Value", exact=True)).to_be_hidden()
        for name in (R1, R2, "rohwert_3_labormessung"):
            await tab.get_by_role("group", name="Columns that may change").get_by_label(name).uncheck()
        await tab.get_by_role("button", name="Find settings").click()
        await expect(tab.locator("#try-found-said")).to_contain_text("Choose a column")


@pytest.mark.long
async def test_without_an_answer_the_view_says_why_and_goes_on_when_there_is_one(lab: OwnTrials, chromium: Browser) -> None:
    lab.failure = NobodyListensError("No service answers 'get-model-inputs'.")
    try:
        async with trial_page(chromium, lab) as tab:
            await expect(tab.locator("#try-said")).to_contain_text("start ml_serving_mlflow")
            lab.failure = NoModelError("There is no model yet.")
            await expect(tab.locator("#try-said")).to_contain_text("There is no model yet.", timeout=PATIENCE)
            lab.failure = None
            await shows(tab, await predicted(lab))
            await expect(tab.locator("#try-said")).to_be_empty(timeout=PATIENCE)
            lab.failure = BusyError("Too many requests.")
            await box(tab, R1).fill("3")
            await expect(tab.locator("#try-answer")).to_contain_text("Too many requests.")
    finally:
        lab.failure = None


KINDS = Dataset.parse(
    """
name: kinds
target: quality
columns:
  - {name: <img src=x onerror=alert(1)>, type: number, range: [0, 10], unit: "<b>mm</b>", description: "\\"><script>"}
  - {name: count, type: integer, range: [1, 5]}
  - {name: hot, type: boolean}
  - {name: dry, type: boolean, optional: true, fill: 0}
  - {name: machine, type: category, categories: [first machine, second machine, third machine, fourth machine], optional: true}
  - {name: parts, type: list of categories, categories: [wheel, door]}
  - {name: day, type: datetime, format: "%Y-%m-%d"}
  - {name: note, type: text}
  - {name: quality, type: number, optional: true, unit: mm}
pipeline:
  - {step: scale, column: <img src=x onerror=alert(1)>, to: [0, 1]}
  - {step: scale, column: count, to: [0, 1]}
  - {step: scale, column: hot, to: [0, 1]}
  - {step: scale, column: dry, to: [0, 1]}
  - {step: one_hot, column: machine}
  - {step: multi_hot, column: parts}
  - {step: date_parts, column: day, parts: [weekday]}
"""
)


@pytest.mark.long
async def test_every_type_has_its_field_and_no_text_is_markup(chromium: Browser) -> None:
    records = [
        {
            "<img src=x onerror=alert(1)>": i % 10 + 0.5, "count": i % 5 + 1, "hot": i % 2 == 0, "dry": None,
            "machine": "first machine", "parts": ["door"], "day": f"2026-01-{i % 28 + 1:02}", "note": "<i>",
        }
        for i in range(60)
    ]  # fmt: skip
    sample = encode_sample(KINDS, pa.Table.from_pylist(records, raw_schema(KINDS)))
    trials = await trials_of(KINDS, linear_onnx(KINDS, 100.0), {SAMPLE_FILE: sample})
    async with trial_page(chromium, trials, KINDS) as tab:
        before = await shown(tab)
        await tab.locator("#try-fields").get_by_label("hot").click()
        await expect(tab.locator(".try-value strong")).not_to_have_text(f"{before:.2f}", timeout=PATIENCE)
        await tab.get_by_role("combobox", name="machine").select_option("third machine")
        await tab.get_by_role("group", name="parts").get_by_label("wheel").check()
        await tab.get_by_role("group", name="dry").get_by_label("yes").check(force=True)
        await tab.get_by_role("textbox", name="day").fill("2026-01-07")
        await box(tab, "count").fill("4")

        async def is_asked() -> bool:
            record = trials.tried[-1].record
            return record.items() >= {
                "machine": "third machine", "parts": ["door", "wheel"],
                "dry": True, "day": "2026-01-07", "count": 4, "note": "text",
            }.items()  # fmt: skip

        await eventually(is_asked, PATIENCE / 1000)
        await box(tab, "count").fill("5")
        await tab.get_by_role("slider", name="<img src=x onerror=alert(1)>").focus()
        await tab.keyboard.press("End")
        await expect(tab.locator(".warned")).to_contain_text("as far from the training data", timeout=PATIENCE)
        await tab.get_by_role("textbox", name="day").fill("7.1.")
        await expect(tab.locator("#try-answer")).to_contain_text("day:")
        await tab.get_by_role("textbox", name="day").fill("2026-01-07")
        free = tab.get_by_role("group", name="Columns that may change")
        for name in ("count", "machine", "hot"):
            await free.get_by_label(name).check()
        await tab.get_by_role("group", name="Find settings for").get_by_label("the maximum").check(force=True)
        await tab.get_by_role("button", name="Find settings").click()
        await tab.get_by_role("button", name="Use solution 1").click(timeout=PATIENCE)
        found = tab.locator("#try-found tbody tr").first
        await expect(box(tab, "count")).to_have_value(await found.locator("[data-label=count]").inner_text())
        chosen = await found.locator("[data-label=machine]").inner_text()
        await expect(tab.get_by_role("combobox", name="machine")).to_have_value(chosen)
        assert await tab.locator("main img, main script, main i, main b").count() == 0


@pytest.mark.long
async def test_every_control_is_reached_by_the_tab_key_in_order(lab: OwnTrials, chromium: Browser) -> None:
    async with trial_page(chromium, lab) as tab:
        await tab.get_by_role("button", name="Typical record").focus()
        seen: list[str] = []
        for _ in range(40):
            await tab.keyboard.press("Tab")
            seen.append(
                await tab.evaluate(
                    "(document.activeElement.closest('label, button, summary') || document.activeElement).innerText"
                )
            )
            if seen[-1] == "Find settings":
                break
        order = ["00000000", "AN", R1, f"Slider of {R1}", R2, "?", "a value", "Value", "material_id", "Find settings"]
        places = [next(i for i, text in enumerate(seen) if text.strip().startswith(name)) for name in order]
        assert places == sorted(places)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
async def test_the_services_answer_and_monitoring_hears_nothing(
    nats_server: Server, mlflow_server: Server, make_settings: Callable[..., Settings], publish: Any, prefix: str,
    chromium: Browser, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)  # where MLflow resolves addresses of artifacts
    await asyncio.to_thread(publish, 50.0, files={SAMPLE_FILE: quick_sample()})
    options = {"model_prefix": prefix, "serving_mlflow_port": 0, "monitoring_port": 0, "model_poll_interval": 0.2}
    settings = make_settings(nats_server, mlflow_server, **options)
    async with running(MlServingMlflowService, settings) as serving, running(MlMonitoringService, settings) as monitoring:
        await eventually(lambda: serving.champion.current is not None)
        async with tab_at(chromium, f"{monitoring.url}/try") as (tab, _):
            await expect(tab.locator(".try-value strong")).to_be_visible(timeout=PATIENCE)
            await box(tab, R2).fill("30")
            record = {**(await serving.get_model_inputs(None)).record, R2: 30}  # type: ignore[arg-type]
            [expected] = (await serving.engine.predict([record], "trial")).predictions
            await shows(tab, expected)
            await tab.get_by_role("group", name="Find settings for").get_by_label("the maximum").check(force=True)
            await tab.get_by_role("button", name="Find settings").click()
            await expect(tab.get_by_role("button", name="Use solution 1")).to_be_visible(timeout=PATIENCE)
        assert not monitoring.monitor.records
        assert monitoring.monitor.join.waiting == 0
