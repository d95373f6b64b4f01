"""The card of a model's version: what it was made of, how good it is, and where it cannot be trusted. As Markdown and as HTML."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, TrackingRefusedError, TrackingUnavailableError
from complex_system.evaluation.results import Comparison, Result
from complex_system.evaluation.verdict import format_figure
from complex_system.monitoring.page.svg import Box, nice_ticks, safe, svg, tag, text
from complex_system.protocol.training import ScoresWithInterval
from complex_system.tracking.model_files import SAMPLE_FILE, TRAINING, decode_sample
from complex_system.tracking.promotion import CARD_HTML, CARD_MARKDOWN, PromotionRegistry
from complex_system.tracking.registry import ONNX_FOLDER
from complex_system.training.conformal import INTERVALS_FILE, Intervals
from complex_system.training.data import Matrix
from complex_system.training.training_set import TRAINING_SET, TrainingSet

log = logging.getLogger(__name__)

FEW = 200
"""Hold-out records below which the card says that its figures are uncertain."""
LEVEL = 0.9
"""Probability of the intervals whose coverage the card has."""
_POINTS = 1000
_NONE = "–"


@dataclass(frozen=True)
class CardSubject:
    """What a card is about.

    Attributes:
        dataset: Declares the data.
        comparison: The round that the model took part in.
        result: How it did there.
        trained: What it was trained on; None where that is not kept.
        intervals: Of its predictions; None where it has none.
        sample: Raw records of the training part; None where there are none.
    """

    dataset: Dataset
    comparison: Comparison
    result: Result
    trained: TrainingSet | None = None
    intervals: Intervals | None = None
    sample: pa.Table | None = None


class Section(NamedTuple):
    """A part of a card: a heading, sentences, a table whose first row has the heads, and a drawing, which Markdown leaves out."""

    heading: str
    sentences: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    drawing: str = ""


def make_card(subject: CardSubject) -> dict[str, bytes]:
    """Return the files of a card, by name; the HTML is a whole document that loads nothing."""
    makers = (_head, _data, _quality, _residuals, _importance, _limits, _again)
    sections = [section for make in makers if (section := make(subject)) is not None]
    title, styles = subject.result.label, resources.files("complex_system.monitoring.page") / "report.css"
    head = '<meta charset="utf-8">' + tag("title", safe(title)) + tag("style", styles.read_text(encoding="utf-8"))
    body = "".join(tag("section", _html(each, "h1" if each is sections[0] else "h2")) for each in sections)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    marks = "\n".join(_markdown(each, "#" if each is sections[0] else "##") for each in sections)
    return {CARD_MARKDOWN: marks.encode(), CARD_HTML: page.encode()}


def write_cards(registry: PromotionRegistry, dataset: Dataset, comparison: Comparison) -> None:
    """Write the card of every new model. Blocking. A model whose card cannot be made does not hold up the round.

    Raises:
        TrackingUnavailableError: MLflow does not answer; call it again.
    """
    for result in comparison.results:
        if result.incumbent:
            continue
        try:
            registry.write_card(result.ref, make_card(_subject(registry, dataset, comparison, result)))
        except (TrackingRefusedError, ModelRefusedError, msgspec.MsgspecError) as error:
            log.warning("%s has no card: %s", result.label, error)
        except TrackingUnavailableError:
            raise
        except Exception:
            log.exception("%s has no card", result.label)


def _subject(registry: PromotionRegistry, dataset: Dataset, comparison: Comparison, result: Result) -> CardSubject:
    trained = registry.read(result.ref, TRAINING, (TRAINING_SET,)).get(TRAINING_SET)
    beside = registry.read(result.ref, ONNX_FOLDER, (INTERVALS_FILE, SAMPLE_FILE))
    return CardSubject(
        dataset, comparison, result,
        None if trained is None else msgspec.json.decode(trained, type=TrainingSet),
        Intervals.decoded(beside[INTERVALS_FILE]) if INTERVALS_FILE in beside else None,
        decode_sample(beside[SAMPLE_FILE]) if SAMPLE_FILE in beside else None,
    )  # fmt: skip


def _head(subject: CardSubject) -> Section:
    dataset, result, comparison = subject.dataset, subject.result, subject.comparison
    target = dataset.column(dataset.target)
    what = f"{target.name} in {target.unit}" if target.unit else target.name
    part = "took part in"
    if result is comparison.candidate:
        part = "won, and became candidate in,"
    elif result is comparison.champion:
        part = "became champion in"
    return Section(
        result.label,
        [
            f"Predicts {what}{f' ({target.description})' if target.description else ''}, by {result.ref.framework}.",
            f"Registered {result.ref.created_at:%Y-%m-%d %H:%M} UTC; it {part} round {comparison.round}. "
            f"Data set {dataset.name}, pipeline {dataset.version}, run {result.ref.run_id or _NONE}.",
            comparison.kept if result is not comparison.champion else "",
        ],
    )


def _data(subject: CardSubject) -> Section:
    dataset, trained = subject.dataset, subject.trained
    sentences = []
    if trained is not None:
        sentences.append(
            f"{trained.train:,} records were trained on, {trained.validation:,} were for early stopping, {trained.calibration:,} "
            f"were set apart for intervals. {_period(trained)}"
        )
    sentences += [f"Records are divided by {dataset.split_rule}: the error is that for {dataset.split.question}."]
    rows: list[Sequence[str]] = [("Column", "Type", "Unit", "Declared", "In a sample of the training", "Description")]
    for column in dataset.columns:
        declared = ", ".join(column.categories) or (
            f"{_number(column.range[0])} to {_number(column.range[1])}" if column.range else ""
        )
        name = f"{column.name} (target)" if column.name == dataset.target else column.name
        rows.append((name, column.type, column.unit, declared, _seen(subject.sample, column.name), column.description))
    return Section("Data", sentences, rows)


def _period(trained: TrainingSet) -> str:
    if trained.first is None or trained.last is None:
        return ""
    first, last = (datetime.fromtimestamp(at, UTC) for at in (trained.first, trained.last))
    return f"They are from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC."


def _seen(sample: pa.Table | None, name: str) -> str:
    """Return the range, or the number of different texts, of a column in the sample."""
    if sample is None or name not in sample.column_names:
        return ""
    column = sample.column(name)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        ends = pc.min_max(column).as_py()
        return "" if ends["min"] is None else f"{_number(ends['min'])} to {_number(ends['max'])}"
    return f"{pc.count_distinct(column).as_py()} values" if pa.types.is_string(column.type) else ""


def _quality(subject: CardSubject) -> Section:
    comparison, result, unit = subject.comparison, subject.result, subject.dataset.column(subject.dataset.target).unit
    rows: list[Sequence[str]] = [
        ("Evaluation", "Records", f"RMSE{f' ({unit})' if unit else ''}", "95 % interval", "MAE", "R²")
    ]
    rows.append(_scores("Hold-out part, which no trainer saw", comparison.holdout, result.quality))
    sentences = []
    if result.quality.cv is not None and result.cross is not None:
        cross = result.cross
        rows.append(
            _scores(f"Cross-validation, {cross.folds} folds, {cross.repeats} times", cross.records, result.quality.cv)
        )
        sentences.append(f"The standard error of the RMSE over the folds is {format_figure(cross.standard_error)}.")
    for name, baseline in comparison.baselines.items():
        rows.append(_scores(f"Baseline on the hold-out part: {name}", comparison.holdout, baseline.quality))
    challenge = comparison.challenges.get(result.label)
    if challenge is not None:
        sentences.append(
            f"Beside the champion before: {challenge.outcome} by {challenge.by} of {challenge.records:,} records, better by "
            f"{format_figure(challenge.better_by)} ({format_figure(challenge.low)} to {format_figure(challenge.high)})."
        )
    if subject.intervals is not None:
        sentences.append(_coverage(subject.intervals, result.errors))
    return Section("Quality", [*sentences, comparison.intervals], rows)


def _scores(name: str, records: int, scores: ScoresWithInterval) -> tuple[str, ...]:
    ends = (scores.rmse_low, scores.rmse_high)
    interval = _NONE if None in ends else " to ".join(format_figure(end or 0.0) for end in ends)
    return name, f"{records:,}", format_figure(scores.rmse), interval, format_figure(scores.mae), f"{scores.r2:.4f}"


def _coverage(intervals: Intervals, errors: Matrix) -> str:
    if intervals.largest < LEVEL:
        return f"Its errors are known of {intervals.records} records, too few for intervals of {100 * LEVEL:g} %."
    width = intervals.half_width(LEVEL)
    within = float(np.mean(np.abs(errors) <= width))
    return (
        f"{100 * LEVEL:g} % intervals, by {intervals.method} of {intervals.records:,} records, are ± {format_figure(width)}; "
        f"{100 * within:.1f} % of the {len(errors):,} hold-out records lie within."
    )


def _residuals(subject: CardSubject) -> Section:
    truth, errors = subject.comparison.truth, subject.result.errors
    if truth is None:
        return Section("Residuals", ["They are not known."])
    shown = np.linspace(0, len(errors) - 1, min(_POINTS, len(errors))).astype(np.intp)
    unit = subject.dataset.column(subject.dataset.target).unit
    mean = format_figure(float(errors.mean()))
    sentence = f"Prediction less truth of {len(shown):,} of {len(errors):,} hold-out records; the mean of all is {mean}."
    return Section("Residuals", [sentence], drawing=residual_plot(truth[shown], errors[shown], unit))


def residual_plot(truth: Matrix, errors: Matrix, unit: str) -> str:
    """Return a drawing of residuals over the truth, both of shape (n,)."""
    width, height, largest = 760.0, 260.0, float(np.abs(errors).max()) or 1.0
    low, high = float(truth.min()), float(truth.max())
    box = Box(64.0, width - 12.0, 24.0, height - 30.0, (low, high if high > low else low + 1.0), (-largest, largest))
    suffix = f" ({unit})" if unit else ""
    parts = text(0, 12, f"prediction less truth{suffix}, over the truth{suffix}", class_="axis-title")
    for at in nice_ticks(*box.y):
        parts += box.level(at, "grid") + text(box.left - 6, box.up(at) + 4, _number(at), text_anchor="end", class_="tick")
    for at in nice_ticks(*box.x):
        parts += text(box.across(at), height - 8, _number(at), text_anchor="middle", class_="tick")
    points = " ".join(f"M{box.across(float(x)):.1f} {box.up(float(y)):.1f}h0" for x, y in zip(truth, errors, strict=True))
    parts += tag("path", d=points, fill="none", stroke="var(--live)", stroke_width=4, stroke_linecap="round", opacity=0.5)
    return svg(width, height, parts, "Residuals over the truth", "chart")


def _importance(subject: CardSubject) -> Section | None:
    """Return what the model depends on; None where it was not explained."""
    found, ref = subject.comparison.explanation, subject.result.ref
    if found is None or (found.model, found.version) != (ref.model, ref.version):
        return None
    sentence = (
        f"By how much the RMSE of {found.records:,} hold-out records grows where a column's values are exchanged among them: the mean "
        f"of {found.repeats} times, the least and the most."
    )
    rows: list[Sequence[str]] = [("Column", "RMSE grows by", "Least", "Most")]
    rows += [(each.column, *map(format_figure, (each.increase, each.low, each.high))) for each in found.importance]
    return Section("What it depends on", [sentence], rows)


def _limits(subject: CardSubject) -> Section:
    comparison, dataset = subject.comparison, subject.dataset
    sentences = [
        "Nothing is known of records outside of the ranges above.",
        f"The figures hold for {dataset.split.question}, and only as long as the process stays as it was.",
    ]
    if comparison.holdout < FEW:
        sentences.append(f"Only {comparison.holdout} records measure the error on the hold-out part, so it is uncertain.")
    if comparison.evidence and subject.result is comparison.champion:
        sentences.append(comparison.evidence)
    elif comparison.notes:
        sentences.append(comparison.notes)
    return Section("Limits", sentences)


def _again(subject: CardSubject) -> Section:
    trained = subject.trained
    if trained is None or not trained.listed:
        return Section(
            "How to make it again", ["The records of its training are not kept, so it cannot be trained again exactly."]
        )
    rows = [("Parameter or library", "Value"), *((name, str(value)) for name, value in trained.parameters.items())]
    rows += list(trained.versions.items())
    command = f"fiot extras retrain {subject.result.ref.run_id}"
    return Section("How to make it again", [f"By the command: {command}"], rows)


def _html(section: Section, heading: str) -> str:
    parts = tag(heading, safe(section.heading)) + "".join(tag("p", safe(each)) for each in section.sentences if each)
    if section.rows:
        heads, *rows = section.rows
        body = "".join(tag("tr", "".join(tag("td", safe(cell)) for cell in row)) for row in rows)
        parts += tag("table", tag("thead", tag("tr", "".join(tag("th", safe(each)) for each in heads))) + tag("tbody", body))
    return parts + section.drawing


def _markdown(section: Section, mark: str) -> str:
    lines = [f"{mark} {_plain(section.heading)}", ""]
    for each in filter(None, section.sentences):
        lines += [_plain(each), ""]
    if section.rows:
        heads, *rows = section.rows
        lines += [_row(heads), _row("---" for _ in heads), *(_row(map(_plain, row)) for row in rows), ""]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(written: str) -> str:
    """Escape a text, so that Markdown takes no part of it for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(written.split()))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else str(value)
