"""Who else does the same work: replicas find each other by their heartbeats and divide the keys among them.

Nobody hands anything out, so nobody can fail to. Each replica counts who is alive and takes the share that its place among
them gives it. While they disagree, for instance right after one has started or died, a key may be worked on twice or by nobody
for a moment; the work must be idempotent, and found again by query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BEATS_MISSED = 3
"""After so many heartbeats that did not come, a replica counts as gone."""


@dataclass(frozen=True)
class Share:
    """Share ``index`` of ``count`` equal ones; a key belongs to the one that its CRC-32 modulo ``count`` names."""

    index: int
    count: int


ALL = Share(0, 1)


class Replicas:
    """The living replicas of one service that do the same work."""

    def __init__(
        self, own: Mapping[str, Any], alike: tuple[str, ...], seconds: float, clock: Callable[[], float] = time.monotonic
    ):
        """Knows nobody but ourselves at first.

        Args:
            own: Our own heartbeat; ``instance`` tells us from the others.
            alike: Fields in which a heartbeat must equal ours for its sender to do the same work.
            seconds: How long a replica is believed to live after a heartbeat.
            clock: Seconds that only grow.
        """
        self._own = {name: own[name] for name in ("instance", *alike)}
        self._alike = alike
        self._seconds = seconds
        self._clock = clock
        self._heard: dict[str, float] = {}

    def hear(self, beat: Mapping[str, Any]) -> bool:
        """Takes note of a heartbeat; returns whether it is another replica's that does our work."""
        instance = beat.get("instance")
        if (
            not isinstance(instance, str)
            or instance == self._own["instance"]
            or any(beat.get(name) != self._own[name] for name in self._alike)
        ):
            return False
        if beat.get("state") == "stopped":
            self._heard.pop(instance, None)
        else:
            self._heard[instance] = self._clock()
        return True

    @property
    def share(self) -> Share:
        """Our share of the keys at this moment."""
        oldest = self._clock() - self._seconds
        self._heard = {instance: heard for instance, heard in self._heard.items() if heard >= oldest}
        everybody = sorted([*self._heard, str(self._own["instance"])])
        return Share(everybody.index(str(self._own["instance"])), len(everybody))
