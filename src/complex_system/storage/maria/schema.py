"""Makes the tables of a data set, and lets them follow its declaration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.errors import StoreUnavailableError
from complex_system.storage.maria.columns import Kept, plan, quoted
from complex_system.storage.maria.cursors import change, select
from complex_system.storage.maria.sql import Statements, tables
from complex_system.storage.migrations import refuse_another_data_set, refuse_other_types
from complex_system.storage.names import TableNames

_INDEX = "labelled"
_LOCK_SECONDS = 600
_OWNER = re.compile(r"data set ([a-z0-9_]+)")


def statements_without_tables(dataset: Dataset, names: TableNames) -> Statements:
    """The statements as they are for new tables."""
    raw, processed = ({c.name: c.type for c in dataset.columns}, dict.fromkeys(dataset.processed_names[1:], "number"))
    return Statements.of(dataset, names, plan(raw, ()).columns, plan(processed, ()).columns)


def follow(connection: Any, dataset: Dataset, names: TableNames) -> Statements:
    """Makes what is missing (tables, columns, the index of the target) and returns the statements for what is there.

    One replica does so at a time, until its connection is closed; what is there already costs no change.

    Raises:
        DeclarationError: The tables keep records that the declaration cannot be of; nothing was changed.
        StoreUnavailableError: Another replica has been changing the tables for minutes.
    """
    lock = f"complex-system {names.raw}"[-44:]
    [(locked,)] = select(connection, "SELECT GET_LOCK(CONCAT(LEFT(DATABASE(), 20), ?), ?)", (lock, _LOCK_SECONDS))
    if not locked:
        raise StoreUnavailableError(f"Another service has been changing {names.raw} for {_LOCK_SECONDS} s.")
    for statement in tables(names):
        change(connection, statement)
    raw = plan({column.name: column.type for column in dataset.columns}, _kept(connection, names.raw))
    processed = plan(dict.fromkeys(dataset.processed_names[1:], "number"), _kept(connection, names.processed))
    [(comment,)] = select(
        connection,
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
        (names.raw,),
    )
    owner = _OWNER.fullmatch(comment)
    where = f"The table {names.raw}"
    refuse_another_data_set(where, owner[1] if owner else "", dataset)
    refuse_other_types(where, raw.types, dataset)
    owned = () if owner else (f"COMMENT = 'data set {dataset.name}'",)
    _alter(connection, names.raw, (*raw.changes, *owned))
    _alter(connection, names.processed, processed.changes)
    _index(connection, names.processed, processed.columns[dataset.target])
    return Statements.of(dataset, names, raw.columns, processed.columns)


def _kept(connection: Any, table: str) -> list[Kept]:
    found = select(
        connection,
        "SELECT column_name, data_type, column_comment FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
        (table,),
    )
    return [Kept(name, stored.lower(), comment) for name, stored, comment in found]


def _index(connection: Any, table: str, target: str) -> None:
    """One index, on the present target: for the count of the labelled records."""
    indexed = select(
        connection,
        "SELECT column_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ?",
        (table, _INDEX),
    )
    if [column for (column,) in indexed] != [target]:
        dropped = (f"DROP INDEX {_INDEX}",) if indexed else ()
        _alter(connection, table, (*dropped, f"ADD INDEX {_INDEX} ({quoted(target)})"))


def _alter(connection: Any, table: str, changes: Sequence[str]) -> None:
    if changes:
        change(connection, f"ALTER TABLE {table} {', '.join(changes)}")
