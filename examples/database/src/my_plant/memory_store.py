"""A store that keeps everything in memory: the smallest one that keeps the contract."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.columns import ARRIVED, ID, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.documents import Cursor, Document, decoded_body
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.errors import StoreUnavailableError
from complex_system.protocol.database import ConflictMessage, RecordCounts, Rejection, Saved
from complex_system.storage.arrow import chosen_schema, page_of, raw_page, records_of, with_key, without_key
from complex_system.storage.base import DataStore, DocumentStore
from complex_system.storage.conflicts import Conflict, Merge, Orders, Stored, incoming_of, orders_of
from complex_system.storage.envelope import FIRST_REVISION, content_hash, refuse_reserved_names, revisions_of, sources_of


@dataclass
class RawRow:
    """A raw record with its envelope: when it arrived, and the pipeline version that it is done with."""

    stored: Stored
    arrived: float
    done: str = ""


@dataclass
class MemoryDatabase:
    """What stands for the server: all stores of one database see the same."""

    raw: dict[str, RawRow] = field(default_factory=dict)
    processed: dict[str, tuple[str, Record]] = field(default_factory=dict)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    conflicts: dict[tuple[str, str], tuple[float, Conflict]] = field(default_factory=dict)
    documents: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)


class MemoryDataStore(DataStore):
    """Keeps records in dictionaries. No method waits between its first look and its last change, so each is one transaction."""

    label = "memory"
    address = "this process"

    def __init__(self, dataset: Dataset, database: MemoryDatabase, *, replaces: bool = False) -> None:
        super().__init__(dataset)
        self.documents = MemoryDocuments(self)
        self._kept, self._replaces, self._digest, self._is_open = database, replaces, content_hash(dataset), False

    @property
    def database(self) -> MemoryDatabase:
        """The database, while the store is open."""
        if not self._is_open:
            raise StoreUnavailableError(f"{self.label} at {self.address}: not connected")
        return self._kept

    @override
    async def open(self) -> None:
        refuse_reserved_names(self.dataset)
        self._is_open = True

    @override
    async def close(self) -> None:
        self._is_open = False

    @override
    async def ping(self) -> None:
        _ = self.database

    @override
    async def now(self) -> float:
        return time.time()

    @override
    async def probe(self) -> None:
        await self.trial([self.example("probe")])

    @override
    async def trial(self, records: list[Record]) -> None:
        _ = self.database  # it refuses no record

    # raw records

    @override
    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        database, now = self.database, time.time()
        merge = Merge(self.dataset, self._digest, replaces=self._replaces)
        given = orders_of(self.dataset, records, orders, now)
        incoming = incoming_of(records, sources_of(sources, len(records)), given, self._digest)
        known = {}
        for place, each in incoming.items():
            key = each.record[ID]
            if key in database.raw:
                known[place] = each
                continue
            stored = Stored(self._plain(each.record), each.source, FIRST_REVISION, each.hash, each.order)
            version, _ = database.processed.get(key, ("", {}))
            database.raw[key] = RawRow(stored, now, done=version)
        keys = {each.record[ID] for each in known.values()}
        for change in merge.merge(known, [database.raw[key].stored for key in keys]):
            row = database.raw[change.after.record[ID]]
            row.stored = replace(change.after, record=self._plain(change.after.record))
            row.done = "" if change.values else row.done
        for lost in merge.conflicts.values():
            at, before = database.conflicts.get((lost.key, lost.hash.hex()), (now, lost))
            database.conflicts[lost.key, lost.hash.hex()] = (
                at,
                before._replace(corrected=before.corrected or lost.corrected),
            )
        return merge.saved(self.label, len(records) - len(known), len(records))

    @override
    async def raw_records(self, limit: int) -> list[Record]:
        raw = self.database.raw
        return [self._plain(raw[key].stored.record) for key in sorted(raw)[:limit]]

    @override
    async def raw_by_keys(self, keys: list[str]) -> Page:
        raw = self.database.raw
        rows = [list(self._plain(raw[key].stored.record).values()) for key in sorted(keys) if key in raw]
        return raw_page(self.dataset, rows, len(rows) + 1)

    @override
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        raw = self.database.raw
        waiting = sorted(key for key, row in raw.items() if row.done != version and key > (after or ""))[:limit]
        rows = [[*self._plain(raw[key].stored.record).values(), raw[key].stored.revision] for key in waiting]
        return raw_page(self.dataset, rows, limit, revisions=True)

    @override
    async def last_key(self, before: float) -> str | None:
        return max((key for key, row in self.database.raw.items() if row.arrived < before), default=None)

    @override
    async def delete_raw(self, days: float, limit: int) -> int:
        raw, before = self.database.raw, time.time() - days * 86_400
        done = [(row.arrived, key) for key, row in raw.items() if row.done == self.dataset.version and row.arrived < before]
        for _, key in sorted(done)[:limit]:
            del raw[key]
        return min(len(done), limit)

    @override
    async def conflicts(self, after: tuple[str, str] | None, limit: int) -> list[ConflictMessage]:
        database, found = self.database, []
        for key, digest in sorted(each for each in database.conflicts if each > (after or ("", "")))[:limit]:
            at, conflict = database.conflicts[key, digest]
            present = database.raw[key].stored.record if key in database.raw else None
            found.append(conflict.message(at, present, self.dataset.raw_names))
        return found

    # results

    @override
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, int]:
        database, revisions = self.database, revisions_of(table)
        rows = {row[ID]: row for row in records_of(table.select(self.dataset.processed_names))}
        done = [key for key in rows if self._settle(key, revisions[key], version)]
        for key in done:
            values = {name: value if name == ID or value is None else value + 0.0 for name, value in rows[key].items()}
            database.processed[key] = (version, values)
            database.rejected.pop(key, None)
        return {"upserted": len(done)}

    @override
    async def reject(self, rejections: list[Rejection], version: str) -> dict[str, int]:
        database = self.database
        done = [each for each in rejections if self._settle(each.id, each.revision, version)]
        for each in done:
            database.rejected[each.id] = Rejection(id=each.id, reason=each.reason, version=version)
            database.processed.pop(each.id, None)
        return {"rejected": len(done)}

    def _settle(self, key: str, revision: int | None, version: str) -> bool:
        """Mark a raw record as done with a version; return False where the result is of an older revision, so that it waits."""
        row = self.database.raw.get(key)
        if row is not None and revision not in (None, row.stored.revision):
            return False
        if row is not None:
            row.done = version
        return True

    @override
    async def rejected(self, after: str | None, limit: int) -> list[Rejection]:
        rejected = self.database.rejected
        return [rejected[key] for key in sorted(rejected) if key > (after or "")][:limit]

    @override
    async def processed_columns(
        self,
        columns: list[str],
        *,
        labelled: bool,
        version: str | None,
        after: str | None,
        limit: int,
        raw: Sequence[str] | None = None,
        arrived_after: float | None = None,
        until: str | None = None,
    ) -> Page:
        database, found = self.database, []
        begin = (0.0, after or "") if arrived_after is None else (arrived_after, after or chr(0x10FFFF))
        for key, (made_by, values) in database.processed.items():
            row = database.raw.get(key)
            if (labelled and values.get(self.dataset.target) is None) or version not in (None, made_by):
                continue
            if (arrived_after is not None and row is None) or (until is not None and key > until):
                continue
            place = (0.0 if arrived_after is None or row is None else row.arrived, key)
            if place > begin:
                found.append((place, values, row))
        schema = chosen_schema(self.dataset, with_key(columns), raw)
        rows: list[Record] = []
        for _, values, row in sorted(found, key=lambda each: each[0])[:limit]:
            beside = {raw_name(name): row.stored.record.get(name) for name in raw or ()} if row else {}
            rows.append({**values, **beside, ARRIVED: row.arrived if row else None})
        return without_key(page_of(pa.Table.from_pylist(rows, schema=schema), limit), columns)

    @override
    async def processed_key(self, after: str | None, places: int) -> str | None:
        keys = sorted(key for key in self.database.processed if key > (after or ""))
        return after if places < 1 else keys[places - 1] if places <= len(keys) else None

    @override
    async def targets(self, keys: list[str]) -> dict[str, float]:
        known = ((key, self.database.processed[key][1]) for key in keys if key in self.database.processed)
        return {key: row[self.dataset.target] for key, row in known if row.get(self.dataset.target) is not None}

    @override
    async def counts(self) -> RecordCounts:
        database = self.database
        return RecordCounts(
            raw=len(database.raw),
            processed=len(database.processed),
            labelled=sum(row.get(self.dataset.target) is not None for _, row in database.processed.values()),
            rejected=len(database.rejected),
            conflicts=len(database.conflicts),
            corrected=sum(conflict.corrected for _, conflict in database.conflicts.values()),
        )

    def _plain(self, record: Record) -> Record:
        """Return key and columns as declared now; a negative zero is a zero."""
        values = {name: record.get(name) for name in self.dataset.raw_names}
        return {ID: record[ID], **{name: value + 0.0 if type(value) is float else value for name, value in values.items()}}


class MemoryDocuments(DocumentStore):
    """Monitoring's documents as JSON, in the database of a store."""

    def __init__(self, store: MemoryDataStore) -> None:
        self._store = store

    @override
    async def open(self) -> None:
        pass

    @override
    async def save(self, documents: Sequence[Document]) -> None:
        self._documents.update({(each.kind, each.key): (each.at, each.encoded_body()) for each in documents})

    @override
    async def between(
        self,
        kind: str,
        start: float,
        end: float,
        *,
        newest_first: bool = False,
        limit: int = 500,
        after: Cursor | None = None,
    ) -> list[Document]:
        found = [each for each in self._of(kind) if start <= each.at < end]
        found.sort(key=lambda each: each.cursor, reverse=newest_first)
        if after is not None:
            found = [each for each in found if (each.cursor < after if newest_first else each.cursor > after)]
        return found[:limit]

    @override
    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        return sorted((each for each in self._of(kind) if each.key in keys), key=lambda each: each.key)

    @override
    async def delete_before(self, kind: str, before: float) -> int:
        return await self.delete_keys(kind, [each.key for each in self._of(kind) if each.at < before])

    @override
    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        return sum(self._documents.pop((kind, key), None) is not None for key in keys)

    @property
    def _documents(self) -> dict[tuple[str, str], tuple[float, str]]:
        return self._store.database.documents

    def _of(self, kind: str) -> list[Document]:
        found = self._documents.items()
        return [Document(kind, key, at, decoded_body(body)) for (of, key), (at, body) in found if of == kind]
