"""The store on MongoDB: one collection each of raw, processed and rejected records."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, StoreUnavailableError
from complex_system.protocol.database import ConflictMessage, RecordCounts, Rejection, Saved
from complex_system.settings import Settings
from complex_system.storage.arrow import raw_page
from complex_system.storage.base import DataStore
from complex_system.storage.conflicts import Change, Conflict, Incoming, Merge, Orders, incoming_of, orders_of
from complex_system.storage.envelope import ENVELOPE, FIRST_REVISION, refuse_reserved_names, revisions_of, sources_of
from complex_system.storage.mongo.connection import TRIED_OUT, Document, MongoConnection, Queries
from complex_system.storage.mongo.documents import MongoDocuments
from complex_system.storage.mongo.processed import ProcessedRecords
from complex_system.storage.mongo.schema import (
    CORRECTED,
    DONE,
    RECEIVED,
    Collections,
    add_envelopes,
    conflict_document,
    conflict_id,
    conflict_in,
    migrate,
    order_in,
    time_in,
)
from complex_system.storage.mongo.secantus import SecantusQueries, is_secantus
from complex_system.storage.mongo.work import Work
from complex_system.storage.naming import TableNames


class MongoDataStore(DataStore):
    """Raw, processed and rejected records as documents, keyed by ``_id``."""

    label: ClassVar[str] = "MongoDB"

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        super().__init__(dataset)
        self._connection = MongoConnection(settings)
        self.address = self._connection.address
        self._collections = Collections(self._connection, dataset, TableNames.of(settings.table_prefix))
        self._fields = self._collections.fields
        self._work = Work(self._collections)
        self._processed = ProcessedRecords(self._collections)
        self._replaces = settings.on_conflict == "replace"
        self.documents = MongoDocuments(self._collections)

    @override
    async def open(self) -> None:
        refuse_reserved_names(self.dataset)
        with self._connection.translated():
            names, fields = self._collections.names, self._fields
            widths = {names.raw: len(fields.raw), names.processed: len(fields.processed)}
            self._collections.queries = queries_of(await self._connection.open(), widths)
            await migrate(self._collections)
        await self.documents.open()

    @override
    async def close(self) -> None:
        await self._connection.close()

    @override
    async def ping(self) -> None:
        with self._connection.translated():
            await self._connection.ping()

    @override
    async def now(self) -> float:
        with self._connection.translated():
            return (await self._connection.now()).replace(tzinfo=UTC).timestamp()

    @override
    async def last_key(self, before: float) -> str | None:
        arrived = {f"{ENVELOPE}.received": {"$lt": datetime.fromtimestamp(before, UTC)}}
        with self._connection.translated():
            found = await self._collections.raw.find_one(arrived, {ID: 1}, sort=[(ID, -1)])
        return str(found[ID]) if found else None

    @override
    async def probe(self) -> None:
        with suppress(InvalidRecordError):
            await self.trial([self.example("probe")])

    @override
    async def trial(self, records: list[Record]) -> None:
        raw = self._collections.raw
        with self._connection.translated():
            # Of what is there already only changes can be the reason.
            there = {d[ID] for d in await self._queries.find_keys(raw, [r[ID] for r in records], [ID], few=True)}
            tried = [record for record in records if record[ID] not in there]
            if there:
                merge = Merge(self.dataset, self._fields.digest, replaces=self._replaces)
                known = [record for record in records if record[ID] in there]
                orders = orders_of(self.dataset, known, None, math.inf)
                changes = await self._changes(incoming_of(known, [""] * len(known), orders, self._fields.digest), merge)
                tried += [change.after.record for change in changes if change.values]
            received = await self._connection.now()
            documents = self._fields.raw_documents(tried, [""] * len(tried), [0.0] * len(tried), received)
            await self._queries.try_out(raw, documents)

    @override
    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        merge = Merge(self.dataset, self._fields.digest, replaces=self._replaces)
        with self._connection.translated():
            received = await self._connection.now()
            given = orders_of(self.dataset, records, orders, received.replace(tzinfo=UTC).timestamp())
            documents = self._fields.raw_documents(records, sources_of(sources, len(records)), given, received)
            inserted: list[Document] = []
            left = list(range(len(documents)))
            while left:  # again for those that retention deletes between the look at their key and their change
                existing = {left[found] for found in await self._insert_all_or_none(documents, left, received)}
                new = [documents[place] for place in left if place not in existing]
                await self._work.mark_processed_before([document[ID] for document in new])
                inserted += new
                left = []
                if unknown := await self._unknown(documents, records, sorted(existing), merge):
                    await self._merge_or_take_back(unknown, merge, inserted, received)
                    left = sorted(merge.absent)
        return merge.saved(self.label, len(inserted), len(records))

    async def _merge_or_take_back(
        self, incoming: dict[int, Incoming], merge: Merge, inserted: list[Document], received: datetime
    ) -> None:
        """Merge records with stored ones; where one of them may be the reason that this fails, take back what was inserted."""
        try:
            with self._connection.translated():
                await self._merge(incoming, merge)
        except Exception as error:
            if not (isinstance(error, StoreUnavailableError) and error.explained):
                await self._take_back(inserted, received)
            raise

    async def _insert_all_or_none(self, documents: list[Document], places: list[int], received: datetime) -> list[int]:
        """Insert some of the raw records; where one of them may be the reason that this fails, take back all that were inserted.

        Returns:
            Which of the places are those of records whose key existed.
        """
        try:
            with self._connection.translated():
                return await self._queries.insert(self._collections.raw, [documents[place] for place in places])
        except StoreUnavailableError as error:
            if error.explained:
                raise  # as much as is there may stay: the same records come again
            await self._take_back(documents, received)
            raise
        except Exception:
            await self._take_back(documents, received)
            raise

    async def _take_back(self, documents: list[Document], received: datetime) -> None:
        keys = [document[ID] for document in documents]
        with self._connection.translated():
            await self._queries.delete(self._collections.raw, keys, {RECEIVED: received})

    @override
    async def raw_records(self, limit: int) -> list[Record]:
        with self._connection.translated():
            real = {f"{ID}.{TRIED_OUT}": {"$exists": False}}
            found = await self._queries.find(self._collections.raw, real, self._fields.raw, limit)
        return self._fields.raw_records(found)

    @override
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        with self._connection.translated():
            found = await self._work.page(version, after, limit)
        # One that another program has written meanwhile gets its envelope with the next page.
        revisions = [d.get(ENVELOPE, {}).get("revision", FIRST_REVISION) for d in found]
        rows = [
            [*(d.get(field) for field in self._fields.raw), revision] for d, revision in zip(found, revisions, strict=True)
        ]
        return raw_page(self.dataset, rows, limit, revisions=True)

    @override
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, int]:
        documents = await asyncio.to_thread(self._fields.processed_documents, table, version)
        if not documents:
            return {"upserted": 0}
        revisions = revisions_of(table)
        keys = [document[ID] for document in documents]
        processed, rejected = self._collections.processed, self._collections.rejected
        with self._connection.translated():
            existing, taken_off = await self._queries.insert(processed, documents), 0
            # What comes too late must not replace a newer result.
            changed = await self._work.changed({keys[place]: revisions[keys[place]] for place in existing})
            existing = [place for place in existing if keys[place] not in changed]
            revisions = {key: revision for key, revision in revisions.items() if key not in changed}
            if existing:
                own = version if not any(revisions.values()) else ""
                taken_off += await self._work.mark_pending([keys[place] for place in existing], but=own)
                await self._queries.replace(processed, [documents[place] for place in existing])
            if await rejected.find_one({}, {ID: 1}):
                again = [d[ID] for d in await self._queries.find_keys(rejected, keys, [ID], few=True)]
                taken_off += await self._work.mark_pending(again)
                await self._queries.delete(rejected, again)
            await self._work.mark_done(revisions, version, taken_off=taken_off)
        return {"upserted": len(revisions)}

    @override
    async def reject(self, rejections: list[Rejection], version: str) -> dict[str, int]:
        if not rejections:
            return {"rejected": 0}
        with self._connection.translated():
            changed = await self._work.changed({each.id: each.revision for each in rejections})
            rejections = [each for each in rejections if each.id not in changed]
            by_key = {each.id: {ID: each.id, "reason": each.reason, "version": version} for each in rejections}
            taken_off = await self._work.mark_pending(by_key)
            await self._queries.put(self._collections.rejected, list(by_key.values()))
            await self._queries.delete(self._collections.processed, by_key)
            await self._work.mark_done({each.id: each.revision for each in rejections}, version, taken_off=taken_off)
        return {"rejected": len(rejections)}

    @override
    async def rejected(self, after: str | None, limit: int) -> list[Rejection]:
        fields = [ID, "reason", "version"]
        with self._connection.translated():
            found = await self._queries.find(self._collections.rejected, {ID: {"$gt": after or ""}}, fields, limit)
        return [Rejection(id=each[ID], reason=each["reason"], version=each["version"]) for each in found]

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
        known = self._fields.target if labelled else None
        with self._connection.translated():
            if arrived_after is None:
                found = await self._processed.by_key(columns, known, version, after, limit, until)
                beside = {} if raw is None else await self._processed.raw_by_key(found, raw)
            else:
                found, beside = await self._processed.by_arrival(
                    columns, known, version, arrived_after, after, limit, raw or (), until
                )
        return await asyncio.to_thread(self._processed.page_of, found, columns, limit, raw, beside)

    @override
    async def processed_key(self, after: str | None, places: int) -> str | None:
        if places < 1:
            return after
        collection, query = self._collections.processed, {ID: {"$gt": after or ""}}
        with self._connection.translated():
            found = await self._queries.find(collection, query, [ID], 1, places - 1)
        return str(found[0][ID]) if found else None

    @override
    async def counts(self) -> RecordCounts:
        raw, processed, rejected = self._collections.raw, self._collections.processed, self._collections.rejected
        with self._connection.translated():
            return RecordCounts(
                raw=await self._queries.count(raw),
                processed=await self._queries.count(processed),
                labelled=await self._queries.count_known(processed, self._fields.target),
                rejected=await self._queries.count(rejected),
                conflicts=await self._queries.count(self._collections.conflicts),
                corrected=await self._queries.count_known(self._collections.conflicts, CORRECTED),
            )

    @override
    async def conflicts(self, after: tuple[str, str] | None, limit: int) -> list[ConflictMessage]:
        query = {ID: {"$gt": conflict_id(*after) if after else ""}}
        with self._connection.translated():
            found = await self._queries.find(self._collections.conflicts, query, [*Conflict._fields, "received"], limit)
            raw = await self._queries.find_keys(self._collections.raw, {each["key"] for each in found}, self._fields.raw)
        present = {record[ID]: record for record in self._fields.raw_records(raw)}
        names = self.dataset.raw_names
        return [conflict_in(each).message(time_in(each), present.get(each["key"]), names) for each in found]

    @override
    async def targets(self, keys: list[str]) -> dict[str, float]:
        field = self._fields.target
        with self._connection.translated():
            found = await self._queries.find_keys(self._collections.processed, keys, [ID, field])
        return {document[ID]: float(document[field]) for document in found if document.get(field) is not None}

    @override
    async def delete_raw(self, days: float, limit: int) -> int:
        with self._connection.translated():
            before = await self._connection.now() - timedelta(days=days)
            old: Document = {DONE: self.dataset.version, RECEIVED: {"$lt": before}}
            found = await self._collections.raw.find(old, {ID: 1}).sort(RECEIVED, 1).limit(limit).to_list()
            return await self._queries.delete(self._collections.raw, [document[ID] for document in found], old)

    @override
    async def raw_by_keys(self, keys: list[str]) -> Page:
        with self._connection.translated():
            found = await self._queries.find_keys(self._collections.raw, keys, self._fields.raw)
        rows = [[document.get(field) for field in self._fields.raw] for document in found]
        return raw_page(self.dataset, rows, len(rows) + 1)

    async def _merge(self, incoming: dict[int, Incoming], merge: Merge) -> None:
        """Fill and replace values of stored records, and keep what loses; repeated while others change the same records."""
        changes = await self._changes(incoming, merge)
        while True:
            # First what loses: a service that is killed in between has lost nothing, and the same records come again.
            received = await self._connection.now()
            entries = [conflict_document(each, received) for each in merge.conflicts.values()]
            known = await self._queries.insert(self._collections.conflicts, entries)
            if corrected := [entries[place][ID] for place in known if CORRECTED in entries[place]]:
                await self._queries.update(self._collections.conflicts, corrected, {}, {"$set": {CORRECTED: 1}})
            done = await self._queries.update_each(self._collections.raw, map(self._fields.changed, changes), journal=True)
            if done == len(changes):
                return
            changes = await self._changes(incoming, merge)

    async def _changes(self, incoming: dict[int, Incoming], merge: Merge) -> list[Change]:
        """Compare records with the stored ones of their keys."""
        keys = {each.record[ID] for each in incoming.values()}
        found = await self._queries.find_keys(self._collections.raw, keys, [*self._fields.raw, ENVELOPE])
        if any(ENVELOPE not in document for document in found):
            await add_envelopes(self._collections)
            found = await self._queries.find_keys(self._collections.raw, keys, [*self._fields.raw, ENVELOPE])
        stored = self._fields.stored([document for document in found if ENVELOPE in document])
        return await asyncio.to_thread(merge.merge, incoming, stored)

    async def _unknown(
        self, documents: list[Document], records: list[Record], places: list[int], merge: Merge
    ) -> dict[int, Incoming]:
        """Return the records at some places that are not there as they are."""
        keys = [documents[place][ID] for place in places]
        found = await self._queries.find_keys(self._collections.raw, keys, [ID, ENVELOPE]) if keys else []
        kept = {each[ID]: each[ENVELOPE] for each in found if ENVELOPE in each}
        unknown = {}
        for place in places:
            envelope, there = documents[place][ENVELOPE], kept.get(documents[place][ID])
            each = Incoming(records[place], envelope["source"], envelope["order"], envelope["hash"])
            if there is None or not merge.is_known(each, there["hash"], order_in(there)):
                unknown[place] = each
        return unknown

    @property
    def _queries(self) -> Queries:
        return self._collections.queries


def queries_of(build_info: Document, widths: Mapping[str, int]) -> Queries:
    """Return how the connected server is asked, by its own answer to what it is.

    Args:
        build_info: The answer.
        widths: Fields of a document, by collection.
    """
    return SecantusQueries(widths) if is_secantus(build_info) else Queries()
