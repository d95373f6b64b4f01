"""The live view's table of trainers: how far each training is, and how good the models are."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from complex_system.domain.laboratory import BEST_POSSIBLE, LAB
from complex_system.evaluation.verdict import format_figure
from complex_system.local.plan import TRAINER_SERVICES, Plan
from complex_system.local.quality import Figures
from complex_system.local.state import RunState, Scores, Training


def models_table(plan: Plan, state: RunState, *, very_low: bool) -> RenderableType:
    """The trainers, the best one first, with what their models are measured against.

    Args:
        plan: Says which trainers there are.
        state: What is known by now.
        very_low: Whether the terminal is so low that what explains itself is left out.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("trainer", min_width=14)
    table.add_column("training", min_width=22)
    for name in ("RMSE", "MAE", "R2"):
        table.add_column(name, justify="right", min_width=6, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    # The champion of before takes part in a comparison too: a trainer's row shows its better model.
    ranking = list(enumerate(state.results))[::-1]
    places = {result.trainer: place for place, result in ranking}
    compared = {result.trainer: result for _, result in ranking}
    for name in sorted(plan.trainers, key=lambda trainer: places.get(trainer, len(places))):
        training, result = state.trainings.get(name), compared.get(name)
        scores: Scores | None = training.validation if training else None
        basis = Text("validation", style="dim") if scores else Text()
        style, cells = "", _figures(scores) if scores else _running(training)
        if result is not None:
            cells = _of(result.figures)
            basis = Text(f"{result.model} {result.version}", style="dim")
            champion = state.champion
            if champion and (champion.model, champion.version) == (result.model, result.version):
                style = "bold green"
                basis = Text.assemble(("champion  ", "bold green"), basis)
        table.add_row(
            Text(name, style=style),
            _training(training, _idle(state, name, compared=result is not None)),
            *cells,
            basis,
            style=style,
        )
    best = Scores(BEST_POSSIBLE.rmse, BEST_POSSIBLE.mae, BEST_POSSIBLE.r2)
    if plan.dataset.name == LAB:
        table.add_row(Text("best possible"), "", *_figures(best), "", style="dim")
    for name, figures in state.judgement.baselines.items():
        table.add_row(name, "baseline", *_of(figures), "", style="dim")
    if state.holdout and not very_low:
        on = state.judgement.basis(state.holdout)
        crossed = state.judgement.ranked_by == "cross-validation"
        table.caption = f"{on}; ± to the end of the 95 % interval" if crossed else f"{on} that no trainer saw"
        table.caption_justify = "left"
    if not state.judgement.verdict:
        return table
    verdict = Text(state.judgement.verdict, style="yellow", no_wrap=very_low, overflow="ellipsis" if very_low else "fold")
    return Group(table, verdict)


def _idle(state: RunState, trainer: str, *, compared: bool) -> str:
    """What to say of a trainer that has not trained in this run."""
    service = state.services[TRAINER_SERVICES[trainer]]
    if service.detail.startswith("loading"):
        return service.detail
    return "earlier run" if compared else "waiting"


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
    return (format_figure(rmse) if rmse is not None else "", "", "")


def _figures(scores: Scores | Figures) -> tuple[str, str, str]:
    return format_figure(scores.rmse), format_figure(scores.mae), f"{scores.r2:.4f}"


def _of(figures: Figures) -> tuple[str, str, str]:
    """By cross-validation where it is known, the RMSE with the distance to the end of its interval."""
    cv = figures.cv
    return (
        _figures(figures)
        if cv is None
        else (f"{format_figure(cv.rmse)} ±{format_figure(cv.rmse_high - cv.rmse)}", format_figure(cv.mae), f"{cv.r2:.4f}")
    )
