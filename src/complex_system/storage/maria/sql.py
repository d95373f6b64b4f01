"""The tables and statements of the MariaDB store.

Values are placeholders, or come from ``maria_values`` behind the statements that end with ``VALUES`` or ``IN``: as digits only.
"""

# ruff: noqa: S608 - the names in these statements are our own and quoted, the values no part of them

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from complex_system.domain.dataset import ID, Dataset
from complex_system.storage.arrow import PIPELINE
from complex_system.storage.maria.columns import TEXT, quoted
from complex_system.storage.names import TableNames

# Keys are compared byte by byte and without padding, so that their order and identity equal MongoDB's.
_KEY = "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL"


@dataclass(frozen=True)
class Statements:
    """What the store says to the server, for one data set."""

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
    _names: TableNames
    _processed_columns: dict[str, str]
    _target: str

    @classmethod
    def of(
        cls, dataset: Dataset, names: TableNames, raw_columns: Mapping[str, str], processed_columns: Mapping[str, str]
    ) -> Statements:
        """Makes the statements for a data set.

        Args:
            dataset: Names the columns in their order.
            names: Of the tables.
            raw_columns: The table's column of each declared one, the key included (``maria_columns.plan``).
            processed_columns: As well.
        """
        raw = {name: quoted(raw_columns[name]) for name in (ID, *dataset.raw_names)}
        processed = {name: quoted(processed_columns[name]) for name in dataset.processed_names}
        raw_list, processed_list = ", ".join(raw.values()), ", ".join(processed.values())
        target = processed[dataset.target]
        values = [column for name, column in processed.items() if name != ID]
        replaced = ", ".join(f"{column} = VALUES({column})" for column in (*values, PIPELINE))
        return cls(
            _names=names,
            insert_raw=f"INSERT INTO {names.raw} ({raw_list}) VALUES ",
            keep_raw=f" ON DUPLICATE KEY UPDATE {ID} = {names.raw}.{ID}",
            select_raw=f"SELECT {raw_list} FROM {names.raw} ORDER BY {ID} LIMIT ?",
            select_unprocessed=f"SELECT {raw_list} FROM {names.raw} FORCE INDEX (unprocessed) "
            f"WHERE {PIPELINE} = ? AND {ID} > ? ORDER BY {ID} LIMIT ?",
            next_version=f"SELECT MIN({PIPELINE}) FROM {names.raw} WHERE {PIPELINE} > ?",
            any_twin=f"SELECT EXISTS (SELECT 1 FROM {names.processed} WHERE {ID} BETWEEN ? AND ?)",
            mark_twins=f"UPDATE {names.processed} AS twin STRAIGHT_JOIN {names.raw} AS own USING ({ID}) "
            f"SET own.{PIPELINE} = twin.{PIPELINE} WHERE own.{PIPELINE} = '' AND twin.{ID} IN ",
            insert_processed=f"INSERT INTO {names.processed} ({processed_list}, {PIPELINE}) VALUES ",
            replace_processed=f" ON DUPLICATE KEY UPDATE {replaced}",
            mark=f"UPDATE {names.raw} SET {PIPELINE} = ? WHERE {ID} IN ",
            reject=f"INSERT INTO {names.rejected} ({ID}, reason, version) VALUES (?, ?, ?) "
            "ON DUPLICATE KEY UPDATE reason = VALUES(reason), version = VALUES(version)",
            delete_processed=f"DELETE FROM {names.processed} WHERE {ID} IN ",
            delete_rejected=f"DELETE FROM {names.rejected} WHERE {ID} IN ",
            select_rejected=f"SELECT {ID}, reason, version FROM {names.rejected} WHERE {ID} > ? ORDER BY {ID} LIMIT ?",
            select_processed_page=f"SELECT {', '.join(values)} FROM {names.processed} ORDER BY {ID} LIMIT ? OFFSET ?",
            counts=f"SELECT (SELECT COUNT(*) FROM {names.raw}), (SELECT COUNT(*) FROM {names.processed}), "
            f"(SELECT COUNT({target}) FROM {names.processed}), (SELECT COUNT(*) FROM {names.rejected})",
            select_targets=f"SELECT {ID}, {target} FROM {names.processed} WHERE {ID} IN",
            select_raw_by_keys=f"SELECT {raw_list} FROM {names.raw} WHERE {ID} IN",
            _processed_columns=processed,
            _target=target,
        )

    def select_processed(self, columns: Sequence[str], *, labelled: bool, of_version: bool) -> str:
        """Parameters: key to begin after, the version if ``of_version``, most rows."""
        wanted = ", ".join(self._processed_columns[name] for name in columns)
        conditions = f"{ID} > ?" + (f" AND {self._target} IS NOT NULL" if labelled else "")
        conditions += f" AND {PIPELINE} = ?" if of_version else ""
        # The rows are wanted by key; an index on the target would have them sorted first.
        return f"SELECT {wanted} FROM {self._names.processed} FORCE INDEX (PRIMARY) WHERE {conditions} ORDER BY {ID} LIMIT ?"


def tables(names: TableNames) -> tuple[str, ...]:
    """Statements that make the tables where they are missing, without the declared columns."""
    return (
        f"CREATE TABLE IF NOT EXISTS {names.raw} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY} DEFAULT '', "
        f"INDEX unprocessed ({PIPELINE}, {ID})) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.processed} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY}) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.rejected} ({ID} {_KEY} PRIMARY KEY, reason {TEXT}, version {_KEY}) ENGINE = InnoDB",
    )
