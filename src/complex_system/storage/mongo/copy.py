"""Copies of a data set's collections in MongoDB: documents as they are, in BSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.settings import Settings
from complex_system.storage.copies import COPY_ROWS, PROCESSED, RAW, REJECTED, Sink, Source, StoreCopy, copied_tables
from complex_system.storage.envelope import ENVELOPE, PIPELINE
from complex_system.storage.mongo.connection import Collection, MongoConnection, as_bson, from_bson
from complex_system.storage.mongo.store import queries_of
from complex_system.storage.naming import TableNames

_DOCUMENT = "document"
_FIELDS = 20


class MongoCopy(StoreCopy):
    """One row a document. The service creates the indexes when it starts."""

    label: ClassVar[str] = "MongoDB"

    def __init__(self, settings: Settings) -> None:
        self._connection = MongoConnection(settings)
        self.address = self._connection.address
        self._tables = copied_tables(TableNames.of(settings.table_prefix))

    @override
    async def open(self) -> None:
        with self._connection.translated():
            # The widths only say how much of a collection is read at a time.
            self._queries = queries_of(await self._connection.open(), dict.fromkeys(self._tables.values(), _FIELDS))

    @override
    async def close(self) -> None:
        await self._connection.close()

    @override
    async def counts(self) -> dict[str, int]:
        with self._connection.translated():
            counts = {name: await self._queries.count(self._collection(name)) for name in self._tables}
        return {name: count for name, count in counts.items() if count}

    @override
    async def read(self, sink: Sink) -> dict[str, str]:
        with self._connection.translated():
            for name in self._tables:
                async for documents in self._queries.walk(self._collection(name), COPY_ROWS):
                    encoded = pa.array([document.raw for document in documents], pa.binary())
                    await asyncio.to_thread(sink, name, pa.table({_DOCUMENT: encoded}))
        return {}

    @override
    async def write(self, definitions: Mapping[str, str], source: Source) -> int:
        taken_off = 0
        with self._connection.translated():
            for name in self._tables:
                await self._collection(name).drop()  # with the note on the declaration
                parts = source(name)
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    documents: list[Any] = [as_bson(encoded) for encoded in part.column(_DOCUMENT).to_pylist()]
                    if name == RAW:
                        taken_off += await self._take_off_marks(documents)
                    await self._queries.insert(self._collection(name), documents)
        return taken_off

    @override
    async def discard(self) -> None:
        with self._connection.translated():
            for name in self._tables:
                await self._collection(name).drop()

    def _collection(self, name: str) -> Collection:
        return self._connection.collection(self._tables[name])

    async def _take_off_marks(self, documents: list[Any]) -> int:
        """Replace the documents whose mark has no result by such without a mark; return how many."""
        keys = [document[ID] for document in documents if isinstance(document[ID], str)]
        processed = await self._queries.find_keys(self._collection(PROCESSED), keys, [ID, PIPELINE])
        rejected = await self._queries.find_keys(self._collection(REJECTED), keys, [ID, "version"])
        results = {(each[ID], each.get(PIPELINE)) for each in processed} | {(each[ID], each["version"]) for each in rejected}
        taken_off = 0
        for place, document in enumerate(documents):
            done = (document.get(ENVELOPE) or {}).get("done", "")
            if done and (document[ID], done) not in results:
                changed = from_bson(document)
                changed[ENVELOPE]["done"] = ""
                documents[place] = changed
                taken_off += 1
        return taken_off
