"""The records that were returned last: none is returned twice, and lags take their values."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from complex_system.collection.aggregates import aggregate
from complex_system.collection.results import SECOND, Earlier
from complex_system.domain.collecting import CollectedColumn

MAX_RETURNED = 5000
"""Records that are remembered, the newest by their time."""


class Returned:
    """The newest records that were returned.

    Attributes:
        forgotten: Time of the newest record that is not remembered any more; None before there is one.
        sources: Columns whose earlier values are taken.
    """

    def __init__(
        self, columns: Mapping[str, CollectedColumn], earlier: Iterable[Earlier] = (), forgotten: int | None = None
    ) -> None:
        self.forgotten = forgotten
        self._lags = {name: column for name, column in columns.items() if column.column}
        self.sources = tuple(dict.fromkeys(column.column for column in self._lags.values()))
        self._by_key: dict[str, Earlier] = {}
        self._order: list[tuple[int, str]] = []
        self._of_machine: dict[str, list[Earlier]] = {}
        for each in earlier:
            self.add(each)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Earlier]:
        return iter(self._by_key.values())

    @property
    def has_lags(self) -> bool:
        """Whether a column is made of earlier records."""
        return bool(self._lags)

    def is_forgotten(self, time: int) -> bool:
        """Return whether a record of a time may have been returned and forgotten."""
        return self.forgotten is not None and time <= self.forgotten

    def add(self, record: Earlier) -> None:
        """Remember a record, and forget the oldest one where there are too many."""
        self._by_key[record.key] = record
        heapq.heappush(self._order, (record.time, record.key))
        bisect.insort(self._of_machine.setdefault(record.machine, []), record, key=_place)
        if len(self._by_key) <= MAX_RETURNED:
            return
        time, key = heapq.heappop(self._order)
        of_machine = self._of_machine[self._by_key.pop(key).machine]
        del of_machine[0]
        self.forgotten = max(time, self.forgotten) if self.forgotten is not None else time

    def lags(self, time: int, machine: str) -> dict[str, Any]:
        """Return the columns that a record has of the records of its machine before it; None where there are none."""
        before = self._of_machine.get(machine, [])
        end = bisect.bisect_left(before, (time, ""), key=_place)
        made: dict[str, Any] = {}
        for name, column in self._lags.items():
            place = self.sources.index(column.column)
            if column.lag is not None:
                made[name] = before[end - column.lag].values[place] if column.lag <= end else None
                continue
            if column.records is not None:
                begin = max(0, end - column.records)
            else:
                oldest = time - round(float(column.over or 0) * SECOND)
                begin = bisect.bisect_left(before, (oldest, ""), 0, end, key=_place)
            made[name] = _of_earlier(column.take, before[begin:end], place)
        return made


def _of_earlier(take: str, records: list[Earlier], place: int) -> Any:
    known = [(record.time, value) for record in records if (value := record.values[place]) is not None]
    if take in ("last", "first", "count"):
        if take == "count":
            return len(known)
        return known[-1 if take == "last" else 0][1] if known else None
    times = np.array([time for time, _ in known], dtype=np.int64)
    return aggregate(take, times, np.array([value for _, value in known], dtype=np.float64))


def _place(record: Earlier) -> tuple[int, str]:
    return record.time, record.key
