"""How many records there are and how fast they come: raw, processed, labelled, rejected, and why they were rejected."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from complex_system.domain.dataset import ID
from complex_system.domain.keys import key_at

PERIOD = 300.0
"""Seconds over which rejections are counted."""
RATE_PERIOD = 60.0
"""Seconds over which rates are averaged."""
COUNTED = ("raw", "processed", "labelled", "rejected")
_OVERLAP = 30.0
"""Seconds that rejections are looked for again: their keys, made at the source, do not arrive in order."""


class RecordFlow:
    """Record counts of the database over time, and the newest rejections by column and kind. Times are seconds since 1970."""

    def __init__(self, began: float) -> None:
        """Makes it empty.

        Args:
            began: Rejections of records that were made before are not looked for.
        """
        self._began = began
        self._counts: deque[tuple[float, dict[str, int]]] = deque()
        self._rejections: deque[tuple[float, str, str, str]] = deque()

    @property
    def counts(self) -> dict[str, int]:
        """The newest counts; empty before the first."""
        return self._counts[-1][1] if self._counts else {}

    def counted(self, at: float, counts: dict[str, int]) -> None:
        """Takes counts of the database."""
        self._counts.append((at, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= at - PERIOD:
            self._counts.popleft()

    def rejected(self, at: float, rejections: Iterable[dict[str, str]]) -> None:
        """Takes rejections as the database has them; those that are known already count once."""
        known = {key for _, key, _, _ in self._rejections}
        for each in rejections:
            if each[ID] not in known:
                for column, kind in reasons_of(each["reason"]):
                    self._rejections.append((at, each[ID], column, kind))
        while self._rejections and self._rejections[0][0] < at - PERIOD:
            self._rejections.popleft()

    def look_from(self, at: float) -> str:
        """The key after which rejections are to be looked for: the sources make keys that rise with time (UUID version 7)."""
        since = max(self._began, at - PERIOD - _OVERLAP)
        return key_at(since)

    def rates(self) -> dict[str, float]:
        """Records a second by kind over the last minute; empty before two counts are there."""
        if len(self._counts) < 2:
            return {}
        at, newest = self._counts[-1]
        since, earlier = next((each for each in self._counts if each[0] >= at - RATE_PERIOD), self._counts[0])
        if since >= at:
            since, earlier = self._counts[-2]
        return {kind: max(0.0, (newest[kind] - earlier[kind]) / (at - since)) for kind in COUNTED} if at > since else {}

    def metrics(self) -> dict[str, float]:
        """Flat metrics.

        ``records/<kind>`` and ``records/<kind>_per_second``; over the last five minutes ``rejected/count`` (new raw records, the
        samples behind the next ones), ``rejected/share``, ``rejected/<kind>`` (``new_category``, ``out_of_range``, ``missing``,
        ``other``), and by column ``data/new_categories/<column>`` (a count) and ``data/rejected_out_of_range/<column>`` (share).
        """
        metrics = {f"records/{kind}": float(count) for kind, count in self.counts.items()}
        metrics |= {f"records/{kind}_per_second": rate for kind, rate in self.rates().items()}
        if len(self._counts) < 2:
            return metrics
        oldest, newest = self._counts[0][1], self._counts[-1][1]
        arrived = max(0, newest["raw"] - oldest["raw"])
        rejected = max(0, newest["rejected"] - oldest["rejected"])
        metrics["rejected/count"] = float(arrived)
        metrics["rejected/share"] = min(1.0, rejected / arrived) if arrived else 0.0
        kinds = Counter(kind for _, _, _, kind in self._rejections)
        metrics |= {f"rejected/{kind}": float(kinds[kind]) for kind in KINDS}
        for (column, kind), count in Counter((column, kind) for _, _, column, kind in self._rejections).items():
            if kind == "new_category":
                metrics[f"data/new_categories/{column}"] = float(count)
            elif kind == "out_of_range":
                metrics[f"data/rejected_out_of_range/{column}"] = min(1.0, count / max(arrived, count))
        return metrics


KINDS = ("new_category", "out_of_range", "missing", "other")
"""Kinds of reasons for which records are rejected."""
_SIGNS = {" is not one of ": "new_category", " is outside of ": "out_of_range", "is missing": "missing"}


def reasons_of(reason: str) -> list[tuple[str, str]]:
    """Column and kind of every fault in a rejection's reason, as ``preprocessing.pipeline`` writes it."""
    found = []
    for part in reason.split("; "):
        column, separator, problem = part.partition(": ")
        if separator:
            kind = next((kind for sign, kind in _SIGNS.items() if sign in problem), "other")
            found.append((column, kind))
    return found or [("", "other")]
