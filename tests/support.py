"""Helpers of the tests: services in this process, and clients that talk to them over the real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from complex_system.domain.dataset import Dataset
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.service import SystemService
from complex_system.settings import Settings

S = TypeVar("S", bound=SystemService)


class TesterService(SystemService):
    """A service without handlers: who asks, in the tests."""

    __test__ = False


@asynccontextmanager
async def running(service: type[S], settings: Settings, dataset: Dataset | None = None, **kwargs: Any) -> AsyncIterator[S]:
    """Runs a service in this process, on a connection of its own, until the block ends."""
    connection = await ServiceConnection.open(settings, service.service_name())
    instance = service(broker_connection=connection, settings=settings, dataset=dataset, **kwargs)
    try:
        async with instance:
            yield instance
    finally:
        await connection.close()


async def eventually(check: Callable[[], Awaitable[Any] | Any], seconds: float = 20.0) -> Any:
    """Polls ``check`` until it returns something true, and returns that; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"Not true within {seconds:g} s: {check}")
        await asyncio.sleep(0.02)
