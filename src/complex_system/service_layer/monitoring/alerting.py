"""Alerts in the system: judged at every point, announced, kept, posted, and told what was done because of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from complex_system.messaging.subjects import ALERT_ENDED, ALERT_RAISED, Subject
from complex_system.monitoring.alerts.evaluation import Action, Alert, AlertChange, AlertRules, with_action
from complex_system.monitoring.alerts.webhook import Webhook

log = logging.getLogger(__name__)

MOST_PAST = 200
"""Alerts that are over and still told by ``get-alerts``."""

Announce = Callable[[Subject, Any], Awaitable[None]]
Keep = Callable[[dict[str, Any]], None]


class Alerting:
    """Wires alert rules into ``ml_monitoring``. Every method runs in the event loop and none waits for a server."""

    def __init__(self, rules: AlertRules, announce: Announce, keep: Keep, webhook_url: str = "", system: str = "") -> None:
        """Makes it ready.

        Args:
            rules: Judges.
            announce: Publishes an event.
            keep: Takes an alert (:meth:`Alert.as_dict`) that is new or has changed, to be written to the database.
            webhook_url: Where alerts are posted; empty for nowhere.
            system: What the webhook's messages call the system.

        Raises:
            DeclarationError: The webhook's address is none.
        """
        self._rules = rules
        self._announce = announce
        self._keep = keep
        self._webhook = Webhook(webhook_url) if webhook_url else None
        self._system = system
        self._past: OrderedDict[str, Alert] = OrderedDict()

    @property
    def open(self) -> list[Alert]:
        """The open alerts, oldest first."""
        return self._rules.open

    def summary(self) -> dict[str, Any]:
        """The value of ``get-alerts``: open alerts, oldest first, and past ones, newest first."""
        return {
            "open": [alert.as_dict() for alert in self.open],
            "past": [alert.as_dict() for alert in reversed(self._past.values())],
        }

    async def restore(self, bodies: Iterable[Mapping[str, Any]], at: float | None = None) -> None:
        """Takes the alerts that the database has from before a restart, oldest first."""
        known: list[Alert] = []
        for body in bodies:
            try:
                known.append(Alert.of(body))
            except (KeyError, TypeError) as error:
                log.warning("An alert in the database is not as this version writes them and is left out: %r", error)
        for alert in known:
            if alert.ended is not None:
                self._remember(alert)
        now = time.time() if at is None else at
        await self._carry_out(self._rules.restore(now, (alert for alert in known if alert.ended is None)))

    async def evaluate(self, at: float, metrics: Mapping[str, float]) -> list[AlertChange]:
        """Judges the metrics of a moment (epoch seconds); announces, keeps and posts what has changed, and returns it."""
        changes = self._rules.evaluate(at, metrics)
        await self._carry_out(changes)
        return changes

    # What the system does

    def round_told(self, event: Mapping[str, Any]) -> None:
        """Takes a ``training-round``: the alerts that it is for get its number."""
        started = event.get("stage") == "started"
        what = f"Training round {event['round']} was started." if started else str(event.get("text", ""))
        self._act(event, "training" if started else "failed", what)

    def compared(self, event: Mapping[str, Any]) -> None:
        """Takes a ``comparison-finished``: the alerts that it is for learn how it ended."""
        champion = event["champion"]
        new = (
            f"{champion['model']} version {champion['version']} is the new champion with RMSE {float(champion['rmse']):.2f}."
        )
        kept = str(event.get("kept") or "")
        self._act(event, "kept" if kept else "new champion", kept or new)

    def _act(self, event: Mapping[str, Any], outcome: str, what: str) -> None:
        action = Action(str(event["round"]), time.time(), outcome, what)
        for key in event.get("alerts") or ():
            alert = self._rules.act(str(key), action)
            if alert is None and key in self._past:  # it ended while the round ran
                alert = self._past[key] = with_action(self._past[key], action)
            if alert is not None:
                self._keep(alert.as_dict())

    # Changes

    async def _carry_out(self, changes: Iterable[AlertChange]) -> None:
        for change in changes:
            alert = change.alert
            log.log(logging.WARNING if change.kind == "raised" else logging.INFO, "Alert %s: %s", change.kind, alert.message)
            self._keep(alert.as_dict())
            if change.kind == "ended":
                self._remember(alert)
            await self._announce(ALERT_RAISED if change.kind == "raised" else ALERT_ENDED, alert.as_dict())
            if self._webhook is not None:
                message = {"event": f"alert-{change.kind}", "system": self._system, "text": alert.message}
                self._webhook.send({**message, "alert": alert.as_dict()})

    def _remember(self, alert: Alert) -> None:
        self._past[alert.key] = alert
        self._past.move_to_end(alert.key)
        if len(self._past) > MOST_PAST:
            self._past.popitem(last=False)

    async def close(self, seconds: float = 2.0) -> None:
        """Sends what the webhook's receiver does not have yet, for at most so many seconds."""
        if self._webhook is not None and (lost := await asyncio.to_thread(self._webhook.close, seconds)):
            log.error("%d alerts did not reach the webhook", lost)
