"""The readings of one sensor, by time: what windows are cut out of, and no more than windows need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from complex_system.collection.readings import Times

Values = npt.NDArray[np.float64] | npt.NDArray[np.object_]
_ROOM = 64


class Series:
    """Readings sorted by time, then value. The same value at the same time is one reading, however often it comes.

    Readings of one time stand in the order of their values, so that no result depends on the order in which they came.
    """

    def __init__(self, *, keep: int, text: bool = False) -> None:
        """Make an empty series.

        Args:
            keep: Microseconds on the stream's clock for which a reading is kept, from its arrival or its own time, whichever is later.
            text: Whether values are texts.
        """
        self._keep = keep
        self._begin = self._end = 0
        self._times = np.empty(_ROOM, dtype=np.int64)
        self._values: Values = np.empty(_ROOM, dtype=object if text else np.float64)
        self._seen = np.empty(_ROOM, dtype=np.int64)
        self._sequences = np.empty(_ROOM, dtype=np.int64)

    def __len__(self) -> int:
        return self._end - self._begin

    def add(self, times: Times, values: Values, clocks: Times, sequences: Times) -> None:
        """Add readings in the order of the stream.

        Args:
            times: Of the readings, microseconds since 1970.
            values: Finite numbers, or texts.
            clocks: Stream's clock at each.
            sequences: Stream sequence of each.
        """
        seen = np.maximum(times, clocks)
        newest = self._times[self._end - 1] if len(self) else np.iinfo(np.int64).min
        if times[0] > newest and (len(times) == 1 or bool((times[1:] > times[:-1]).all())):
            self._append(times, values, seen, sequences)
            return
        place = self._begin + int(np.searchsorted(self._times[self._begin : self._end], times.min(), "left"))
        rest = slice(place, self._end)
        times = np.concatenate([self._times[rest], times])
        values = np.concatenate([self._values[rest], values])
        seen = np.concatenate([self._seen[rest], seen])
        sequences = np.concatenate([self._sequences[rest], sequences])
        order = _order(times, values)
        times, values = times[order], values[order]
        # Of equal readings the last to come is kept: it stays as long as any of them would.
        last = np.append((times[1:] != times[:-1]) | (values[1:] != values[:-1]), True)
        self._end = place
        self._append(times[last], values[last], seen[order][last], sequences[order][last])

    def prune(self, clock: int) -> None:
        """Forget what is older than the series keeps, at a time on the stream's clock."""
        limit = clock - self._keep
        old = self._begin + int(np.searchsorted(self._times[self._begin : self._end], limit, "left"))
        if old == self._begin:
            return
        part = slice(self._begin, old)
        alive = np.flatnonzero(self._seen[part] >= limit) + self._begin  # late ones
        self._begin = old - len(alive)
        if len(alive):
            for column in (self._times, self._values, self._seen, self._sequences):
                column[self._begin : old] = column[alive]

    def window(self, after: int | None, until: int | None) -> tuple[Times, Values]:
        """Return times and values of the readings after one time, until another one; all where these are None."""
        times = self._times[self._begin : self._end]
        low = 0 if after is None else int(np.searchsorted(times, after, "right"))
        high = len(times) if until is None else int(np.searchsorted(times, until, "right"))
        return times[low:high], self._values[self._begin + low : self._begin + high]

    def first_sequence(self) -> int | None:
        """Return the smallest stream sequence of a reading that is kept; None where there is none."""
        return int(self._sequences[self._begin : self._end].min()) if len(self) else None

    def _append(self, times: Times, values: Values, seen: Times, sequences: Times) -> None:
        if self._end + len(times) > len(self._times):
            self._make_room(len(times))
        part = slice(self._end, self._end + len(times))
        self._times[part], self._values[part] = times, values
        self._seen[part], self._sequences[part] = seen, sequences
        self._end = part.stop

    def _make_room(self, more: int) -> None:
        kept = slice(self._begin, self._end)
        room = max(_ROOM, 2 * (len(self) + more))
        for name in ("_times", "_values", "_seen", "_sequences"):
            old = getattr(self, name)
            new = np.empty(room, dtype=old.dtype)
            new[: len(self)] = old[kept]
            setattr(self, name, new)
        self._begin, self._end = 0, kept.stop - kept.start


def _order(times: Times, values: Values) -> npt.NDArray[np.intp]:
    if values.dtype != object:
        return np.lexsort((values, times))
    return np.array(sorted(range(len(times)), key=lambda place: (times[place], values[place])), dtype=np.intp)
