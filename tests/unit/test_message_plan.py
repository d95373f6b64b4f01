"""When people are told of alerts: quiet hours by the clock of a zone, and what a file may say of them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from complex_system.errors import DeclarationError
from complex_system.monitoring.alerts.messages import MessagePlan, load_plan, parse_plan, pause_after
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.protocol.operations import Severity

BERLIN = ZoneInfo("Europe/Berlin")
PLAN = """
messages:
  zone: Europe/Berlin
  group: 20
  quiet:
  - {from: 20:00, to: 06:00}
  - {from: 00:00, to: 00:00, days: [sat, sun], severities: [info]}
"""


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("now", "severity", "due"),
    [
        ("2026-11-30 19:59:59", "warning", None),  # a Monday
        ("2026-11-30 20:00:00", "warning", "2026-12-01 06:00"),
        ("2026-12-01 05:59:59", "info", "2026-12-01 06:00"),
        ("2026-12-01 06:00:00", "warning", None),
        ("2026-11-30 23:00:00", "critical", None),
        ("2026-12-05 12:00:00", "warning", None),  # a Saturday
        ("2026-12-05 12:00:00", "info", "2026-12-07 06:00"),  # both days, and the night after them
        ("2026-12-04 21:00:00", "info", "2026-12-07 06:00"),  # the night before leads into the weekend
        ("2027-03-27 21:00:00", "warning", "2027-03-28 06:00"),  # summer time begins: nine hours
        ("2027-10-30 21:00:00", "warning", "2027-10-31 06:00"),  # it ends: eleven hours, or ten from 20:00 on plus one
    ],
)
def test_quiet_hours_end_by_the_clock_of_their_zone(now: str, severity: Severity, due: str | None) -> None:
    moment = at(now)
    expected = (moment + 20, False) if due is None else (at(due), True)
    assert parse_plan(PLAN).due(moment, severity) == expected


def test_quiet_hours_without_an_end_do_not_hang() -> None:
    plan = parse_plan("messages: {quiet: [{from: 00:00, to: 00:00}, {from: 12:00, to: 12:00}]}")
    due, quiet = plan.due(at("2026-11-30 10:00"), "info")
    assert quiet
    assert due > at("2026-12-01 00:00")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("messages: 5", "line 1: must be a mapping; allowed keys are zone, group, quiet"),
        ("messages:\n  zone: Berlin", "line 2: 'zone' must be the name of a time zone such as Europe/Berlin, not 'Berlin'"),
        ("messages:\n  zone: ../x", "line 2: 'zone' must be the name of a time zone"),
        ("messages:\n  group: soon", "line 2: 'group' must be a number of seconds of at least 0, not 'soon'"),
        ("messages:\n  url: x", "line 2: the key 'url' is not known; allowed are zone, group, quiet"),
        ("messages:\n  quiet:\n  - {from: 20:00}", "line 3: quiet hours need 'to': a time such as 20:00"),
        ("messages:\n  quiet:\n  - {from: 24:00, to: 06:00}", "line 3: 'from' must be a time such as 20:00, not '24:00'"),
        ("messages:\n  quiet:\n  - from: 20:00\n    to: 06:00\n    days: [monday]", "line 5: 'days' must be a list of mon, tue"),
        (
            "messages:\n  quiet:\n  - from: 20:00\n    to: 06:00\n    severities: [critical]",
            "line 5: 'severities' must be a list of info and warning; critical alerts are always sent",
        ),
    ],
)  # fmt: skip
def test_an_error_says_what_is_wrong_and_where(text: str, problem: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_plan(text)
    assert problem in caught.value.message


def test_a_file_with_messages_only_leaves_the_shipped_rules(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(PLAN)
    assert load_rules(tmp_path) == load_rules()
    assert load_plan(tmp_path).group == 20
    (tmp_path / "alerts.yaml").write_text("rules: []\n" + PLAN)
    assert load_rules(tmp_path) == ()
    assert load_plan(tmp_path / "elsewhere") == MessagePlan()


def test_the_example_of_the_documentation_is_valid() -> None:
    [example] = re.findall(
        r"```yaml\n(messages:.*?)```", (Path(__file__).parents[2] / "docs/alerts.md").read_text(), re.DOTALL
    )
    plan = parse_plan(example)
    assert (plan.zone, plan.group, len(plan.quiet)) == (BERLIN, 30.0, 2)
    assert plan.due(at("2026-12-05 12:00:00"), "info") == (at("2026-12-07 06:00"), True), "on Saturday until Monday morning"


def test_pauses_double_up_to_five_minutes() -> None:
    assert [pause_after(attempts) for attempts in (1, 2, 3, 9, 10, 5000)] == [1, 2, 4, 256, 300, 300]
