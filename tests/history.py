"""What clients did, with begin and end times of one clock, and a check of all of it together.

A key has versions that only grow: 0 is no record, 1 the record as it was saved first, 2 the same record with the value that came
later. An operation takes effect at some moment between its begin and its end; one without a reply may take effect at any time after
its begin, or never. So a read returns at least what was acknowledged, or read by anybody, before it began, and at most what somebody
had begun to write before it ended.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

UNKNOWN = -1
"""Version of a record whose content nobody wrote."""
RAW, PROCESSED = "raw", "processed"
Way = Literal["saved", "published"]


@dataclass(frozen=True)
class Write:
    """An attempt to write records. A repeated one is an operation of its own.

    Attributes:
        client: Who wrote.
        way: ``saved``: acknowledged when the database has the records. ``published``: acknowledged when the stream has them.
        versions: The version of each key.
        begin: Before the request was sent.
        end: After the reply came; infinite without one.
        inserted: Records that the reply calls new; None where it does not say.
    """

    client: str
    way: Way
    versions: Mapping[str, int]
    begin: float
    end: float = math.inf
    inserted: int | None = None


@dataclass(frozen=True)
class Read:
    """A read of one table.

    Attributes:
        client: Who read.
        table: ``raw`` or ``processed``.
        found: Keys and versions, in the order of the reply.
        begin: Before the request was sent.
        end: After the reply came.
        keys: The keys that were asked for; None for a page.
        after: The page begins after this key.
        until: The page ends with this key; None for the last page.
    """

    client: str
    table: str
    found: Sequence[tuple[str, int]]
    begin: float
    end: float
    keys: Sequence[str] | None = None
    after: str = ""
    until: str | None = None


@dataclass
class History:
    """Operations of all clients, in any order."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


class _Steps:
    """Versions over time, each counting from a moment on."""

    def __init__(self, steps: Iterable[tuple[float, int, str]]) -> None:
        highest, self._from, self._steps = 0, list[float](), list[tuple[int, str]]()
        for moment, version, why in sorted(steps):
            if version > highest:
                highest = version
                self._from.append(moment)
                self._steps.append((version, why))

    def before(self, moment: float) -> tuple[int, str]:
        """The highest version before a moment, and where it comes from."""
        place = bisect_left(self._from, moment)
        return self._steps[place - 1] if place else (0, "")


def check(history: History) -> list[str]:
    """Return what contradicts the rules, read by read; nothing is the aim."""
    return [*_check_reads(history, RAW), *_check_reads(history, PROCESSED), *_check_writes(history)]


def check_final(history: History, raw: Mapping[str, int], processed: Mapping[str, int]) -> list[str]:
    """Return what is wrong at the end, when nobody writes any more and every service has finished its work.

    Args:
        history: What happened.
        raw: Keys and versions of all raw records.
        processed: The same of the processed ones.
    """
    acknowledged: dict[str, int] = defaultdict(int)
    for write in history.writes:
        if write.end < math.inf:
            for key, version in write.versions.items():
                acknowledged[key] = max(acknowledged[key], version)
    wrong = [
        f"{key}: version {version} was acknowledged, and version {raw.get(key, 0)} is there at the end"
        for key, version in sorted(acknowledged.items())
        if raw.get(key, 0) < version
    ]
    attempted = {key for write in history.writes for key in write.versions}
    wrong += [f"{key}: nobody wrote it" for key in sorted(raw.keys() - attempted)]
    wrong += [f"{key}: its content is nobody's" for key, version in sorted(raw.items()) if version == UNKNOWN]
    wrong += [
        f"{key}: version {version} is there, and the processed record is of version {processed.get(key, 0)}"
        for key, version in sorted(raw.items())
        if processed.get(key, 0) != version
    ]
    return wrong + [f"{key}: processed, and not there" for key in sorted(processed.keys() - raw.keys())]


def _check_reads(history: History, table: str) -> list[str]:
    reads = [read for read in history.reads if read.table == table]
    floors, ceilings = _bounds(history.writes, reads, table)
    nothing, ordered = _Steps(()), sorted(floors)
    wrong: list[str] = []
    for read in reads:
        about = f"{table}, read by {read.client} from {read.begin:.3f} to {read.end:.3f}"
        found = dict(read.found)
        wrong += _check_form(read, about)
        if read.keys is None:
            end = len(ordered) if read.until is None else bisect_right(ordered, read.until)
            expected: Sequence[str] = ordered[bisect_right(ordered, read.after) : end]
        else:
            expected = read.keys
        for key in expected:
            floor, why = floors.get(key, nothing).before(read.begin)
            if found.get(key, 0) < floor and found.get(key) != UNKNOWN:
                wrong.append(f"{about}: {key} has version {found.get(key, 0)}, and version {floor} was {why}")
        for key, version in found.items():
            if version == UNKNOWN:
                wrong.append(f"{about}: the content of {key} is nobody's")
            elif version > ceilings.get(key, nothing).before(read.end)[0]:
                wrong.append(f"{about}: {key} has version {version}, which nobody had written")
    return wrong


def _bounds(writes: Iterable[Write], reads: Iterable[Read], table: str) -> tuple[dict[str, _Steps], dict[str, _Steps]]:
    """What a key has at least, and at most, over time."""
    sure: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    possible: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for write in writes:
        for key, version in write.versions.items():
            possible[key].append((write.begin, version, write.client))
            if table == RAW and write.way == "saved" and write.end < math.inf:
                sure[key].append((write.end, version, f"acknowledged to {write.client} at {write.end:.3f}"))
    for read in reads:
        for key, version in read.found:
            sure[key].append((read.end, version, f"read by {read.client} at {read.end:.3f}"))
    floors, ceilings = ({key: _Steps(each) for key, each in steps.items()} for steps in (sure, possible))
    return floors, ceilings


def _check_form(read: Read, about: str) -> list[str]:
    """Each key is there once; those of a page are in its range, by key, and others were asked for."""
    keys = [key for key, _ in read.found]
    if read.keys is not None:
        strange = set(keys) - set(read.keys)
        twice = len(keys) > len(set(keys))
        return [f"{about}: {key} was not asked for" for key in sorted(strange)] + [f"{about}: a key is there twice"] * twice
    wrong = [f"{about}: {later} comes after {key}" for key, later in itertools.pairwise(keys) if later <= key]
    outside = [key for key in keys if key <= read.after or (read.until is not None and key > read.until)]
    return wrong + [f"{about}: {key} is not in the page's range" for key in outside]


def _check_writes(history: History) -> list[str]:
    """No key is new twice."""
    inserted: dict[str, int] = defaultdict(int)
    keys: dict[str, frozenset[str]] = {}
    wrong = []
    for write in history.writes:
        if write.inserted is None:
            continue
        if write.inserted > len(write.versions):
            wrong.append(f"{write.client} was told of {write.inserted} new records of {len(write.versions)}")
        batch = min(write.versions)
        inserted[batch] += write.inserted
        keys[batch] = keys.get(batch, frozenset()) | write.versions.keys()
    return wrong + [
        f"{batch} and its batch: {count} new records were acknowledged, and there are {len(keys[batch])} keys"
        for batch, count in sorted(inserted.items())
        if count > len(keys[batch])
    ]
