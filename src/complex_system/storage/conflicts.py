"""Records that come under a key that exists: what a later one fills, what it replaces, and what is a conflict.

Each value carries an order: the revision or time that its source gave it. Missing values are not values: they replace nothing, and
whatever comes for them fills them. A record none of whose values differs is not a conflict. Of one that differs

- ``keep`` takes nothing, so that values of two records are never mixed: the first record stays;
- ``replace`` takes each value whose order is higher than the stored one's. So the result does not depend on the order of arrival, and
  whatever is delivered again changes nothing.

The values that lose are kept beside the records, one entry for each key and content.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from complex_system.domain.columns import ORDER
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.protocol.database import ConflictMessage, DifferingValue, Saved
from complex_system.storage.envelope import Digest

log = logging.getLogger(__name__)

CONFLICTS = "KIOptiPackConflicts"
"""The table or collection; one entry for each key and content."""
MAX_DIFFERING = 20
"""Keys of conflicts in a reply."""

Orders = float | Sequence[float | None] | None
"""Orders of the records of a batch, one for all, or one a record; None where the sender does not say one."""


class Conflict(NamedTuple):
    """A record whose values were not taken, or not all of them, or are no longer those of its key.

    Attributes:
        key: Its key.
        hash: Of its content, as in the envelope.
        source: Who sent it.
        kept_source: Who sent the record that stays.
        record: Its values as JSON.
        corrected: Whether they were those of a labelled record until others replaced them.
    """

    key: str
    hash: bytes
    source: str
    kept_source: str
    record: str
    corrected: bool = False

    def message(self, received: float, present: Record | None, names: Sequence[str]) -> ConflictMessage:
        """Return it beside the values that its key has now.

        Args:
            received: When it was written, seconds since 1970.
            present: The record that is there; None where it was deleted.
            names: The raw columns.
        """
        lost: Record = msgspec.json.decode(self.record)
        has = present or {}
        given = [name for name in names if lost.get(name) is not None and lost[name] != has.get(name)]
        values = tuple(DifferingValue(column=name, kept=has.get(name), lost=lost[name]) for name in given)
        return ConflictMessage(
            key=self.key, hash=self.hash.hex(), at=received, source=self.source, kept_source=self.kept_source,
            corrected=bool(self.corrected), deleted=present is None, values=values,
        )  # fmt: skip


@dataclass(frozen=True)
class Incoming:
    """A record that was sent.

    Attributes:
        record: The checked record with its key.
        source: Who sent it.
        order: Of its values.
        hash: Of its content.
    """

    record: Record
    source: str
    order: float
    hash: bytes


@dataclass(frozen=True)
class Stored:
    """A record that the database has.

    Attributes:
        record: Its values, None where one is missing, and its key.
        source: Who sent it.
        revision: How often it was changed, from 1.
        hash: Of its content.
        order: The highest order of its values.
        orders: Orders of the values that have a lower one, by column.
    """

    record: Record
    source: str
    revision: int
    hash: bytes
    order: float
    orders: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What becomes of a stored record.

    Attributes:
        before: The record as it was read.
        after: The record as it is to be, with the next revision.
        values: Whether values change, so that it must be processed again; otherwise only orders do.
    """

    before: Stored
    after: Stored
    values: bool


class Merge:
    """Decides what becomes of stored records for which others come; nothing is written here."""

    def __init__(self, dataset: Dataset, digest: Digest, *, replaces: bool) -> None:
        """Begin with nothing.

        Args:
            dataset: What the records are.
            digest: Hashes the content of a record.
            replaces: Whether values of a higher order replace others.
        """
        self._names, self._target, self._digest, self._replaces = dataset.raw_names, dataset.target, digest, replaces
        self._read: dict[str, Stored] = {}
        self._now: dict[str, Stored] = {}
        self._filled: set[int] = set()
        self._differing: dict[int, str] = {}
        self._replaced: set[int] = set()
        self.conflicts: dict[tuple[str, bytes], Conflict] = {}
        """Whose values lose."""
        self.absent: set[int] = set()
        """Places of the records whose key is not stored."""

    def is_known(self, incoming: Incoming, digest: bytes | None, order: float) -> bool:
        """Return whether a record changes nothing, by hash and order of the stored one alone."""
        return digest is not None and bytes(digest) == incoming.hash and not (self._replaces and incoming.order > order)

    def merge(self, incoming: Mapping[int, Incoming], stored: Iterable[Stored]) -> list[Change]:
        """Return what is to be changed, by key.

        Called again after somebody else has changed records meanwhile, it corrects what it has counted.

        Args:
            incoming: The records by their place in the batch.
            stored: The stored records of their keys; records without one are left out.
        """
        self._read = {each.record[ID]: each for each in stored}
        self._now = dict(self._read)
        self.absent = {place for place, each in incoming.items() if each.record[ID] not in self._now}
        for place in self.absent:
            self._filled.discard(place)
            self._replaced.discard(place)
            self._differing.pop(place, None)
        for place, each in incoming.items():
            if place not in self.absent:
                self._take(place, each)
        changed = [key for key, now in self._now.items() if now is not self._read[key]]
        return [self._change(key) for key in sorted(changed)]

    def saved(self, db: str, inserted: int, records: int) -> Saved:
        """Return the reply for a batch, and log its conflicts."""
        if self.conflicts:
            first = next(iter(self.conflicts.values()))
            log.warning(
                "%d record(s) came under keys that exist with other values; %d of them replaced values (COMPLEX_SYSTEM_ON_CONFLICT is "
                "'%s'). First: %r from '%s'; the stored one is from '%s'. The values that are not taken are kept in %s.",
                len(self._differing),
                len(self._replaced),
                "replace" if self._replaces else "keep",
                first.key,
                first.source,
                first.kept_source,
                CONFLICTS,
                extra={"record_key": first.key},
            )
        keys = tuple(dict.fromkeys(self._differing.values()))[:MAX_DIFFERING]
        return Saved(
            db=db,
            inserted=inserted,
            existing=records - inserted,
            conflicts=len(self._differing),
            filled=len(self._filled),
            replaced=len(self._replaced),
            differing=keys,
        )

    def _take(self, place: int, each: Incoming) -> None:
        key = each.record[ID]
        stored = self._now[key]
        given = [name for name in self._names if each.record.get(name) is not None]
        missing = [name for name in given if stored.record.get(name) is None]
        differing = [name for name in given if name not in missing and stored.record[name] != each.record[name]]
        orders = {name: stored.orders.get(name, stored.order) for name in self._names if stored.record.get(name) is not None}
        taken = missing
        if differing:
            self._differing[place] = key
            newer = [name for name in differing if each.order > orders[name]] if self._replaces else []
            if newer:
                self._replaced.add(place)
                self._lose(stored.record, stored.hash, stored.source, each.source, corrected=self._target in orders)
            if len(newer) < len(differing):
                self._lose(each.record, each.hash, each.source, stored.source)
            taken = [*missing, *newer] if self._replaces else []
        elif missing:
            self._filled.add(place)
        same = [name for name in given if name not in taken and name not in differing] if self._replaces else []
        raised = {name: each.order for name in same if each.order > orders[name]}
        if taken or raised:
            record = {**stored.record, **{name: each.record[name] for name in taken}}
            orders |= dict.fromkeys(taken, each.order) | raised
            highest = max(orders.values())
            self._now[key] = replace(
                stored,
                record=record,
                source=each.source if place in self._replaced and each.order >= stored.order else stored.source,
                hash=self._digest(record),
                order=highest,
                orders={name: order for name, order in orders.items() if order != highest},
            )

    def _lose(self, record: Record, digest: bytes, source: str, kept_source: str, *, corrected: bool = False) -> None:
        values = {name: value for name, value in record.items() if name != ORDER}
        text = msgspec.json.encode(values, enc_hook=str).decode()
        lost = Conflict(record[ID], digest, source, kept_source, text, corrected)
        if corrected or (record[ID], digest) not in self.conflicts:
            self.conflicts[record[ID], digest] = lost

    def _change(self, key: str) -> Change:
        before, now = self._read[key], self._now[key]
        values = any(before.record.get(name) != now.record.get(name) for name in self._names)
        return Change(before, replace(now, revision=before.revision + 1), values)


def incoming_of(
    records: Sequence[Record], sources: Sequence[str], orders: Sequence[float], digest: Digest
) -> dict[int, Incoming]:
    """Return records with what is known of them by their place in the batch."""
    rows = enumerate(zip(records, sources, orders, strict=True))
    return {place: Incoming(record, source, order, digest(record)) for place, (record, source, order) in rows}


def orders_of(dataset: Dataset, records: Sequence[Record], orders: Orders, now: float) -> list[float]:
    """Return the order of each record: its own revision, else what its message says, else the present time."""
    given = [orders] * len(records) if orders is None or isinstance(orders, float) else orders
    sent = [now if order is None else order for order in given]
    if ORDER in dataset.by_name:
        return sent
    own = (record.get(ORDER) for record in records)
    return [order if mine is None else mine for mine, order in zip(own, sent, strict=True)]


def packed_orders(stored: Stored) -> str | None:
    """Return the orders of single values as the databases keep them: JSON, nothing where there are none."""
    return msgspec.json.encode(stored.orders).decode() if stored.orders else None


def unpacked_orders(text: str | None) -> dict[str, float]:
    """Return the orders of single values."""
    return msgspec.json.decode(text, type=dict[str, float]) if text else {}
