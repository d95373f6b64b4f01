"""The data-quality report in a real browser: no network, no script, no complaint, readable in light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from complex_system.describe.description import describe
from complex_system.describe.report import write_report
from monitoring_page.browser import browser

EVIL = "<script>document.title='taken'</script>"
CONTRAST = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => { for (let at = element; at; at = at.parentElement) {
    const found = parts(getComputedStyle(at).backgroundColor); if (found.length < 4 || found[3] > 0) return found;
  } return [255, 255, 255]; };
  const low = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg") || ![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push([element.className, element.textContent.slice(0, 40), (a + .05) / (b + .05)]);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def page_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section, and names that a page must survive."""
    random, rows = np.random.default_rng(2), 600
    folder = tmp_path_factory.mktemp("report")
    minutes = 15 * np.arange(rows) + np.where(np.arange(rows) >= 400, 20_000, 0)
    temp = np.round(random.normal(231, 4, rows), 1)
    temp[[10, 20, 30]] = -9999
    columns: dict[str, Any] = {
        "Zeit": [str(np.datetime64("2025-01-06T06:00") + np.timedelta64(int(each), "m")) for each in minutes],
        "Temperatur der dritten Heizzone am Ofen, Rohr links [°C]": temp,
        EVIL: [f"{EVIL}{i // 30}" for i in range(rows)],
        "x" * 90: random.choice(["ein" * 30, "aus"], rows),
        "Ausbeute": np.round(random.normal(60, 2, rows), 2),
    }
    file = folder / "plant.csv"
    pl.DataFrame({name: list(values) for name, values in columns.items()}).write_csv(file)
    made = folder / "report.html"
    write_report(describe(file, "Ausbeute"), made)
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
async def test_the_report_is_readable_alone_and_without_scripts(page_at: Path, scheme: Any, width: int) -> None:
    asked: list[str] = []
    said: list[str] = []
    async with browser() as started:
        tab = await started.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        await tab.goto(page_at.as_uri())
        assert await tab.title() == "Data quality of plant.csv"
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
        assert await tab.evaluate("document.querySelectorAll('body script, [style]').length") == 0
        assert EVIL in await tab.inner_text(".columns")
        ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(245, 247, 249)", "dark": "rgb(13, 18, 23)"}[scheme]
        assert await tab.evaluate(CONTRAST) == []
        headings = await tab.eval_on_selector_all(
            "h1, h2", "found => found.map(each => each.tagName + ' ' + each.textContent)"
        )
        assert headings == [
            "H1 plant.csv", "H2 Worth a look first", "H2 Columns", "H2 Time", "H2 Groups", "H2 How it was found",
        ]  # fmt: skip
        assert await tab.locator("svg:not([aria-label]):not([aria-hidden=true])").count() == 0
        assert await tab.eval_on_selector_all("thead th", "found => found.every(each => each.scope === 'col')")
        assert await tab.eval_on_selector_all(
            "tbody tr", "found => found.every(each => each.querySelector('th[scope=row]'))"
        )
        clipped = "found => found.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent)"
        assert await tab.eval_on_selector_all("td, th, h3, p, dd", clipped) == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert said == []
