"""Alerts in the system: judged at every point, announced, kept, posted, and told what was done because of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from complex_system.errors import DeclarationError
from complex_system.monitoring.alerts.evaluation import AlertChange, AlertRules, with_action
from complex_system.monitoring.drift import DataDrift
from complex_system.monitoring.points import Figures
from complex_system.protocol.base import Event
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, Action, Alert, Alerts
from complex_system.protocol.training import ComparisonFinished, TrainingRound

log = logging.getLogger(__name__)

MAX_PAST = 200
"""Ended alerts that ``get-alerts`` still returns."""
MAX_WAITING = 1000
"""Messages that wait while the receiver is away; then the oldest are dropped."""
ATTEMPT_SECONDS = 10.0
LONGEST_PAUSE = 60.0
REFUSED = (400, 405, 410, 413, 415, 422)
"""Statuses with which a receiver refuses this very message: sending it again would hold up those behind it indefinitely."""

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

    async def evaluate(self, at: float, figures: Figures, drift: DataDrift | None = None) -> list[AlertChange]:
        """Judge the figures of a moment (seconds since 1970); announce, keep and post what has changed, and return it."""
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
                self._webhook.send(WebhookMessage(f"alert-{change.kind}", self._system, alert.message, alert))

    def _remember(self, alert: Alert) -> None:
        self._past[alert.key] = alert
        self._past.move_to_end(alert.key)
        if len(self._past) > MAX_PAST:
            self._past.popitem(last=False)

    async def close(self, seconds: float = 2.0) -> None:
        """Send what the webhook's receiver does not have yet, for at most so many seconds."""
        if self._webhook is not None and (lost := await asyncio.to_thread(self._webhook.close, seconds)):
            log.error("%d alerts did not reach the webhook", lost)


class WebhookMessage(msgspec.Struct, frozen=True):
    """What is posted, as JSON.

    Attributes:
        event: ``alert-raised`` or ``alert-ended``.
        system: What the deployment calls itself.
        text: The sentence.
        alert: All that is known of the alert.
    """

    event: str
    system: str
    text: str
    alert: Alert


class Webhook:
    """Sends messages in a thread of its own; no caller waits for it.

    A message is repeated, after pauses that double up to a minute, until the receiver answers with a status of 2xx. User and password
    in the address become a basic authorization. The address is a secret: messages in the log name its host only.
    """

    def __init__(self, url: str, first_pause: float = 1.0) -> None:
        """Start the thread.

        Args:
            url: http or https address.
            first_pause: Seconds until a message is sent again.

        Raises:
            DeclarationError: The address is not valid.
        """
        self._request_url, self._headers, self.host = _parsed(url)
        self._first_pause = first_pause
        self._waiting: deque[WebhookMessage] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Messages that the receiver does not have yet."""
        return len(self._waiting)

    def send(self, message: WebhookMessage) -> None:
        """Queue a message."""
        with self._news:
            if len(self._waiting) >= MAX_WAITING:
                log.error("The webhook at %s is away for too long: an alert of rule '%s' is dropped", self.host,
                          self._waiting.popleft().alert.rule)  # fmt: skip
            self._waiting.append(message)
            self._news.notify()

    def close(self, seconds: float) -> int:
        """Send what waits for at most so many seconds more; blocking. Return the number of messages that were not delivered."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)
        self._stopped.set()
        return self.waiting

    def _work(self) -> None:
        pause = self._first_pause
        while not self._stopped.is_set():
            with self._news:
                while not self._waiting and not self._closed:
                    self._news.wait()
                if not self._waiting:
                    return
                message = self._waiting[0]
            problem = self._post(message)
            if not problem:
                pause = self._first_pause
                with self._news, contextlib.suppress(ValueError):
                    self._waiting.remove(message)  # it may have been dropped meanwhile
                continue
            log.warning("The webhook at %s did not take an alert: %s. Again in %g s.", self.host, problem, pause)
            self._stopped.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _post(self, message: WebhookMessage) -> str:
        """Send a message; return why it must be sent again, or an empty text."""
        body = msgspec.json.encode(message)
        request = urllib.request.Request(self._request_url, body, self._headers, method="POST")  # noqa: S310 - http or https
        try:
            with _OPENER.open(request, timeout=ATTEMPT_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in REFUSED:
                log.error("The webhook at %s refuses an alert with status %d; it is not sent again", self.host, error.code)
                return ""
            return f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:  # the text of an error may hold the address
            return type(error.reason if isinstance(error, urllib.error.URLError) else error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the authorization to another host, and turn the POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _parsed(url: str) -> tuple[str, dict[str, str], str]:
    headers = {"Content-Type": "application/json", "User-Agent": "complex-system"}
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise DeclarationError("The webhook's address must begin with http:// or https:// and name a host.")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return urlunsplit((parts.scheme, place, parts.path, parts.query, "")), headers, place
