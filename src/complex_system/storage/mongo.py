"""The store on MongoDB: pymongo's asynchronous client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
from pymongo import AsyncMongoClient, DeleteMany, ReplaceOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, ConnectionFailure, ExecutionTimeout, OperationFailure, WTimeoutError
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.errors import StoreUnavailableError
from complex_system.settings import Settings
from complex_system.storage.base import DataStore
from complex_system.storage.changes import refuse_another_data_set, refuse_other_types
from complex_system.storage.mongo_backlog import FORGOTTEN, Backlog, Group
from complex_system.storage.mongo_counts import PatientCount
from complex_system.storage.mongo_documents import MongoDocuments
from complex_system.storage.mongo_ranges import KeyRanges
from complex_system.storage.mongo_unprocessed import Unprocessed
from complex_system.storage.names import TableNames
from complex_system.storage.tables import (
    PIPELINE,
    chosen_schema,
    converted,
    page_of,
    plain,
    raw_page,
    rows_of,
    with_key,
    without_key,
)

log = logging.getLogger(__name__)

Document = dict[str, Any]

Turn = AbstractAsyncContextManager[None]
_AT_ANY_TIME: Turn = nullcontext()

_DECLARED = "declaration"
"""Key of the note on what was declared."""
_DUPLICATE_KEY = 11000
_REFUSED = {13, 18, 11600, 14031}  # unauthorized, authentication failed, shutting down, disk full
_KEYS_A_FILTER = 25  # servers that compare a list of keys one by one stay quick with short lists
_KEYS_A_SEARCH = 100  # where few or none of them are expected
_ROWS_A_REPLY = 2500  # the driver decodes and encodes on the event loop: some milliseconds each time
_ROWS_A_WRITE = 500
_VALUES = 40_000  # in a reply or a write: of wide documents so many fewer rows
_KEYS_A_READ = 500
_ADOPTED_AT_ONCE = 20_000
_TIMEOUT_MS = 20_000
_OTHER_KEYS = ["objectId", "number", "binData", "date", "bool", "object"]  # by types, so that the key's index answers


class MongoDataStore(DataStore):
    """Raw, processed and rejected records as documents, keyed by ``_id``."""

    label: ClassVar[str] = "MongoDB"

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        super().__init__(dataset)
        self.address = f"{settings.mongo_host}:{settings.mongo_port}"
        self._settings = settings
        self._names = TableNames.of(settings.table_prefix)
        self._client: AsyncMongoClient[Document] | None = None
        self._raw_fields = [ID, *(field_of(name) for name in dataset.raw_names)]
        self._processed_fields = {name: field_of(name) for name in dataset.processed_names}
        self._marks = [""]
        self._highest = ""
        self._backlog = Backlog(lambda: self._unjournalled(self._names.backlog), _insert, _KEYS_A_FILTER)
        self._unprocessed = Unprocessed(self._backlog, self._raw_after, self._raw_of, self._done_between)
        counted = (self._names.raw, self._names.processed, self._names.rejected)
        self._counts = {name: PatientCount(partial(self._estimate, name)) for name in counted}
        self._labelled = PatientCount(self._count_labelled)
        self._in_ranges = False
        self._ranges: dict[tuple[str, str], KeyRanges] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self.documents = MongoDocuments(lambda: self._collection(self._names.documents), _put, self._translated)

    @override
    async def open(self) -> None:
        with self._translated():
            if self._client is None:
                self._client = self._connect()
            await self.ping()
            await self._follow_declaration()
            self._in_ranges = "secantusVersion" in await self._connected.admin.command("buildInfo")
            await self._raw.create_index([(PIPELINE, 1), (ID, 1)], name="unprocessed")
            if self._in_ranges:
                await self._processed.create_index([(PIPELINE, 1), (ID, 1)], name="by_version")
                await self._rejected.create_index([("version", 1), (ID, 1)], name="by_version")
                self._marks = await self._known_marks()
            await self._backlog.open(empty=await self._raw.find_one({}, {ID: 1}) is None)
            await self._adopt()
            await self._warn_of_foreign_keys()
        await self.documents.open()

    @override
    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            # Closed while it tries to connect, as it does right after a failure, the driver would leave the socket behind.
            await asyncio.sleep(0.05)
            await client.close()

    @override
    async def ping(self) -> None:
        with self._translated():
            await self._connected.admin.command("ping")

    @override
    async def save_raw(self, records: list[Record]) -> dict[str, Any]:
        names = self.dataset.raw_names
        fields = self._raw_fields[1:]
        documents = [
            # MariaDB keeps no sign of zero, so neither does this store; adding 0 takes it away.
            {
                ID: r[ID],
                PIPELINE: "",
                **{f: v + 0.0 if type(v := r[n]) is float else v for f, n in zip(fields, names, strict=True)},
            }
            for r in records
        ]
        keys = [document[ID] for document in documents]
        with self._translated():
            began = time.monotonic()
            together = bool(keys) and min(keys) > self._highest != ""
            lists = await self._backlog.note(keys, together=together)
            existing = await _insert(self._raw, documents, self._turn(self._raw))
            inserted = keys
            if existing:
                kept = set(existing)
                inserted = [key for place, key in enumerate(keys) if place not in kept]
                await self._backlog.note(inserted, together=together)
                await self._backlog.forget(lists)
            if time.monotonic() - began > FORGOTTEN / 2:  # the process slept: the lists may have been thought forgotten
                await self._backlog.note(inserted)
            self._highest = max([self._highest, *keys])
            self._counts[self._names.raw].add(len(inserted))
            await self._settle_those_processed_before(inserted)
        return {"inserted": len(inserted), "existing": len(existing)}

    @override
    async def raw_records(self, limit: int) -> list[Record]:
        with self._translated():
            found = await self._find(self._raw, {}, self._raw_fields, limit)
        names = (ID, *self.dataset.raw_names)
        rows = ([str(d[ID]), *(d.get(field) for field in self._raw_fields[1:])] for d in found)
        return [dict(zip(names, row, strict=True)) for row in converted(rows, plain(self.dataset))]

    @override
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        with self._translated():
            found, last = await self._unprocessed.page(version, after, limit, own=version == self.dataset.version)
        rows = [[d.get(field) for field in self._raw_fields] for d in found]
        return Page(raw_page(self.dataset, rows, limit).table, last)

    @override
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, Any]:
        fields = list(self._processed_fields.values())

        def build() -> list[Document]:
            rows = rows_of(table, self.dataset.processed_names)
            return [{**dict(zip(fields, row, strict=True)), PIPELINE: version} for row in rows]

        documents = await asyncio.to_thread(build)
        keys = [document[ID] for document in documents]
        if not keys:
            return {"upserted": 0}
        with self._translated():
            await self._backlog.switch(version)
            self._counts[self._names.processed].add(await _put(self._processed, documents, self._turn(self._processed)))
            if self._in_ranges:
                self._ranges_of(self._processed, version).written(keys)
            if await self._rejected.find_one({}, {ID: 1}):
                self._counts[self._names.rejected].add(-await _delete(self._rejected, keys))
            # Last: were this the end of the process, the records would be processed once more and not be lost.
            await self._settle(keys, version)
        return {"upserted": table.num_rows}

    @override
    async def reject(self, rejections: list[dict[str, str]], version: str) -> dict[str, Any]:
        by_key = {r[ID]: {ID: r[ID], "reason": r["reason"], "version": version} for r in rejections}
        if not by_key:
            return {"rejected": 0}
        with self._translated():
            await self._backlog.switch(version)
            self._counts[self._names.rejected].add(await _put(self._rejected, list(by_key.values())))
            self._counts[self._names.processed].add(-await _delete(self._processed, by_key))
            await self._settle(list(by_key), version)
        return {"rejected": len(rejections)}

    @override
    async def rejected(self, after: str | None, limit: int) -> list[dict[str, str]]:
        fields = [ID, "reason", "version"]
        with self._translated():
            return await self._find(self._rejected, {ID: {"$gt": after or ""}}, fields, limit)

    @override
    async def processed_columns(
        self, columns: list[str], *, labelled: bool, version: str | None, after: str | None, limit: int
    ) -> Page:
        names = with_key(columns)
        fields = [self._processed_fields[name] for name in names]
        known = self._processed_fields[self.dataset.target] if labelled else None
        with self._translated():
            if version is not None:
                found = await self._find_marked(self._processed, version, after, fields, limit, known)
            else:
                query: Document = {ID: {"$gt": after or ""}, **({known: {"$ne": None}} if known else {})}
                found = await self._find(self._processed, query, fields, limit)

        def build() -> Page:
            values = [[document.get(field) for document in found] for field in fields]
            return without_key(page_of(values, chosen_schema(self.dataset, names), limit), columns)

        return await asyncio.to_thread(build)

    @override
    async def processed_page(self, page: int, page_size: int) -> list[Record]:
        wanted = [(name, field) for name, field in self._processed_fields.items() if name != ID]
        with self._translated():
            found = await self._find(self._processed, {}, [field for _, field in wanted], page_size, skip=page * page_size)
        return [{name: document.get(field) for name, field in wanted} for document in found]

    @override
    async def counts(self) -> dict[str, int]:
        with self._translated():
            raw, processed, rejected = await asyncio.gather(*(count.get() for count in self._counts.values()))
            known = await self._labelled.get(among=processed)
        return {"raw": raw, "processed": processed, "labelled": known, "rejected": rejected}

    @override
    async def targets(self, keys: list[str]) -> dict[str, float]:
        field = self._processed_fields[self.dataset.target]
        found: dict[str, float] = {}
        with self._translated():
            for part in _parts(set(keys)):
                async with self._turn(self._processed):
                    documents = await self._processed.find({ID: {"$in": part}}, {field: 1}).to_list()
                found |= {document[ID]: float(document[field]) for document in documents if document.get(field) is not None}
        return found

    @override
    async def raw_by_keys(self, keys: list[str]) -> Page:
        found: list[Document] = []
        with self._translated():
            for part in _parts(set(keys)):
                found += await self._find(self._raw, {ID: {"$in": part}}, self._raw_fields, len(part))
        rows = sorted(([d.get(field) for field in self._raw_fields] for d in found), key=lambda row: str(row[0]))
        return raw_page(self.dataset, rows, len(rows) + 1)

    # Inside

    def _connect(self) -> AsyncMongoClient[Document]:
        settings = self._settings
        account: Document = {"username": settings.mongo_user, "password": settings.mongo_password,
                   "authSource": settings.mongo_auth_source} if settings.mongo_user else {}  # fmt: skip
        return AsyncMongoClient(
            settings.mongo_host,
            settings.mongo_port,
            serverSelectionTimeoutMS=3000,
            connectTimeoutMS=3000,
            socketTimeoutMS=_TIMEOUT_MS,
            journal=True,
            **account,
        )

    @property
    def _connected(self) -> AsyncMongoClient[Document]:
        if self._client is None:
            raise StoreUnavailableError(f"MongoDB at {self.address} is not connected.")
        return self._client

    @property
    def _raw(self) -> AsyncCollection[Document]:
        return self._collection(self._names.raw)

    @property
    def _processed(self) -> AsyncCollection[Document]:
        return self._collection(self._names.processed)

    @property
    def _rejected(self) -> AsyncCollection[Document]:
        return self._collection(self._names.rejected)

    def _collection(self, name: str) -> AsyncCollection[Document]:
        return self._connected[self._settings.mongo_name][name]

    async def _follow_declaration(self) -> None:
        """Refuses a declaration that the kept records cannot be of, and notes it: MongoDB itself knows no columns.

        Raises:
            DeclarationError: Nothing was changed.
        """
        notes = self._collection(self._names.columns)
        kept = await notes.find_one({ID: _DECLARED}) or {}
        types = dict(kept.get("types", ()))
        where = f"The collection {self._names.raw}"
        refuse_another_data_set(where, kept.get("data_set", ""), self.dataset)
        refuse_other_types(where, types, self.dataset)
        types |= {column.name: column.type for column in self.dataset.columns}
        note = {ID: _DECLARED, "data_set": self.dataset.name, "types": [[name, kind] for name, kind in types.items()]}
        if note != kept:
            await notes.replace_one({ID: _DECLARED}, note, upsert=True)

    def _unjournalled(self, name: str) -> AsyncCollection[Document]:
        """For what need not wait for the disk, because the journal keeps its order with what is written after it."""
        return self._connected[self._settings.mongo_name].get_collection(name, write_concern=WriteConcern(j=False))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one place where the driver's errors become ours."""
        try:
            yield
        except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as error:
            raise StoreUnavailableError(f"MongoDB at {self.address} does not answer: {_reason(error)}") from error
        except OperationFailure as error:
            if error.code not in _REFUSED:
                raise
            raise StoreUnavailableError(f"MongoDB at {self.address} refuses: {_reason(error)}") from error

    def _turn(self, collection: AsyncCollection[Document]) -> Turn:
        """What to hold for a read or a write of many documents.

        ``secantusdb`` keeps its one lock while it looks up the documents of a reply. Each look-up sleeps on a page of the storage
        engine that has grown beyond 5 MB and cannot be divided because a write to it is not committed; and that write waits for the
        lock. A few thousand wide documents so took a minute and all requests with them. There, writes and reads of a collection go
        one after another, which it does not do any slower.
        """
        return self._turns.setdefault(collection.name, asyncio.Lock()) if self._in_ranges else nullcontext()

    async def _estimate(self, name: str) -> int:
        return await self._collection(name).estimated_document_count()

    async def _count_labelled(self) -> int:
        return await self._processed.count_documents({self._processed_fields[self.dataset.target]: {"$ne": None}})

    async def _warn_of_foreign_keys(self) -> None:
        """Keys of other types are in no page, because pages are walked by the order of texts."""
        foreign = await self._raw.count_documents({ID: {"$type": _OTHER_KEYS}})
        if foreign:
            log.warning(
                "%s has %d raw record(s) whose '_id' is no text, such as MongoDB's own ObjectId: they are counted as raw and never "
                "processed. Write keys as texts.",
                self._names.raw,
                foreign,
            )

    async def _find(
        self, collection: AsyncCollection[Document], query: Document, fields: Sequence[str], limit: int | None, skip: int = 0
    ) -> list[Document]:
        """Documents by key; ``limit`` None for all that match."""
        if limit == 0:  # MongoDB reads it as "no limit"
            return []
        projection = {ID: int(ID in fields), **{field: 1 for field in fields if field != ID}}
        rows = _rows(_ROWS_A_REPLY, len(fields))
        cursor = collection.find(query, projection, batch_size=min((limit or rows) + 1, rows))
        async with self._turn(collection):
            return await cursor.sort(ID, 1).skip(skip).limit(limit or 0).to_list()

    async def _find_within(
        self, collection: AsyncCollection[Document], query: Document, fields: Sequence[str], limit: int | None
    ) -> list[Document]:
        """As :meth:`_find`, for a server to which sorting and choosing fields cost as much as the reading."""
        if limit is not None:
            return await self._find(collection, query, fields, limit)
        most = len(fields) > len(self._raw_fields if collection.name == self._names.raw else self._processed_fields) // 2
        projection = None if most else {ID: 1, **dict.fromkeys(fields, 1)}
        async with self._turn(collection):
            found = await collection.find(query, projection, batch_size=_rows(_ROWS_A_REPLY, len(fields))).to_list()
        found.sort(key=lambda document: str(document[ID]))  # the index has them in this order already
        return found

    async def _find_marked(
        self,
        collection: AsyncCollection[Document],
        mark: str,
        after: str | None,
        fields: Sequence[str],
        limit: int,
        known: str | None = None,
    ) -> list[Document]:
        """Documents with a mark after a key, by key; with ``known`` only those that have a value in that field."""
        if not self._in_ranges:
            query: Document = {PIPELINE: mark, ID: {"$gt": after or ""}, **({known: {"$ne": None}} if known else {})}
            return await self._find(collection, query, fields, limit)
        ranges = self._ranges_of(collection, mark)
        if known is None:
            return await ranges.find(after, limit, fields)
        # Another condition in the query would keep the server from using the index.
        return await ranges.find(after, limit, [*fields, known], lambda document: document.get(known) is not None)

    def _ranges_of(self, collection: AsyncCollection[Document], mark: str) -> KeyRanges:
        ranges = self._ranges.get((collection.name, mark))
        if ranges is None:
            width = len(self._raw_fields if collection.name == self._names.raw else self._processed_fields)
            ranges = KeyRanges(partial(self._find_within, collection), PIPELINE, mark, width)
            self._ranges[collection.name, mark] = ranges
        return ranges

    async def _raw_after(self, after: str, limit: int, keys_only: bool) -> list[Document]:
        fields = [ID] if keys_only else self._raw_fields
        if not self._in_ranges:
            return await self._find(self._raw, {ID: {"$gt": after}}, fields, limit)
        found: list[Document] = []
        for mark in self._marks:
            found += await self._find_marked(self._raw, mark, after, fields, limit)
        return sorted(found, key=lambda document: str(document[ID]))[:limit]

    async def _raw_of(self, groups: Sequence[Group]) -> list[Document]:
        found: list[Document] = []
        apart = [key for group in groups if not (group.together and self._in_ranges) for key in group.keys]
        for part in _parts(apart, _KEYS_A_FILTER if self._in_ranges else _KEYS_A_READ):
            found += await self._find(self._raw, {ID: {"$in": part}}, self._raw_fields, None)
        for group in groups:
            if group.together and self._in_ranges:
                keys = set(group.keys)
                for mark in self._marks:
                    query = {PIPELINE: mark, ID: {"$gte": group.keys[0], "$lte": group.keys[-1]}}
                    near = await self._find_within(self._raw, query, self._raw_fields, None)
                    found += [document for document in near if document[ID] in keys]
        return found

    async def _done_between(self, version: str, after: str, last: str) -> set[str]:
        between = {"$gt": after, "$lte": last}
        done: set[str] = set()
        for collection, field in ((self._processed, PIPELINE), (self._rejected, "version")):
            async with self._turn(collection):
                found = collection.find({field: version, ID: between}, {ID: 1}, batch_size=_ROWS_A_REPLY)
                done.update([document[ID] async for document in found])
        return done

    async def _settle(self, keys: list[str], version: str) -> None:
        """Notes that records are done, which the database has on disk by then."""
        state = await self._backlog.state()
        if state.version == version:
            await self._backlog.settle(keys, version)
        else:  # another version was written meanwhile, and these records may have been its own
            await self._backlog.note(keys)

    async def _settle_those_processed_before(self, keys: list[str]) -> None:
        """A processed record may come before its raw twin, which then is not work to do."""
        versions: dict[str, list[str]] = {}
        for part in _parts(keys, _KEYS_A_SEARCH):
            async with self._turn(self._processed):
                twins = await self._processed.find({ID: {"$in": part}}, {PIPELINE: 1}).to_list()
            for twin in twins:
                versions.setdefault(twin.get(PIPELINE, ""), []).append(twin[ID])
        if versions:
            state = await self._backlog.state()
            await self._backlog.settle(versions.get(state.version, []), state.version)

    async def _adopt(self) -> None:
        """Lists the raw records that another program wrote, which carry no mark, and gives them one."""
        while True:
            query = {PIPELINE: None, ID: {"$type": "string"}}
            theirs = [document[ID] async for document in self._raw.find(query, {ID: 1}).limit(_ADOPTED_AT_ONCE)]
            if not theirs:
                return
            await self._backlog.note(theirs)
            for part in _parts(theirs):  # and no others, which that program may write meanwhile
                await self._raw.update_many({ID: {"$in": part}}, {"$set": {PIPELINE: ""}})

    async def _known_marks(self) -> list[str]:
        """Marks of raw records: '', and versions that an earlier release marked them with when they were done.

        The server here reads what it looks for distinct values in, so it is asked for what lies between those that are known.
        """
        known = [""]
        while True:
            # The next text: with "greater than" the server would walk over all that carry the mark itself.
            found = await self._raw.find_one({PIPELINE: {"$gte": known[-1] + "\0"}}, {PIPELINE: 1}, sort=[(PIPELINE, 1)])
            if found is None:
                return known
            known.append(found[PIPELINE])


def field_of(name: str) -> str:
    """The field that keeps a column: its own name, but for characters that MongoDB reads as a path or an operator."""
    if name == PIPELINE:
        return "%5F" + name[1:]
    return name.replace("%", "%25").replace(".", "%2E").replace("$", "%24").replace("\0", "%00")


def _parts(keys: Iterable[str], size: int = _KEYS_A_FILTER) -> Iterator[list[str]]:
    ordered = sorted(keys)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


async def _insert(collection: AsyncCollection[Document], documents: list[Document], turn: Turn = _AT_ANY_TIME) -> list[int]:
    """Inserts what is not there yet and returns the places of the documents whose key existed."""
    existing: list[int] = []
    rows = _rows(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
    for start in range(0, len(documents), rows):
        try:
            async with turn:
                await collection.insert_many(documents[start : start + rows], ordered=False)
        except BulkWriteError as error:
            faults = error.details["writeErrors"]
            if error.details.get("writeConcernErrors") or any(fault["code"] != _DUPLICATE_KEY for fault in faults):
                raise
            existing += [start + fault["index"] for fault in faults]
    return existing


async def _put(collection: AsyncCollection[Document], documents: list[Document], turn: Turn = _AT_ANY_TIME) -> int:
    """Inserts or replaces; returns how many were new. Most are, and an insert is many times cheaper than a replacement."""
    existing = await _insert(collection, documents, turn)
    rows = _rows(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
    for start in range(0, len(existing), rows):
        part = [documents[place] for place in existing[start : start + rows]]
        async with turn:
            await collection.bulk_write([ReplaceOne({ID: d[ID]}, d, upsert=True) for d in part], ordered=False)
    return len(documents) - len(existing)


def _rows(most: int, fields: int) -> int:
    """Documents of so many fields in one message."""
    return max(1, min(most, _VALUES // max(1, fields)))


async def _delete(collection: AsyncCollection[Document], keys: Iterable[str]) -> int:
    operations = [DeleteMany({ID: {"$in": part}}) for part in _parts(keys, _KEYS_A_SEARCH)]
    return (await collection.bulk_write(operations, ordered=False)).deleted_count if operations else 0


def _reason(error: Exception) -> str:
    return str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
