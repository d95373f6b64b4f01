"""Writes the pictures of the monitoring page into docs/images: ``make screenshots``.

They are of a live system: ``fiot run mongo --scenario shift`` from its start on, through drift, alert and new champion, and some time
more. ``--url ADDRESS`` takes them of a system that runs already.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from playwright.async_api import Page

from monitoring_page.browser import PHONE, WIDE, Watch, browser
from runs import fiot_run

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SHOTS = (
    # Name, path, theme, size, seen as a whole
    ("overview", "/", "light", WIDE, False), ("models", "/models", "light", WIDE, True),
    ("predictions", "/predictions", "light", WIDE, True), ("data", "/data", "light", WIDE, True),
    ("try-it", "/try", "light", WIDE, True), ("try-it-dark", "/try", "dark", WIDE, True),
    ("try-it-phone", "/try", "light", PHONE, False), ("system", "/system", "light", WIDE, True),
    ("alerts", "/alerts", "light", WIDE, False), ("overview-dark", "/", "dark", WIDE, False),
    ("predictions-dark", "/predictions", "dark", WIDE, True), ("overview-phone", "/", "light", PHONE, False),
    ("predictions-phone", "/predictions", "dark", PHONE, False),
)  # fmt: skip
PERIOD = "1 h"


async def find_settings(tab: Page) -> None:
    """Let the view "Try it" find settings for a value."""
    await tab.get_by_label("Value", exact=True).fill("160")
    await tab.get_by_role("button", name="Find settings").click()
    await tab.get_by_role("button", name="Use solution 1").wait_for()
    await tab.evaluate("window.scrollTo(0, 0)")


async def shoot(url: str, folder: Path, wanted: list[str]) -> None:
    """Take the pictures of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    async with browser() as chromium:
        for name, path, theme, size, whole in SHOTS:
            if wanted and name not in wanted:
                continue
            context = await chromium.new_context(
                viewport=size, color_scheme=theme, device_scale_factor=1.5 if size is WIDE else 2, timezone_id="Europe/Berlin",
                locale="en-GB", reduced_motion="reduce",
            )  # fmt: skip
            context.set_default_timeout(120_000)  # the system beside it needs the processors, too
            tab = await context.new_page()
            watch = Watch(tab, url)
            began = time.perf_counter()
            await tab.goto(f"{url}{path}")
            await tab.wait_for_selector("main .card, main .answer")
            await tab.wait_for_selector("#status.good, #status.warn, #status.bad, #status.none")
            first = time.perf_counter() - began
            await tab.click(f"#period label:text-is('{PERIOD}')")
            # A live page goes on asking, so the network is never idle.
            await tab.wait_for_function(
                "() => [...document.querySelectorAll('.plot')].every((each) => each.querySelector('.cartesianlayer'))"
            )
            await tab.wait_for_timeout(4000)
            if path == "/try":
                await find_settings(tab)
            await tab.screenshot(path=str(folder / f"{name}.png"), full_page=whole)
            wide = await tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            problems = [*watch.problems, *watch.elsewhere] or "nothing to complain about"
            sys.stdout.write(f"{name}: first paint {first:.2f} s, {wide} px too wide, {problems}\n")
            await context.close()


def of_a_new_run(folder: Path, wanted: list[str], minutes: float) -> None:
    """Take the pictures of a run that has gone through its scenario, and on for some minutes."""
    with tempfile.TemporaryDirectory() as base, fiot_run(Path(base), "mongo", "--scenario", "shift") as run:

        def is_over() -> bool:
            steps = run.status().get("scenario", {}).get("steps", [])
            return bool(steps) and all(step["seconds"] is not None for step in steps)

        run.eventually(is_over, 3600)
        sys.stdout.write(f"The scenario is over; {minutes:g} minutes more.\n")
        end = time.monotonic() + 60 * minutes
        run.eventually(lambda: time.monotonic() > end, 120 + 60 * minutes)
        asyncio.run(shoot(run.status()["services"]["ml_monitoring"]["url"], folder, wanted))


def main() -> None:
    """Read the command line, and take the pictures."""
    parser = argparse.ArgumentParser(description="Take the pictures of the monitoring page.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="pictures to take; all by default")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder; docs/images by default")
    parser.add_argument("--url", default="", help="address of the page of a system that runs already")
    parser.add_argument("--minutes", type=float, default=30, help="how long a new run goes on after its scenario")
    options = parser.parse_args()
    if options.url:
        asyncio.run(shoot(options.url, options.to, options.names))
    else:
        of_a_new_run(options.to, options.names, options.minutes)


if __name__ == "__main__":
    main()
