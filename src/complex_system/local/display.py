"""Shows a run: as a live view on a terminal, as a plain log elsewhere."""

from __future__ import annotations

import sys
import termios
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from complex_system.domain.laboratory import BEST_POSSIBLE, LAB
from complex_system.evaluation.verdict import shown
from complex_system.local.plan import TRAINER_SERVICES, Plan
from complex_system.local.quality import Figures
from complex_system.local.state import Process, RunState, ScenarioState, Scores, Training

NOTES = 4
"""Lines of the newest events below the live view."""
LOW = 42
"""Lines of a terminal that shows everything with room between; below that the view is closer."""
VERY_LOW = 28
"""Below that the events and what explains itself are left out, too."""


class Display(ABC):
    """Shows a run while it goes on."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something happened."""

    @abstractmethod
    def refresh(self) -> None:
        """The state may have changed; called a few times a second."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Prints below all else, as it stands: summaries and errors, when the view is closed."""

    def close(self) -> None:  # noqa: B027 - a log needs no end
        """Ends the view."""


def make_display(plan: Plan, state: RunState) -> Display:
    """The display that fits where our output goes."""
    console = Console()
    return LiveDisplay(plan, state, console) if console.is_terminal else LogDisplay(plan, state)


class LogDisplay(Display):
    """One line an event, with the seconds since the start."""

    def __init__(self, plan: Plan, state: RunState) -> None:
        self._plan = plan
        self._state = state
        self._shown_records = (0, 0)
        self._next_records = 0.0
        self._shown_steps: dict[str, tuple[str, int]] = {}

    @override
    def note(self, text: str) -> None:
        self.say(f"{self._state.seconds:7.1f} s  {text}")

    @override
    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    @override
    def refresh(self) -> None:
        self._note_records()
        for training in self._state.trainings.values():
            self._note_training(training)

    def _note_records(self) -> None:
        records = self._state.records
        done = records["processed"] + records["rejected"]
        want = self._state.wanted_records or records["raw"]
        # How many records a file has, only its source knows: then every change would seem to be the last one.
        full = bool(self._state.wanted_records) and min(records["raw"], done) >= want
        shown = (min(records["raw"], want), min(done, want))
        if shown == self._shown_records or (self._state.seconds < self._next_records and not full):
            return
        self._shown_records, self._next_records = shown, self._state.seconds + 2.0
        self.note(
            f"records: {records['raw']:,} saved, {records['processed']:,} processed, {records['labelled']:,} labelled, "
            f"{records['rejected']:,} rejected"
        )

    def _note_training(self, training: Training) -> None:
        if training.status != "training" or not training.steps:
            return
        quarter = 4 * training.step // training.steps
        step = (training.stage, quarter)
        if self._shown_steps.get(training.trainer) == step or quarter == 0:
            return
        self._shown_steps[training.trainer] = step
        known = training.validation_rmse is not None and training.stage == "training"
        rmse = f", validation RMSE {shown(training.validation_rmse or 0.0)}" if known else ""
        self.note(f"{training.trainer}: {training.stage} {training.step} of {training.steps}{rmse}")


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
            blocks += [self._counts() if very_low else self._records(), self._models()]
        if self._state.scenario:
            blocks.append(_scenario(self._state.scenario))
        elif self._state.prediction:
            blocks.append(self._prediction())
        if self._state.alerts:
            blocks.append(_alerts(list(self._state.alerts.values())))
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
        line.add_row(title, Text.assemble((phase, style), f"  {_clock(self._state.seconds)}"))
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
        for row in _rows([_process(p) for p in services], 3 if self._console.width >= 130 else 2):
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

    def _models(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("trainer", min_width=14)
        table.add_column("training", min_width=22)
        for name in ("RMSE", "MAE", "R2"):
            table.add_column(name, justify="right", min_width=6, no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        # The champion of before takes part in a comparison too: a trainer's row shows its better model.
        ranking = list(enumerate(self._state.results))[::-1]
        places = {result.trainer: place for place, result in ranking}
        compared = {result.trainer: result for _, result in ranking}
        for name in sorted(self._plan.trainers, key=lambda trainer: places.get(trainer, len(places))):
            training, result = self._state.trainings.get(name), compared.get(name)
            scores: Scores | None = training.validation if training else None
            basis = Text("validation", style="dim") if scores else Text()
            style, cells = "", _figures(scores) if scores else _running(training)
            if result is not None:
                cells = _of(result.figures)
                basis = Text(f"{result.model} {result.version}", style="dim")
                champion = self._state.champion
                if champion and (champion.model, champion.version) == (result.model, result.version):
                    style = "bold green"
                    basis = Text.assemble(("champion  ", "bold green"), basis)
            table.add_row(
                Text(name, style=style),
                _training(training, self._idle(name, compared=result is not None)),
                *cells,
                basis,
                style=style,
            )
        best = Scores(BEST_POSSIBLE.rmse, BEST_POSSIBLE.mae, BEST_POSSIBLE.r2)
        if self._plan.dataset.name == LAB:
            table.add_row(Text("best possible"), "", *_figures(best), "", style="dim")
        for name, figures in self._state.judgement.baselines.items():
            table.add_row(name, "baseline", *_of(figures), "", style="dim")
        if self._state.holdout and self._console.height >= VERY_LOW:
            on = self._state.judgement.basis(self._state.holdout)
            crossed = self._state.judgement.ranked_by == "cross-validation"
            table.caption = f"{on}; ± to the end of the 95 % interval" if crossed else f"{on} that no trainer saw"
            table.caption_justify = "left"
        if not self._state.judgement.verdict:
            return table
        cut = self._console.height < VERY_LOW
        verdict = Text(self._state.judgement.verdict, style="yellow", no_wrap=cut, overflow="ellipsis" if cut else "fold")
        return Group(table, verdict)

    def _idle(self, trainer: str, *, compared: bool) -> str:
        """What to say of a trainer that has not trained in this run."""
        service = self._state.services[TRAINER_SERVICES[trainer]]
        if service.detail.startswith("loading"):
            return service.detail
        return "earlier run" if compared else "waiting"

    def _prediction(self) -> RenderableType:
        prediction = self._state.prediction
        assert prediction is not None
        first = self._state.seconds_to_first_prediction or 0.0
        head = Text.assemble(
            "prediction ", (shown(prediction.value), "bold green"),
            f"   truth {shown(prediction.truth)}" if prediction.truth is not None else "",
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
            grid.add_row("MLflow", _address(mlflow.url, mlflow.ready))
        for process in self._state.services.values():
            if process.url:
                up = process.state in ("ready", "working", "waiting")
                grid.add_row(process.name, _address(self._plan.shown_address(process.name, process.url), up))
        grid.add_row("logs, state", Text(str(self._plan.directory), overflow="fold"))
        return grid


def _scenario(scenario: ScenarioState) -> RenderableType:
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


def _alerts(alerts: list[dict[str, Any]]) -> RenderableType:
    return Group(*(
        Text.assemble((f"{alert['severity']} ", "bold red"), str(alert["sentence"]), no_wrap=True, overflow="ellipsis")
        for alert in alerts
    ))  # fmt: skip


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


def _process(process: Process) -> Text:
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


def _training(training: Training | None, idle: str) -> RenderableType:
    if training is None:
        return Text(idle, style="dim")
    if training.status == "failed":
        return Text(training.error, style="red", no_wrap=True, overflow="ellipsis")
    if training.status == "finished":
        return Text(f"{training.seconds:.1f} s", style="dim")
    if training.stage == "cross-validating":
        return Text(f"fold {training.step} of {training.steps}", style="cyan")
    if not training.steps or training.stage != "training":
        return Text(training.stage, style="cyan")
    return ProgressBar(total=training.steps, completed=training.step, width=22, complete_style="cyan")


def _running(training: Training | None) -> tuple[str, str, str]:
    rmse = training.validation_rmse if training else None
    return (shown(rmse) if rmse is not None else "", "", "")


def _figures(scores: Scores | Figures) -> tuple[str, str, str]:
    return shown(scores.rmse), shown(scores.mae), f"{scores.r2:.4f}"


def _of(figures: Figures) -> tuple[str, str, str]:
    """By cross-validation where it is known, the RMSE with the distance to the end of its interval."""
    cv = figures.cv
    return (
        _figures(figures)
        if cv is None
        else (f"{shown(cv.rmse)} ±{shown(cv.rmse_high - cv.rmse)}", shown(cv.mae), f"{cv.r2:.4f}")
    )


def _rows(cells: list[Text], columns: int) -> list[list[Text]]:
    return [
        cells[i : i + columns] + [Text()] * (columns - len(cells[i : i + columns])) for i in range(0, len(cells), columns)
    ]


def _address(url: str, up: bool) -> Text:
    return Text(url, style="" if up else "dim")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
