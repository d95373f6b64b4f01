"""When alerts are told to people, and in which words: grouping, quiet hours, and the text of a message.

The block ``messages`` of ``alerts.yaml``. Pure: time comes from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from complex_system.domain.yaml_reader import Place, YamlFile
from complex_system.monitoring.alerts.rules import is_seconds
from complex_system.protocol.operations import Alert, SentMessage, Severity

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HELD: tuple[Severity, ...] = ("info", "warning")
"""Severities that quiet hours may hold back: a critical alert is always sent."""
GROUP_SECONDS = 30.0
MAX_SHOWN = 20
"""Alerts with their text in one message; of the others it says how many there are."""
LONGEST_PAUSE = 300.0
_MARKS = {"critical": "CRITICAL", "warning": "WARNING", "info": "INFO"}
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True)
class QuietHours:
    """Hours in which some alerts are held back.

    Attributes:
        begin: Local time at which they begin.
        end: Local time at which they end: on the next day where it is not after ``begin``.
        days: Days on which they begin; 0 is Monday.
        severities: What is held back.
    """

    begin: time
    end: time
    days: frozenset[int] = frozenset(range(7))
    severities: frozenset[Severity] = frozenset(HELD)

    def until(self, at: datetime) -> datetime | None:
        """Return when the quiet hours end that a local time lies in; None outside of them."""
        for ago in (0, 1):
            day = at.date() - timedelta(days=ago)
            if day.weekday() in self.days:
                begin = datetime.combine(day, self.begin, at.tzinfo)
                later = self.end <= self.begin
                end = datetime.combine(day + timedelta(days=later), self.end, at.tzinfo)
                # Instants are compared: two times of one zone compare by their clock, which a change to summer time makes wrong.
                if begin.timestamp() <= at.timestamp() < end.timestamp():
                    return end
        return None


@dataclass(frozen=True)
class MessagePlan:
    """How alerts are told.

    Attributes:
        zone: Of quiet hours, and of the times in messages.
        group: Seconds that an alert waits for others, to be told in one message.
        quiet: The quiet hours.
    """

    zone: tzinfo = UTC
    group: float = GROUP_SECONDS
    quiet: Sequence[QuietHours] = field(default=())

    def due(self, at: float, severity: Severity) -> tuple[float, bool]:
        """Return when an alert of a moment is told, in seconds since 1970, and whether quiet hours hold it back until then."""
        quiet_until, moment = None, datetime.fromtimestamp(at, self.zone)
        # Where periods overlap or follow each other, it waits for the end of the last one.
        for _ in range(2 * len(self.quiet)):
            ends = [end for each in self.quiet if severity in each.severities and (end := each.until(moment))]
            if not ends:
                break
            quiet_until = moment = max(ends, key=datetime.timestamp)
        return (at + self.group, False) if quiet_until is None else (quiet_until.timestamp(), True)


def pause_after(attempts: int) -> float:
    """Return seconds until a message is sent again that was sent so many times: 1, 2, 4 and so on, at most five minutes."""
    return min(2.0 ** min(attempts - 1, 10), LONGEST_PAUSE)


# Texts


class Told(NamedTuple):
    """The beginning or the end of an alert, as it is told in a message."""

    alert: Alert
    message: SentMessage


class Text(NamedTuple):
    """A message to people: plain text, and how bad it is (``ended`` where all of its alerts have ended)."""

    title: str
    body: str
    severity: str


def text_of(told: Sequence[Told], system: str, zone: tzinfo) -> Text:
    """Return the text of a message.

    Args:
        told: What it tells, oldest first; at least one.
        system: What the deployment calls itself.
        zone: Of its times.
    """
    alerts: dict[str, Told] = {each.alert.key: each for each in told}  # the end of an alert replaces its beginning
    events = {key: {each.message.event for each in told if each.alert.key == key} for key in alerts}
    is_open = [each.alert for each in alerts.values() if each.message.event == "raised"]
    order = [severity for severity in _MARKS if any(alert.severity == severity for alert in is_open)]
    names = [f"{each.alert.rule}{_subject(each.alert)}" for each in alerts.values()]
    if len(alerts) == 1:
        [only] = alerts.values()
        mark = "ended" if only.message.event == "ended" else only.alert.severity
        title = f"[{system}] {names[0]}: {mark}"
    else:
        held = " of quiet hours" if all(each.message.quiet for each in told) else ""
        title = f"[{system}] {len(alerts)} alerts{held}, {len(is_open)} of them open"
    lines = [_paragraph(each, events[key], zone) for key, each in list(alerts.items())[:MAX_SHOWN]]
    if len(alerts) > MAX_SHOWN:
        lines.append(f"And {len(alerts) - MAX_SHOWN} more: {', '.join(names[MAX_SHOWN : 2 * MAX_SHOWN])}.")
    lines.append(f"Message {told[0].message.id}")
    return Text(title, "\n\n".join(lines), order[0] if order else "ended")


def _paragraph(told: Told, events: Collection[str], zone: tzinfo) -> str:
    alert = told.alert
    began = _moment(alert.began, zone)
    if told.message.event == "raised":
        return f"{_MARKS[alert.severity]} {alert.rule}{_subject(alert)}, since {began}\n{alert.sentence}"
    head = f"ENDED {alert.rule}{_subject(alert)}, {began} to {_moment(alert.ended or told.message.at, zone)}"
    return "\n".join((head, *([alert.sentence] if "raised" in events else []), alert.over))


def _subject(alert: Alert) -> str:
    return f" ({alert.subject})" if alert.subject else ""


def _moment(at: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")


# Declaration


def load_plan(config_dir: str | Path | None = None, file: str = "alerts.yaml") -> MessagePlan:
    """Return how a deployment tells its alerts; without a file, or a block ``messages`` in it, the defaults.

    Raises:
        DeclarationError: The block is not valid; the message names the line, the key, and what is allowed.
    """
    path = Path(config_dir or "", file)
    return parse_plan(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else MessagePlan()


def parse_plan(text: str, source: str = "alerts.yaml") -> MessagePlan:
    """Return the plan that a text declares.

    Raises:
        DeclarationError: As for :func:`load_plan`.
    """
    file = YamlFile(text, source, names=("from", "to", "days"))  # YAML takes 20:00 for a number in base 60
    declared = file.content.get("messages") if isinstance(file.content, dict) else None
    if declared is None:
        return MessagePlan()
    values = _checked(file, ("messages",), declared, _PLAN_KEYS)
    quiet = [_quiet(file, ("messages", "quiet", place), each) for place, each in enumerate(values.get("quiet", []))]
    zone = ZoneInfo(values["zone"]) if "zone" in values else UTC
    return MessagePlan(zone, float(values.get("group", GROUP_SECONDS)), tuple(quiet))


def _quiet(file: YamlFile, place: Place, declared: Any) -> QuietHours:
    values = _checked(file, place, declared, _QUIET_KEYS)
    for needed in ("from", "to"):
        if needed not in values:
            raise file.error(place, f"quiet hours need '{needed}': {_QUIET_KEYS[needed][0]}")
    days = frozenset(map(DAYS.index, values["days"])) if "days" in values else frozenset(range(7))
    begin, end = (time.fromisoformat(values[key]) for key in ("from", "to"))
    return QuietHours(begin, end, days, frozenset(values.get("severities", HELD)))


def _checked(
    file: YamlFile, place: Place, declared: Any, keys: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> dict[str, Any]:
    if not isinstance(declared, dict):
        raise file.error(place, f"must be a mapping; allowed keys are {', '.join(keys)}")
    for key, content in declared.items():
        if str(key) not in keys:
            raise file.error((*place, str(key)), f"the key '{key}' is not known; allowed are {', '.join(keys)}")
        allowed, is_valid = keys[str(key)]
        if not is_valid(content):
            raise file.error((*place, str(key)), f"'{key}' must be {allowed}, not {content!r}")
    return declared


def _is_zone(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ZoneInfo(value))
    except (OSError, ValueError, KeyError):
        return False


def _is_list_of(allowed: Sequence[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(each in allowed for each in value)


def _is_clock(value: Any) -> bool:
    return isinstance(value, str) and _CLOCK.fullmatch(value) is not None


_PLAN_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "zone": ("the name of a time zone such as Europe/Berlin", _is_zone),
    "group": ("a number of seconds of at least 0", is_seconds),
    "quiet": ("a list of quiet hours; each begins with '- from: ...'", lambda value: isinstance(value, list)),
}
_CLOCK_TEXT = "a time such as 20:00"
_QUIET_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "from": (_CLOCK_TEXT, _is_clock),
    "to": (_CLOCK_TEXT, _is_clock),
    "days": (f"a list of {', '.join(DAYS)}", _is_list_of(DAYS)),
    "severities": (f"a list of {' and '.join(HELD)}; critical alerts are always sent", _is_list_of(HELD)),
}
