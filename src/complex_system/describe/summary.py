"""What was found in a file, as a table on the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from complex_system.describe.columns import Found
from complex_system.describe.describe import Description

_SHOWN = 6


def summary(description: Description) -> Group:
    """The table, one row a column, and a line on what comes of it."""
    table = Table(title=f"{description.path.name}: {description.records} records, {len(description.columns)} columns")
    for heading in ("column", "type", "unit", "values", "missing", "used as", "look at"):
        table.add_column(heading, overflow="fold")
    for column in description.columns:
        share = column.missing / description.records
        style = "bold" if column.name == description.target else "yellow" if _notes(column, description) else None
        table.add_row(
            Text(column.name), column.type, Text(column.unit), Text(_values(column)), f"{share:.0%}" if share else "",
            Text(_use(column, description)), Text(_notes(column, description)), style=style,
        )  # fmt: skip
    dataset = description.dataset()
    features = len(dataset.feature_names)
    line = f"Target '{description.target}'" + (
        "" if description.target_was_named else " (CHECK: the last column of numbers; --target names another)"
    )
    return Group(
        table, Text(f"{line}; {features} feature{'' if features == 1 else 's'}; pipeline version {dataset.version}")
    )


def _values(column: Found) -> str:
    if column.low is not None and column.high is not None:
        return f"{column.low:g} to {column.high:g}"
    if column.categories:
        more = ", ..." if len(column.categories) > _SHOWN else ""
        return f"{len(column.categories)}: " + ", ".join(column.categories[:_SHOWN]) + more
    return column.format or f"{column.different} different"


def _use(column: Found, description: Description) -> str:
    if column.name == description.target:
        return "target"
    if column.name == description.key:
        return "key"
    found = next(
        (step["step"] for step, _ in description.proposal.steps if column.name in (step["column"], step.get("shares"))), ""
    )
    return found or "not used"


def _notes(column: Found, description: Description) -> str:
    notes = list(column.notes)
    if column.name in description.leaking:
        notes.append(f"{description.leaking[column.name]}: may leak it")
    if not notes and column.type == "datetime" and column.name in description.proposal.dropped:
        notes.append("a time: the declaration says how its parts are used")
    return "; ".join(notes)
