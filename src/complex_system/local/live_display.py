"""Shows a run as a live view on a terminal."""

from __future__ import annotations

import sys
import termios
from collections import deque
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from complex_system.domain.laboratory import LAB
from complex_system.evaluation.verdict import format_figure
from complex_system.local.display import Display, LogDisplay
from complex_system.local.live_models import models_table
from complex_system.local.live_parts import address_line, alert_lines, clock, in_rows, process_line, scenario_block
from complex_system.local.plan import Plan
from complex_system.local.state import RunState

NOTES = 4
"""Lines of the newest events below the live view."""
LOW = 42
"""Lines of a terminal that shows everything with room between; below that the view is closer."""
VERY_LOW = 28
"""Below that the events and what explains itself are left out, too."""


def make_display(plan: Plan, state: RunState) -> Display:
    """The display that fits where our output goes."""
    console = Console()
    return LiveDisplay(plan, state, console) if console.is_terminal else LogDisplay(plan, state)


class LiveDisplay(Display):
    """One screen that is kept up to date."""

    def __init__(self, plan: Plan, state: RunState, console: Console) -> None:
        self._plan = plan
        self._state = state
        self._console = console
        self._notes: deque[Text] = deque(maxlen=NOTES)
        self._live = Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._terminal = _without_echo_of_keys()
        self._live.start()

    @override
    def note(self, text: str) -> None:
        if not text.startswith("repeat it: "):  # the command has a place of its own
            self._notes.append(Text(f"{self._state.seconds:6.1f} s  {text}", style="dim", overflow="ellipsis", no_wrap=True))

    @override
    def refresh(self) -> None:
        self._live.update(self.view(), refresh=True)

    @override
    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @override
    def close(self) -> None:
        self.refresh()
        self._live.stop()
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)

    def view(self) -> RenderableType:
        """All of it; on a low terminal without what is ready and without empty lines."""
        low, very_low = self._console.height < LOW, self._console.height < VERY_LOW
        blocks: list[RenderableType] = [
            self._head(),
            self._servers(),
            self._services(ready=not low and not self._state.stopping),
        ]
        if self._plan.services:
            blocks += [
                self._counts() if very_low else self._records(),
                models_table(self._plan, self._state, very_low=very_low),
            ]
        if self._state.scenario:
            blocks.append(scenario_block(self._state.scenario))
        elif self._state.prediction:
            blocks.append(self._prediction())
        if self._state.alerts:
            blocks.append(alert_lines(list(self._state.alerts.values())))
        blocks.append(self._addresses())
        if not very_low:
            blocks.append(Group(*list(self._notes)[-2:] if low else self._notes))
        parts = blocks if low else [part for block in blocks for part in (block, "")]
        return Padding(Group(*parts), (0, 1))

    def _head(self) -> RenderableType:
        style = {"failed": "bold red", "done": "bold green", "running": "bold green"}.get(self._state.phase, "bold yellow")
        line = Table.grid(expand=True)
        line.add_column()
        line.add_column(justify="right")
        phase = "stopping" if self._state.stopping and self._state.phase in ("starting", "running") else self._state.phase
        title = Text.assemble(("fiot run ", "dim"), (self._state.deployment, "bold"))
        line.add_row(title, Text.assemble((phase, style), f"  {clock(self._state.seconds)}"))
        return line

    def _servers(self) -> RenderableType:
        grid = Table.grid(padding=(0, 3))
        grid.add_row(*(process_line(p) for p in self._state.infrastructure.values()))
        return grid

    def _services(self, *, ready: bool) -> RenderableType:
        grid = Table.grid(padding=(0, 3))
        services = list(self._state.services.values())
        if not ready:
            up = sum(p.ready for p in services)
            if self._state.stopping:
                services = [p for p in services if p.state not in ("ready", "working", "stopped")]
            else:
                services = [p for p in services if not p.ready or p.restarts]
                grid.add_row(Text(f"{up} of {len(self._state.services)} services ready", style="dim"))
        for row in in_rows([process_line(p) for p in services], 3 if self._console.width >= 130 else 2):
            grid.add_row(*row)
        return grid

    def _counts(self) -> RenderableType:
        records = self._state.records
        done = records["processed"] + records["rejected"]
        return Text(
            f"{records['raw']:,} saved   {done:,} processed   {records['labelled']:,} labelled   {records['rejected']:,} rejected",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _records(self) -> RenderableType:
        records = self._state.records
        want = self._state.wanted_records or records["raw"]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=14)
        for label, value in (("saved", records["raw"]), ("processed", records["processed"] + records["rejected"])):
            grid.add_row(
                Text(label, style="dim"),
                ProgressBar(
                    total=max(want, 1), completed=min(value, want), width=24, complete_style="cyan", finished_style="green"
                ),
                f"{value:,}",
                Text(f"labelled {records['labelled']:,}   rejected {records['rejected']:,}", style="dim")
                if label == "processed"
                else Text(f"of {want:,} asked for", style="dim"),
            )
        return grid

    def _prediction(self) -> RenderableType:
        prediction = self._state.prediction
        assert prediction is not None
        first = self._state.seconds_to_first_prediction or 0.0
        head = Text.assemble(
            "prediction ", (format_figure(prediction.value), "bold green"),
            f"   truth {format_figure(prediction.truth)}" if prediction.truth is not None else "",
            (f"   by {prediction.model} {prediction.version}, {first:.0f} s after the start", "dim"),
        )  # fmt: skip
        curl = prediction.curl
        if self._console.height < VERY_LOW and len(curl) > self._room():
            curl = (f"the command that repeats it is in {self._plan.logs.name}/runner.log",)
        return Group(head, *(Text(line, no_wrap=True, overflow="fold") for line in curl))

    def _room(self) -> int:
        """Lines that a very low terminal has left beside everything else."""
        judgement, known = self._state.judgement, self._plan.dataset.name == LAB
        models = 1 + len(self._plan.trainers) + len(judgement.baselines) + int(bool(judgement.verdict)) + int(known)
        addresses = 2 + sum(bool(process.url) for process in self._state.services.values())
        return self._console.height - models - addresses - len(self._state.alerts) - 6

    def _addresses(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", min_width=14)
        mlflow = self._state.infrastructure.get("mlflow")
        if mlflow is not None:
            grid.add_row("MLflow", address_line(mlflow.url, mlflow.ready))
        for process in self._state.services.values():
            if process.url:
                up = process.state in ("ready", "working", "waiting")
                grid.add_row(process.name, address_line(self._plan.shown_address(process.name, process.url), up))
        grid.add_row("logs, state", Text(str(self._plan.directory), overflow="fold"))
        return grid


def _without_echo_of_keys() -> list[Any] | None:
    """Keeps the terminal from writing ``^C`` into the view; returns how it was, or None when there is none."""
    try:
        before = termios.tcgetattr(sys.stdin)
        now = termios.tcgetattr(sys.stdin)
        now[3] &= ~termios.ECHOCTL
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, now)
    except (termios.error, ValueError, OSError):  # no terminal at our standard input
        return None
    return before
