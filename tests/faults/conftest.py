"""Faults that were brought about, and how long the system took to get over them: a table at the end of the run."""

from __future__ import annotations

from typing import Any

import pytest

MEASURED = pytest.StashKey[list[tuple[str, dict[str, float]]]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Any:
    """Takes the measurements of a test."""
    rows = request.config.stash.setdefault(MEASURED, [])

    def note(marks: dict[str, float]) -> None:
        rows.append((request.node.name, dict(marks)))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(MEASURED, [])
    if rows:
        terminalreporter.section("faults, in seconds")
    for name, marks in rows:
        terminalreporter.write_line(f"{name}: " + ", ".join(f"{mark} {value:.1f}" for mark, value in marks.items()))
