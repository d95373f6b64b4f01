"""Joins predictions with truths by record id, whichever comes first and however late."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from complex_system.domain.documents import Document
from complex_system.monitoring.aggregates import HOUR, Served
from complex_system.monitoring.history import WAITING, Documents, Pair
from complex_system.protocol.base import Message, to_wire

MAX_WAITING = 50_000
"""Records whose prediction waits for a truth in memory, and truths that wait for a prediction. The database keeps more."""
SAVED_AFTER = 5.0
"""Seconds that a prediction waits in memory alone: most truths come soon, and need no database."""
SAVED_AT_ONCE = 2000
"""Records that one :meth:`PredictionJoin.save` writes; what comes faster stays in memory, up to its bound."""
ASKED_AT_ONCE = 500
"""Records whose target one :meth:`PredictionJoin.ask_targets` asks the database for."""
TRUTH_REMEMBERED = 300.0
"""Seconds that a truth in memory counts for later predictions; then the database is asked, where it may have been corrected."""
RESTORED = 5000
"""Newest waiting records that are read into memory after a restart, so that their targets are asked for."""


class _Prediction(NamedTuple):
    at: float
    value: float
    by: Served
    group: str


class _Truth(NamedTuple):
    value: float
    at: float
    consumed: set[Served]


class _Document(Message, frozen=True, kw_only=True):
    """A record's waiting predictions as the body of a document.

    Attributes:
        predictions: One a model.
    """

    predictions: list[_Prediction]


@dataclass
class _Waiting:
    """The predictions of one record that have no truth yet."""

    predictions: dict[Served, _Prediction]
    at: float
    saved: bool = False


class PredictionJoin:
    """Joins predictions with their truths and passes the pairs on.

    A truth counts for every model that predicted the record, also for one that predicts it only later. A prediction counts once, with
    the first truth that comes; a record predicted again before its truth comes counts with the newest prediction. Records predicted
    again after that wait for another truth.

    Memory is bounded. What waits longer is also in the database, so that neither a restart nor the bound loses it; one process writes.
    """

    def __init__(self, joined: Callable[[Pair], None], max_waiting: int = MAX_WAITING) -> None:
        """Make an empty join.

        Args:
            joined: Takes every pair.
            max_waiting: Bound of the memory.
        """
        self._joined = joined
        self._max = max_waiting
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._truths: OrderedDict[str, _Truth] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._done: set[str] = set()
        self._asked_until = 0.0
        self.dropped = 0
        """Records that the bound removed before they were in the database."""

    @property
    def waiting(self) -> int:
        """Records in memory whose prediction waits for a truth."""
        return len(self._waiting)

    def predicted(self, at: float, served: Served, key: str, prediction: float, group: str = "") -> None:
        """Record a prediction; one that is not a finite number is left out."""
        if not math.isfinite(prediction):
            return
        truth = self._truths.get(key)
        if truth is not None and served not in truth.consumed and at - truth.at < TRUTH_REMEMBERED:
            truth.consumed.add(served)
            self._joined(Pair(at, prediction, truth.value, served, group))
            return
        waiting = self._waiting.setdefault(key, _Waiting({}, at))
        waiting.predictions[served] = _Prediction(at, prediction, served, group)
        waiting.saved = False
        if len(self._waiting) > self._max:
            self.dropped += not self._waiting.popitem(last=False)[1].saved

    def measured(self, key: str, truth: float, at: float = math.inf) -> None:
        """Record a truth and when it was told; one that is not a finite number is left out."""
        if not math.isfinite(truth):
            return
        waiting = self._waiting.pop(key, None)
        consumed = self._pair(waiting, truth) if waiting is not None else set[Served]()
        if waiting is not None and waiting.saved:
            self._done.add(key)
        else:  # predictions of an earlier process, or of another model, may wait in the database
            self._unknown[key] = truth
            _bound(self._unknown, self._max)
        self._truths[key] = _Truth(truth, at, consumed)
        self._truths.move_to_end(key)
        _bound(self._truths, self._max)

    async def save(self, documents: Documents, now: float) -> None:
        """Write what waits longer, look up what unknown truths belong to, and delete what is joined.

        Raises:
            ComplexSystemError: The database is away; nothing is lost, the next call goes on.
        """
        await self._look_up(documents)
        due = [
            (key, waiting)
            for key, waiting in self._oldest(10 * SAVED_AT_ONCE)
            if not waiting.saved and now - waiting.at >= SAVED_AFTER
        ][:SAVED_AT_ONCE]
        if due:
            earlier = {d.key: _parsed(d) for d in await documents.by_keys(WAITING, [key for key, _ in due])}
            for key, waiting in due:
                known = earlier.get(key)
                waiting.predictions = {**(known.predictions if known else {}), **waiting.predictions}
            await documents.save([_document(key, waiting) for key, waiting in due])
            for key, waiting in due:
                waiting.saved = True
                if self._waiting.get(key) is not waiting:
                    self._done.add(key)  # joined, or replaced, while it was written
        if self._done:
            done, self._done = self._done, set()
            try:
                await documents.delete_keys(WAITING, sorted(done))
            except BaseException:
                self._done |= done
                raise

    async def ask_targets(self, documents: Documents, now: float) -> int:
        """Ask the database for the targets of records that wait, some at a time in turns; return how many it knew."""
        candidates = [(key, waiting) for key, waiting in self._waiting.items() if now - waiting.at >= SAVED_AFTER]
        turn = [(key, waiting) for key, waiting in candidates if waiting.at > self._asked_until][:ASKED_AT_ONCE]
        self._asked_until = turn[-1][1].at if len(turn) == ASKED_AT_ONCE else 0.0
        if not turn:
            return 0
        targets = await documents.targets([key for key, _ in turn])
        for key, target in targets.items():
            self.measured(key, target, now)
        return len(targets)

    async def load(self, documents: Documents, now: float, kept: float) -> None:
        """Read the newest of what an earlier process left waiting; the rest stays in the database until its truth comes."""
        found: list[Document] = []
        end = now + HOUR
        while end > now - kept and len(found) < RESTORED:
            # Hour by hour: reading costs what lies between the two times.
            found += await documents.between(WAITING, end - HOUR, end, newest_first=True, most=RESTORED - len(found))
            end -= HOUR
        restored = OrderedDict((d.key, _parsed(d)) for d in reversed(found))
        mine, self._waiting = self._waiting, restored
        for key, waiting in mine.items():
            if key in restored:
                waiting.predictions = {**restored[key].predictions, **waiting.predictions}
            self._waiting[key] = waiting
            self._waiting.move_to_end(key)

    async def delete_old(self, documents: Documents, before: float) -> None:
        """Delete predictions from before a time."""
        for key in [key for key, waiting in self._waiting.items() if waiting.at < before]:
            del self._waiting[key]
        await documents.delete_before(WAITING, before)

    async def _look_up(self, documents: Documents) -> None:
        unknown = dict(list(self._unknown.items())[:SAVED_AT_ONCE])
        if not unknown:
            return
        for document in await documents.by_keys(WAITING, sorted(unknown)):
            known = self._truths.get(document.key)
            consumed = known.consumed if known is not None else set[Served]()
            stored = _parsed(document)
            stored.predictions = {by: each for by, each in stored.predictions.items() if by not in consumed}
            consumed |= self._pair(stored, unknown[document.key])
            self._done.add(document.key)
        for key, truth in unknown.items():
            if self._unknown.get(key) == truth:
                del self._unknown[key]

    def _pair(self, waiting: _Waiting, truth: float) -> set[Served]:
        for served, each in waiting.predictions.items():
            self._joined(Pair(each.at, each.value, truth, served, each.group))
        return set(waiting.predictions)

    def _oldest(self, limit: int) -> Iterable[tuple[str, _Waiting]]:
        for place, item in enumerate(self._waiting.items()):
            if place >= limit:
                return
            yield item


def _document(key: str, waiting: _Waiting) -> Document:
    return Document(WAITING, key, waiting.at, to_wire(_Document(predictions=list(waiting.predictions.values()))))


def _parsed(document: Document) -> _Waiting:
    read = msgspec.convert(document.body, _Document)
    return _Waiting({each.by: each for each in read.predictions}, document.at, saved=True)


def _bound(waiting: OrderedDict[str, Any], limit: int) -> None:
    while len(waiting) > limit:
        waiting.popitem(last=False)
