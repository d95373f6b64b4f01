"""Writes the page's pictures into docs/images: ``make screenshots``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from playwright.async_api import Page

from complex_system.monitoring.page.app import page_of
from monitoring_page.browser import PHONE, WIDE, Watch, browser, served
from monitoring_page.history import make_monitor
from monitoring_page.trials import lab_trials

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SHOTS = (
    # Name, path, period, theme, size, seen as a whole
    ("overview", "/", "24h", "light", WIDE, False), ("models", "/models", "30d", "light", WIDE, True),
    ("predictions", "/predictions", "7d", "light", WIDE, True), ("data", "/data", "7d", "light", WIDE, True),
    ("try-it", "/try", "24h", "light", WIDE, True), ("try-it-dark", "/try", "24h", "dark", WIDE, True),
    ("try-it-phone", "/try", "24h", "light", PHONE, False),
    ("system", "/system", "24h", "light", WIDE, True), ("alerts", "/alerts", "7d", "light", WIDE, False),
    ("overview-dark", "/", "24h", "dark", WIDE, False), ("predictions-dark", "/predictions", "7d", "dark", WIDE, True),
    ("overview-phone", "/", "24h", "light", PHONE, False), ("predictions-phone", "/predictions", "7d", "dark", PHONE, False),
)  # fmt: skip


async def find_settings(tab: Page) -> None:
    """Let the view "Try it" find settings for a value."""
    await tab.get_by_label("Value", exact=True).fill("160")
    await tab.get_by_role("button", name="Find settings").click()
    await tab.get_by_role("button", name="Use solution 1").wait_for()
    await tab.evaluate("window.scrollTo(0, 0)")


async def shoot(folder: Path, wanted: list[str]) -> None:
    monitor = await asyncio.to_thread(make_monitor, time.time())
    page = await asyncio.to_thread(
        page_of, monitor, asyncio.get_running_loop(), mlflow_uri="http://127.0.0.1:8080", trials=await lab_trials()
    )
    folder.mkdir(parents=True, exist_ok=True)
    async with served(page) as url, browser() as chromium:
        for name, path, period, theme, size, whole in SHOTS:
            if wanted and name not in wanted:
                continue
            context = await chromium.new_context(
                viewport=size, color_scheme=theme, device_scale_factor=1.5 if size is WIDE else 2, timezone_id="Europe/Berlin",
                locale="en-GB", reduced_motion="reduce",
            )  # fmt: skip
            tab = await context.new_page()
            watch = Watch(tab, url)
            began = time.perf_counter()
            await tab.goto(f"{url}{path}")
            await tab.wait_for_selector("main .card, main .answer")
            await tab.wait_for_selector("#status.good, #status.warn, #status.bad, #status.none")
            first = time.perf_counter() - began
            await tab.click(f"#period label:text-is('{period.replace('h', ' h').replace('d', ' d')}')")
            await tab.wait_for_load_state("networkidle")
            await tab.wait_for_function(
                "() => [...document.querySelectorAll('.plot')].every((each) => each.querySelector('.cartesianlayer'))"
            )
            await tab.wait_for_timeout(1500)
            if path == "/try":
                await find_settings(tab)
            if "--long" in sys.argv:
                await tab.set_viewport_size({"width": size["width"], "height": 2600})
                await tab.wait_for_timeout(800)
            await tab.screenshot(path=str(folder / f"{name}.png"), full_page=whole)
            wide = await tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            problems = [*watch.problems, *watch.elsewhere] or "nothing to complain about"
            sys.stdout.write(f"{name}: first paint {first:.2f} s, {wide} px too wide, {problems}\n")
            await context.close()


if __name__ == "__main__":
    target = Path(sys.argv[sys.argv.index("--to") + 1]) if "--to" in sys.argv else IMAGES
    asyncio.run(shoot(target, [each for each in sys.argv[1:] if each in {shot[0] for shot in SHOTS}]))
