"""The records that were returned last: none is returned twice, and lags take their values."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from complex_system.collection.aggregates import aggregate
from complex_system.collection.results import SECOND, Earlier
from complex_system.domain.collecting import CollectedColumn

REMEMBERED, MAX_REMEMBERED = 2_000, 20_000
"""Records that are remembered in any case, and at most where lags go further back."""


class Returned:
    """The newest records of every machine.

    Attributes:
        sources: Columns whose earlier values are taken.
        forgotten: By machine, the time of its newest record that is not remembered any more.
    """

    def __init__(
        self,
        columns: Mapping[str, CollectedColumn],
        earlier: Iterable[Earlier] = (),
        forgotten: Mapping[str, int] | None = None,
    ) -> None:
        """Begin with what an earlier collector remembered."""
        self.forgotten = dict(forgotten or {})
        self._lags = {name: column for name, column in columns.items() if column.column}
        self.sources = tuple(dict.fromkeys(column.column for column in self._lags.values()))
        self._reach = max((column.lag or column.records or 0 for column in self._lags.values()), default=0)
        self._over = max((round(float(column.over or 0) * SECOND) for column in self._lags.values()), default=0)
        self._keys: dict[str, int] = {}
        self._of_machine: dict[str, list[Earlier]] = {}
        for each in earlier:
            self.add(each)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def time_of(self, key: str) -> int | None:
        """Return the time of a record, microseconds since 1970; None where it is not remembered."""
        return self._keys.get(key)

    def __iter__(self) -> Iterator[Earlier]:
        return itertools.chain.from_iterable(self._of_machine.values())

    @property
    def has_lags(self) -> bool:
        """Whether a column is made of earlier records."""
        return bool(self._lags)

    def is_forgotten(self, machine: str, time: int) -> bool:
        """Return whether a record of a machine and a time may have been returned and forgotten."""
        return machine in self.forgotten and time <= self.forgotten[machine]

    def add(self, record: Earlier) -> None:
        """Remember a record, and forget what neither repetitions nor lags need."""
        mine = self._of_machine.setdefault(record.machine, [])
        self._keys[record.key] = record.time
        bisect.insort(mine, record, key=_place)
        while len(self._keys) > REMEMBERED and len(mine) > self._reach and mine[0].time < mine[-1].time - self._over:
            self._forget(mine)
        while len(self._keys) > MAX_REMEMBERED:
            self._forget(min((each for each in self._of_machine.values() if each), key=lambda each: _place(each[0])))

    def _forget(self, records: list[Earlier]) -> None:
        first = records.pop(0)
        self._keys.pop(first.key, None)
        self.forgotten[first.machine] = max(first.time, self.forgotten.get(first.machine, first.time))

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
