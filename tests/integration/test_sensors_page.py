"""The view of the sensors in a browser: on a screen, on a phone, in the dark, by keyboard, and with texts that others chose."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from playwright.async_api import Browser, expect

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.evaluation import AlertRules
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page.formatting import Clock, Viewer
from complex_system.monitoring.page.reading import PERIODS, Facts, take
from complex_system.monitoring.page.views import sensors
from complex_system.monitoring.points import Figures
from complex_system.monitoring.rest import exposition
from complex_system.protocol.collection import CollectionCounts, CollectionState, OpenLabel, OpenRecord, Sensor
from monitoring_page.browser import PATIENCE, PHONE, browser, page_over, tab_at

NOW = 1_780_000_000.0
EVIL = "<img src=x onerror=alert(1)>"
DECLARATION = """
name: press
target: strength
columns: [{name: temp, type: number, optional: true, fill: 20, range: [0, 99]}, {name: strength, type: number, optional: true}]
pipeline: [{step: keep, column: temp}]
collect:
  things: [press-4.*]
  columns: {temp: {name: temperature, over: 10s, take: mean}}
  record: {on: 'thing "press-4.part_done"', id: value}
  label: {column: strength, from: 'subject "lab.results"', match: id}
"""
STATE = CollectionState(
    at=NOW,
    behind=12,
    per_second=21.0,
    sensors=(
        Sensor(name="press-4.pressure", value=4.25, unit="bar", at=NOW - 200, age=200.0, per_second=0.0, silent=True),
        Sensor(name="press-4.state", value="run", at=NOW - 3, age=3.2, per_second=1.0),
        Sensor(name="press-4.temperature", value=181.2345678, unit="degC", at=NOW - 1, age=0.4, per_second=20.0),
        Sensor(name="press-4.torque"),
    ),
    open_records=(OpenRecord(key="part-7", at=NOW - 2, waits_for="late readings, 3.5 s more"),),
    waiting_records=3,
    open_labels=(OpenLabel(record="part-9", value=41.5, at=NOW - 60),),
    waiting_labels=1,
    unmatched=(OpenLabel(record="part-0", value=9.0, at=NOW - 9000),),
    notes=("things.press-4.x: the message is empty",),
    counts=CollectionCounts(records=1200, labels=1100, unmatched=1, malformed=2, predicted=1200),
)


@pytest.fixture
def press() -> Monitor:
    monitor = Monitor(Dataset.parse(DECLARATION), 100, History(), now=lambda: NOW)
    monitor.flow.collection = STATE
    return monitor


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


async def test_the_sensors_are_shown_on_a_screen_and_on_a_phone(press: Monitor, chromium: Browser) -> None:
    async with page_over(press) as url:
        async with tab_at(chromium, url, color_scheme="dark") as (tab, _):
            await tab.focus("#link-sensors")
            await tab.keyboard.press("Enter")
            rows = tab.locator("#sensors-table tbody tr")
            await expect(rows.nth(0)).to_contain_text("press-4.pressure", timeout=PATIENCE)  # the silent one comes first
            await expect(rows.nth(0)).to_contain_text("silent")
            await expect(rows.nth(2)).to_contain_text("181.235 degC")
            await expect(rows.nth(3)).to_contain_text("no reading yet")
            await expect(tab.locator("#sensors-figures")).to_contain_text("1 silent")
            await expect(tab.locator("#sensors-records")).to_contain_text("part-7")
            await expect(tab.locator("#sensors-records")).to_contain_text("and 2 more")
            await expect(tab.locator("#sensors-labels")).to_contain_text("part-9")
            await expect(tab.locator("#sensors-refused")).to_contain_text("part-0")
            # The page follows by itself.
            press.flow.collection = replace(STATE, sensors=(replace(STATE.sensors[0], silent=False, age=0.2),))
            await expect(rows).to_have_count(1, timeout=PATIENCE)
            await expect(rows.nth(0)).to_contain_text("heard")
            press.flow.collection = None
            await expect(tab.locator("#sensors-figures")).to_contain_text("Waiting for thing_collection", timeout=PATIENCE)
        press.flow.collection = STATE
        phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
        async with tab_at(chromium, f"{url}/sensors", **phone) as (tab, _):
            await expect(tab.locator("#sensors-table")).to_contain_text("press-4.torque", timeout=PATIENCE)
            assert await tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.long
async def test_what_sensors_say_stays_text(press: Monitor, chromium: Browser) -> None:
    evil = OpenLabel(record=EVIL, value=EVIL, at=NOW)
    press.flow.collection = replace(
        STATE, sensors=(Sensor(name=EVIL, value=EVIL, unit=EVIL),), unmatched=(evil,), open_labels=(evil,), notes=(EVIL,),
        problem=EVIL, open_records=(OpenRecord(key=EVIL, at=NOW, waits_for=EVIL),),
    )  # fmt: skip
    async with page_over(press) as url, tab_at(chromium, f"{url}/sensors") as (tab, _):
        await expect(tab.locator("#sensors-note")).to_contain_text(EVIL, timeout=PATIENCE)
        assert await tab.locator("main img").count() == 0


def test_a_data_set_without_a_collection_has_no_such_view_and_one_without_answers_says_so(press: Monitor) -> None:
    from complex_system.monitoring.page.app import VIEWS, views_of

    assert views_of(Facts(Dataset.load())) == VIEWS
    assert sensors.VIEW not in VIEWS
    assert sensors.VIEW in views_of(Facts(press.dataset))
    press.flow.collection = None
    values = sensors.VIEW.fill(take(press, Facts(press.dataset), PERIODS["1h"], NOW), Viewer("light", Clock()))
    assert "Waiting for thing_collection" in str(values[0])


def test_the_figures_of_the_sensors_are_metrics_and_raise_the_alert(press: Monitor) -> None:
    figures: Figures = press.flow.figures()
    assert figures.by_subject("sensors/silent") == {sensor.name: float(sensor.silent) for sensor in STATE.sensors}
    assert figures.number("sensors/age", "press-4.state") == 3.2
    assert figures.number("sensors/age", "press-4.torque") is None
    assert figures.number("collection/unmatched") == 1
    assert Figures.of_flat(figures.flat()) == figures
    rules = AlertRules(load_rules(), press.dataset)
    assert rules.evaluate(NOW, figures) == []
    [raised] = rules.evaluate(NOW + 11, figures)
    assert (raised.kind, raised.alert.rule, raised.alert.subject) == ("raised", "silent-sensor", "press-4.pressure")
    assert "The sensor press-4.pressure is silent" in raised.alert.sentence
    text = exposition(figures).decode()
    assert 'monitoring_sensors_silent{name="press-4.pressure"} 1.0' in text
    assert "monitoring_collection_waiting_labels 1.0" in text.replace('{name=""}', "")
