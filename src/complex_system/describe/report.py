"""Writes the data-quality report: one HTML file that asks nothing of the network and runs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from complex_system.describe.description import Description
from complex_system.describe.figures import (
    NONE,
    coverage,
    day,
    figure,
    lasting,
    moment,
    name,
    percent,
    plural,
    relation,
    safe,
    shape,
    signed,
)
from complex_system.describe.findings import CLOSE, NEARLY, Finding, findings_of, worth_a_look
from complex_system.describe.quality import GAP, ColumnQuality, Quality, assess
from complex_system.describe.sampling import SAMPLE_ROWS
from complex_system.domain.outliers import OUTLIER, ROWS_NAMED
from complex_system.monitoring.page.svg import safe as escaped
from complex_system.monitoring.page.svg import tag

_TONES = {
    "leakage": "bad", "sentinel": "bad", "decimal slip": "bad", "unreadable": "bad", "copies": "warn", "outliers": "warn",
    "missing": "warn", "gap": "warn", "order": "warn", "nearly constant": "warn",
}  # fmt: skip


GENERATOR = "fiot extras describe-data"


def is_report(path: Path) -> bool:
    """Return whether a file is a report of an earlier run."""
    with path.open("rb") as file:
        return f'content="{GENERATOR}"'.encode() in file.read(2000)


def write_report(description: Description, path: Path) -> None:
    """Read the described file once more and write the report of its data.

    Raises:
        SourceFileError: The file cannot be read.
        OSError: The report cannot be written.
    """
    path.write_text(report(assess(description)), encoding="utf-8")


def report(quality: Quality) -> str:
    """Return the page. Whatever comes from the file is escaped."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    title = f"Data quality of {safe(quality.description.path.name)}"
    findings = findings_of(quality)
    top = worth_a_look(findings)
    rest = [finding for finding in findings if finding not in top]
    parts = (
        _head(quality),
        _top(top),
        _columns(quality, findings),
        _times(quality),
        _groups(quality),
        _rest(rest),
        _method(quality),
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,"><meta name="generator" content="{GENERATOR}">'
        f"<title>{title}</title>\n<style>{style}</style></head>\n"
        f'<body><a class="skip" href="#look">Skip to what is worth a look</a>\n<main>{"".join(parts)}</main>\n'
        "<footer>Written by <code>fiot extras describe-data</code>. Rows are counted from 1, without the header.</footer>"
        "</body></html>\n"
    )


def _paragraph(text: str, class_: str = "") -> str:
    return tag("p", safe(text), class_=class_) if class_ else tag("p", safe(text))


# Parts of the page


def _head(quality: Quality) -> str:
    description, records = quality.description, quality.records
    cells = max(1, records * len(quality.columns))
    missing = sum(column.profile.missing.count for column in quality.columns)
    target = next(column for column in quality.columns if column.column.name == description.target)
    facts = [
        ("Records", f"{records:,}", f"{plural(len(quality.columns) + bool(description.key), 'column')}"),
        ("Target", name(description.target), _target_note(target, quality)),
        ("Missing values", percent(missing / cells), f"{missing:,} of {cells:,} fields"),
        ("Repeated rows", f"{quality.profile.copies.count:,}", f"equal in every column{' but the key' if description.key else ''}"),
    ]  # fmt: skip
    first = next((column for column in quality.columns if column.profile.kind == "time" and column.summary), None)
    if first and first.summary:
        facts.append(("Time", day(first.summary.low), f"to {day(first.summary.high)}"))
    items = "".join(
        tag("div", tag("dt", label) + tag("dd", value + tag("small", safe(note)))) for label, value, note in facts
    )
    lead = "What is in the file, and what a person should look at before a model learns from it."
    return (
        tag("p", "Data quality", class_="kicker") + tag("h1", name(description.path.name)) + _paragraph(lead, "lead")
        + tag("dl", items, class_="facts card")
    )  # fmt: skip


def _target_note(target: ColumnQuality, quality: Quality) -> str:
    if target.summary is None:
        return ""
    span = f"{figure(target.summary.low)} to {figure(target.summary.high, target.column.unit)}"
    return span if quality.description.target_was_named else f"{span}; chosen: the last column of numbers"


def _top(findings: Sequence[Finding]) -> str:
    title = "Worth a look first" if findings else "Nothing stands out"
    items = ""
    for number, finding in enumerate(findings, 1):
        what = tag("h3", safe(finding.title)) + _paragraph(finding.detail) + _paragraph(finding.advice, "advice")
        side = _tag(finding.kind) + tag("p", _rows(finding), class_="rows")
        items += tag("li", tag("span", str(number), class_="rank", aria_hidden="true") + tag("div", what, class_="what")
                     + tag("div", side, class_="side"))  # fmt: skip
    body = (
        tag("ol", items, class_="top card")
        if items
        else _paragraph("No sign of a fault was found; the rules are below.", "note")
    )
    return tag("section", tag("h2", title) + body, id="look", tabindex="-1")


def _rows(finding: Finding) -> str:
    if not finding.rows:
        return "All rows" if finding.count == 0 else f"{finding.count:,} rows"
    named = ", ".join(str(row) for row in finding.rows)
    more = finding.count - len(finding.rows)
    label = "Row" if len(finding.rows) == 1 and more <= 0 else "Rows"
    return f"<span>{label}</span> {named}" + (f" <span>and {more:,} more</span>" if more > 0 else "")


def _tag(kind: str) -> str:
    return tag("span", safe(kind), class_=f"tag {_TONES.get(kind, 'calm')}")


def _columns(quality: Quality, findings: Sequence[Finding]) -> str:
    heads = ("Column", "Distribution", "Missing", "Median", "Outliers", "With the target", "Look at")
    numeric = {"Missing", "Median", "Outliers"}
    head = "".join(tag("th", each, scope="col", class_="number" if each in numeric else "text") for each in heads)
    widths = "".join(f'<col class="{each}">' for each in ("name", "shape", "figure", "wide", "figure", "relation", "look"))
    rows = "".join(_column(column, quality, findings) for column in quality.columns)
    key = quality.description.key
    note = "One line per column, in the file’s order. " + (f"The key ‘{key}’ is left out. " if key else "")
    note += "Below the median are the quartiles. "
    note += "The correlation is of ranks for numbers and times, the correlation ratio (0 to 1) for texts."
    table = tag(
        "table", f"<colgroup>{widths}</colgroup>" + tag("thead", tag("tr", head)) + tag("tbody", rows), class_="columns card"
    )
    return tag("section", tag("h2", "Columns") + _paragraph(note, "note") + table)


def _column(made: ColumnQuality, quality: Quality, findings: Sequence[Finding]) -> str:
    column, records = made.column, max(1, quality.records)
    is_target = column.name == quality.description.target
    about = f"{column.type}{f', {column.unit}' if column.unit else ''}"
    different = f"{'' if quality.profile.is_whole else 'at least '}{made.different:,} different"
    head = tag("th", name(column.name) + tag("small", safe(about)) + tag("small", different), scope="row")
    share = made.profile.missing.count / records
    missing = percent(share) + tag("small", f"{made.profile.missing.count:,}") if share else NONE
    if made.sentinels:
        codes = "".join(tag("small", f"{seen.count:,} as {figure(value)}") for value, seen in made.sentinels.items())
        missing = codes if missing == NONE else missing + codes
    median = NONE
    if made.summary:
        is_time = made.profile.kind == "time"
        median = day(made.summary.median) if is_time else figure(made.summary.median)
        if not is_time:
            median += tag("small", f"{figure(made.summary.low_quarter)} to {figure(made.summary.high_quarter)}")
    outliers = f"{made.outliers.count:,}" if made.outliers.count else NONE
    if made.slips:
        outliers += tag("small", plural(len(made.slips), "slip"))
    kinds = dict.fromkeys(finding.kind for finding in findings if finding.column == column.name)
    tags = (_tag("target") if is_target else "") + "".join(_tag(kind) for kind in kinds)
    cells = [
        ("Distribution", "shape", shape(made)), ("Missing", "number", missing), ("Median", "number", median),
        ("Outliers", "number", outliers), ("With the target", "relation", "" if is_target else relation(made)),
        ("Look at", "look", tag("div", tags, class_="tags") if tags else ""),
    ]  # fmt: skip
    row = head + "".join(
        tag("td", tag("div", content), class_=f"{class_} blank" if content in ("", NONE) else class_, data_label=label)
        for label, class_, content in cells
    )
    return tag("tr", row, class_="target") if is_target else tag("tr", row)


def _times(quality: Quality) -> str:
    made = ""
    for column in quality.columns:
        summary = column.summary
        if column.profile.kind != "time" or summary is None or not summary.high > summary.low:
            continue
        gaps = [
            f"rows {gap.before} to {gap.after} (from {moment(gap.start)}, {lasting(gap.seconds)})"
            for gap in column.gaps[:ROWS_NAMED]
        ]
        step = f"The usual step is {lasting(column.step)}. " if column.step else ""
        found = f"{plural(len(column.gaps), 'gap')}: " + "; ".join(gaps) + "." if gaps else "No gaps were found."
        text = step + found if column.step else "The rows are not in order of time, so gaps were not looked for."
        chart = coverage(column, f"Records over time in {column.column.name}: {found}")
        ends = tag("div", "".join(tag("span", moment(at)) for at in (summary.low, summary.high)), class_="scale")
        made += tag(
            "div",
            tag("h3", name(column.column.name)) + tag("figure", chart + ends) + _paragraph(text),
            class_="coverage card",
        )
    return (
        tag("section", tag("h2", "Time") + _paragraph("Records over time; gaps are shaded.", "note") + made) if made else ""
    )


def _groups(quality: Quality) -> str:
    if not quality.groups:
        return ""
    heads = ("Column", "Groups", "Usual size", "Largest", "In the file", "With the target", "Begin in rows")
    head = "".join(tag("th", each, scope="col", class_="number" if 0 < i < 4 else "text") for i, each in enumerate(heads))
    rows = ""
    for group in quality.groups:
        order = "one after the other" if group.is_contiguous else "mixed"
        relation = "–" if group.relation is None else signed(group.relation).removeprefix("+")
        values = (
            f"{group.groups:,}", f"{group.median_size:,.0f}", f"{group.largest:,.0f}", order, relation,
            ", ".join(str(row) for row in group.rows),
        )  # fmt: skip
        cells = "".join(
            tag("td", safe(value), data_label=label, class_="number" if i < 3 else "text")
            for i, (label, value) in enumerate(zip(heads[1:], values, strict=True))
        )
        rows += tag("tr", tag("th", name(group.column), scope="row") + cells)
    note = (
        "Columns whose values may name records that belong together, such as those of one batch or machine. Where a model is meant "
        "for new ones, its error on records of known ones is too good."
    )
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", rows), class_="card")
    return tag("section", tag("h2", "Groups") + _paragraph(note, "note") + table)


def _rest(findings: Iterable[Finding]) -> str:
    rows = "".join(
        tag("tr", tag("th", safe(finding.title) + tag("small", safe(finding.detail)), scope="row")
            + tag("td", _tag(finding.kind), data_label="Kind") + tag("td", tag("div", _rows(finding)), data_label="Rows"))
        for finding in findings
    )  # fmt: skip
    if not rows:
        return ""
    head = "".join(tag("th", each, scope="col") for each in ("What was found", "Kind", "Rows"))
    return tag(
        "section",
        tag("h2", "Everything else that was found")
        + tag("table", tag("thead", tag("tr", head)) + tag("tbody", rows), class_="card"),
    )


def _method(quality: Quality) -> str:
    sample = (
        "All rows." if quality.profile.is_whole else
        f"Counts, extremes and breaks in time are of all {quality.profile.rows:,} rows. Medians, histograms, correlations, and "
        f"numbers of different values are of a random sample of {len(quality.profile.at):,} rows, because the file has more than "
        f"{SAMPLE_ROWS:,}."
    )  # fmt: skip
    items = {
        "Rows used": sample,
        "Outliers": f"Robust z above {OUTLIER:g}: the distance from the median divided by 1.4826 times the median distance on "
        "the same side; of logarithms where these are more symmetric. Where more than 5 % of the values are that far, "
        "none is called an outlier.",
        "Decimal slips": "Outliers that lie among the other values when they are multiplied or divided by 10 or 1,000.",
        "Sentinels": "The lowest or highest value, farther from all others than twice their width, where it repeats or is "
        "a usual code such as −9999 or 999.",
        "Repeated rows": "Equal in every column but the key and row numbers.",
        "Constant": f"One value; nearly constant: one value in {NEARLY:.0%} of the records or more.",
        "Leakage": f"A correlation of {CLOSE:g} or more, values that divide the target’s, or values missing in the "
        "same rows. These are signs, not proofs.",
        "Gaps": f"Steps of more than {GAP:g} times the usual one, and three times longer than 99 % of the steps.",
        "Groups": "Columns with the name of a batch, machine, person or similar, and texts that stay the same over neighbouring rows.",
    }
    body = "".join(tag("dt", label) + tag("dd", safe(text)) for label, text in items.items())
    return tag("section", tag("h2", "How it was found") + tag("dl", body, class_="method card"))
