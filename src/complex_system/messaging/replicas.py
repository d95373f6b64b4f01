"""Replicas that do the same work find each other by their heartbeats and divide the keys.

There is no coordinator that could fail. Each replica counts the living ones and takes the share that its position among them
gives it. While they disagree, for instance right after a start or a crash, a key may be processed twice, or by none for a moment;
the work must be idempotent, and found again by query.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from complex_system.protocol.operations import Heartbeat

BEATS_MISSED = 3
"""A replica counts as gone after so many missing heartbeats."""
MAX_REPLICAS = 200
"""Other replicas of a service that are believed."""


@dataclass(frozen=True)
class Share:
    """Share ``index`` of ``count`` equal ones; a key belongs to the one that its CRC-32 modulo ``count`` names."""

    index: int
    count: int


ALL = Share(0, 1)


class Replicas:
    """The living replicas of a service that do the same work."""

    def __init__(self, own: Heartbeat, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with this replica alone.

        Args:
            own: Our own heartbeat; another service, or another pipeline version, does other work.
            seconds: How long a replica is believed to live after a heartbeat.
            clock: Seconds that only grow.
        """
        self._own = own
        self._seconds = seconds
        self._clock = clock
        self._heard: dict[str, float] = {}

    def hear(self, beat: Heartbeat) -> bool:
        """Take note of a heartbeat; return whether it is from another replica that does the same work."""
        own = self._own
        alike = (beat.service, beat.pipeline_version) == (own.service, own.pipeline_version)
        if not alike or beat.instance == own.instance or not beat.instance:
            return False
        if beat.state == "stopped":
            self._heard.pop(beat.instance, None)
        elif beat.instance in self._heard or len(self._heard) < MAX_REPLICAS:
            self._heard[beat.instance] = self._clock()
        return True

    @property
    def share(self) -> Share:
        """Return our share of the keys at this moment."""
        oldest = self._clock() - self._seconds
        self._heard = {instance: heard for instance, heard in self._heard.items() if heard >= oldest}
        everybody = sorted([*self._heard, self._own.instance])
        return Share(everybody.index(self._own.instance), len(everybody))
