"""The history of monitoring: in memory for the page, in the database for the time after a restart.

``docs/monitoring-data.md`` describes every kind of document. The history is written by one process, ``ml_monitoring``; views
(:mod:`complex_system.monitoring.views`) and the page only read.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from complex_system.domain.documents import Document
from complex_system.monitoring.aggregates import HOUR, MINUTE, Rollup, Served, begin_of, merged

T = TypeVar("T")

MINUTES = "minute"
"""Kind of the minute roll-ups; key and time are the minute's begin."""
HOURS = "hour"
"""Kind of the hour roll-ups, merged from the minutes."""
SAMPLES = "sample"
"""Kind of the hourly samples of joined pairs."""
WAITING = "waiting"
"""Kind of the predictions that wait for their truth; the key is the record's."""
CHAMPIONS = "champion"
"""Kind of the champions: body as the event ``champion-changed``."""
ALERTS = "alert"
"""Kind of the alerts: the body is what alert events carry, with ``key``, ``began`` and ``ended`` (seconds, or None) at least."""
STATES = "state"
"""Kind of single documents that are replaced; their keys are ``STATE_KEYS``."""
STATE_KEYS = ("data", "services", "windows", "comparison", "changes")
"""The newest data view, the services seen last, the moving windows, the last comparison, the changes of the error."""

MINUTES_KEPT = 24 * HOUR
"""Seconds that minutes are kept; older ones are in their hours."""
SAMPLES_KEPT = 14 * 24 * HOUR
PAIRS_AN_HOUR = 200
"""Size of an hour's sample."""
MOST_ALERTS = 1000
"""Alerts that are kept in memory; the database keeps them as long as hours."""


class Documents(Protocol):
    """Where documents are kept: ``messaging.documents.DocumentClient`` in a service."""

    async def save(self, documents: Sequence[Document]) -> None:
        """Writes documents; one of the same kind and key is replaced."""

    async def between(
        self, kind: str, start: float, end: float, *, newest_first: bool = False, most: int = 10_000
    ) -> list[Document]:
        """At most ``most`` documents of a kind with ``start <= at < end``, by time and key."""

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """The documents of a kind with these keys."""

    async def delete_before(self, kind: str, before: float) -> int:
        """Forgets the documents of a kind with ``at < before``."""

    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Forgets documents by key."""

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        """The known targets of processed records, by key."""


class Pair(NamedTuple):
    """A prediction and its truth. ``at`` is when the prediction was made."""

    at: float
    prediction: float
    truth: float
    served: Served
    group: str

    @property
    def residual(self) -> float:
        """Prediction - truth, in the target's unit."""
        return self.prediction - self.truth


@dataclass
class Sample:
    """A bounded, uniform sample of an hour's pairs (reservoir sampling, Vitter's algorithm R)."""

    at: float
    seen: int = 0
    pairs: list[Pair] = field(default_factory=list)

    def add(self, pair: Pair, generator: random.Random) -> None:
        """Takes a pair; each of the hour's pairs is in the sample with the same probability."""
        self.seen += 1
        if len(self.pairs) < PAIRS_AN_HOUR:
            self.pairs.append(pair)
        elif (place := generator.randrange(self.seen)) < PAIRS_AN_HOUR:
            self.pairs[place] = pair

    def as_dict(self) -> dict[str, Any]:
        """It as the body of a document."""
        return {"seen": self.seen, "pairs": [[p.at, p.prediction, p.truth, list(p.served), p.group] for p in self.pairs]}

    @classmethod
    def parse(cls, at: float, body: Any) -> Sample:
        """Reads what :meth:`as_dict` made."""
        pairs = [Pair(float(t), float(p), float(y), Served(*served), str(g)) for t, p, y, served, g in body["pairs"]]
        return cls(at, int(body["seen"]), pairs)


class History:
    """Minutes, hours, samples, champions and alerts. Memory is bounded by the retention; all methods are quick, in one thread."""

    def __init__(self, hours_kept: float = 90 * 24 * HOUR, seed: int | None = None) -> None:
        """Makes an empty history.

        Args:
            hours_kept: Seconds that hours, champions and alerts are kept.
            seed: Of the sampling.
        """
        self.loaded = False
        """Whether what an earlier process wrote is there; until then nothing is to be written."""
        self._kept = hours_kept
        self._random = random.Random(seed)  # noqa: S311 - a sample, no secret
        self._minutes: OrderedDict[float, Rollup] = OrderedDict()
        self._hours: OrderedDict[float, Rollup] = OrderedDict()
        self._samples: OrderedDict[float, Sample] = OrderedDict()
        self.champions: list[dict[str, Any]] = []
        self._alerts: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.states: dict[str, dict[str, Any]] = {}
        self.earlier: dict[str, dict[str, Any]] = {}
        """The states as an earlier process left them, whatever this one has written meanwhile."""
        self._changed: dict[tuple[str, str], Document | None] = {}
        self._complete_from = -math.inf
        """All minutes from here on are in memory, so that their hours can be merged anew."""

    # What is taken

    def minute(self, at: float) -> Rollup:
        """The roll-up of the minute of a time, to be added to; its hour is brought up to date by :meth:`changed`."""
        begin = begin_of(at, MINUTE)
        self._changed[MINUTES, str(int(begin))] = None
        return _at(self._minutes, begin, lambda: Rollup(begin, MINUTE))

    def _counted_in(self, at: float) -> Rollup:
        """Where something of that time counts: its minute, or its hour itself where the minute is no longer kept."""
        if at >= self._complete_from:
            return self.minute(at)
        begin = begin_of(at, HOUR)
        self._changed[HOURS, str(int(begin))] = None
        return _at(self._hours, begin, lambda: Rollup(begin, HOUR))

    def paired(self, pair: Pair) -> None:
        """Takes a joined pair into the roll-up and the sample of its time."""
        self._counted_in(pair.at).joined(pair.served, pair.group, pair.truth, pair.prediction)
        begin = begin_of(pair.at, HOUR)
        _at(self._samples, begin, lambda: Sample(begin)).add(pair, self._random)
        self._changed[SAMPLES, str(int(begin))] = None

    def crowned(self, at: float, champion: dict[str, Any]) -> None:
        """Takes a champion, as the event ``champion-changed`` describes it; the same one again changes nothing."""
        identity = (champion.get("model"), str(champion.get("version")))
        if self.champions and (self.champions[-1].get("model"), str(self.champions[-1].get("version"))) == identity:
            return
        body = {**champion, "at": at}
        self.champions.append(body)
        self._changed[CHAMPIONS, f"{int(at * 1000)}"] = Document(CHAMPIONS, f"{int(at * 1000)}", at, body)

    def alert(self, body: dict[str, Any]) -> None:
        """Takes an alert, new or changed; ``key`` and ``began`` are read."""
        key, began = str(body["key"]), float(body["began"])
        self._alerts[key] = body
        while len(self._alerts) > MOST_ALERTS:
            self._alerts.popitem(last=False)
        self._changed[ALERTS, key] = Document(ALERTS, key, began, body)

    def state(self, name: str, at: float, body: dict[str, Any]) -> None:
        """Takes a single document that replaces the one before."""
        self.states[name] = body
        self._changed[STATES, name] = Document(STATES, name, at, body)

    # What is read

    def minutes(self, start: float, end: float) -> list[Rollup]:
        """Minutes that begin in ``[start, end)``, oldest first."""
        return _between(self._minutes, start, end)

    def hours(self, start: float, end: float) -> list[Rollup]:
        """Hours that begin in ``[start, end)``, oldest first; the present hour is as old as the last :meth:`changed`."""
        return _between(self._hours, start, end)

    def samples(self, start: float, end: float) -> Iterator[Pair]:
        """Sampled pairs with ``start <= at < end``."""
        for sample in _between(self._samples, begin_of(start, HOUR), end):
            yield from (pair for pair in sample.pairs if start <= pair.at < end)

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts, the newest first."""
        return sorted(self._alerts.values(), key=lambda alert: float(alert["began"]), reverse=True)

    # Between memory and database

    def changed(self) -> list[Document]:
        """What has changed since the last call, as documents; hours of changed minutes are merged anew.

        Should the database not take them, :meth:`unsaved` marks them as changed again.
        """
        changed, self._changed = self._changed, {}
        for begin in {begin_of(float(key), HOUR) for kind, key in changed if kind == MINUTES}:
            if begin >= self._complete_from:
                _put(self._hours, begin, merged(self.minutes(begin, begin + HOUR), begin, HOUR))
                changed[HOURS, str(int(begin))] = None
        kept: dict[str, OrderedDict[float, Any]] = {MINUTES: self._minutes, HOURS: self._hours, SAMPLES: self._samples}
        documents = []
        for (kind, key), document in changed.items():
            if document is not None:
                documents.append(document)
            elif (found := kept[kind].get(float(key))) is not None:
                documents.append(Document(kind, key, float(key), found.as_dict()))
        return documents

    def unsaved(self, documents: Sequence[Document]) -> None:
        """Marks documents as changed that were not written."""
        for document in documents:
            known = document if document.kind in (CHAMPIONS, ALERTS, STATES) else None
            self._changed.setdefault((document.kind, document.key), known)

    async def load(self, documents: Documents, now: float) -> None:
        """Reads what an earlier process wrote; what this process has taken meanwhile is kept and merged.

        Nothing may be written before: an hour would be replaced by the few minutes that this process knows.
        """
        since = begin_of(now - MINUTES_KEPT, HOUR)
        minutes = await documents.between(MINUTES, since, now + HOUR)
        hours = await documents.between(HOURS, now - self._kept, now + HOUR)
        samples = await documents.between(SAMPLES, now - SAMPLES_KEPT, now + HOUR)
        champions = await documents.between(CHAMPIONS, now - self._kept, now + HOUR, newest_first=True, most=500)
        alerts = await documents.between(ALERTS, now - self._kept, now + HOUR, newest_first=True, most=MOST_ALERTS)
        states = await documents.by_keys(STATES, STATE_KEYS)
        self._complete_from = since
        self._restore(self._minutes, [Rollup.parse(d.at, d.body) for d in minutes])
        for hour in hours:
            self._hours[hour.at] = Rollup.parse(hour.at, hour.body)
        _sort(self._hours)
        for document in samples:
            begun = self._samples.pop(document.at, None)
            self._samples[document.at] = earlier = Sample.parse(document.at, document.body)
            for pair in begun.pairs if begun else ():
                earlier.add(pair, self._random)
        _sort(self._samples)
        mine, self.champions = self.champions, [dict(d.body) for d in reversed(champions)]
        for champion in mine:
            self.crowned(champion["at"], champion)
        known = OrderedDict((d.key, dict(d.body)) for d in reversed(alerts))
        self._alerts = OrderedDict([*known.items(), *self._alerts.items()])
        self.earlier = {d.key: dict(d.body) for d in states}
        self.states = {**self.earlier, **self.states}
        self.loaded = True

    async def forget(self, documents: Documents, now: float) -> None:
        """Drops what is older than it is kept, in memory and in the database."""
        self.drop(now)
        kept = {HOURS: self._kept, SAMPLES: SAMPLES_KEPT, CHAMPIONS: self._kept, ALERTS: self._kept}
        await documents.delete_before(MINUTES, self._complete_from)
        for kind, seconds in kept.items():
            await documents.delete_before(kind, now - seconds)

    def drop(self, now: float) -> None:
        """Drops from memory what is older than it is kept."""
        self._complete_from = max(self._complete_from, begin_of(now - MINUTES_KEPT, HOUR))
        _drop(self._minutes, self._complete_from)
        _drop(self._hours, now - self._kept)
        _drop(self._samples, now - SAMPLES_KEPT)

    def _restore(self, target: OrderedDict[float, Rollup], read: list[Rollup]) -> None:
        for earlier in read:
            begun = target.get(earlier.at)
            if begun is not None:
                earlier.merge(begun)
            target[earlier.at] = earlier
        _sort(target)


def _at(stored: OrderedDict[float, T], begin: float, make: Callable[[], T]) -> T:
    if begin not in stored:
        _put(stored, begin, make())
    return stored[begin]


def _put(stored: OrderedDict[float, T], begin: float, value: T) -> None:
    """Sets the entry of a time; the order of the times is kept."""
    in_order = begin in stored or not stored or next(reversed(stored)) < begin
    stored[begin] = value
    if not in_order:
        _sort(stored)


def _sort(stored: OrderedDict[float, Any]) -> None:
    for key in sorted(stored):
        stored.move_to_end(key)


def _drop(stored: OrderedDict[float, Any], before: float) -> None:
    for at in [at for at in stored if at < before]:
        del stored[at]


def _between(stored: OrderedDict[float, Any], start: float, end: float) -> list[Any]:
    keys = list(stored)
    return [stored[key] for key in keys[bisect.bisect_left(keys, start) : bisect.bisect_left(keys, end)]]
