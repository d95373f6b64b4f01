"""How the system is doing: heartbeats, alerts, monitoring, and the source's scenarios."""

from __future__ import annotations

from typing import Literal

from complex_system.protocol.base import Empty, Event, Message, Request
from complex_system.protocol.training import Moved

State = Literal["starting", "waiting", "ready", "working", "failing", "stopped", "silent"]
"""State of a service. ``silent`` is never sent: monitoring says it of a service that no longer sends heartbeats."""

Severity = Literal["info", "warning", "critical"]


class Heartbeat(Message, frozen=True, kw_only=True):
    """State of a service, published every few seconds and at each change, and returned on ``get-health.<service>``.

    Attributes:
        service: snake_case name.
        replica: What people call this replica.
        instance: Tells this process from every other one, also from one of the same replica before a restart.
        host: Host name.
        state: ``stopped`` in the last one of a service that ends in order.
        detail: What it waits for, works on, or fails at; empty where there is nothing to say.
        pid: Process id.
        url: Where it answers by HTTP; empty for most.
        version: Release of this project.
        started: When the process began, seconds since 1970 (UTC).
        cpu_percent: Mean since the heartbeat before; 100 is one busy core.
        memory_megabytes: Resident memory.
        pipeline_version: What ``data_processing`` processes with; empty for all others.
    """

    service: str
    replica: str = ""
    instance: str = ""
    host: str = ""
    state: State = "ready"
    detail: str = ""
    pid: int = 0
    url: str = ""
    version: str = ""
    started: float = 0.0
    cpu_percent: float = 0.0
    memory_megabytes: float = 0.0
    pipeline_version: str = ""


class Action(Message, frozen=True, kw_only=True):
    """What the system did because of an alert.

    Attributes:
        round: Id of the training round.
        at: When it began, seconds since 1970 (UTC).
        outcome: ``training`` while it runs, then ``new champion``, ``kept`` or ``failed``.
        what: One sentence: the new champion, or why the old one stays.
    """

    round: str
    at: float
    outcome: str = "training"
    what: str = ""


class SentMessage(Message, frozen=True, kw_only=True):
    """One way of an alert's beginning, or of its end, to a receiver outside of the system. Times are seconds since 1970 (UTC).

    Attributes:
        event: What is told.
        channel: Where to: ``webhook``, or the scheme of an Apprise address with a number from the second one on (``mailto-2``).
        at: When it was queued.
        due: Not sent before: the end of quiet hours or of the time in which alerts are put together, then the next attempt.
        quiet: Whether it waits, or has waited, for the end of quiet hours.
        id: Id of the message that it goes out with, the same in every repetition; empty before the first attempt.
        attempts: How often it was sent.
        outcome: ``waiting``, ``delivered``, ``refused`` by the receiver for good, ``expired`` at the deadline, or ``dropped``
            because too many waited or the receiver is no longer configured.
        finished: When it stopped waiting.
        problem: Why the last attempt failed, without addresses.
    """

    event: Literal["raised", "ended"]
    channel: str
    at: float
    due: float
    quiet: bool = False
    id: str = ""
    attempts: int = 0
    outcome: Literal["waiting", "delivered", "refused", "expired", "dropped"] = "waiting"
    finished: float | None = None
    problem: str = ""


class Alert(Message, frozen=True, kw_only=True):
    """One alert. Times are seconds since 1970 (UTC).

    Attributes:
        key: A UUID of version 7 that follows from rule, subject and time.
        rule: Name of the rule.
        metric: The judged metric.
        subject: Column, feature or service that it is about; empty where the rule has no pattern.
        severity: How bad it is.
        retrain: Whether it asks for a training round.
        moved: What it is about, for the training: the error or the inputs; None for anything else, and from an earlier release.
        error_changed: Since when the error differs, where that is known, for an alert of the error.
        since: When the metric crossed the threshold.
        began: When that had lasted long enough, and the alert was raised.
        ended: When it was good again for long enough; None while it is open.
        value: The worst value.
        newest: The newest value.
        threshold: Of the rule.
        sentence: What is wrong, for the people at the plant.
        over: How it ended; empty while it is open.
        actions: What the system did, oldest first.
        messages: Which receivers were told, oldest first.
    """

    key: str
    rule: str
    metric: str
    subject: str
    severity: Severity
    retrain: bool
    moved: Moved | None = None
    error_changed: float | None = None
    since: float
    began: float
    ended: float | None = None
    value: float
    newest: float
    threshold: float
    sentence: str
    over: str = ""
    actions: tuple[Action, ...] = ()
    messages: tuple[SentMessage, ...] = ()

    @property
    def message(self) -> str:
        """The text that holds now: what is wrong, or how it ended."""
        return self.sentence if self.ended is None else self.over


class Alerts(Message, frozen=True, kw_only=True):
    """The known alerts.

    Attributes:
        open: The open ones, oldest first.
        past: The newest of those that have ended, newest first.
    """

    open: tuple[Alert, ...] = ()
    past: tuple[Alert, ...] = ()


class TestedChannel(Message, frozen=True, kw_only=True):
    """How a test message to one receiver went.

    Attributes:
        channel: Its name.
        problem: Why the receiver does not have it, without addresses; empty where it was taken.
    """

    channel: str
    problem: str = ""


class TestedChannels(Message, frozen=True, kw_only=True):
    """How a test message to all receivers went.

    Attributes:
        channels: The receivers; empty where none is configured.
    """

    channels: tuple[TestedChannel, ...] = ()


class ServedModel(Message, frozen=True, kw_only=True):
    """A model that answers.

    Attributes:
        model: Registered name.
        version: Registered version.
    """

    model: str
    version: str


class ServiceFigures(Message, frozen=True, kw_only=True):
    """Errors and latencies of the predictions of one serving service, over a moving window.

    Attributes:
        model: The model that answers; None before the first prediction.
        performance: Errors in the target's unit, and ``count`` of predictions with a known truth.
        origin: Whose requests these predictions are of: ``live``, ``own`` or ``probe``; empty where there are none.
        latency: Milliseconds of the requests, and requests a second.
    """

    model: ServedModel | None = None
    performance: dict[str, float] = {}
    origin: str = ""
    latency: dict[str, float] = {}


class MonitoringSnapshot(ServiceFigures, frozen=True, kw_only=True):
    """The newest values of monitoring; model, performance and latency are those of the champion's service.

    Attributes:
        at: Time of the newest point, seconds since 1970 (UTC); 0 before the first.
        system: Figures of the host, as MLflow names them without ``system/``.
        services: The figures of every serving service, by its name.
        drift: Population stability index by feature.
        samples: Predicted records in the live window.
        reference_samples: Records of the reference.
        metrics: All figures of the newest point by flat name.
        run_id: Monitoring's run in MLflow; empty before the first write.
        waiting_points: Points that MLflow does not have yet.
    """

    at: float = 0.0
    system: dict[str, float] = {}
    services: dict[str, ServiceFigures] = {}
    drift: dict[str, float] = {}
    samples: int = 0
    reference_samples: int = 0
    metrics: dict[str, float] = {}
    run_id: str | None = None
    waiting_points: int = 0


class ScenarioRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Starts a disturbance of the lab.

    Attributes:
        scenario: Name of the scenario; ``normal`` ends the one that runs.
        ramp: Seconds until it has its full extent; None for the setting.
    """

    scenario: str
    ramp: float | None = None


class ScenarioState(Message, frozen=True, kw_only=True):
    """The scenario that runs.

    Attributes:
        scenario: Its name.
        began: When it began, seconds since 1970 (UTC), by the source's clock.
        ramp: Seconds until it has its full extent.
        age: Seconds since it began, when this was sent; None from an earlier release.
    """

    scenario: str
    began: float
    ramp: float
    age: float | None = None

    def began_by(self, now: float) -> float:
        """Return when it began by a clock of the receiver, which may differ from the source's.

        Args:
            now: The present time by that clock.
        """
        return self.began if self.age is None else now - self.age


class RecordTrace(Message, frozen=True, kw_only=True):
    """Raw records that were saved within one trace.

    Attributes:
        headers: W3C's headers of the part in which they were saved.
        keys: Of the records.
    """

    headers: dict[str, str]
    keys: tuple[str, ...]


class TracedRecords(Message, frozen=True, kw_only=True):
    """Traces of saved records, for the service that processes them: it finds them by query.

    Attributes:
        traces: By message or request.
    """

    traces: tuple[RecordTrace, ...]


SERVICE_HEARTBEAT = Event("service-heartbeat", Heartbeat)
ALERT_RAISED = Event("alert-raised", Alert)
ALERT_ENDED = Event("alert-ended", Alert)
GET_ALERTS = Request("get-alerts", Empty, Alerts, "Return the open alerts, and the newest of those that have ended.")
TEST_MESSAGES = Request("send-test-message", Empty, TestedChannels, "Send a test message to every receiver of alerts.")
GET_MONITORING = Request("get-monitoring", Empty, MonitoringSnapshot, "Return the newest values of monitoring.")
SET_SCENARIO = Request("set-scenario", ScenarioRequest, ScenarioState, "Start a disturbance scenario.")
GET_SCENARIO = Request("get-scenario", Empty, ScenarioState, "Return the scenario that runs.")
RECORDS_TRACED = Event("records-traced", TracedRecords, "Published only while traces are recorded.")
SCENARIO_CHANGED = Event("scenario-changed", ScenarioState)


def health_request(service: str) -> Request[Empty, Heartbeat]:
    """Return the subject on which a service says how it is.

    Args:
        service: Its snake_case name, or ``<name>.<host name>`` for the one of that host.
    """
    return Request(f"get-health.{service}", Empty, Heartbeat, "Return the state of the service.")
