"""A file read row by row and column by column, for the tests of what reads files."""

from __future__ import annotations

from collections.abc import Sequence

from complex_system.sources.base import ROW
from complex_system.sources.replay import ReplayFile
from complex_system.sources.rows import Row


def assert_same_by_columns(file: ReplayFile, rows: Sequence[Row]) -> None:
    """Compare a file that is read column by column with its rows: the same records, keys and faults."""
    frames = list(file.frames(max(11, len(rows) // 20)))  # small ones, so that values lie on both sides of a seam
    records = [record for each in frames for record in each.records.iter_rows(named=True)]
    good = [row for row in rows if not row.fault]
    assert [record.pop(ROW) for record in records] == [row.number for row in good]
    assert records == [row.record for row in good]
    faults = [fault for each in frames for fault in each.faults.items()]
    assert faults == [(row.number, row.fault) for row in rows if row.fault]
    assert sum(each.keys_made for each in frames) == sum(row.key_made for row in rows)
