"""The tables of a data set: which column keeps which declared column, how they follow a declaration, and the envelope.

Each of our columns says in its comment what it was declared as, so the order of a declaration does not matter, and a name that comes
back finds its column again. Columns are added, never dropped, renamed or made smaller.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from complex_system.domain.dataset import ID, Dataset
from complex_system.errors import StoreUnavailableError
from complex_system.storage.arrow import converted, unpacked
from complex_system.storage.envelope import PIPELINE, content_hash
from complex_system.storage.maria.pool import ONE_SNAPSHOT, change, change_each, select
from complex_system.storage.maria.sql import (
    ARRIVAL,
    COUNTED,
    ENVELOPE_COLUMNS,
    HASH,
    NUMBER,
    RECEIVED,
    RECOUNTS,
    TEXT,
    Statements,
    quoted,
    tables,
)
from complex_system.storage.migrations import refuse_another_data_set, refuse_other_types
from complex_system.storage.naming import TableNames

log = logging.getLogger(__name__)

_KINDS = {"number": "DOUBLE NULL", "integer": "BIGINT NULL", "boolean": "BOOLEAN NULL"}  # the others are texts, lists JSON
_STORED = {"number": "double", "integer": "bigint", "boolean": "tinyint"}
_BY_STORED = {stored: declared for declared, stored in _STORED.items()}
_LONGEST_IDENTIFIER = 64
_LONGEST_IN_COMMENT = 900  # of 1,024 characters
_COMMENT = re.compile(r"declared as (?P<written>.*) = (?P<type>[a-z ]+)", re.DOTALL)
_FORMER_LABELLED = "labelled"
_CORRECTED = "corrected"
_FORMER_ARRIVAL = "by_arrival"
_LOCK_SECONDS = 600
_OWNER = re.compile(r"data set ([a-z0-9_]+)")
_HASHED_AT_ONCE = 1000


@dataclass(frozen=True)
class Kept:
    """A column of a table, as ``information_schema`` has it."""

    name: str
    stored: str
    comment: str = ""

    @property
    def written(self) -> str | None:
        """The declared name as :func:`written` gives it; None for a column without a comment of ours."""
        found = _COMMENT.fullmatch(self.comment)
        return found["written"] if found else None

    @property
    def declared(self) -> str | None:
        """The declared type; without a comment of ours the only one that is stored like this, None where there are several."""
        found = _COMMENT.fullmatch(self.comment)
        return found["type"] if found else _BY_STORED.get(self.stored)


@dataclass(frozen=True)
class Plan:
    """Where the declared columns are kept.

    Attributes:
        columns: Column of the table by declared name, the key included.
        types: Type under which values were kept so far, by declared name; without those of unknown type and new ones.
        changes: Clauses of ``ALTER TABLE``; empty where nothing is missing.
    """

    columns: dict[str, str]
    types: dict[str, str]
    changes: tuple[str, ...]


def statements_without_tables(dataset: Dataset, names: TableNames) -> Statements:
    """Return the statements as they are for new tables."""
    raw, processed = ({c.name: c.type for c in dataset.columns}, dict.fromkeys(dataset.processed_names[1:], "number"))
    return Statements(dataset, names, plan(raw, ()).columns, plan(processed, ()).columns)


def migrate(connection: Any, dataset: Dataset, names: TableNames) -> Statements:
    """Create what is missing (tables, columns, envelopes, indexes) and return the statements for what is there.

    One replica does so at a time, until its connection is closed; what is there already costs no change.

    Args:
        connection: A connection for this alone.
        dataset: The declaration.
        names: Names of its tables.

    Raises:
        DeclarationError: The tables keep records that the declaration does not allow; nothing was changed.
        StoreUnavailableError: Another replica has been changing the tables for minutes.
    """
    lock = f"complex-system {names.raw}"[-44:]
    [(locked,)] = select(connection, "SELECT GET_LOCK(CONCAT(LEFT(DATABASE(), 20), ?), ?)", (lock, _LOCK_SECONDS))
    if not locked:
        raise StoreUnavailableError(f"Another service has been changing {names.raw} for {_LOCK_SECONDS} s.")
    for statement in tables(names):
        change(connection, statement)
    kept = _kept(connection, names.raw)
    raw = plan({column.name: column.type for column in dataset.columns}, kept)
    processed = plan(dict.fromkeys(dataset.processed_names[1:], "number"), _kept(connection, names.processed))
    owner = _OWNER.fullmatch(_comment_of(connection, names.raw))
    where = f"The table {names.raw}"
    refuse_another_data_set(where, owner[1] if owner else "", dataset)
    refuse_other_types(where, raw.types, dataset)
    owned = () if owner else (f"COMMENT = 'data set {dataset.name}'",)
    there = {each.name for each in kept}
    envelope = [f"ADD COLUMN {name} {kind}" for name, kind in ENVELOPE_COLUMNS.items() if name not in there]
    _alter(connection, names.raw, (*raw.changes, *envelope, *owned))
    _alter(connection, names.processed, processed.changes)
    if _CORRECTED not in {each.name for each in _kept(connection, names.conflicts)}:
        _alter(connection, names.conflicts, (f"ADD COLUMN {_CORRECTED} BOOLEAN NOT NULL DEFAULT FALSE",))
    _index(connection, names.conflicts, _CORRECTED, [_CORRECTED])
    _index(connection, names.processed, _FORMER_LABELLED, [])
    _index(connection, names.raw, ARRIVAL, [RECEIVED])
    _index(connection, names.raw, _FORMER_ARRIVAL, [])
    statements = Statements(dataset, names, raw.columns, processed.columns)
    if HASH not in there:
        _add_hashes(connection, dataset, statements)
    labelled_by = f"labelled by {written(dataset.target)}"
    counts = {each.name for each in _kept(connection, names.counts)}
    new = [f"ADD COLUMN IF NOT EXISTS {name} {NUMBER}" for name in (*COUNTED, RECOUNTS) if name not in counts]
    _alter(connection, names.counts, new)
    if new or _comment_of(connection, names.counts) != labelled_by:  # new, or of another target
        if not recount(connection, dataset, statements, _LOCK_SECONDS):
            raise StoreUnavailableError(f"Another service has been counting the records of {names.raw}.")
        _alter(connection, names.counts, (f"COMMENT = '{labelled_by}'",))
    return statements


def recount(connection: Any, dataset: Dataset, statements: Statements, patience: int = 0) -> bool:
    """Count all records, add to the kept numbers what they differ by, and add missing hashes; one replica does so at a time.

    Tables and numbers are read as they were at one moment, so what others write meanwhile is neither lost nor counted twice. A lock
    holds on one server only: of two nodes of a Galera cluster that count at the same time, one changes nothing.

    Args:
        connection: A connection for this alone.
        dataset: The declaration.
        statements: The statements for the tables.
        patience: Seconds to wait for another replica that counts.

    Returns:
        Whether it was done; not where another replica counts all the time, or has counted meanwhile.
    """
    lock = f" {statements.counts_table}"[-44:]
    [(locked,)] = select(connection, "SELECT GET_LOCK(CONCAT(LEFT(DATABASE(), 20), ?), ?)", (lock, patience))
    if not locked:
        return False
    _add_hashes(connection, dataset, statements)
    began = time.monotonic()
    change(connection, statements.recounted_row)
    connection.commit()  # the transaction that begins with the first statement
    change(connection, ONE_SNAPSHOT)
    change(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
    [(recounts,)] = select(connection, statements.recounts, ())
    [kept] = select(connection, statements.counts, ())
    [counted] = select(connection, statements.count_all, ())
    differences = [there - known for there, known in zip(counted, kept, strict=True)]
    connection.commit()  # with its snapshot, MariaDB from 11.6 on does not change a row that others have changed since (error 1020)
    done = change(connection, statements.correct_counts, (*differences, recounts)) == 1
    connection.commit()
    if any(differences) and done:
        log.info("Counted all records in %.1f s: the numbers differed by %s", time.monotonic() - began, differences)
    return done


def _add_hashes(connection: Any, dataset: Dataset, statements: Statements) -> None:
    """Hash the records of an earlier release or of another program, in batches: an interrupted run is continued at the next start."""
    digest, names, convert = content_hash(dataset), (ID, *dataset.raw_names), unpacked(dataset)
    after, done = "", 0
    while rows := select(connection, statements.select_without_hash, (after, _HASHED_AT_ONCE)):
        records = [dict(zip(names, row, strict=True)) for row in converted(rows, convert)]
        change_each(connection, statements.set_hash, [(digest(record), record[ID]) for record in records])
        connection.commit()
        after, done = records[-1][ID], done + len(records)
        log.info("Added the hash of their content to %d raw records", done)


def plan(declared: Mapping[str, str], kept: Sequence[Kept]) -> Plan:
    """Find or plan a column for each declared one.

    A column is found by its comment. One without a comment, in a table of an earlier release, is found by its exact name or by its
    hashed name, and gets its comment now.

    Args:
        declared: Types by name, in order, without the key.
        kept: The table's columns.
    """
    by_comment = {each.written: each for each in kept if each.written is not None}
    by_name = {each.name: each for each in kept if each.written is None and each.name not in (ID, PIPELINE)}
    taken = {_folded(name) for name in (ID, PIPELINE, *(each.name for each in kept))}
    columns, types, changes = {ID: ID}, {}, []
    for name, kind in declared.items():
        candidates = (by_comment.get(written(name)), by_name.get(name), by_name.get(_hashed(name)))
        found = next((each for each in candidates if each is not None and each.name not in columns.values()), None)
        if found is None:
            columns[name] = column = name if _is_plain(name) and _folded(name) not in taken else _hashed(name)
            taken.add(_folded(column))
            changes.append(f"ADD COLUMN IF NOT EXISTS {quoted(column)} {_definition(name, kind)}")
            continue
        columns[name] = found.name
        if found.declared is not None:
            types[name] = found.declared
        ours = found.stored in (_stored(kind), _stored(found.declared or kind))
        if ours and found.comment != _comment(name, kind):
            changes.append(f"MODIFY COLUMN {quoted(found.name)} {_definition(name, kind)}")
    return Plan(columns, types, tuple(changes))


def written(name: str) -> str:
    """Return a declared name as a comment has it: special characters are written as ``=`` and their bytes in hexadecimal."""
    made = "".join(each if _is_plain_character(each) and each != "=" else _escaped(each) for each in name)
    return made if len(made) <= _LONGEST_IN_COMMENT else f"=sha256 {hashlib.sha256(name.encode()).hexdigest()}"


def _kept(connection: Any, table: str) -> list[Kept]:
    found = select(
        connection,
        "SELECT column_name, data_type, column_comment FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
        (table,),
    )
    return [Kept(name, stored.lower(), comment) for name, stored, comment in found]


def _comment_of(connection: Any, table: str) -> str:
    [(comment,)] = select(
        connection,
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
        (table,),
    )
    return str(comment)


def _index(connection: Any, table: str, name: str, columns: list[str]) -> None:
    """Keep an index on these columns under a name, and no other one; without columns remove it."""
    indexed = select(
        connection,
        "SELECT column_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ? ORDER BY seq_in_index",
        (table, name),
    )
    if [column for (column,) in indexed] != columns:
        dropped = (f"DROP INDEX {name}",) if indexed else ()
        added = (f"ADD INDEX {name} ({', '.join(map(quoted, columns))})",) if columns else ()
        _alter(connection, table, (*dropped, *added))


def _alter(connection: Any, table: str, changes: Sequence[str]) -> None:
    if changes:
        change(connection, f"ALTER TABLE {table} {', '.join(changes)}")


def _definition(name: str, kind: str) -> str:
    return f"{_KINDS.get(kind, TEXT)} COMMENT '{_comment(name, kind)}'"


def _comment(name: str, kind: str) -> str:
    return f"declared as {written(name)} = {kind}"


def _stored(kind: str) -> str:
    return _STORED.get(kind, "mediumtext")


def _is_plain(name: str) -> bool:
    """Return whether MariaDB takes a name as it is.

    It refuses long names, trailing spaces and characters beyond the basic plane, and the connector takes some characters for
    placeholders.
    """
    return len(name) <= _LONGEST_IDENTIFIER and name == name.strip() and all(map(_is_plain_character, name))


def _is_plain_character(character: str) -> bool:
    return character not in "?%:\\\"'`#" and character <= "\uffff" and character.isprintable()


def _hashed(name: str) -> str:
    return f"column_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _folded(name: str) -> str:
    """What names have in common that some version of MariaDB takes for one: upper and lower case, letters with accents and without."""
    parts = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(character for character in parts if not unicodedata.combining(character)).casefold()
    return bare.replace("ss", "s").replace("ı", "i")


def _escaped(character: str) -> str:
    return "".join(f"={byte:02X}" for byte in character.encode())
