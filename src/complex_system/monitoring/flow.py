"""Counts and rates of records: raw, processed, labelled and rejected, with the reasons of the rejections."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from complex_system.domain.keys import key_at
from complex_system.monitoring.points import Figures
from complex_system.protocol.database import IngestCounts, RecordCounts, Rejection

PERIOD = 300.0
"""Seconds over which rejections are counted."""
RATE_PERIOD = 60.0
"""Seconds over which rates are averaged."""
COUNTED = ("raw", "processed", "labelled", "rejected")
REASONS = ("new_category", "out_of_range", "missing", "other")
"""Why records are rejected."""
_SIGNS = {" is not one of ": "new_category", " is outside of ": "out_of_range", "is missing": "missing"}
_OVERLAP = 30.0
"""Seconds that rejections are looked for again: their keys, made at the source, do not arrive in order."""


class RecordFlow:
    """Record counts of the database over time, and the newest rejections by column and reason. Times are seconds since 1970."""

    def __init__(self, began: float) -> None:
        """Make an empty flow.

        Args:
            began: Rejections of records that were made before are not looked for.
        """
        self._began = began
        self._counts: deque[tuple[float, RecordCounts]] = deque()
        self._rejections: deque[tuple[float, str, str, str]] = deque()
        self._ingest: IngestCounts | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The newest counts by name; empty before the first."""
        return _by_name(self._counts[-1][1]) if self._counts else {}

    def counted(self, at: float, counts: RecordCounts) -> None:
        """Record the counts of the database."""
        self._counts.append((at, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= at - PERIOD:
            self._counts.popleft()

    def rejected(self, at: float, rejections: Iterable[Rejection]) -> None:
        """Record rejections; those that are known already count once."""
        known = {key for _, key, _, _ in self._rejections}
        for each in rejections:
            if each.id not in known:
                self._rejections += [(at, each.id, column, reason) for column, reason in reasons_of(each.reason)]
        while self._rejections and self._rejections[0][0] < at - PERIOD:
            self._rejections.popleft()

    def ingested(self, counts: IngestCounts) -> None:
        """Record how the ingest is doing."""
        self._ingest = counts

    def first_key(self, at: float) -> str:
        """Return the key after which to ask for rejections: the keys of sources rise with time (UUID version 7)."""
        return key_at(max(self._began, at - PERIOD - _OVERLAP))

    def rates(self) -> dict[str, float]:
        """Return records a second by name of the count over the last minute; empty before two counts are there."""
        if len(self._counts) < 2:
            return {}
        at, newest = self._counts[-1]
        since, earlier = next((each for each in self._counts if each[0] >= at - RATE_PERIOD), self._counts[0])
        if since >= at:
            since, earlier = self._counts[-2]
        if at <= since:
            return {}
        before = _by_name(earlier)
        return {name: max(0.0, (count - before[name]) / (at - since)) for name, count in _by_name(newest).items()}

    def figures(self) -> Figures:
        """Return figures.

        ``ingest/waiting``, ``in_flight``, ``dead``, ``stopped_sources``, ``conflicts``; ``records/<count>`` and
        ``records/<count>_per_second``; over the last five minutes ``rejected/count`` (new raw records, the
        samples behind the next ones), ``rejected/share``, ``rejected/<reason>``, and by column ``data/new_categories`` (a count) and
        ``data/rejected_out_of_range`` (a share).
        """
        figures = Figures()
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
        oldest, newest = self._counts[0][1], self._counts[-1][1]
        arrived = max(0, newest.raw - oldest.raw)
        rejected = max(0, newest.rejected - oldest.rejected)
        reasons = Counter(reason for _, _, _, reason in self._rejections)
        share = min(1.0, rejected / arrived) if arrived else 0.0
        figures.add("rejected", {"count": arrived, "share": share, **{reason: reasons[reason] for reason in REASONS}})
        for (column, reason), count in Counter((column, reason) for _, _, column, reason in self._rejections).items():
            if reason == "new_category":
                figures.add("data", {"new_categories": count}, column)
            elif reason == "out_of_range":
                figures.add("data", {"rejected_out_of_range": min(1.0, count / max(arrived, count))}, column)
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


def _by_name(counts: RecordCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in COUNTED}
