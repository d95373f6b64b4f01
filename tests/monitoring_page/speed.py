"""Measures the page over a history of a million joined pairs: ``PYTHONPATH=tests python -m monitoring_page.speed``."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from plotly.utils import PlotlyJSONEncoder

from complex_system.monitoring.page.app import VIEWS, page_of
from complex_system.monitoring.page.components import Viewer
from complex_system.monitoring.page.formatting import Clock
from complex_system.monitoring.page.period_report import make_report
from complex_system.monitoring.page.reading import PERIODS, Facts, take
from monitoring_page.browser import WIDE, Watch, browser, served
from monitoring_page.history import DAY, make_monitor

PAIRS_A_MINUTE = 58
"""Nine days of it are a million pairs of three models."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def milliseconds(call: Callable[[], Any], times: int = 7) -> str:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - began))
    return f"{statistics.median(spent):7.1f} (at most {max(spent):.1f})"


async def main() -> None:
    now, began = time.time(), time.perf_counter()
    monitor = make_monitor(now, pairs_a_minute=PAIRS_A_MINUTE)
    hours = monitor.history.hours(now - 10 * DAY, now + DAY)
    pairs = sum(sums.n for hour in hours for series, sums in hour.errors.items() if not series.group)
    say(f"{pairs:,} joined pairs in {len(hours)} hours, made in {time.perf_counter() - began:.1f} s")
    facts = Facts(monitor.dataset)
    say("milliseconds, median and worst of 7")
    for key, period in PERIODS.items():
        say(f"reading {key:>4} (in the event loop): {milliseconds(lambda p=period: take(monitor, facts, p, now))}")
    for key in PERIODS:
        reading = take(monitor, facts, PERIODS[key], now)
        for view in VIEWS:
            content = json.dumps(view.fill(reading, Viewer()), cls=PlotlyJSONEncoder)
            say(
                f"{view.name:>12} {key:>4}: {milliseconds(lambda v=view, r=reading: v.fill(r, Viewer()))}  {len(content):>9,} bytes"
            )
        say(f"{'report':>12} {key:>4}: {milliseconds(lambda r=reading: make_report(r, Clock()), 3)}")
    page = await asyncio.to_thread(page_of, monitor, asyncio.get_running_loop())
    async with served(page) as url, browser() as chromium:
        for turn in range(4):
            context = await chromium.new_context(viewport=WIDE)
            tab = await context.new_page()
            watch = Watch(tab, url)
            for view in VIEWS:
                began = time.perf_counter()
                await tab.goto(f"{url}{view.path}")
                await tab.wait_for_selector("#status.good, #status.warn, #status.bad, #status.none")
                ready = "main .answer .word" if view.path == "/" else "main .js-plotly-plot .main-svg, main .alert"
                await tab.wait_for_selector(ready)
                paint = await tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
                spent = time.perf_counter() - began
                seen = "cold" if view.path == "/" else "scripts in the cache"
                say(f"visit {turn}, {view.name}, {seen}: first paint {paint / 1000:.2f} s, with content {spent:.2f} s")
            say(f"problems: {watch.problems}")
            await context.close()


if __name__ == "__main__":
    asyncio.run(main())
