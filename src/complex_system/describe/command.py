"""``fiot extras describe-data``: shows a table of what a file holds, and writes the proposed declaration."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from complex_system.describe.description import Description, describe, refused
from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.report import is_report, write_report
from complex_system.domain.json_schema import put_beside
from complex_system.errors import DescribeError, how_to_install
from complex_system.terminal import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_SHOWN = 6
"""Categories that the table shows."""


def describe_to(
    file: Path, target: str, output: Path | None, *, force: bool, out: TextIO, err: TextIO, report: Path | None = None
) -> None:
    """Describe a file: show what was found, and write the declaration and the report of its data.

    Args:
        file: The records.
        target: The column to predict; the last column of numbers when empty.
        output: Where to write the declaration; None for ``out``.
        force: Whether to replace an existing declaration.
        out: Takes the declaration, or the summary when the declaration goes to a file.
        report: Where to write the data-quality report; None for no report.
        err: Takes the summary when the declaration goes to ``out``, and warnings.

    Raises:
        SourceFileError: The file cannot be read.
        DescribeError: No declaration can be made from it, or it cannot be written.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise DescribeError(f"The summary needs the package rich: {how_to_install('local')}.") from error
    # Checked before the work, so that a declaration that a person wrote is not lost.
    if output and output.exists() and not force:
        raise DescribeError(f"{output} exists already; --force replaces it.")
    if report and report.exists() and not force and not is_report(report):
        raise DescribeError(f"{report} exists already and is not a report of this command; --force replaces it.")
    description = describe(file, target)
    count, first = refused(description)
    Console(file=err if output is None else out).print(summary(description))
    if count:
        err.write(printable(f"{count} of {description.records} records cannot be processed; {first}\n"))
    if report:
        _write_report(description, report, err if output is None else out)
    if output is None:
        out.write(printable(description.text()) if out.isatty() else description.text())
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(description.text(), encoding="utf-8")
        put_beside(output)
    except OSError as error:
        raise DescribeError(f"{output} cannot be written: {error.strerror or error}.") from error
    beside = "" if output.parent.resolve() == file.parent.resolve() else f", put {file.name} in its folder"
    called = "" if output.name == "dataset.yaml" else ", call it dataset.yaml"
    run = f"fiot run mongo --data {shlex.quote(str(output.parent / file.name))}"
    out.write(printable(f"{output} written. Read it, correct what is wrong{called}{beside}, then: {run}\n"))


def _write_report(description: Description, report: Path, told: TextIO) -> None:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_report(description, report)
    except OSError as error:
        raise DescribeError(f"{report} cannot be written: {error.strerror or error}.") from error
    told.write(printable(f"{report} written: what is in the data, and what to look at first; open it in a browser.\n"))


def summary(description: Description) -> Group:
    """Return a table with one row per column, what to look at, and a line on the resulting data set."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table

    name = printable(description.path.name)
    table = Table(title=f"{name}: {description.records} records, {len(description.columns)} columns")
    for heading in ("column", "type", "unit", "values", "missing", "used as"):
        table.add_column(heading, overflow="fold")
    notes: list[Text] = []
    for column in description.columns:
        share = column.missing / description.records
        missing = f"{share:.0%}" if share >= 0.01 else "<1%" if share else ""
        note = _notes(column, description)
        style = "bold" if column.name == description.target else "yellow" if note else None
        if note:
            notes.append(_text(f"{column.name}: {note}"))
        table.add_row(
            _text(column.name), column.type, _text(column.unit), _text(_values(column)), missing,
            _text(_use(column, description)), style=style,
        )  # fmt: skip
    dataset = description.dataset()
    features = len(dataset.feature_names)
    line = f"Target '{description.target}'" + (
        "" if description.target_was_named else " (CHECK: the last column of numbers; --target names another)"
    )
    notes[:0] = [_text(f"{description.path.name}: {note}.") for note in description.notes]
    if description.copies:
        notes.insert(0, _text(f"CHECK: {description.copies_found}"))
    if description.key:
        line = f"{line}; key '{description.key}'"
    elif offered := description.offered_key:
        notes.append(_text(f"The records have no key; the declaration has the line that makes it '{offered.name}'."))
    if description.time and description.time.way:
        line = f"{line}; time '{description.time.column}'"
    if (split := dataset.split).by != "key":
        notes.append(_text(f"Split by {split.by}: the error that models are judged by is that for {split.question}."))
    last = _text(f"{line}; {features} feature{'' if features == 1 else 's'}; pipeline version {dataset.version}")
    return Group(table, *([_text("Look at:")] if notes else []), *(Padding(note, (0, 0, 0, 2)) for note in notes), last)


def _text(text: str) -> Text:
    from rich.text import Text

    return Text(printable(text))


def _values(column: InspectedColumn) -> str:
    if column.low is not None and column.high is not None:
        return f"{column.low:g} to {column.high:g}"
    if column.categories:
        more = ", ..." if len(column.categories) > _SHOWN else ""
        return f"{len(column.categories)}: " + ", ".join(column.categories[:_SHOWN]) + more
    return column.format or f"{column.different} different"


def _use(column: InspectedColumn, description: Description) -> str:
    if column.name == description.target:
        return "target"
    if column.name == description.key:
        return "key"
    found = next(
        (step["step"] for step, _ in description.proposal.steps if column.name in (step["column"], step.get("shares"))), ""
    )
    return found or "not used"


def _notes(column: InspectedColumn, description: Description) -> str:
    notes = [*column.notes, *column.hints]
    if column.growth and column.name != description.key:
        notes.append(column.growth.why)
    if column.name in description.leaking:
        notes.append(f"{description.leaking[column.name]}: may leak it")
    if not notes and column.type == "datetime" and column.name in description.proposal.dropped:
        notes.append("a time: the declaration shows how to use its parts")
    return "; ".join(notes)
