"""Pieces of the live view that show one thing each."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from complex_system.local.state import Process, ScenarioState


def process_line(process: Process) -> Text:
    """One process: its mark and name, and its state unless it is ready."""
    mark, style = {
        "ready": ("●", "green"),
        "working": ("●", "cyan"),
        "waiting": ("○", "yellow"),
        "starting": ("○", "yellow"),
        "planned": ("○", "dim"),
        "stopped": ("○", "dim"),
    }.get(process.state, ("●", "red"))
    text = Text.assemble((f"{mark} ", style), process.name, no_wrap=True, overflow="ellipsis")
    if process.state != "ready":
        text.append(f"  {process.state}", style=style)
    if process.restarts:
        text.append(f"  restarted {process.restarts}x", style="red")
    return text


def scenario_block(scenario: ScenarioState) -> RenderableType:
    """A scenario: what is measured, and the steps that came and are still to come."""
    figures = [
        f"RMSE {scenario.rmse:.2f}" if scenario.rmse is not None else "",
        f"{scenario.rmse_relative:.2f} x hold-out" if scenario.rmse_relative is not None else "",
        f"largest PSI {scenario.psi_max:.2f}" if scenario.psi_max is not None else "",
    ]
    head = Text.assemble("scenario ", (scenario.name, "bold"), ("   " + "   ".join(f for f in figures if f), "cyan"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", min_width=8)
    for step in scenario.steps:
        came = step.seconds is not None
        when = Text(f"{step.seconds:.0f} s", style="dim") if came else Text("")
        mark = Text.assemble(("● ", "green") if came else ("○ ", "dim"), (step.step, "" if came else "dim"))
        grid.add_row(when, mark, Text(step.text, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(head, grid)


def alert_lines(alerts: list[dict[str, Any]]) -> RenderableType:
    """A line an open alert."""
    return Group(*(
        Text.assemble((f"{alert['severity']} ", "bold red"), str(alert["sentence"]), no_wrap=True, overflow="ellipsis")
        for alert in alerts
    ))  # fmt: skip


def address_line(url: str, up: bool) -> Text:
    """An address, dim until somebody answers there."""
    return Text(url, style="" if up else "dim")


def in_rows(cells: list[Text], columns: int) -> list[list[Text]]:
    """Cells in rows of so many columns, the last row filled up."""
    return [
        cells[i : i + columns] + [Text()] * (columns - len(cells[i : i + columns])) for i in range(0, len(cells), columns)
    ]


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
