"""Publishes readings as FastIoT Things, each one until a stream has it, with a bounded queue while the broker is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from datetime import datetime

from fastiot.msg import Thing
from fastiot.msg.thing import MEASUREMENT_ID
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError

from complex_system.background import run_concurrently
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.readings import FASTIOT
from complex_system.messaging.things import serialize_to_bin, thing_of

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Readings that are published and not acknowledged yet."""
_SECONDS = 5.0
_PAUSE, _MAX_PAUSE = 0.5, 5.0


class ThingPublisher:
    """Takes readings without waiting, and publishes them while :meth:`run` runs.

    A reading whose acknowledgement is lost is published again. It is the same reading then, with the same time, and who reads the
    stream expects that.

    Attributes:
        published: Readings that a stream has.
        dropped: Readings that were lost because the queue was full; the oldest ones.
        problem: Why nothing is published at the moment; empty where all is well.
    """

    def __init__(self, connection: ServiceConnection, limit: int) -> None:
        """Make a publisher whose queue holds ``limit`` readings."""
        self.published = 0
        self.dropped = 0
        self.problem = ""
        self._connection = connection
        self._limit = limit
        self._context = connection.client.jetstream(timeout=_SECONDS)
        self._queue: deque[tuple[str, bytes]] = deque()
        self._in_flight = 0
        self._filled, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Readings that no stream has acknowledged yet."""
        return len(self._queue) + self._in_flight

    def put(self, machine: str, name: str, value: float | str, at: datetime, unit: str = "") -> None:
        """Queue a reading, with its own time; drop the oldest one if the queue is full."""
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self.dropped += 1
        fields = {
            "machine": machine,
            "name": name,
            "measurement_id": MEASUREMENT_ID,
            "value": value,
            "timestamp": at,
            "unit": unit,
        }
        self._queue.append((f"{FASTIOT}.{machine}.{name}", serialize_to_bin(Thing, thing_of(fields))))
        self._empty.clear()
        self._filled.set()

    async def run(self) -> None:
        """Publish what is queued, until it is cancelled."""
        await run_concurrently(*(self._work() for _ in range(IN_FLIGHT)))

    async def drain(self, seconds: float) -> None:
        """Wait until all is published, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            subject, payload = self._queue.popleft()
            self._in_flight += 1
            try:
                await self._until_acknowledged(subject, payload)
            finally:
                self._in_flight -= 1
            self.published += 1
            if not self.waiting:
                self._empty.set()

    async def _until_acknowledged(self, subject: str, payload: bytes) -> None:
        pause = _PAUSE
        while True:
            try:
                if self._connection.connected:
                    await self._context.publish(subject, payload)
                    self.problem = ""
                    return
                self.problem = "the broker is away"
            except (NatsError, TimeoutError) as error:
                self.problem = _reason(error, subject)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)


def _reason(error: Exception, subject: str) -> str:
    if isinstance(error, NoRespondersError | NoStreamResponseError):
        return f"no stream of the broker keeps {subject}: thing_collection makes it where dataset.yaml declares 'collect'"
    if isinstance(error, APIError):
        return f"the stream refuses {subject}: {error.description}"
    return f"the broker does not acknowledge {subject}: {error or type(error).__name__}"
