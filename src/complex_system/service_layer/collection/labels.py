"""Labels that come later than their records, or before them: kept in the database, joined to the record when both are there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from complex_system.domain.collecting import LabelRule
from complex_system.domain.columns import ORDER
from complex_system.domain.dataset import ID
from complex_system.domain.documents import Document
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.reading_messages import Label

log = logging.getLogger(__name__)

WAITING = "collection-label"
"""Kind of the documents with labels that wait for their records."""
_AGAIN = 30.0
"""Seconds after which labels are tried again whose records may have come by another way."""
_AT_ONCE = 500
"""Labels that are joined in one step."""


@dataclass
class Outcome:
    """What became of labels.

    Attributes:
        joined: How many are with their records now.
        refused: Why the database refused some.
        unmatched: Those that found no record in time.
    """

    joined: int = 0
    refused: list[str] = field(default_factory=list)
    unmatched: list[Label] = field(default_factory=list)


class LabelBook:
    """The labels that wait, in memory as in the database, whose documents survive every restart.

    A label is joined by saving its record again with it, ordered by the label's time: what the database has already changes nothing,
    so a join that is repeated after a fault joins nothing twice.

    Attributes:
        outcome: What became of labels since somebody has put an empty one here.
    """

    def __init__(self, rule: LabelRule, database: DatabaseClient, documents: DocumentClient) -> None:
        """Make an empty book.

        Args:
            rule: The declaration.
            database: Has the records.
            documents: Has what waits.
        """
        self._column, self._within = rule.column, float(rule.within)
        self._database, self._documents = database, documents
        self._waiting: dict[str, Label] = {}
        self._by_record: dict[str, list[str]] = {}
        self._due: dict[str, None] = {}  # keys of labels to be tried now, in their order
        self._tried = 0.0
        self.outcome = Outcome()

    def __len__(self) -> int:
        return len(self._waiting)

    def oldest(self, most: int) -> list[Label]:
        """Return the labels that have waited longest."""
        return sorted(self._waiting.values(), key=lambda label: label.stored)[:most]

    async def load(self) -> None:
        """Read what waited before a restart, and forget everything else."""
        self._waiting, self._by_record, self._due = {}, {}, {}
        for each in await self._documents.between(WAITING, 0.0, 1e12, most=10_000_000):
            self._remember(msgspec.convert(each.body, Label))

    async def add(self, labels: Sequence[Label]) -> None:
        """Take labels; return when the database has them. Repeating it changes nothing."""
        new = {label.key: label for label in labels if label.key not in self._waiting}
        if new:
            kept = [Document(WAITING, key, label.stored, msgspec.to_builtins(label)) for key, label in new.items()]
            await self._documents.save(kept)
            for label in new.values():
                self._remember(label)

    def saved(self, keys: Iterable[str]) -> None:
        """Take the keys of records that the database has now: labels that wait for them are due."""
        for key in keys:
            self._due |= dict.fromkeys(self._by_record.get(key, []))

    async def join(self, now: float) -> None:
        """Join the labels whose records may be there by now, and give up those that have waited too long.

        Args:
            now: By the broker's clock.
        """
        look = now - self._tried >= min(_AGAIN, self._within / 4)
        if look:
            self._tried = now
            self._due |= dict.fromkeys(self._waiting)
        while part := [self._waiting[key] for key in list(self._due)[:_AT_ONCE]]:
            await self._join(part)
            for label in part:
                self._due.pop(label.key, None)
        if look and (late := [label for label in self._waiting.values() if now - label.stored > self._within]):
            await self._forget(late)
            self.outcome.unmatched += late
            for label in late:
                log.warning("The label %s of %s found no record within %.0f s", label.value, label.record, self._within)

    async def _join(self, labels: Sequence[Label]) -> None:
        raw: list[Record] = (await self._database.raw_by_keys([label.record for label in labels])).to_pylist()
        records = {record[ID]: record for record in raw}
        done: list[Label] = []
        # One after the other where a record has several: the newest of them must win, whatever else the database decides.
        for step in _apart(sorted(labels, key=lambda label: label.at)):
            there = [label for label in step if label.record in records]
            updates = [{**records[label.record], self._column: label.value, ORDER: label.at} for label in there]
            self.outcome.joined += len(there) - await self._save(updates, there)
            done += there
        await self._forget(done)

    async def _save(self, records: list[Record], labels: list[Label]) -> int:
        """Save records with their labels; return how many the database refuses."""
        refused = 0
        while records:
            try:
                await self._database.save_raw(records)
                break
            except InvalidRecordError as error:
                bad = {int(fault["record"]) for fault in error.faults}
                if not bad:
                    raise
                refused += len(bad)
                said = [f"label {labels[place].value!r} of {labels[place].record}: {error.message}" for place in bad]
                self.outcome.refused += said
                records = [record for place, record in enumerate(records) if place not in bad]
                labels = [label for place, label in enumerate(labels) if place not in bad]
        return refused

    def _remember(self, label: Label) -> None:
        self._waiting[label.key] = label
        self._by_record.setdefault(label.record, []).append(label.key)
        self._due[label.key] = None

    async def _forget(self, labels: Sequence[Label]) -> None:
        if not labels:
            return
        await self._documents.delete_keys(WAITING, [label.key for label in labels])
        for label in labels:
            self._waiting.pop(label.key, None)
            self._due.pop(label.key, None)
            if mine := self._by_record.get(label.record):
                mine.remove(label.key)
                if not mine:
                    del self._by_record[label.record]


def _apart(labels: Iterable[Label]) -> list[list[Label]]:
    """Return labels in steps of which none has two for the same record, in their order."""
    steps: list[list[Label]] = []
    places: dict[str, int] = {}
    for label in labels:
        place = places[label.record] = places.get(label.record, -1) + 1
        if place == len(steps):
            steps.append([])
        steps[place].append(label)
    return steps
