"""When alerts start a training round. Pure bookkeeping: no clock, no broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_PAUSE = 86_400.0
"""Seconds to which the pause grows while rounds bring no better model."""


@dataclass(frozen=True)
class Cause:
    """Why a round begins.

    Attributes:
        alerts: Keys of the alerts, oldest first.
        since: When the first of them was raised, epoch seconds: what was measured before may be of another world.
        text: What they say.
    """

    alerts: tuple[str, ...]
    since: float
    text: str


class AlertReaction:
    """Keeps the open alerts that ask for a training round, and the pause between two rounds.

    As long as such an alert is open, a round is due again after the pause; the pause doubles with every round that left the champion
    in its place, because more of the same would only cost time.
    """

    def __init__(self, pause: float) -> None:
        """Makes a reaction without alerts.

        Args:
            pause: Seconds from the end of a round to the next one.
        """
        self._pause = pause
        self._vain = 0
        self._not_before = float("-inf")
        self._open: dict[str, Mapping[str, Any]] = {}

    def raised(self, alert: Mapping[str, Any]) -> None:
        """An alert begins; one that asks for no training is left out."""
        if alert.get("retrain"):
            self._open[str(alert["key"])] = alert

    def ended(self, alert: Mapping[str, Any]) -> None:
        """An alert is over."""
        self._open.pop(str(alert["key"]), None)

    def replace(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """These are all that are open, whatever was heard before."""
        self._open.clear()
        for alert in alerts:
            self.raised(alert)

    def due(self, now: float) -> Cause | None:
        """Why a round is due now, or None.

        Args:
            now: Monotonic time in seconds.
        """
        if not self._open or now < self._not_before:
            return None
        alerts = sorted(self._open.values(), key=lambda alert: float(alert["began"]))
        text = " ".join(str(alert.get("sentence", "")) for alert in alerts)
        return Cause(tuple(str(alert["key"]) for alert in alerts), float(alerts[0]["began"]), text)

    def done(self, now: float, *, improved: bool) -> float:
        """A round because of alerts is over; returns the seconds until the next one may begin."""
        self._vain = 0 if improved else self._vain + 1
        pause: float = min(self._pause * 2 ** min(self._vain, 16), max(LONGEST_PAUSE, self._pause))
        self._not_before = now + pause
        return pause
