"""The store on MongoDB: one collection each of raw, processed and rejected records."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.settings import Settings
from complex_system.storage.arrow import PIPELINE, chosen_schema, page_of, raw_page, with_key, without_key
from complex_system.storage.base import DataStore
from complex_system.storage.mongo.backlog import FORGOTTEN, Backlog
from complex_system.storage.mongo.collections import adopt, follow, make_indexes, marks_of, warn_of_foreign_keys
from complex_system.storage.mongo.connection import (
    KEYS_A_SEARCH,
    Collection,
    Document,
    MongoConnection,
    delete,
    insert,
    parts,
    put,
)
from complex_system.storage.mongo.counts import PatientCount
from complex_system.storage.mongo.documents import MongoDocuments
from complex_system.storage.mongo.reads import MongoReads
from complex_system.storage.mongo.unprocessed import Unprocessed
from complex_system.storage.mongo.values import Fields
from complex_system.storage.names import TableNames


class MongoDataStore(DataStore):
    """Raw, processed and rejected records as documents, keyed by ``_id``."""

    label: ClassVar[str] = "MongoDB"

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        super().__init__(dataset)
        self._connection = MongoConnection(settings)
        self.address = self._connection.address
        self._names = TableNames.of(settings.table_prefix)
        self._fields = Fields(dataset)
        self._reads = MongoReads(self._connection, self._names, self._fields)
        self._backlog = Backlog(self._connection, self._names.backlog)
        self._unprocessed = Unprocessed(self._backlog, self._reads)
        counted = (self._names.raw, self._names.processed, self._names.rejected)
        self._counts = {name: PatientCount(partial(self._estimate, name)) for name in counted}
        self._labelled = PatientCount(self._count_labelled)
        self._highest = ""
        self.documents = MongoDocuments(self._connection, self._names.documents)

    @override
    async def open(self) -> None:
        with self._connection.translated():
            await self._connection.open()
            await follow(self._connection, self.dataset, self._names)
            await make_indexes(self._connection, self._names)
            if self._connection.in_ranges:
                self._reads.marks = await marks_of(self._raw)
            await self._backlog.open(empty=await self._raw.find_one({}, {ID: 1}) is None)
            await adopt(self._raw, self._backlog)
            await warn_of_foreign_keys(self._raw)
        await self.documents.open()

    @override
    async def close(self) -> None:
        await self._connection.close()

    @override
    async def ping(self) -> None:
        with self._connection.translated():
            await self._connection.ping()

    @override
    async def save_raw(self, records: list[Record]) -> dict[str, Any]:
        documents = self._fields.raw_documents(records)
        keys = [document[ID] for document in documents]
        with self._connection.translated():
            began = time.time()  # the lists' own clock: the steady one stands still while a machine sleeps
            together = bool(keys) and min(keys) > self._highest != ""
            lists = await self._backlog.note(keys, together=together)
            existing = await insert(self._raw, documents, self._connection.turn(self._raw))
            inserted = keys
            if existing:
                kept = set(existing)
                inserted = [key for place, key in enumerate(keys) if place not in kept]
                await self._backlog.note(inserted, together=together)
                await self._backlog.forget(lists)
            if time.time() - began > FORGOTTEN / 2:  # machine or process slept: the lists may have been thought forgotten
                await self._backlog.note(inserted)
            self._highest = max([self._highest, *keys])
            self._counts[self._names.raw].add(len(inserted))
            await self._settle_those_processed_before(inserted)
        return {"inserted": len(inserted), "existing": len(existing)}

    @override
    async def raw_records(self, limit: int) -> list[Record]:
        with self._connection.translated():
            found = await self._reads.find(self._raw, {}, self._fields.raw, limit)
        return self._fields.raw_records(found)

    @override
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        with self._connection.translated():
            found, last = await self._unprocessed.page(version, after, limit, own=version == self.dataset.version)
        return Page(raw_page(self.dataset, self._fields.raw_rows(found), limit).table, last)

    @override
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, Any]:
        documents = await asyncio.to_thread(self._fields.processed_documents, table, version)
        keys = [document[ID] for document in documents]
        if not keys:
            return {"upserted": 0}
        with self._connection.translated():
            state = await self._backlog.switch(version)
            entries = await self._backlog.entries(keys, version)
            new = await put(self._processed, documents, self._connection.turn(self._processed))
            self._counts[self._names.processed].add(new)
            self._reads.written(self._processed, version, keys)
            if await self._rejected.find_one({}, {ID: 1}):
                self._counts[self._names.rejected].add(-await delete(self._rejected, keys))
            # Last: were this the end of the process, the records would be processed once more and not be lost.
            await self._backlog.settle(entries, keys, state)
        return {"upserted": table.num_rows}

    @override
    async def reject(self, rejections: list[dict[str, str]], version: str) -> dict[str, Any]:
        by_key = {r[ID]: {ID: r[ID], "reason": r["reason"], "version": version} for r in rejections}
        if not by_key:
            return {"rejected": 0}
        with self._connection.translated():
            state = await self._backlog.switch(version)
            entries = await self._backlog.entries(by_key, version)
            self._counts[self._names.rejected].add(await put(self._rejected, list(by_key.values())))
            self._counts[self._names.processed].add(-await delete(self._processed, by_key))
            await self._backlog.settle(entries, by_key, state)
        return {"rejected": len(rejections)}

    @override
    async def rejected(self, after: str | None, limit: int) -> list[dict[str, str]]:
        fields = [ID, "reason", "version"]
        with self._connection.translated():
            return await self._reads.find(self._rejected, {ID: {"$gt": after or ""}}, fields, limit)

    @override
    async def processed_columns(
        self, columns: list[str], *, labelled: bool, version: str | None, after: str | None, limit: int
    ) -> Page:
        names = with_key(columns)
        fields = [self._fields.processed[name] for name in names]
        known = self._fields.target if labelled else None
        with self._connection.translated():
            if version is not None:
                found = await self._reads.find_marked(self._processed, version, after, fields, limit, known)
            else:
                query: Document = {ID: {"$gt": after or ""}, **({known: {"$ne": None}} if known else {})}
                found = await self._reads.find(self._processed, query, fields, limit)

        def build() -> Page:
            values = [[document.get(field) for document in found] for field in fields]
            return without_key(page_of(values, chosen_schema(self.dataset, names), limit), columns)

        return await asyncio.to_thread(build)

    @override
    async def processed_page(self, page: int, page_size: int) -> list[Record]:
        wanted = [(name, field) for name, field in self._fields.processed.items() if name != ID]
        with self._connection.translated():
            found = await self._reads.find(
                self._processed, {}, [field for _, field in wanted], page_size, skip=page * page_size
            )
        return [{name: document.get(field) for name, field in wanted} for document in found]

    @override
    async def counts(self) -> dict[str, int]:
        with self._connection.translated():
            raw, processed, rejected = await asyncio.gather(*(count.get() for count in self._counts.values()))
            known = await self._labelled.get(among=processed)
        return {"raw": raw, "processed": processed, "labelled": known, "rejected": rejected}

    @override
    async def targets(self, keys: list[str]) -> dict[str, float]:
        field = self._fields.target
        found: dict[str, float] = {}
        with self._connection.translated():
            for part in parts(set(keys)):
                async with self._connection.turn(self._processed):
                    documents = await self._processed.find({ID: {"$in": part}}, {field: 1}).to_list()
                found |= {document[ID]: float(document[field]) for document in documents if document.get(field) is not None}
        return found

    @override
    async def raw_by_keys(self, keys: list[str]) -> Page:
        found: list[Document] = []
        with self._connection.translated():
            for part in parts(set(keys)):
                found += await self._reads.find(self._raw, {ID: {"$in": part}}, self._fields.raw, len(part))
        found.sort(key=lambda document: str(document[ID]))
        rows = self._fields.raw_rows(found)
        return raw_page(self.dataset, rows, len(rows) + 1)

    # Inside

    @property
    def _raw(self) -> Collection:
        return self._connection.collection(self._names.raw)

    @property
    def _processed(self) -> Collection:
        return self._connection.collection(self._names.processed)

    @property
    def _rejected(self) -> Collection:
        return self._connection.collection(self._names.rejected)

    async def _estimate(self, name: str) -> int:
        return await self._connection.collection(name).estimated_document_count()

    async def _count_labelled(self) -> int:
        return await self._processed.count_documents({self._fields.target: {"$ne": None}})

    async def _settle_those_processed_before(self, keys: list[str]) -> None:
        """A processed record may come before its raw twin, which then is not work to do."""
        if twins := await self._versions_of(keys):
            state = await self._backlog.state()
            entries = await self._backlog.entries(twins, state.version)
            done = [key for key, version in (await self._versions_of(list(twins))).items() if version == state.version]
            await self._backlog.settle(entries, done, state)

    async def _versions_of(self, keys: list[str]) -> dict[str, str]:
        """The pipeline versions of those that are processed."""
        found: dict[str, str] = {}
        for part in parts(keys, KEYS_A_SEARCH):
            async with self._connection.turn(self._processed):
                twins = await self._processed.find({ID: {"$in": part}}, {PIPELINE: 1}).to_list()
            found |= {twin[ID]: twin.get(PIPELINE, "") for twin in twins}
        return found
