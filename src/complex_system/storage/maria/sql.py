"""The tables and statements of the MariaDB store.

Values are placeholders, or literals (``maria/literals.py``) behind the statements that end with ``VALUES`` or ``IN``.
"""

# ruff: noqa: S608 - the names in these statements are our own and quoted, the values are not part of them

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import REVISION
from complex_system.storage.envelope import ENVELOPE, FIRST_REVISION, MAX_SOURCE, PIPELINE
from complex_system.storage.naming import TableNames

TEXT = "MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL"
RECEIVED = f"{ENVELOPE}_received"
HASH = f"{ENVELOPE}_hash"
SOURCE = f"{ENVELOPE}_source"
ORDER = f"{ENVELOPE}_order"
ORDERS = f"{ENVELOPE}_orders"
ARRIVAL = "arrived"
"""Index of the raw records by their time of arrival, and of equal times by their keys."""

# Keys are compared byte by byte and without padding, so that their order and identity equal MongoDB's.
_KEY = "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL"

_SOURCE = f"VARCHAR({MAX_SOURCE}) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT ''"

ENVELOPE_COLUMNS = {
    REVISION: f"BIGINT NOT NULL DEFAULT {FIRST_REVISION}",
    RECEIVED: "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
    HASH: "BINARY(16) NULL",
    SOURCE: _SOURCE,
    ORDER: "DOUBLE NULL",
    ORDERS: TEXT,
}
"""Definitions of the envelope's columns, but for the version; with defaults for a program that does not know them."""

COUNTED = ("raw", "processed", "labelled", "rejected", "conflicts", "corrected")
"""The numbers of records that are kept, as columns. A number is the sum of its column."""
RECOUNTS = "recounts"
"""Column of the row ``slot = 0`` that says how often all records were counted."""
NUMBER = "BIGINT NOT NULL DEFAULT 0"
_SLOTS = 16
# Rows of these, so that transactions on several connections seldom wait for each other. The nodes of a Galera cluster, which sets a
# step and an offset for each, have rows of their own: of two nodes that change one row at the same moment, one rolls back.
_SLOT = f"(1 + ((CONNECTION_ID() MOD {_SLOTS}) * @@auto_increment_increment + @@auto_increment_offset - 1) MOD 255)"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def tables(names: TableNames) -> tuple[str, ...]:
    """Return statements that create the missing tables, without the declared columns and the envelope's."""
    return (
        f"CREATE TABLE IF NOT EXISTS {names.raw} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY} DEFAULT '', "
        f"INDEX unprocessed ({PIPELINE}, {ID})) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.processed} ({ID} {_KEY} PRIMARY KEY, {PIPELINE} {_KEY}) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.rejected} ({ID} {_KEY} PRIMARY KEY, reason {TEXT}, version {_KEY}) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.conflicts} ({ID} {_KEY}, hash BINARY(16) NOT NULL, source {_SOURCE}, "
        f"kept_source {_SOURCE}, record LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, "
        "received TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (" + ID + ", hash)) ENGINE = InnoDB",
        f"CREATE TABLE IF NOT EXISTS {names.counts} (slot TINYINT UNSIGNED NOT NULL PRIMARY KEY, "
        f"{', '.join(f'{name} {NUMBER}' for name in (*COUNTED, RECOUNTS))}) ENGINE = InnoDB",
    )


def _same_key(table: str, meanwhile: str = "") -> str:
    """Return an assignment that fails where another unique index, an operator's, has found the row: it is another record's.

    Args:
        table: The table.
        meanwhile: A number to work out for each such row: for variables that count them.
    """
    key = f"{table}.{ID}"
    kept = f"IF({meanwhile} IS NULL, NULL, {key})" if meanwhile else key
    return f"{ID} = IF({key} = VALUES({ID}), {kept}, (SELECT 1 UNION ALL SELECT 2))"


class Asked(NamedTuple):
    """Which processed records a page has: see ``DataStore.processed_columns``."""

    labelled: bool
    version: str | None
    after: str | None
    limit: int
    arrived_after: float | None = None
    until: str | None = None


class Statements:
    """The statements of the store for one data set."""

    def __init__(
        self, dataset: Dataset, names: TableNames, raw_columns: Mapping[str, str], processed_columns: Mapping[str, str]
    ) -> None:
        """Make the statements.

        Args:
            dataset: Names the columns in their order.
            names: Of the tables.
            raw_columns: The table's column for each declared one, the key included (``schema.plan``).
            processed_columns: The same for the processed records.
        """
        self._raw = {name: quoted(raw_columns[name]) for name in (ID, *dataset.raw_names)}
        raw = ", ".join(self._raw.values())
        self._processed = {name: quoted(processed_columns[name]) for name in dataset.processed_names}
        self._target = target = self._processed[dataset.target]
        self._names = names
        values = [column for name, column in self._processed.items() if name != ID]
        # Only the server knows which rows of a statement were there. The first assignment sees the row as it was.
        counting = f"(@there := @there + 1) + (@labelled := @labelled + ({names.processed}.{target} IS NOT NULL))"
        replaced = ", ".join(
            (_same_key(names.processed, counting), *(f"{column} = VALUES({column})" for column in (*values, PIPELINE)))
        )

        self.insert_raw = f"INSERT INTO {names.raw} ({raw}, {HASH}, {SOURCE}, {ORDER}) VALUES "
        self.keep_raw = f" ON DUPLICATE KEY UPDATE {ID} = {names.raw}.{ID}"
        self.delete_raw = f"DELETE FROM {names.raw} WHERE {ID} IN"
        self.select_raw = f"SELECT {raw} FROM {names.raw} ORDER BY {ID} LIMIT ?"
        self.select_last_key = (
            f"SELECT {ID} FROM {names.raw} FORCE INDEX (PRIMARY) "
            f"WHERE {ENVELOPE}_received < FROM_UNIXTIME(?) ORDER BY {ID} DESC LIMIT 1"
        )
        order = f"COALESCE({ORDER}, UNIX_TIMESTAMP({RECEIVED}) + 0e0)"
        changed = (*(quoted(raw_columns[name]) for name in dataset.raw_names), HASH, SOURCE, ORDER, ORDERS, REVISION)
        self.select_origins = f"SELECT {ID}, {HASH}, {order} FROM {names.raw} WHERE {ID} IN"
        self.select_stored = f"SELECT {raw}, {SOURCE}, {REVISION}, {HASH}, {order}, {ORDERS} FROM {names.raw} WHERE {ID} IN"
        self.change_raw = (
            f"INSERT INTO {names.raw} ({raw}, {HASH}, {SOURCE}, {ORDER}, {ORDERS}, {REVISION}, {PIPELINE}) VALUES "
        )
        changed_raw = (_same_key(names.raw), *(f"{column} = VALUES({column})" for column in changed))
        self.changed_raw = f" ON DUPLICATE KEY UPDATE {', '.join(changed_raw)}"
        self.changed_values = f"{self.changed_raw}, {PIPELINE} = ''"
        self.keep_conflict = (
            f"INSERT INTO {names.conflicts} ({ID}, hash, source, kept_source, record, corrected) VALUES (?, ?, ?, ?, ?, ?) "
            "ON DUPLICATE KEY UPDATE corrected = GREATEST(corrected, VALUES(corrected))"
        )
        self.select_conflicts = (
            f"SELECT {ID}, hash, source, kept_source, record, corrected, UNIX_TIMESTAMP(received) + 0e0 FROM {names.conflicts} "
            f"WHERE {ID} >= ? AND ({ID} > ? OR hash > ?) ORDER BY {ID}, hash LIMIT ?"
        )
        self.select_raw_by_keys = f"SELECT {raw} FROM {names.raw} WHERE {ID} IN"
        self.select_unprocessed = (
            f"SELECT {raw}, {REVISION} FROM {names.raw} FORCE INDEX (unprocessed) "
            f"WHERE {PIPELINE} = ? AND {ID} > ? ORDER BY {ID} LIMIT ?"
        )
        self.delete_old_raw = (
            f"DELETE FROM {names.raw} WHERE {PIPELINE} = ? "
            f"AND {RECEIVED} < FROM_UNIXTIME(UNIX_TIMESTAMP(CURRENT_TIMESTAMP(6)) - ?) ORDER BY {RECEIVED} LIMIT ?"
        )
        self.next_version = f"SELECT MIN({PIPELINE}) FROM {names.raw} WHERE {PIPELINE} > ?"
        self.mark = f"UPDATE {names.raw} SET {PIPELINE} = ? WHERE {ID} IN "
        self.mark_revision = f"UPDATE {names.raw} SET {PIPELINE} = ? WHERE {REVISION} = ? AND {ID} IN "
        self.select_changed = f"SELECT {ID} FROM {names.raw} WHERE {REVISION} <> {{revision}} AND {ID} IN"
        self.any_processed = f"SELECT EXISTS (SELECT 1 FROM {names.processed} WHERE {ID} BETWEEN ? AND ?)"
        self.mark_processed = (
            f"UPDATE {names.processed} AS processed STRAIGHT_JOIN {names.raw} AS raw USING ({ID}) "
            f"SET raw.{PIPELINE} = processed.{PIPELINE} WHERE raw.{PIPELINE} = '' AND processed.{ID} IN "
        )
        self.select_without_hash = (
            f"SELECT {raw} FROM {names.raw} FORCE INDEX (PRIMARY) WHERE {ID} > ? AND {HASH} IS NULL ORDER BY {ID} LIMIT ?"
        )
        self.set_hash = f"UPDATE {names.raw} SET {HASH} = ? WHERE {ID} = ? AND {HASH} IS NULL"
        self.insert_processed = f"INSERT INTO {names.processed} ({', '.join(self._processed.values())}, {PIPELINE}) VALUES "
        self.replace_processed = f" ON DUPLICATE KEY UPDATE {replaced}"
        self.delete_processed = f"DELETE FROM {names.processed} WHERE {ID} IN "
        self.was_labelled = f" RETURNING {target} IS NOT NULL"
        self.select_processed_key = f"SELECT {ID} FROM {names.processed} WHERE {ID} > ? ORDER BY {ID} LIMIT 1 OFFSET ?"
        self.select_targets = f"SELECT {ID}, {target} FROM {names.processed} WHERE {ID} IN"
        rejected_row = _same_key(names.rejected, "(@there := @there + 1)")
        self.reject = (
            f"INSERT INTO {names.rejected} ({ID}, reason, version) VALUES (?, ?, ?) "
            f"ON DUPLICATE KEY UPDATE {rejected_row}, reason = VALUES(reason), version = VALUES(version)"
        )
        self.delete_rejected = f"DELETE FROM {names.rejected} WHERE {ID} IN "
        self.select_rejected = f"SELECT {ID}, reason, version FROM {names.rejected} WHERE {ID} > ? ORDER BY {ID} LIMIT ?"
        self.count_conflicts = f"SELECT COUNT(*), COUNT(NULLIF(corrected, FALSE)) FROM {names.conflicts} WHERE {ID} IN "
        self._count(names, target)

    def _count(self, names: TableNames, target: str) -> None:
        """Make the statements that count all records, and that keep their numbers."""
        self.count_all = (
            f"SELECT raw.n, processed.n, processed.labelled, rejected.n, conflicts.n, conflicts.corrected FROM "
            f"(SELECT COUNT(*) AS n FROM {names.raw}) AS raw, "
            f"(SELECT COUNT(*) AS n, COUNT({target}) AS labelled FROM {names.processed}) AS processed, "
            f"(SELECT COUNT(*) AS n FROM {names.rejected}) AS rejected, "
            f"(SELECT COUNT(*) AS n, COUNT(NULLIF(corrected, FALSE)) AS corrected FROM {names.conflicts}) AS conflicts"
        )
        sums = ", ".join(f"CAST(COALESCE(SUM({name}), 0) AS SIGNED)" for name in COUNTED)
        self.counts_table = names.counts
        self.counts = f"SELECT {sums} FROM {names.counts}"
        self.add_counts = (
            f"INSERT INTO {names.counts} (slot, {', '.join(COUNTED)}) VALUES ({_SLOT}{', ?' * len(COUNTED)}) "
            f"ON DUPLICATE KEY UPDATE {', '.join(f'{name} = {name} + VALUES({name})' for name in COUNTED)}"
        )
        self.recounted_row = f"INSERT IGNORE INTO {names.counts} (slot) VALUES (0)"
        self.recounts = f"SELECT {RECOUNTS} FROM {names.counts} WHERE slot = 0"
        # Two that counted at the same time would both add what was missing.
        self.correct_counts = (
            f"UPDATE {names.counts} SET {', '.join(f'{name} = {name} + ?' for name in COUNTED)}, {RECOUNTS} = {RECOUNTS} + 1 "
            f"WHERE slot = 0 AND {RECOUNTS} = ?"
        )

    def select_processed(
        self, columns: Sequence[str], asked: Asked, raw: Sequence[str] | None = None
    ) -> tuple[str, tuple[str | float | Decimal, ...]]:
        """Return the query for a page of processed records, and its parameters.

        Args:
            columns: Of the processed records.
            asked: Which of them.
            raw: Raw columns that follow, with the arrival last; None for neither.
        """
        wanted = [f"processed.{self._processed[name]}" for name in columns]
        if raw is not None:
            wanted += [*(f"raw.{self._raw[name]}" for name in raw), f"UNIX_TIMESTAMP(raw.{RECEIVED}) + 0e0"]
        # The rows are wanted by key; with an index on the target they would have to be sorted first.
        processed, raws = f"{self._names.processed} AS processed", f"{self._names.raw} AS raw"
        tables = f"{processed} FORCE INDEX (PRIMARY)"
        conditions, parameters = [f"processed.{ID} > ?"], list[str | float | Decimal]([asked.after or ""])
        order = f"processed.{ID}"
        if asked.arrived_after is not None:
            tables = f"{raws} FORCE INDEX ({ARRIVAL}) STRAIGHT_JOIN {processed} USING ({ID})"
            # A float would be cut to microseconds, not rounded. MariaDB 11.8 finds nothing after second 0, and no release before it.
            moment = max(round(Decimal(asked.arrived_after), 6), Decimal("0.000001"))
            conditions, parameters = [f"raw.{RECEIVED} > FROM_UNIXTIME(?)"], [moment]
            if asked.after is not None:
                conditions = [f"raw.{RECEIVED} >= FROM_UNIXTIME(?)", f"(raw.{RECEIVED} > FROM_UNIXTIME(?) OR raw.{ID} > ?)"]
                parameters = [moment, moment, asked.after]
            order = f"raw.{RECEIVED}, raw.{ID}"
        elif raw is not None:
            tables += f" LEFT JOIN {raws} USING ({ID})"
        if asked.until is not None:
            conditions.append(f"processed.{ID} <= ?")
            parameters.append(asked.until)
        if asked.labelled:
            conditions.append(f"processed.{self._target} IS NOT NULL")
        if asked.version is not None:
            conditions.append(f"processed.{PIPELINE} = ?")
            parameters.append(asked.version)
        where = f"WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT ?"
        return f"SELECT {', '.join(wanted)} FROM {tables} {where}", (*parameters, asked.limit)
