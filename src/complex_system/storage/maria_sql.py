"""The tables and statements of the MariaDB store.

Values are placeholders, or come from ``maria_values`` behind the statements that end with ``VALUES`` or ``IN``: as digits only.
"""

# ruff: noqa: S608 - the names in these statements are our own and quoted, the values no part of them

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from complex_system.domain.dataset import ID, Dataset
from complex_system.storage.base import PROCESSED, RAW, REJECTED
from complex_system.storage.tables import PIPELINE

# Keys are compared byte by byte and without padding, so that their order and identity equal MongoDB's.
_KEY = "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL"
_TEXT = "MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL"
_KINDS = {"number": "DOUBLE NULL", "integer": "BIGINT NULL", "boolean": "BOOLEAN NULL"}  # the others are texts, lists JSON
_LONGEST_IDENTIFIER = 64


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def column_names(names: Iterable[str]) -> dict[str, str]:
    """The table column of each data set column: its own name where MariaDB takes it, else one made from a hash.

    MariaDB refuses long names, trailing spaces and characters beyond the basic plane, does not tell upper from lower case
    (nor, in some versions, letters with accents from those without), and the connector takes some characters for placeholders.
    """
    chosen: dict[str, str] = {}
    taken = {ID, PIPELINE}
    for name in names:
        plain = (
            len(name) <= _LONGEST_IDENTIFIER
            and name == name.strip()
            and not set(name) & set("?%:\\\"'`#\0")
            and max(name) <= "\uffff"
            and name.isprintable()
            and _folded(name) not in taken
        )
        column = name if plain or name == ID else f"column_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        taken.add(_folded(column))
        chosen[name] = column
    return chosen


def _folded(name: str) -> str:
    """What names have in common that some version of MariaDB takes for one."""
    parts = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in parts if not unicodedata.combining(character)).casefold()


@dataclass(frozen=True)
class Statements:
    """What the store says to the server, for one data set."""

    tables: tuple[str, ...]
    insert_raw: str
    keep_raw: str
    select_raw: str
    select_unprocessed: str
    next_version: str
    any_twin: str
    mark_twins: str
    insert_processed: str
    replace_processed: str
    mark: str
    reject: str
    delete_processed: str
    delete_rejected: str
    select_rejected: str
    select_processed_page: str
    counts: str
    select_targets: str
    select_raw_by_keys: str
    _processed_columns: dict[str, str]
    _target: str

    @classmethod
    def of(cls, dataset: Dataset) -> Statements:
        """Makes the statements for a data set."""
        raw = {name: quoted(column) for name, column in column_names((ID, *dataset.raw_names)).items()}
        processed = {name: quoted(column) for name, column in column_names(dataset.processed_names).items()}
        raw_list, processed_list = ", ".join(raw.values()), ", ".join(processed.values())
        target = processed[dataset.target]
        values = [column for name, column in processed.items() if name != ID]
        replaced = ", ".join(f"{column} = VALUES({column})" for column in (*values, PIPELINE))
        return cls(
            tables=_tables(dataset, raw, processed),
            insert_raw=f"INSERT INTO {RAW} ({raw_list}) VALUES ",
            keep_raw=f" ON DUPLICATE KEY UPDATE {ID} = {RAW}.{ID}",
            select_raw=f"SELECT {raw_list} FROM {RAW} ORDER BY {ID} LIMIT ?",
            select_unprocessed=f"SELECT {raw_list} FROM {RAW} FORCE INDEX (unprocessed) "
            f"WHERE {PIPELINE} = ? AND {ID} > ? ORDER BY {ID} LIMIT ?",
            next_version=f"SELECT MIN({PIPELINE}) FROM {RAW} WHERE {PIPELINE} > ?",
            any_twin=f"SELECT EXISTS (SELECT 1 FROM {PROCESSED} WHERE {ID} BETWEEN ? AND ?)",
            mark_twins=f"UPDATE {PROCESSED} AS twin STRAIGHT_JOIN {RAW} AS own USING ({ID}) "
            f"SET own.{PIPELINE} = twin.{PIPELINE} WHERE own.{PIPELINE} = '' AND twin.{ID} IN ",
            insert_processed=f"INSERT INTO {PROCESSED} ({processed_list}, {PIPELINE}) VALUES ",
            replace_processed=f" ON DUPLICATE KEY UPDATE {replaced}",
            mark=f"UPDATE {RAW} SET {PIPELINE} = ? WHERE {ID} IN ",
            reject=f"INSERT INTO {REJECTED} ({ID}, reason, version) VALUES (?, ?, ?) "
            "ON DUPLICATE KEY UPDATE reason = VALUES(reason), version = VALUES(version)",
            delete_processed=f"DELETE FROM {PROCESSED} WHERE {ID} IN ",
            delete_rejected=f"DELETE FROM {REJECTED} WHERE {ID} IN ",
            select_rejected=f"SELECT {ID}, reason, version FROM {REJECTED} WHERE {ID} > ? ORDER BY {ID} LIMIT ?",
            select_processed_page=f"SELECT {', '.join(values)} FROM {PROCESSED} ORDER BY {ID} LIMIT ? OFFSET ?",
            counts=f"SELECT (SELECT COUNT(*) FROM {RAW}), (SELECT COUNT(*) FROM {PROCESSED}), "
            f"(SELECT COUNT({target}) FROM {PROCESSED}), (SELECT COUNT(*) FROM {REJECTED})",
            select_targets=f"SELECT {ID}, {target} FROM {PROCESSED} WHERE {ID} IN",
            select_raw_by_keys=f"SELECT {raw_list} FROM {RAW} WHERE {ID} IN",
            _processed_columns=processed,
            _target=target,
        )

    def select_processed(self, columns: Sequence[str], *, labelled: bool, of_version: bool) -> str:
        """Parameters: key to begin after, the version if ``of_version``, most rows."""
        wanted = ", ".join(self._processed_columns[name] for name in columns)
        conditions = f"{ID} > ?" + (f" AND {self._target} IS NOT NULL" if labelled else "")
        conditions += f" AND {PIPELINE} = ?" if of_version else ""
        # The rows are wanted by key; an index on the target would have them sorted first.
        return f"SELECT {wanted} FROM {PROCESSED} FORCE INDEX (PRIMARY) WHERE {conditions} ORDER BY {ID} LIMIT ?"


def _tables(dataset: Dataset, raw: dict[str, str], processed: dict[str, str]) -> tuple[str, ...]:
    def kind(name: str) -> str:
        return _KINDS.get(dataset.column(name).type, _TEXT)

    target = processed[dataset.target]
    made = [
        f"CREATE TABLE IF NOT EXISTS {RAW} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY} DEFAULT '', "
        + "".join(f"{raw[name]} {kind(name)}, " for name in dataset.raw_names)
        + f"INDEX unprocessed ({PIPELINE}, {ID})) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {PROCESSED} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY}, "
        + "".join(f"{processed[name]} DOUBLE NULL, " for name in dataset.processed_names[1:])
        + f"INDEX labelled ({target})) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {REJECTED} ({ID} {_KEY} PRIMARY KEY, reason {_TEXT}, version {_KEY}) ENGINE = InnoDB",
    ]
    # A declaration that grew: what an older table lacks is added, what it has beyond stays.
    added_raw = ", ".join(f"ADD COLUMN IF NOT EXISTS {raw[name]} {kind(name)}" for name in dataset.raw_names)
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {processed[name]} DOUBLE NULL" for name in dataset.processed_names[1:])
    return (
        *made,
        f"ALTER TABLE {RAW} {added_raw}",
        f"ALTER TABLE {PROCESSED} {added}",
    )
