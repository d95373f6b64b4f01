"""Alerts in the system: judged at every point, announced, kept, sent to receivers, and told what was done because of them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.channels import Channel, channels_of
from complex_system.monitoring.alerts.evaluation import AlertChange, AlertRules, with_action
from complex_system.monitoring.alerts.messages import MessagePlan, load_plan
from complex_system.monitoring.alerts.rules import SEVERITIES, load_rules
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.points import Figures
from complex_system.protocol.base import Event
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, Action, Alert, Alerts
from complex_system.protocol.training import ComparisonFinished, TrainingRound
from complex_system.service_layer.monitoring.delivery import Delivery
from complex_system.settings import Settings

log = logging.getLogger(__name__)

MAX_PAST = 200
"""Ended alerts that ``get-alerts`` still returns."""

Announce = Callable[[Event[Alert], Alert], Awaitable[None]]
Keep = Callable[[Alert], None]


class Alerting:
    """Wires alert rules into ``ml_monitoring``. Every method runs in the event loop and none waits for a server."""

    def __init__(
        self, rules: AlertRules, announce: Announce, keep: Keep, now: Callable[[], float] = time.time, *,
        channels: Sequence[Channel] = (), plan: MessagePlan | None = None, deadline_hours: float = 72.0,
        persist: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """Make it ready.

        Args:
            rules: Judges the figures.
            announce: Publishes an event.
            keep: Takes an alert that is new or has changed, to be written to the database.
            now: Seconds since 1970, by the clock of the points.
            channels: Receivers outside of the system.
            plan: Grouping and quiet hours of messages to people; by default the shipped ones.
            deadline_hours: Hours after which a message that was not taken is given up.
            persist: Writes to the database what ``keep`` took; None where there is none.
        """
        self._rules = rules
        self._announce = announce
        self._keep = keep
        self._now = now
        self._past: OrderedDict[str, Alert] = OrderedDict()
        self.delivery = Delivery(channels, plan or MessagePlan(), deadline_hours, now, self.find, self.change, persist)

    def alerts(self) -> Alerts:
        """Return the open alerts, oldest first, and past ones, newest first."""
        return Alerts(open=tuple(self._rules.open), past=tuple(reversed(self._past.values()))[:MAX_PAST])

    def figures(self) -> Figures:
        """Return the number of open alerts by severity, and the figures of their delivery."""
        figures = self.delivery.figures()
        for severity in SEVERITIES:
            figures.add("alerts", {"open": sum(alert.severity == severity for alert in self._rules.open)}, severity)
        return figures

    def find(self, key: str) -> Alert | None:
        """Return an alert that is open, has ended lately, or has messages that wait."""
        return self._past.get(key) or next((alert for alert in self._rules.open if alert.key == key), None)

    def change(self, key: str, change: Callable[[Alert], Alert]) -> None:
        """Change an alert and keep it."""
        alert = self._rules.change(key, change)
        if alert is None and key in self._past:  # it has ended
            alert = self._past[key] = change(self._past[key])
        if alert is not None:
            self._keep(alert)

    async def restore(self, known: Iterable[Alert], at: float | None = None) -> None:
        """Take the alerts that the database has from before a restart, oldest first."""
        still_open, known = [], list(known)
        for alert in known:
            if alert.ended is None:
                still_open.append(alert)
            else:
                self._remember(alert)
        changes = self._rules.restore(self._now() if at is None else at, still_open)
        self.delivery.restore(known)
        await self._carry_out(changes)

    async def evaluate(self, at: float, figures: Figures, drift: DataDrift | None = None) -> list[AlertChange]:
        """Judge the figures of a moment (seconds since 1970); announce, keep and send what has changed, and return it."""
        changes = self._rules.evaluate(at, figures, drift)
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
        new = (
            f"{champion.model} version {champion.version} is the new champion, with an RMSE of {champion.rmse:.4g} "
            f"on {event.holdout:,} hold-out records."
        )
        self._act(event, "kept" if event.kept else "new champion", event.kept or new)

    def _act(self, event: TrainingRound | ComparisonFinished, outcome: str, what: str) -> None:
        action = Action(round=event.round, at=self._now(), outcome=outcome, what=what)
        for key in event.alerts:
            self.change(key, partial(with_action, action=action))

    # Changes

    async def _carry_out(self, changes: Iterable[AlertChange]) -> None:
        announced = []
        for change in changes:  # nothing is awaited before all are remembered: a message may be delivered meanwhile
            alert, raised = change.alert, change.kind == "raised"
            log.log(logging.WARNING if raised else logging.INFO, "Alert %s: %s", change.kind, alert.message)
            alert = self.delivery.queue(alert, change.kind)
            if raised:
                self._rules.change(alert.key, lambda _, queued=alert: queued)  # type: ignore[misc]
            else:
                self._remember(alert)
            self._keep(alert)
            announced.append((ALERT_RAISED if raised else ALERT_ENDED, alert))
        for event, alert in announced:
            await self._announce(event, alert)

    def _remember(self, alert: Alert) -> None:
        self._past[alert.key] = alert
        self._past.move_to_end(alert.key)
        for key in list(self._past)[: max(0, len(self._past) - MAX_PAST)]:
            if all(message.outcome != "waiting" for message in self._past[key].messages):
                del self._past[key]


def alerting_of(
    settings: Settings, dataset: Dataset, announce: Announce, keep: Keep, persist: Callable[[], Awaitable[None]],
    now: Callable[[], float],
) -> Alerting:  # fmt: skip
    """Return the alerting of a deployment; blocking, since it reads files and imports what its receivers need.

    Raises:
        DeclarationError: The rules, the plan of messages or an address is not valid.
        StartError: What the receivers need is not installed.
    """
    rules = AlertRules(load_rules(settings.config_dir, settings.alert_rules), dataset)
    plan = load_plan(settings.config_dir, settings.alert_rules)
    channels = channels_of(settings.webhook_url, settings.webhook_secret, settings.message_urls, dataset.name, plan.zone)
    hours = settings.message_hours
    return Alerting(rules, announce, keep, now, channels=channels, plan=plan, deadline_hours=hours, persist=persist)
