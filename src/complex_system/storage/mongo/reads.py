"""Reads documents by their keys, in pages and in lists, as the server at hand does it quickly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from complex_system.domain.dataset import ID
from complex_system.storage.arrow import PIPELINE
from complex_system.storage.mongo.backlog import Group
from complex_system.storage.mongo.connection import KEYS_A_FILTER, Collection, Document, MongoConnection, parts, rows_at_once
from complex_system.storage.mongo.ranges import KeyRanges
from complex_system.storage.mongo.values import Fields
from complex_system.storage.names import TableNames

_ROWS_A_REPLY = 2500  # the driver decodes and encodes on the event loop: some milliseconds each time
_KEYS_A_READ = 500


class MongoReads:
    """Raw, processed and rejected documents of one data set."""

    def __init__(self, connection: MongoConnection, names: TableNames, fields: Fields) -> None:
        """Makes it; nothing is read."""
        self._connection = connection
        self._names = names
        self._fields = fields
        self._ranges: dict[tuple[str, str], KeyRanges] = {}
        self.marks = [""]
        """All marks of raw records, where the server is read in ranges."""

    async def find(
        self, collection: Collection, query: Document, fields: Sequence[str], limit: int | None, skip: int = 0
    ) -> list[Document]:
        """Documents by key; ``limit`` None for all that match."""
        if limit == 0:  # MongoDB reads it as "no limit"
            return []
        projection = {ID: int(ID in fields), **{field: 1 for field in fields if field != ID}}
        rows = rows_at_once(_ROWS_A_REPLY, len(fields))
        cursor = collection.find(query, projection, batch_size=min((limit or rows) + 1, rows))
        async with self._connection.turn(collection):
            return await cursor.sort(ID, 1).skip(skip).limit(limit or 0).to_list()

    async def find_marked(
        self,
        collection: Collection,
        mark: str,
        after: str | None,
        fields: Sequence[str],
        limit: int,
        known: str | None = None,
    ) -> list[Document]:
        """Documents with a mark after a key, by key; with ``known`` only those that have a value in that field."""
        if not self._connection.in_ranges:
            query: Document = {PIPELINE: mark, ID: {"$gt": after or ""}, **({known: {"$ne": None}} if known else {})}
            return await self.find(collection, query, fields, limit)
        ranges = self._ranges_of(collection, mark)
        if known is None:
            return await ranges.find(after, limit, fields)
        # Another condition in the query would keep the server from using the index.
        return await ranges.find(after, limit, [*fields, known], lambda document: document.get(known) is not None)

    async def raw_after(self, after: str, limit: int, *, keys_only: bool) -> list[Document]:
        """At most so many raw records after a key, by key."""
        raw = self._connection.collection(self._names.raw)
        fields = [ID] if keys_only else self._fields.raw
        if not self._connection.in_ranges:
            return await self.find(raw, {ID: {"$gt": after}}, fields, limit)
        found: list[Document] = []
        for mark in self.marks:
            found += await self.find_marked(raw, mark, after, fields, limit)
        return sorted(found, key=lambda document: str(document[ID]))[:limit]

    async def raw_of(self, groups: Sequence[Group]) -> list[Document]:
        """The raw records with these keys, in any order; those that are not there are left out."""
        raw, in_ranges = self._connection.collection(self._names.raw), self._connection.in_ranges
        found: list[Document] = []
        apart = [key for group in groups if not (group.together and in_ranges) for key in group.keys]
        for part in parts(apart, KEYS_A_FILTER if in_ranges else _KEYS_A_READ):
            found += await self.find(raw, {ID: {"$in": part}}, self._fields.raw, None)
        for group in groups:
            if group.together and in_ranges:
                keys = set(group.keys)
                for mark in self.marks:
                    query = {PIPELINE: mark, ID: {"$gte": group.keys[0], "$lte": group.keys[-1]}}
                    near = await self._find_within(raw, query, self._fields.raw, None)
                    found += [document for document in near if document[ID] in keys]
        return found

    async def done_between(self, version: str, after: str, last: str) -> set[str]:
        """Keys of processed or rejected records of a version, after one key and up to another one."""
        between = {"$gt": after, "$lte": last}
        done: set[str] = set()
        for name, field in ((self._names.processed, PIPELINE), (self._names.rejected, "version")):
            query = {field: version, ID: between}
            collection = self._connection.collection(name)
            async with self._connection.turn(collection):
                found = collection.find(query, {ID: 1}, batch_size=_ROWS_A_REPLY)
                done.update([document[ID] async for document in found])
        return done

    def written(self, collection: Collection, mark: str, keys: Iterable[str]) -> None:
        """Notes that documents with a mark were written."""
        if self._connection.in_ranges:
            self._ranges_of(collection, mark).written(keys)

    def _ranges_of(self, collection: Collection, mark: str) -> KeyRanges:
        ranges = self._ranges.get((collection.name, mark))
        if ranges is None:
            read = partial(self._find_within, collection)
            ranges = self._ranges[collection.name, mark] = KeyRanges(read, PIPELINE, mark, self._width(collection))
        return ranges

    def _width(self, collection: Collection) -> int:
        return len(self._fields.raw if collection.name == self._names.raw else self._fields.processed)

    async def _find_within(
        self, collection: Collection, query: Document, fields: Sequence[str], limit: int | None
    ) -> list[Document]:
        """As :meth:`find`, for a server to which sorting and choosing fields cost as much as the reading."""
        if limit is not None:
            return await self.find(collection, query, fields, limit)
        projection = None if len(fields) > self._width(collection) // 2 else {ID: 1, **dict.fromkeys(fields, 1)}
        async with self._connection.turn(collection):
            found = await collection.find(query, projection, batch_size=rows_at_once(_ROWS_A_REPLY, len(fields))).to_list()
        found.sort(key=lambda document: str(document[ID]))  # the index has them in this order already
        return found
