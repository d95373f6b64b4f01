"""Alerts in the system: judged at every point, announced, kept, posted, and told what was done because of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from complex_system.monitoring.alerts.evaluation import AlertChange, AlertRules, with_action
from complex_system.monitoring.alerts.webhook import Webhook
from complex_system.monitoring.points import Figures
from complex_system.protocol.base import Event, to_wire
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, Action, Alert, Alerts
from complex_system.protocol.training import ComparisonFinished, TrainingRound

log = logging.getLogger(__name__)

MAX_PAST = 200
"""Ended alerts that ``get-alerts`` still returns."""

Announce = Callable[[Event[Alert], Alert], Awaitable[None]]
Keep = Callable[[Alert], None]


class Alerting:
    """Wires alert rules into ``ml_monitoring``. Every method runs in the event loop and none waits for a server."""

    def __init__(self, rules: AlertRules, announce: Announce, keep: Keep, webhook_url: str = "", system: str = "",
                 now: Callable[[], float] = time.time) -> None:  # fmt: skip
        """Make it ready.

        Args:
            rules: Judges the figures.
            announce: Publishes an event.
            keep: Takes an alert that is new or has changed, to be written to the database.
            webhook_url: Where alerts are posted; empty for nowhere.
            system: What the webhook's messages call the system.
            now: Seconds since 1970, by the clock of the points.

        Raises:
            DeclarationError: The webhook's address is not valid.
        """
        self._rules = rules
        self._announce = announce
        self._keep = keep
        self._webhook = Webhook(webhook_url) if webhook_url else None
        self._system = system
        self._now = now
        self._past: OrderedDict[str, Alert] = OrderedDict()

    def alerts(self) -> Alerts:
        """Return the open alerts, oldest first, and past ones, newest first."""
        return Alerts(open=tuple(self._rules.open), past=tuple(reversed(self._past.values())))

    async def restore(self, known: Iterable[Alert], at: float | None = None) -> None:
        """Take the alerts that the database has from before a restart, oldest first."""
        still_open = []
        for alert in known:
            if alert.ended is None:
                still_open.append(alert)
            else:
                self._remember(alert)
        await self._carry_out(self._rules.restore(self._now() if at is None else at, still_open))

    async def evaluate(self, at: float, figures: Figures) -> list[AlertChange]:
        """Judge the figures of a moment (seconds since 1970); announce, keep and post what has changed, and return it."""
        changes = self._rules.evaluate(at, figures)
        await self._carry_out(changes)
        return changes

    # What the system does

    def round_changed(self, event: TrainingRound) -> None:
        """Add a round that began or failed to the alerts that it is for."""
        started = event.stage == "started"
        what = f"Training round {event.round} was started." if started else event.text
        self._act(event, "training" if started else "failed", what)

    def compared(self, event: ComparisonFinished) -> None:
        """Add how a round ended to the alerts that it is for."""
        champion = event.champion
        new = f"{champion.model} version {champion.version} is the new champion with RMSE {champion.rmse:.2f}."
        self._act(event, "kept" if event.kept else "new champion", event.kept or new)

    def _act(self, event: TrainingRound | ComparisonFinished, outcome: str, what: str) -> None:
        action = Action(round=event.round, at=self._now(), outcome=outcome, what=what)
        for key in event.alerts:
            alert = self._rules.act(key, action)
            if alert is None and key in self._past:  # it ended while the round ran
                alert = self._past[key] = with_action(self._past[key], action)
            if alert is not None:
                self._keep(alert)

    # Changes

    async def _carry_out(self, changes: Iterable[AlertChange]) -> None:
        for change in changes:
            alert, raised = change.alert, change.kind == "raised"
            log.log(logging.WARNING if raised else logging.INFO, "Alert %s: %s", change.kind, alert.message)
            self._keep(alert)
            if not raised:
                self._remember(alert)
            await self._announce(ALERT_RAISED if raised else ALERT_ENDED, alert)
            if self._webhook is not None:
                message = {"event": f"alert-{change.kind}", "system": self._system, "text": alert.message}
                self._webhook.send({**message, "alert": to_wire(alert)})

    def _remember(self, alert: Alert) -> None:
        self._past[alert.key] = alert
        self._past.move_to_end(alert.key)
        if len(self._past) > MAX_PAST:
            self._past.popitem(last=False)

    async def close(self, seconds: float = 2.0) -> None:
        """Send what the webhook's receiver does not have yet, for at most so many seconds."""
        if self._webhook is not None and (lost := await asyncio.to_thread(self._webhook.close, seconds)):
            log.error("%d alerts did not reach the webhook", lost)
