"""The history of monitoring: in memory for the page, in the database for the time after a restart.

``docs/monitoring-data.md`` describes every kind of document. One process, ``ml_monitoring``, writes the history; views
(:mod:`complex_system.monitoring.views`) and the page only read it.
"""

from __future__ import annotations

import bisect
import logging
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from complex_system.domain.documents import Document
from complex_system.monitoring.aggregates import HOUR, MINUTE, Rollup, Served, begin_of, merged
from complex_system.protocol.base import Message, to_wire
from complex_system.protocol.operations import Alert

log = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M")

MINUTES = "minute"
"""Kind of the minute roll-ups; key and time are the minute's begin."""
HOURS = "hour"
"""Kind of the hour roll-ups, merged from the minutes."""
SAMPLES = "sample"
"""Kind of the hourly samples of joined pairs."""
WAITING = "waiting"
"""Kind of the predictions that wait for their truth; the key is the record's."""
CHAMPIONS = "champion"
"""Kind of the champions: body as :class:`Champion`."""
ALERTS = "alert"
"""Kind of the alerts: body as the alert events."""
STATES = "state"
"""Kind of single documents that are replaced; their keys are ``STATE_KEYS``."""
STATE_KEYS = ("data", "evidence", "services", "windows", "comparison", "changes")
"""The newest drift and the sums of its test, the services seen last, the moving windows, the last comparison, changes of the error."""

MINUTES_KEPT = 24 * HOUR
"""Seconds that minutes are kept; older ones are in their hours."""
SAMPLES_KEPT = 14 * 24 * HOUR
PAIRS_AN_HOUR = 200
"""Size of an hour's sample."""
MAX_ALERTS = 1000
"""Alerts that are kept in memory; the database keeps them as long as hours."""


class Documents(Protocol):
    """Where documents are kept: ``messaging.clients.DocumentClient`` in a service."""

    async def save(self, documents: Sequence[Document]) -> None:
        """Write documents; one of the same kind and key is replaced."""

    async def between(
        self, kind: str, start: float, end: float, *, newest_first: bool = False, most: int = 10_000
    ) -> list[Document]:
        """Return at most ``most`` documents of a kind with ``start <= at < end``, by time and key."""

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """Return the documents of a kind with these keys."""

    async def delete_before(self, kind: str, before: float) -> int:
        """Delete the documents of a kind with ``at < before``; return how many there were."""

    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Delete documents by key; return how many there were."""

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        """Return the known targets of processed records, by key."""


class Pair(NamedTuple):
    """A prediction and its truth. ``at`` is when the prediction was made, ``key`` the record's; empty from an earlier release."""

    at: float
    prediction: float
    truth: float
    served: Served
    group: str
    key: str = ""

    @property
    def residual(self) -> float:
        """Prediction - truth, in the target's unit."""
        return self.prediction - self.truth


class Champion(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A champion, as the event ``champion-changed`` or the registry describes it.

    Attributes:
        model: Registered name.
        version: Registered version.
        framework: Its framework.
        rmse: On the hold-out part, in the target's unit; None where only the registry has told of it.
        holdout: Number of these records; 0 where it is not known.
        pipeline_version: Pipeline version that it was trained for; empty where it is not known, as the next one.
        cause: Why its round was started.
        decided: Whose decision it was; empty for a round's.
        at: Since when it is the champion, seconds since 1970 (UTC).
    """

    model: str
    version: str
    framework: str = ""
    rmse: float | None = None
    holdout: int = 0
    pipeline_version: str = ""
    cause: str = ""
    decided: str = ""
    at: float

    @property
    def name(self) -> str:
        """Model and version."""
        return f"{self.model} v{self.version}"


class Sample(msgspec.Struct):
    """A bounded, uniform sample of an hour's pairs (reservoir sampling, Vitter's algorithm R)."""

    seen: int = 0
    pairs: list[Pair] = []

    def add(self, pair: Pair, generator: random.Random) -> None:
        """Add a pair; each of the hour's pairs is in the sample with the same probability."""
        self.seen += 1
        if len(self.pairs) < PAIRS_AN_HOUR:
            self.pairs.append(pair)
        elif (place := generator.randrange(self.seen)) < PAIRS_AN_HOUR:
            self.pairs[place] = pair


class History:
    """Minutes, hours, samples, champions and alerts. Memory is bounded by the retention; all methods are quick, in one thread."""

    def __init__(self, hours_kept: float = 90 * 24 * HOUR, seed: int | None = None) -> None:
        """Make an empty history.

        Args:
            hours_kept: Seconds that hours, champions and alerts are kept.
            seed: Of the sampling.
        """
        self.loaded = False
        """True once the history of earlier processes is read; nothing may be written before."""
        self._kept = hours_kept
        self._random = random.Random(seed)  # noqa: S311 - a sample, not a secret
        self._minutes: OrderedDict[float, Rollup] = OrderedDict()
        self._hours: OrderedDict[float, Rollup] = OrderedDict()
        self._samples: OrderedDict[float, Sample] = OrderedDict()
        self.champions: list[Champion] = []
        self._alerts: OrderedDict[str, Alert] = OrderedDict()
        self._earlier: dict[str, Document] = {}
        self._changed: dict[tuple[str, str], Document | None] = {}
        self._complete_from = -math.inf
        """All minutes from here on are in memory, so that their hours can be merged anew."""

    # What is recorded

    def minute(self, at: float) -> Rollup:
        """Return the roll-up of the minute of a time, to be added to; :meth:`changed` brings its hour up to date."""
        begin = begin_of(at, MINUTE)
        self._changed[MINUTES, str(int(begin))] = None
        return _at(self._minutes, begin, lambda: Rollup(begin, MINUTE))

    def _counted_in(self, at: float) -> Rollup:
        """Return where something of that time counts: its minute, or its hour where the minute is no longer kept."""
        if at >= self._complete_from:
            return self.minute(at)
        begin = begin_of(at, HOUR)
        self._changed[HOURS, str(int(begin))] = None
        return _at(self._hours, begin, lambda: Rollup(begin, HOUR))

    def paired(self, pair: Pair) -> None:
        """Record a joined pair in the roll-up and the sample of its time."""
        self._counted_in(pair.at).joined(pair.served, pair.group, pair.truth, pair.prediction)
        begin = begin_of(pair.at, HOUR)
        _at(self._samples, begin, Sample).add(pair, self._random)
        self._changed[SAMPLES, str(int(begin))] = None

    def crowned(self, champion: Champion) -> None:
        """Record a champion; the same one again changes nothing."""
        if self.champions and self.champions[-1].name == champion.name:
            return
        self.champions.append(champion)
        self._change(CHAMPIONS, f"{int(champion.at * 1000)}", champion.at, champion)

    def alert(self, alert: Alert) -> None:
        """Record an alert, new or changed."""
        self._alerts[alert.key] = alert
        while len(self._alerts) > MAX_ALERTS:
            self._alerts.popitem(last=False)
        self._change(ALERTS, alert.key, alert.began, alert)

    def state(self, name: str, at: float, state: Message) -> None:
        """Keep a state for the next process, in place of the one before."""
        self._change(STATES, name, at, state)

    def _change(self, kind: str, key: str, at: float, body: Message) -> None:
        self._changed[kind, key] = Document(kind, key, at, to_wire(body))

    # What is read

    def minutes(self, start: float, end: float) -> list[Rollup]:
        """Return the minutes with ``start <= at < end``, oldest first."""
        return _between(self._minutes, start, end)

    def hours(self, start: float, end: float) -> list[Rollup]:
        """Return the hours with ``start <= at < end``, oldest first."""
        return _between(self._hours, start, end)

    def samples(self, start: float, end: float) -> Iterator[Pair]:
        """Yield the sampled pairs with ``start <= at < end``."""
        for sample in _between(self._samples, begin_of(start, HOUR), end):
            yield from (pair for pair in sample.pairs if start <= pair.at < end)

    def alerts(self) -> list[Alert]:
        """Return the alerts, the newest first."""
        return sorted(self._alerts.values(), key=lambda alert: alert.began, reverse=True)

    def earlier(self, name: str, state: type[M]) -> M | None:
        """Return a state as an earlier process left it; None where there is none that can be read."""
        return _read(self._earlier[name], state) if name in self._earlier else None

    # Between memory and database

    def changed(self) -> list[Document]:
        """Return what has changed since the last call, with hours merged anew; see :meth:`unsaved` if nobody takes it."""
        changed, self._changed = self._changed, {}
        for begin in {begin_of(float(key), HOUR) for kind, key in changed if kind == MINUTES}:
            if begin >= self._complete_from:
                _put(self._hours, begin, merged(self.minutes(begin, begin + HOUR), begin, HOUR))
                changed[HOURS, str(int(begin))] = None
        rollups = {MINUTES: self._minutes, HOURS: self._hours}
        documents = []
        for (kind, key), document in changed.items():
            if document is not None:
                documents.append(document)
            elif kind == SAMPLES and (sample := self._samples.get(float(key))) is not None:
                documents.append(Document(kind, key, float(key), to_wire(sample)))
            elif kind in rollups and (rollup := rollups[kind].get(float(key))) is not None:
                documents.append(Document(kind, key, float(key), rollup.to_document()))
        return documents

    def unsaved(self, documents: Sequence[Document]) -> None:
        """Mark documents as changed that were not written."""
        for document in documents:
            known = document if document.kind in (CHAMPIONS, ALERTS, STATES) else None
            self._changed.setdefault((document.kind, document.key), known)

    async def load(self, documents: Documents, now: float) -> None:
        """Read what an earlier process wrote; what this process has recorded meanwhile is kept and merged.

        Nothing may be written before: an hour would be replaced by the few minutes that this process knows.
        """
        since = begin_of(now - MINUTES_KEPT, HOUR)
        minutes = await documents.between(MINUTES, since, now + HOUR)
        hours = await documents.between(HOURS, now - self._kept, now + HOUR)
        samples = await documents.between(SAMPLES, now - SAMPLES_KEPT, now + HOUR)
        champions = await documents.between(CHAMPIONS, now - self._kept, now + HOUR, newest_first=True, most=500)
        alerts = await documents.between(ALERTS, now - self._kept, now + HOUR, newest_first=True, most=MAX_ALERTS)
        states = await documents.by_keys(STATES, STATE_KEYS)
        self._complete_from = since
        for document in minutes:
            earlier = Rollup.of_document(document.at, document.body)
            if (begun := self._minutes.get(document.at)) is not None:
                earlier.merge(begun)
            self._minutes[document.at] = earlier
        for document in hours:
            self._hours[document.at] = Rollup.of_document(document.at, document.body)
        for document in samples:
            begun_sample = self._samples.pop(document.at, Sample())
            self._samples[document.at] = sample = msgspec.convert(document.body, Sample)
            for pair in begun_sample.pairs:
                sample.add(pair, self._random)
        for stored in (self._minutes, self._hours, self._samples):
            _sort(stored)
        mine, self.champions = self.champions, _readable(champions, Champion)
        for champion in mine:
            self.crowned(champion)
        known = {alert.key: alert for alert in _readable(alerts, Alert)}
        self._alerts = OrderedDict([*known.items(), *self._alerts.items()])
        self._earlier = {document.key: document for document in states}
        self.loaded = True

    async def delete_old(self, documents: Documents, now: float) -> None:
        """Delete what is older than it is kept, in memory and in the database."""
        self.drop(now)
        kept = {HOURS: self._kept, SAMPLES: SAMPLES_KEPT, CHAMPIONS: self._kept, ALERTS: self._kept}
        await documents.delete_before(MINUTES, self._complete_from)
        for kind, seconds in kept.items():
            await documents.delete_before(kind, now - seconds)

    def drop(self, now: float) -> None:
        """Drop from memory what is older than it is kept."""
        self._complete_from = max(self._complete_from, begin_of(now - MINUTES_KEPT, HOUR))
        _drop(self._minutes, self._complete_from)
        _drop(self._hours, now - self._kept)
        _drop(self._samples, now - SAMPLES_KEPT)


def _readable(newest_first: Sequence[Document], body: type[M]) -> list[M]:
    return [found for each in reversed(newest_first) if (found := _read(each, body)) is not None]


def _read(document: Document, body: type[M]) -> M | None:
    try:
        return msgspec.convert(document.body, body)
    except msgspec.ValidationError as error:
        log.warning("The document '%s' '%s' is left out: %s", document.kind, document.key, error)
        return None


def _at(stored: OrderedDict[float, T], begin: float, make: Callable[[], T]) -> T:
    if begin not in stored:
        _put(stored, begin, make())
    return stored[begin]


def _put(stored: OrderedDict[float, T], begin: float, value: T) -> None:
    """Set the entry of a time; the times stay in order."""
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
