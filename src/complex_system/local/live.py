"""A run as a live view on a terminal."""

from __future__ import annotations

import sys
import termios
from collections import deque
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from complex_system.domain.laboratory import BEST_POSSIBLE, has_known_function
from complex_system.evaluation.verdict import format_figure
from complex_system.local.display import Display, LogDisplay, comparison_basis
from complex_system.local.plan import TRAINER_SERVICES, Plan
from complex_system.local.state import Process, RunState, ScenarioProgress
from complex_system.protocol.operations import Alert
from complex_system.protocol.scores import Scores
from complex_system.protocol.training import Quality, TrainingFinished, TrainingProgress
from complex_system.terminal import CONTROLS, printable

NOTES = 4
"""Log lines below the view."""
LOW = 42
"""Terminals with fewer lines show the view without empty lines and without the services that are ready."""
VERY_LOW = 28
"""Terminals with fewer lines show it without log lines and explanations, too."""


def make_display(plan: Plan, state: RunState) -> Display:
    """Return the display that fits where our output goes."""
    console = Console()
    return LiveDisplay(plan, state, console) if console.is_terminal else LogDisplay(state)


class Printable:
    """A renderable whose texts, which quote messages and files of others, lose their control characters; rich passes most on."""

    def __init__(self, inside: RenderableType) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments of the renderable; characters are left out, because widths are measured."""
        for segment in console.render(self._inside, options):
            yield segment if segment.control else Segment(CONTROLS.sub("", segment.text), segment.style)


class LiveDisplay(Display):
    """One screen that is kept up to date."""

    def __init__(self, plan: Plan, state: RunState, console: Console) -> None:
        self._plan = plan
        self._state = state
        self._console = console
        self._notes: deque[Text] = deque(maxlen=NOTES)
        self._live = Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._terminal = _hide_control_keys()
        self._live.start()

    @override
    def note(self, text: str) -> None:
        if not text.startswith("repeat it: "):  # the view has a place for the command
            self._notes.append(Text(f"{self._state.seconds:6.1f} s  {text}", style="dim", overflow="ellipsis", no_wrap=True))

    @override
    def refresh(self) -> None:
        self._live.update(Printable(self.view()), refresh=True)

    @override
    def say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    @override
    def close(self) -> None:
        self.refresh()
        self._live.stop()
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)

    def view(self) -> RenderableType:
        """Return the whole view, as much of it as the terminal's height allows."""
        state, low, very_low = self._state, self._console.height < LOW, self._console.height < VERY_LOW
        blocks: list[RenderableType] = [self._head(), self._servers(), self._services(ready=not low and not state.stopping)]
        if self._plan.services:
            blocks += [self._counts() if very_low else self._records(), models_table(self._plan, state, very_low=very_low)]
        if state.scenario:
            blocks.append(_scenario(state.scenario))
        elif state.prediction:
            blocks.append(self._prediction())
        if state.alerts:
            blocks.append(_alerts(state.alerts.values()))
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
        minutes, seconds = divmod(int(self._state.seconds), 60)
        line.add_row(title, Text.assemble((phase, style), f"  {minutes}:{seconds:02d}"))
        return line

    def _servers(self) -> RenderableType:
        grid = Table.grid(padding=(0, 3))
        grid.add_row(*(_process(p) for p in self._state.infrastructure.values()))
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
        columns = 3 if self._console.width >= 130 else 2
        for start in range(0, len(services), columns):
            grid.add_row(*(_process(p) for p in services[start : start + columns]))
        return grid

    def _counts(self) -> RenderableType:
        records = self._state.records
        done = records.processed + records.rejected
        differ = f"   {records.conflicts:,} with other values" if records.conflicts else ""
        return Text(
            f"{records.raw:,} saved   {done:,} processed   {records.labelled:,} labelled   {records.rejected:,} rejected{differ}",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _records(self) -> RenderableType:
        records = self._state.records
        want = self._state.wanted_records or records.raw
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=14)
        for label, value, more in (
            ("saved", records.raw, f"of {want:,} requested"),
            ("processed", records.processed + records.rejected, f"labelled {records.labelled:,}   rejected {records.rejected:,}"),
        ):  # fmt: skip
            bar = ProgressBar(
                total=max(want, 1), completed=min(value, want), width=24, complete_style="cyan", finished_style="green"
            )
            grid.add_row(Text(label, style="dim"), bar, f"{value:,}", Text(more, style="dim"))
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
        models, comparison = (
            1 + len(self._plan.trainers) + int(has_known_function(self._plan.dataset)),
            self._state.comparison,
        )
        if comparison:
            models += len(comparison.baselines) + int(bool(comparison.verdict))
        addresses = 2 + sum(bool(process.url) for process in self._state.services.values())
        return self._console.height - models - addresses - len(self._state.alerts) - 6

    def _addresses(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", min_width=14)
        mlflow = self._state.infrastructure.get("mlflow")
        if mlflow is not None:
            grid.add_row("MLflow", Text(mlflow.url, style="" if mlflow.ready else "dim"))
        for process in self._state.services.values():
            if process.url:
                style = "" if process.state in ("ready", "working", "waiting") else "dim"
                grid.add_row(process.name, Text(self._plan.shown_address(process.name, process.url), style=style))
        grid.add_row("logs, state", Text(str(self._plan.directory), overflow="fold"))
        return grid


def models_table(plan: Plan, state: RunState, *, very_low: bool) -> RenderableType:
    """Return the table of the trainers, the best one first, with what their models are measured against.

    Args:
        plan: Names the trainers.
        state: What is known so far.
        very_low: Whether the terminal is so low that explanations are left out.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("trainer", min_width=14)
    table.add_column("training", min_width=22)
    for name in ("RMSE", "MAE", "R2"):
        table.add_column(name, justify="right", min_width=6, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    # The previous champion takes part in a comparison, too: a trainer's row shows its better model.
    ranking = list(enumerate(state.results))[::-1]
    places = {result.trainer: place for place, result in ranking}
    compared = {result.trainer: result for _, result in ranking}
    # The linear model, where it is champion, has no service.
    others = [trainer for trainer in places if trainer not in plan.trainers]
    for name in sorted([*plan.trainers, *others], key=lambda trainer: places.get(trainer, len(places))):
        training, result, champion = state.trainings.get(name), compared.get(name), state.champion
        style, basis = "", Text()
        if result is not None:
            cells = _quality(result)
            basis = Text(f"{result.model} {result.version}", style="dim")
            if champion and (champion.model, champion.version) == (result.model, result.version):
                style = "bold green"
                basis = Text.assemble(("champion  ", "bold green"), basis)
        elif isinstance(training, TrainingFinished) and training.validation:
            cells, basis = _scores(training.validation), Text("validation", style="dim")
        else:
            rmse = training.validation_rmse if isinstance(training, TrainingProgress) else None
            cells = ("" if rmse is None else format_figure(rmse), "", "")
        idle = _idle(state.services[TRAINER_SERVICES[name]], compared=result is not None) if name not in others else ""
        table.add_row(Text(name, style=style), _training(training, idle), *cells, basis, style=style)
    if has_known_function(plan.dataset):
        best = Scores(rmse=BEST_POSSIBLE.rmse, mae=BEST_POSSIBLE.mae, r2=BEST_POSSIBLE.r2)
        table.add_row(Text("best possible"), "", *_scores(best), "", style="dim")
    comparison = state.comparison
    if comparison is None:
        return table
    for name, quality in comparison.baselines.items():
        table.add_row(name, "baseline", *_quality(quality), "", style="dim")
    if comparison.holdout and not very_low:
        crossed = comparison.ranked_by == "cross-validation"
        more = "; ± to the end of the 95 % interval" if crossed else " that no trainer saw"
        table.caption, table.caption_justify = f"{comparison_basis(comparison)}{more}", "left"
    if not comparison.verdict:
        return table
    verdict = Text(comparison.verdict, style="yellow", no_wrap=very_low, overflow="ellipsis" if very_low else "fold")
    return Group(table, verdict)


def _idle(service: Process, *, compared: bool) -> str:
    """Return the text for a trainer that has not trained in this run."""
    if service.detail.startswith("loading"):
        return service.detail
    return "earlier run" if compared else "waiting"


def _training(message: TrainingProgress | TrainingFinished | None, idle: str) -> RenderableType:
    if message is None:
        return Text(idle, style="dim")
    if isinstance(message, TrainingFinished):
        if message.status == "failed":
            return Text(message.error or "failed", style="red", no_wrap=True, overflow="ellipsis")
        return Text(f"{message.seconds:.1f} s", style="dim")
    if message.stage == "cross-validating":
        return Text(f"fold {message.step} of {message.steps}", style="cyan")
    if not message.steps or message.stage != "training":
        return Text(message.stage, style="cyan")
    return ProgressBar(total=message.steps, completed=message.step, width=22, complete_style="cyan")


def _scores(scores: Scores) -> tuple[str, str, str]:
    return format_figure(scores.rmse), format_figure(scores.mae), f"{scores.r2:.4f}"


def _quality(quality: Quality) -> tuple[str, str, str]:
    """Return the errors by cross-validation where they are known, the RMSE with the distance to the end of its interval."""
    cv = quality.cv
    if cv is None:
        return _scores(quality)
    rmse, mae, r2 = _scores(cv)
    return (rmse if cv.rmse_high is None else f"{rmse} ±{format_figure(cv.rmse_high - cv.rmse)}"), mae, r2


def _process(process: Process) -> Text:
    """Return one process: its mark and name, and its state unless it is ready."""
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


def _scenario(scenario: ScenarioProgress) -> RenderableType:
    """Return a scenario: its figures, and the steps that happened and are still expected."""
    figures = [
        f"RMSE {scenario.rmse:.2f} on {scenario.basis}" if scenario.rmse is not None else "",
        f"{scenario.rmse_relative:.2f} x hold-out" if scenario.rmse_relative is not None else "",
        f"evidence of drift {scenario.evidence:.1f}" if scenario.evidence is not None else "",
    ]
    head = Text.assemble("scenario ", (scenario.name, "bold"), ("   " + "   ".join(f for f in figures if f), "cyan"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", min_width=8)
    for step in scenario.steps:
        happened = step.seconds is not None
        when = Text(f"{step.seconds:.0f} s", style="dim") if happened else Text("")
        mark = Text.assemble(("● ", "green") if happened else ("○ ", "dim"), (step.step, "" if happened else "dim"))
        grid.add_row(when, mark, Text(step.text, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(head, grid)


def _alerts(alerts: Iterable[Alert]) -> RenderableType:
    """Return a line for each open alert."""
    return Group(*(
        Text.assemble((f"{alert.severity} ", "bold red"), alert.sentence, no_wrap=True, overflow="ellipsis")
        for alert in alerts
    ))  # fmt: skip


def _hide_control_keys() -> list[Any] | None:
    """Keep the terminal from writing ``^C`` into the view; return its attributes before, or None without a terminal."""
    try:
        before = termios.tcgetattr(sys.stdin)
        now = termios.tcgetattr(sys.stdin)
        now[3] &= ~termios.ECHOCTL
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, now)
    except (termios.error, ValueError, OSError):
        return None
    return before
