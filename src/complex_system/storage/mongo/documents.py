"""Documents in MongoDB: one collection beside the records, on the store's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.documents import Cursor, Document, decoded_body
from complex_system.storage.base import DocumentStore
from complex_system.storage.mongo.connection import Collection
from complex_system.storage.mongo.connection import Document as StoredDocument
from complex_system.storage.mongo.schema import Collections

_PAGE = 1000


class MongoDocuments(DocumentStore):
    """The key is ``<kind>|<key>``, the body is kept as JSON text, so that its fields may have any name."""

    def __init__(self, collections: Collections) -> None:
        """Make the store; nothing is sent."""
        self._collections = collections
        self._connection = collections.connection

    @override
    async def open(self) -> None:
        with self._connection.translated():
            # For a kind and a range of times.
            await self._collection.create_index([("kind", 1), ("at", 1), (ID, 1)], name="by_time")

    @override
    async def save(self, documents: Sequence[Document]) -> None:
        def build() -> list[StoredDocument]:
            rows = {_id(d.kind, d.key): d for d in documents}
            return [{ID: key, "kind": d.kind, "at": d.at, "body": d.encoded_body()} for key, d in sorted(rows.items())]

        rows = await asyncio.to_thread(build)
        with self._connection.translated():
            await self._collections.queries.put(self._collection, rows)

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
        query: StoredDocument = {"kind": kind, "at": {"$gte": start, "$lt": end}}
        if after is not None:
            # The cursor's own time is read again without the documents up to the cursor.
            if newest_first:
                query["at"] = {"$gte": start, "$lte": min(after.at, end)}
                query["$nor"] = [{"at": after.at, ID: {"$gte": _id(kind, after.key)}}, {"at": end}]
            else:
                query["at"] = {"$gte": max(after.at, start), "$lt": end}
                query["$nor"] = [{"at": after.at, ID: {"$lte": _id(kind, after.key)}}]
        order = -1 if newest_first else 1
        with self._connection.translated():
            cursor = self._collection.find(query, batch_size=min(limit + 1, _PAGE))
            found = await cursor.sort([("at", order), (ID, order)]).limit(limit).to_list()
        return await asyncio.to_thread(_documents, found)

    @override
    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        wanted = {_id(kind, key) for key in keys}
        with self._connection.translated():
            found = await self._collections.queries.find_keys(self._collection, wanted, [ID, "kind", "at", "body"])
        return sorted(await asyncio.to_thread(_documents, found), key=lambda document: document.key)

    @override
    async def delete_before(self, kind: str, before: float) -> int:
        with self._connection.translated():
            result = await self._collection.delete_many({"kind": kind, "at": {"$lt": before}})
        return int(result.deleted_count)

    @override
    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        with self._connection.translated():
            return await self._collections.queries.delete(self._collection, {_id(kind, key) for key in keys})

    @property
    def _collection(self) -> Collection:
        return self._connection.collection(self._collections.names.documents)


def _id(kind: str, key: str) -> str:
    return f"{kind}|{key}"


def _documents(found: list[StoredDocument]) -> list[Document]:
    return [Document(d["kind"], d[ID].split("|", 1)[1], float(d["at"]), decoded_body(d["body"])) for d in found]
