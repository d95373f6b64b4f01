"""Alerts on their way to receivers, without rules, broker and database: in memory, by a clock that the test turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from complex_system.monitoring.alerts.channels import Channel
from complex_system.monitoring.alerts.messages import MessagePlan
from complex_system.protocol.operations import Alert
from complex_system.service_layer.monitoring.delivery import Delivery


def alert(number: int, **fields: Any) -> Alert:
    plain: dict[str, Any] = {
        "key": f"key-{number:03}", "rule": f"rule-{number}", "metric": "drift/psi", "subject": "R2", "severity": "warning",
        "retrain": False, "since": 1.0, "began": 2.0, "value": float(number), "newest": float(number), "threshold": 0.2,
        "sentence": f"Grüße {number}",
    }  # fmt: skip
    return Alert(**{**plain, **fields})


class Outgoing:
    def __init__(self, channels: Sequence[Channel], plan: MessagePlan | None = None, now: float = 1_800_000_000.0) -> None:
        self.alerts: dict[str, Alert] = {}
        self.now = now
        self.delivery = Delivery(
            channels, plan or MessagePlan(), 72.0, lambda: self.now, self.alerts.get, self._change, None
        )  # fmt: skip

    def _change(self, key: str, change: Callable[[Alert], Alert]) -> None:
        self.alerts[key] = change(self.alerts[key])

    def raised(self, number: int, **fields: Any) -> None:
        new = alert(number, **fields)
        self.alerts[new.key] = new
        self.alerts[new.key] = self.delivery.queue(new, "raised")

    def ended(self, number: int) -> None:
        key = alert(number).key
        self.alerts[key] = self.delivery.queue(replace(self.alerts[key], ended=self.now, over="Over."), "ended")

    async def deliver(self) -> None:
        for turn in self.delivery.turns():
            await turn()

    async def deliver_for(self, seconds: float) -> None:
        """Deliver from one due time to the next, for simulated seconds."""
        end = self.now + seconds
        await self.deliver()
        while (due := min((each.due for each in self.waiting() if each.due > self.now), default=end)) < end:
            self.now = due
            await self.deliver()
        self.now = end
        await self.deliver()

    def waiting(self) -> list[Any]:
        return [message for each in self.alerts.values() for message in each.messages if message.outcome == "waiting"]

    def outcomes(self) -> dict[str, int]:
        return dict(Counter(message.outcome for each in self.alerts.values() for message in each.messages))
