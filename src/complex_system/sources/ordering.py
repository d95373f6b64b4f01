"""The order in which a file is replayed, and its repetition under keys of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.keys import MAX_KEY, repeated_key
from complex_system.errors import SourceFileError
from complex_system.sources.replay import ReplayFile, Row

FILE, SHUFFLED = "file", "shuffled"
MOST_ORDERED = 1_000_000
"""Rows of a file that is replayed in another order than its own: they are all in memory then."""
_READ_AT_ONCE = 5000


class Replay:
    """A file in a chosen order, as often as it is asked for."""

    def __init__(self, file: ReplayFile, dataset: Dataset, order: str = FILE, seed: int = 1) -> None:
        """Prepares it.

        Args:
            file: The file.
            dataset: What its records are.
            order: ``file``, ``shuffled``, or the name of a declared column of type ``datetime``.
            seed: Of the shuffling; every repetition is shuffled anew.

        Raises:
            SourceFileError: There is no such order, or the file is too large for another one than its own.
        """
        self._file = file
        self._order = order
        self._seed = seed
        self._time: TimeFormat | None = None
        if order in (FILE, SHUFFLED):
            pass
        elif (column := next((each for each in dataset.columns if each.name == order), None)) and column.type == "datetime":
            try:
                self._time = TimeFormat(column.format)
            except ValueError as error:
                raise SourceFileError(f"The records cannot be ordered by the column '{order}': {error}.") from error
        else:
            times = [f"'{each.name}'" for each in dataset.columns if each.type == "datetime"]
            named = (
                f"a column of type datetime ({', '.join(times)})"
                if times
                else "a column of type datetime, of which none is declared"
            )
            raise SourceFileError(
                f"The records cannot be ordered by '{order}': known are '{FILE}', '{SHUFFLED}' and {named}."
            )
        if order != FILE and file.rows > MOST_ORDERED:
            raise SourceFileError(
                f"The file {file.path} has {file.rows:,} rows; at most {MOST_ORDERED:,} can be replayed in another order than "
                "the file's. Sort the file itself, or split it."
            )

    def batches(self, size: int, number: int = 1) -> Iterator[list[Row]]:
        """The rows of one repetition, at most ``size`` at once.

        Args:
            size: Of a batch.
            number: Of the repetition, from 1; from the second on the records have keys of their own.

        Raises:
            SourceFileError: The file cannot be read to its end.
        """
        if self._order == FILE:
            for batch in self._file.batches(size):
                yield [_repeated(row, number) for row in batch]
            return
        rows = list(chain.from_iterable(self._file.batches(_READ_AT_ONCE)))
        if self._order == SHUFFLED:
            random.Random(f"{self._seed} {number}").shuffle(rows)  # noqa: S311 - an order, no secret
        else:
            rows.sort(key=self._place)
        for start in range(0, len(rows), size):
            yield [_repeated(row, number) for row in rows[start : start + size]]

    def _place(self, row: Row) -> tuple[bool, tuple[int, ...]]:
        """By time; what has none comes last, in the order of the file."""
        assert self._time is not None
        text = row.record.get(self._order)
        parts = self._time.parts(text) if isinstance(text, str) else None
        if parts is None:
            return True, (row.number,)
        moment = [parts[name] for name in ("year", "day_of_year", "hour", "minute", "second")]
        return False, (*moment, parts.get("fraction", 0), row.number)


def _repeated(row: Row, number: int) -> Row:
    if number == 1 or row.fault:
        return row
    key = repeated_key(row.record[ID], number)
    if len(key) > MAX_KEY:
        return Row(row.number, {}, f"the key '{key}' of its repetition would have more than {MAX_KEY} characters")
    return Row(row.number, {**row.record, ID: key})
