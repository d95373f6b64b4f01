"""Counts of collections, where counting may take long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

SLOW = 0.1  # seconds
OLD = 10  # how old an answer may be, in times of what counting took
TOO_LONG = 15.0  # seconds: longer than a server that is away is waited for
PAUSE = 3  # before it is tried again, in times of what the failure took
FEW = 1000  # so few are counted each time: what took long then was something else


class PatientCount:
    """A count; where it takes long, an answer that is not much older than it takes.

    There is no index that counts records with a property, and some servers count by reading everything. Who polls would have such a
    database do nothing else. Own writes are added to the answer, so that nobody misses what he has just been told is written.
    """

    def __init__(self, count: Callable[[], Awaitable[int]]) -> None:
        """Takes what counts; nothing is counted yet."""
        self._count = count
        self._answer = 0
        self._known = False
        self._added = 0
        self._until = float("-inf")
        self._counting = asyncio.Lock()

    async def get(self, among: int | None = None) -> int:
        """The count.

        Args:
            among: How many there are to read; by default as many as were counted last.
        """
        async with self._counting:  # who comes meanwhile takes the same answer
            few = (self._answer if among is None else among) < FEW
            if few or time.monotonic() >= self._until:
                began = time.monotonic()
                self._added = 0
                try:
                    counted = await self._count()
                except Exception:
                    took = time.monotonic() - began
                    if not self._known or took < TOO_LONG:
                        raise
                    # Asked again at once, a server that cannot count so many in time would do nothing else any more.
                    self._until = time.monotonic() + PAUSE * took
                    return self._answer
                self._known = True
                # What was written meanwhile is in the count or not.
                self._answer = min(counted + self._added, max(counted, self._answer)) if self._added > 0 else counted
                took = time.monotonic() - began
                self._until = time.monotonic() + (OLD * took if took > SLOW else 0.0)
            return self._answer

    def add(self, written: int) -> None:
        """Notes how many more there are by a write of our own; fewer below 0."""
        self._answer += written
        self._added += written

    def forget(self) -> None:
        """Counts anew next time."""
        self._until = float("-inf")
