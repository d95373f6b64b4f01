"""The page as an ASGI application over a monitor, to be mounted beside the REST interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from complex_system import __version__
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.page.app import make_page
from complex_system.monitoring.page.gateway import WsgiGateway
from complex_system.monitoring.page.reading import Facts, Period, Reading, take

PATIENCE = 10.0
"""Seconds that a request waits for the event loop to take a reading."""


def page_of(
    monitor: Monitor,
    loop: asyncio.AbstractEventLoop,
    *,
    mlflow_uri: str = "",
    api_key: str = "",
    refresh: float = 2.0,
    now: Callable[[], float] = time.time,
) -> WsgiGateway:
    """Makes the page. Importing this module and making the page takes a second or two: to be done in a thread.

    Args:
        monitor: What is shown. It belongs to ``loop``; readings are taken there, all else is done in threads.
        loop: The event loop of the service.
        mlflow_uri: The tracking server, whose own page is linked to.
        api_key: As for the REST interface; empty for none.
        refresh: Seconds between two updates of an open page.
        now: Seconds since 1970.
    """
    facts = Facts(monitor.dataset, mlflow_url=public_address(mlflow_uri), version=__version__)

    async def taken(period: Period) -> Reading:
        return take(monitor, facts, period, now())

    def read(period: Period) -> Reading:
        return asyncio.run_coroutine_threadsafe(taken(period), loop).result(PATIENCE)

    return WsgiGateway(make_page(read, facts, refresh), api_key)


def public_address(uri: str) -> str:
    """An address without user and password; empty where a browser could not open it."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
