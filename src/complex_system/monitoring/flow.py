"""Records on their way: readings that become records, counts and rates in the database, rejections, the newest predicted ones."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

import msgspec
from msgspec.structs import asdict

from complex_system.domain.records import Record
from complex_system.monitoring.points import Figures
from complex_system.protocol.collection import CollectionState
from complex_system.protocol.database import IngestCounts, RecordCounts, Rejection
from complex_system.protocol.serving import Origin, PredictedRecord

PERIOD = 300.0
"""Seconds over which rejections are counted."""
REMEMBERED = 100_000
"""Newest predicted records that are recognized when they are predicted again."""
MIN_ASKED = 30
"""Records that clients, or the simulated laboratory, asked for, from which on own requests are left out ..."""
ASKED_FOR = 86_400.0
"""... for so many seconds after the newest of them."""
RATE_PERIOD = 60.0
"""Seconds over which rates are averaged."""
SENSORS = 200
"""Sensors that have figures of their own: each is in the history, in MLflow and in Prometheus."""
COUNTED = ("raw", "processed", "labelled", "rejected")
REASONS = ("new_category", "out_of_range", "missing", "other")
"""Why records are rejected."""
_SIGNS = {" is not one of ": "new_category", " is outside of ": "out_of_range", "is missing": "missing"}


class LiveRecord(NamedTuple):
    """A raw record that was predicted.

    Attributes:
        number: Its place among all, from 1.
        at: When, seconds since 1970.
        record: As it came.
        origin: Who asked first.
        distance: From the training data of the model that answered first (``PredictedRecord.distance``); None where not measured.
    """

    number: int
    at: float
    record: Record
    origin: Origin = "live"
    distance: float | None = None


class LiveWindow:
    """The newest predicted records, each once, although it may be predicted again: as an own request, or by another model.

    A record is recognized by its key and its values; without a key every one counts. Own requests are for stored records, most of them
    old ones, which would hide what is new: they are in a window of their own, which counts while hardly anybody else asks.

    Attributes:
        asked_at: When others asked last, from the time on when they had asked often enough; seconds since 1970, 0 before.
    """

    def __init__(self, size: int) -> None:
        """Make an empty window of so many records."""
        self.asked_at = 0.0
        self._asked: deque[LiveRecord] = deque(maxlen=size)
        self._own: deque[LiveRecord] = deque(maxlen=size)
        self._known: OrderedDict[int, None] = OrderedDict()
        self._number = 0

    @property
    def records(self) -> list[LiveRecord]:
        """The records, the oldest first: those that clients, or the simulated laboratory, asked for, or else the own ones."""
        others = not self._own or (self.asked_at and self._own[-1].at - self.asked_at < ASKED_FOR)
        return list(self._asked if others else self._own)

    def add(self, at: float, predictions: Iterable[PredictedRecord], origin: Origin = "live") -> None:
        """Take the records that were predicted at a time, and who asked."""
        for each in predictions:
            if each.id is not None:
                key = hash((each.id, msgspec.json.encode(each.record, order="sorted")))
                if key in self._known:
                    self._known.move_to_end(key)
                    continue
                self._known[key] = None
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
            self._number += 1
            (self._own if origin == "own" else self._asked).append(
                LiveRecord(self._number, at, each.record, origin, each.distance)
            )
        if origin != "own" and (self.asked_at or len(self._asked) >= MIN_ASKED):
            self.asked_at = at


class RecordFlow:
    """Record counts of the database over time, and the newest rejections by column and reason. Times are seconds since 1970.

    Attributes:
        collection: The sensors, and what waits, as the collection of readings has said last; None where it does not answer.
    """

    def __init__(self) -> None:
        self.collection: CollectionState | None = None
        self._counts: deque[tuple[float, RecordCounts]] = deque()
        self._rejections: deque[tuple[float, str, str, str]] = deque()
        self._outside: deque[tuple[float, str, int]] = deque()
        self._ingest: IngestCounts | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The newest counts by name; empty before the first."""
        return _by_name(self._counts[-1][1]) if self._counts else {}

    def counted(self, at: float, counts: RecordCounts) -> None:
        """Record the counts of the database."""
        self._counts.append((at, counts))
        self.rejected(at, ())
        while len(self._counts) > 2 and self._counts[1][0] <= at - PERIOD:
            self._counts.popleft()

    def rejected(self, at: float, rejections: Iterable[Rejection]) -> None:
        """Record rejections that were heard of; a record that is rejected again counts once."""
        known = {key for _, key, _, _ in self._rejections}
        for each in rejections:
            if each.id not in known:
                self._rejections += [(at, each.id, column, reason) for column, reason in reasons_of(each.reason)]
        for kept in (self._rejections, self._outside):
            while kept and kept[0][0] < at - PERIOD:
                kept.popleft()

    def range_exceeded(self, at: float, counts: Mapping[str, int], records: int = 0) -> None:
        """Record how many values of so many processed records lie outside of their ranges and were taken, by column."""
        self._outside += [(at, column, count) for column, count in {"": records, **counts}.items() if count]

    def ingested(self, counts: IngestCounts) -> None:
        """Record how the ingest is doing."""
        self._ingest = counts

    def rates(self) -> dict[str, float]:
        """Return records a second by name of the count over the last minute; empty before two counts are there."""
        if len(self._counts) < 2:
            return {}
        at = self._counts[-1][0]
        since = next((each for each, _ in self._counts if each >= at - RATE_PERIOD), self._counts[0][0])
        if since >= at:
            since = self._counts[-2][0]
        if at <= since:
            return {}
        return {name: self._growth(name, since) / (at - since) for name in COUNTED}

    def _growth(self, name: str, since: float = float("-inf")) -> int:
        """Return by how much a count has grown since then; where it fell, because old records were deleted, nothing is subtracted."""
        counts = [getattr(each, name) for at, each in self._counts if at >= since]
        return sum(max(0, after - before) for before, after in pairwise(counts))

    def figures(self) -> Figures:
        """Return figures.

        ``sensors/<figure>`` by sensor, ``collection/<figure>``;
        ``ingest/waiting``, ``in_flight``, ``dead``, ``stopped_sources``, ``conflicts``; ``records/<count>`` and
        ``records/<count>_per_second``; over the last five minutes ``rejected/count`` (new raw records, the
        samples behind the next ones), ``rejected/share``, ``rejected/<reason>``, and by column ``data/new_categories`` and
        ``data/outside`` (counts: of values that were taken outside of their range), ``data/rejected_out_of_range`` (a share, of both).
        """
        figures = _of_collection(self.collection)
        if self._ingest is not None and self._ingest.waiting is not None:
            numbers = {
                "waiting": self._ingest.waiting,
                "in_flight": self._ingest.in_flight or 0,
                "dead": self._ingest.dead or 0,
            }
            conflicts = self._counts[-1][1].conflicts if self._counts else 0
            figures.add("ingest", {**numbers, "stopped_sources": len(self._ingest.stopped), "conflicts": conflicts})
        figures.add("records", self.counts)
        figures.add("records", {f"{name}_per_second": rate for name, rate in self.rates().items()})
        if len(self._counts) < 2:
            return figures
        arrived, rejected = self._growth("raw"), self._growth("rejected")
        reasons = Counter(reason for _, _, _, reason in self._rejections)
        share = min(1.0, rejected / arrived) if arrived else 0.0
        figures.add("rejected", {"count": arrived, "share": share, **{reason: reasons[reason] for reason in REASONS}})
        outside: Counter[str] = Counter()
        for _, column, count in self._outside:
            outside[column] += count
        processed = outside.pop("", 0)  # more than have arrived where older ones waited, or are processed anew
        for column, count in outside.items():
            figures.add("data", {"outside": count}, column)
        for (column, reason), count in Counter((column, reason) for _, _, column, reason in self._rejections).items():
            if reason == "new_category":
                figures.add("data", {"new_categories": count}, column)
            elif reason == "out_of_range":
                outside[column] += count
        for column, count in outside.items():
            figures.add("data", {"rejected_out_of_range": count / max(arrived, processed, count)}, column)
        return figures


def reasons_of(text: str) -> list[tuple[str, str]]:
    """Return column and reason of every fault in a rejection's text, as :mod:`complex_system.pipeline` writes it."""
    found = []
    for part in text.split("; "):
        column, separator, problem = part.partition(": ")
        if separator:
            reason = next((reason for sign, reason in _SIGNS.items() if sign in problem), "other")
            found.append((column, reason))
    return found or [("", "other")]


def _of_collection(state: CollectionState | None) -> Figures:
    figures = Figures()
    if state is None:
        return figures
    for sensor in state.sensors[:SENSORS]:
        figures.add("sensors", {"silent": sensor.silent, "per_second": sensor.per_second}, sensor.name)
        if sensor.age is not None:
            figures.add("sensors", {"age": sensor.age}, sensor.name)
    numbers = {
        "behind": state.behind,
        "per_second": state.per_second,
        "waiting_records": state.waiting_records,
        "waiting_labels": state.waiting_labels,
    }
    figures.add("collection", {**numbers, **asdict(state.counts)})
    return figures


def _by_name(counts: RecordCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in COUNTED}
