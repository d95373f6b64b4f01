"""Chromium without a window, and a page served from this process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from playwright.async_api import Browser, Page, async_playwright, expect

from complex_system.http.server import RestServer
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page.app import page_of

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE = 60_000
"""Milliseconds that a browser may take on a busy machine."""
expect.set_options(timeout=PATIENCE)


def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "The tests of the page need chromium or google-chrome: make browser"
    return found


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser."""
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        started = await playwright.chromium.launch(executable_path=chromium(), args=arguments, timeout=2 * PATIENCE)
        try:
            yield started
        finally:
            await started.close()


class Watch:
    """What a tab complains about, and where it asks for anything."""

    def __init__(self, page: Page, url: str) -> None:
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.requests: list[str] = []
        self._host = urlsplit(url).netloc
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"{error.name}: {error.message}"))
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self._host:
            self.elsewhere.append(request.url)

    def _failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in str(request.failure):  # a view that was left does not wait for its answer
            self.problems.append(f"{request.url}: {request.failure}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.url}: {response.status}")


@asynccontextmanager
async def served(application: Any) -> AsyncIterator[str]:
    """Serves an ASGI application at ``/`` and gives its address."""
    app = FastAPI(openapi_url=None)
    app.mount("/", application)
    server = RestServer(app, "127.0.0.1", 0)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()
        application.close()


@asynccontextmanager
async def page_over(monitor: Monitor, refresh: float = 1.0, **options: Any) -> AsyncIterator[str]:
    """Serves the page of a monitor; options are ``page_of``'s."""
    page = await asyncio.to_thread(page_of, monitor, asyncio.get_running_loop(), refresh=refresh, **options)
    async with served(page) as url:
        yield url


@asynccontextmanager
async def tab_at(chromium: Browser, url: str, **options: Any) -> AsyncIterator[tuple[Page, Watch]]:
    """A tab of a reader in Berlin; it must have had nothing to complain about and asked nobody else."""
    context = await chromium.new_context(**{"viewport": WIDE, "timezone_id": "Europe/Berlin", **options})
    context.set_default_timeout(PATIENCE)
    tab = await context.new_page()
    watch = Watch(tab, url)
    await tab.goto(url)
    try:
        yield tab, watch
    finally:
        await context.close()
    assert watch.problems == [], watch.problems  # pytest explains the tests' own modules only
    assert watch.elsewhere == [], watch.elsewhere
