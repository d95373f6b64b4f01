"""The connection to MongoDB, reads and writes of many documents, and the translation of the driver's errors.

The only module that imports the driver.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument, InvalidStringData
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient, DeleteMany, ReplaceOne, UpdateMany, UpdateOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError, InvalidRecordError, StoreUnavailableError
from complex_system.settings import Settings

Document = dict[str, Any]
Collection = AsyncCollection[Document]
Index = list[tuple[str, int]]

OTHER_KEYS = ["objectId", "number", "binData", "date", "bool", "object"]
"""Types of keys that are not texts; asked for by type, so that the key's index answers."""
LABELLED = "labelled"
"""Name of the index that counts the records with a target."""

TRIED_OUT = "complex_system_tried_out"
"""Field of the keys of documents that are written to be deleted again; pages hold keys that are texts only."""
OF_OTHERS: Document = {ID: {"$type": OTHER_KEYS}, f"{ID}.{TRIED_OUT}": {"$exists": False}}
"""Finds the documents whose keys are not texts, but for those that are tried out."""

_DUPLICATE_KEY = 11000
# Only these say that a document itself is wrong: not BSON, field names, too large (for the server, a capped collection or an index),
# a validator, an index that cannot have it, another unique index.
_OF_THE_RECORD = {22, 52, 53, 56, 57, 116, 121, 171, 201, 357, 378, 10334, 11000, 16755, 16756, 17280, 17419, 17420}
# No document can be the reason: members of a cluster that are away, elections, shutting down, time limits, memory, the disk, rights,
# the server's own faults. With all others a document may be the reason.
_OF_THE_SERVER = {1, 6, 7, 8, 13, 18, 24, 26, 39, 42, 46, 50, 63, 64, 70, 71, 74, 79, 82, 83, 89, 91, 95, 100, 107, 112, 125, 133, 134,
                  135, 145, 146, 149, 150, 175, 176, 189, 194, 200, 202, 203, 208, 209, 211, 215, 216, 226, 230, 237, 249, 250, 262,
                  264, 267, 272, 279, 281, 282, 288, 290, 292, 301, 308, 310, 311, 312, 314, 317, 319, 333, 338, 342, 343, 355, 365,
                  371, 374, 379, 382, 391, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031}  # fmt: skip
_RETRYABLE = ("RetryableWriteError", "TransientTransactionError", "SystemOverloadedError")
_ROWS_A_WRITE = 500
ROWS_A_REPLY = 2500  # the driver decodes and encodes on the event loop: some milliseconds each time
_VALUES = 40_000  # in a reply or a write: of wide documents so many fewer rows
_TIMEOUT_MS = 20_000
_MAJORITY_MS = 15_000  # shorter, so that the reason is heard


class MongoConnection:
    """One client, while it is open, and the collections of its database.

    Attributes:
        address: ``host:port`` of the server, for messages.
    """

    def __init__(self, settings: Settings) -> None:
        self.address = f"{settings.mongo_host}:{settings.mongo_port}"
        self._name = f"MongoDB at {self.address}"
        self._settings = settings
        self._client: AsyncMongoClient[Document] | None = None

    async def open(self) -> Document:
        """Make the client, unless there is one, and return what the server says that it is."""
        if self._client is None:
            self._client = self._connect()
        await self.ping()
        return await self._connected.admin.command("buildInfo")

    async def ping(self) -> None:
        """Check that the server answers."""
        await self._connected.admin.command("ping")

    async def now(self) -> datetime:
        """Return the time by the server's clock."""
        time: datetime = (await self._connected.admin.command("hello"))["localTime"]
        return time

    async def close(self) -> None:
        """Release the client; no error if there is none."""
        if self._client is not None:
            client, self._client = self._client, None
            # Closed while it tries to connect, as it does right after a failure, the driver would leave the socket behind.
            await asyncio.sleep(0.05)
            await client.close()

    def collection(self, name: str) -> Collection:
        """Return a collection of the client that is connected at the moment.

        Raises:
            StoreUnavailableError: There is none.
        """
        return self._connected[self._settings.mongo_name][name]

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise our errors for the driver's; the one place where it is done."""
        try:
            yield
        except ConnectionFailure as error:
            raise StoreUnavailableError(f"{self._name} does not answer: {_reason(error)}") from error
        except OperationFailure as error:
            raise self._failure(error) from error
        except PyMongoError as error:
            raise StoreUnavailableError(f"{self._name} fails: {_reason(error)}", explained=False) from error
        except (InvalidDocument, InvalidStringData) as error:
            raise InvalidRecordError(f"{self._name} cannot keep a record: {error}") from error

    def _failure(self, error: OperationFailure) -> ComplexSystemError:
        """Return our error for one that the server has answered with, or for what it says of some documents."""
        details = error.details if isinstance(error, BulkWriteError) else {}
        concerns = details.get("writeConcernErrors", [])
        of_documents = [each for each in details.get("writeErrors", []) if not _exists(each)]
        codes = {each.get("code") for each in concerns + of_documents} or {error.code}
        first = next(iter(concerns + of_documents), None)
        reason = _reason(error) if first is None else str(first.get("errmsg"))
        said = f"{reason.rstrip('.')} (code {', '.join(map(str, sorted(codes, key=str)))})."
        retryable = any(error.has_error_label(label) for label in _RETRYABLE)
        explained = bool(concerns or retryable or codes & _OF_THE_SERVER)
        if codes <= _OF_THE_RECORD and not explained:
            return InvalidRecordError(f"{self._name} refuses a record: {said}")
        return StoreUnavailableError(f"{self._name} fails: {said}", explained=explained, answered=True)

    @property
    def _connected(self) -> AsyncMongoClient[Document]:
        if self._client is None:
            raise StoreUnavailableError(f"{self._name} is not connected.")
        return self._client

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
            w="majority",  # what one member alone has is lost when another one is elected
            journal=True,
            wTimeoutMS=_MAJORITY_MS,
            **account,
        )


class Queries:
    """Reads and writes of many documents, as a MongoDB server does them well."""

    keys_a_query = 500
    """Most keys in one query or update."""
    keys_a_search = 500
    """Most keys in one query of which few are expected to be there."""

    async def find(
        self, collection: Collection, query: Document, fields: Sequence[str], limit: int | None = None, skip: int = 0
    ) -> list[Document]:
        """Return documents by key; ``limit`` None for all that match."""
        if limit == 0:  # MongoDB reads it as "no limit"
            return []
        projection = {ID: int(ID in fields), **{field: 1 for field in fields if field != ID}}
        rows = rows_at_once(ROWS_A_REPLY, len(fields))
        cursor = collection.find(query, projection, batch_size=min((limit or rows) + 1, rows)).sort(ID, 1)
        async with self.turn(collection):
            return await cursor.skip(skip).limit(limit or 0).to_list()

    async def find_after(
        self, collection: Collection, after: str | None, fields: Sequence[str], limit: int
    ) -> list[Document]:
        """Return documents after a key, by key."""
        return await self.find(collection, {ID: {"$gt": after or ""}}, fields, limit)

    async def find_marked(
        self,
        collection: Collection,
        mark: tuple[str, str],
        after: str | None,
        fields: Sequence[str],
        limit: int,
        known: str | None = None,
        until: str | None = None,
    ) -> list[Document]:
        """Return documents after a key, by key, that have a value in a field; with ``known`` only those that have that field, too."""
        query: Document = {mark[0]: mark[1], ID: keys_between(after, until), **({known: {"$ne": None}} if known else {})}
        return await self.find(collection, query, fields, limit)

    async def find_keys(
        self, collection: Collection, keys: Iterable[str], fields: Sequence[str], *, few: bool = False
    ) -> list[Document]:
        """Return the documents with these keys, by key; with ``few``, most keys are not expected to be there."""
        found: list[Document] = []
        for part in self._parts(keys, self.keys_a_search if few else self.keys_a_query):
            found += await self.find(collection, {ID: {"$in": part}}, fields)
        return found

    async def walk(self, collection: Collection, rows: int) -> AsyncIterator[list[RawBSONDocument]]:
        """Yield all documents, encoded, so many at a time: by key those whose key is a text, then the others."""
        query: Document = {ID: {"$gte": ""}}
        while part := await read_encoded(collection, query, rows):
            yield part
            query = {ID: {"$gt": part[-1][ID]}}
        if others := await read_encoded(collection, OF_OTHERS):
            yield others

    async def count(self, collection: Collection) -> int:
        """Return the number of documents."""
        return await collection.estimated_document_count()

    async def count_known(self, collection: Collection, field: str) -> int:
        """Return the number of documents with a number in a field, by the index ``labelled``."""
        return await collection.count_documents({field: {"$gt": -math.inf}})

    def indexes(self, target: str) -> dict[str, dict[str, Index]]:
        """Return the indexes that these queries need, by ``processed`` or ``rejected`` and by name."""
        return {"processed": {LABELLED: [(target, 1)]}}

    async def insert(self, collection: Collection, documents: list[Document]) -> list[int]:
        """Insert what is not there yet and return the places of the documents whose key existed."""
        existing: list[int] = []
        rows = rows_at_once(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
        for start in range(0, len(documents), rows):
            try:
                async with self.turn(collection):
                    await collection.insert_many(documents[start : start + rows], ordered=False)
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                others = {documents[start + fault["index"]][ID]: fault.get("code") for fault in faults if not _exists(fault)}
                # Where the key exists, too, a server may all the same name another unique index.
                there = await self.find_keys(collection, others, [ID]) if {*others.values()} == {_DUPLICATE_KEY} else []
                if error.details.get("writeConcernErrors") or len(there) < len(others):
                    raise
                existing += [start + fault["index"] for fault in faults]
        return existing

    async def replace(self, collection: Collection, documents: list[Document]) -> None:
        """Insert or replace documents."""
        rows = rows_at_once(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
        for start in range(0, len(documents), rows):
            part = documents[start : start + rows]
            async with self.turn(collection):
                await collection.bulk_write([ReplaceOne({ID: d[ID]}, d, upsert=True) for d in part], ordered=False)

    async def put(self, collection: Collection, documents: list[Document]) -> None:
        """Insert or replace documents of which most are new: an insert is many times cheaper than a replacement."""
        existing = await self.insert(collection, documents)
        await self.replace(collection, [documents[place] for place in existing])

    async def try_out(self, collection: Collection, documents: list[Document]) -> None:
        """Insert documents under keys that are not texts, and delete them; a unique index may have their values under their own."""
        rows = rows_at_once(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
        mark = uuid.uuid4().hex
        for start in range(0, len(documents), rows):
            hidden = [{**each, ID: {TRIED_OUT: f"{mark} {each[ID]}"}} for each in documents[start : start + rows]]
            try:
                async with self.turn(collection):
                    await collection.insert_many(hidden, ordered=False)
            except BulkWriteError as error:
                for fault in error.details["writeErrors"]:
                    own = {ID: documents[start + fault["index"]][ID], **fault.get("keyValue", {"": 0})}
                    if error.details.get("writeConcernErrors") or not await collection.find_one(own, {ID: 1}):
                        raise
            finally:
                async with self.turn(collection):
                    await collection.delete_many({ID: {"$in": [each[ID] for each in hidden]}})

    async def delete(self, collection: Collection, keys: Iterable[str], condition: Document | None = None) -> int:
        """Delete documents by key, with a condition only those that meet it; return how many there were."""
        operations = [DeleteMany({ID: {"$in": part}, **(condition or {})}) for part in self._parts(keys, self.keys_a_query)]
        return (await collection.bulk_write(operations, ordered=False)).deleted_count if operations else 0

    async def update(
        self, collection: Collection, keys: Iterable[str], condition: Document, change: Document, *, journal: bool = True
    ) -> int:
        """Change the documents with these keys that meet a condition, in one bulk update; return how many there were.

        Without ``journal`` it does not wait for the disk: for what may be forgotten when the server is killed.
        """
        parts = self._parts(keys, self.keys_a_query)
        return await self._update(
            collection, [UpdateMany({ID: {"$in": part}, **condition}, change) for part in parts], journal
        )

    async def update_each(
        self, collection: Collection, changes: Iterable[tuple[Document, Document]], *, journal: bool = False
    ) -> int:
        """Change documents one by one, each ``(query, update)``, in one bulk update (``journal`` as in :meth:`update`)."""
        return await self._update(collection, [UpdateOne(query, change) for query, change in changes], journal)

    async def _update(self, collection: Collection, operations: list[Any], journal: bool) -> int:
        if not operations:
            return 0
        target = collection if journal else collection.with_options(write_concern=WriteConcern(w=1, j=False))
        async with self.turn(collection):
            return (await target.bulk_write(operations, ordered=False)).modified_count

    def turn(self, collection: Collection) -> AbstractAsyncContextManager[Any]:
        """Return what to hold for a read or a write of many documents."""
        return nullcontext()

    def _parts(self, keys: Iterable[str], size: int) -> Iterator[list[str]]:
        """Yield the keys in rising order, so many at a time."""
        ordered = sorted(set(keys))
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]


def as_bson(encoded: bytes) -> RawBSONDocument:
    """Return an encoded document, which is decoded where it is looked into; it is inserted as it is."""
    return RawBSONDocument(encoded)


def from_bson(document: RawBSONDocument) -> Document:
    """Return a document decoded, for a change."""
    decoded: Document = bson.decode(document.raw)
    return decoded


async def read_encoded(collection: Collection, query: Document, limit: int = 0) -> list[RawBSONDocument]:
    """Return documents by key and not decoded; 0 for all."""
    options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
    found = collection.with_options(codec_options=options).find(query).sort(ID, 1)
    return await found.limit(limit).to_list()


async def ensure_index(collection: Collection, name: str, keys: Index | None) -> None:
    """Create an index, or make it another one; None removes it."""
    found = (await collection.index_information()).get(name)
    if found is not None and (keys is None or [(field, int(way)) for field, way in found["key"]] != keys):
        with suppress(OperationFailure):  # another replica has dropped it
            await collection.drop_index(name)
    if keys is not None:
        await collection.create_index(keys, name=name)


def keys_between(after: str | None, until: str | None) -> Document:
    """Return the condition of keys behind one and up to another; None for no limit."""
    return {"$gt": after or "", **({} if until is None else {"$lte": until})}


def rows_at_once(limit: int, fields: int) -> int:
    """Return how many documents with so many fields go into one message."""
    return max(1, min(limit, _VALUES // max(1, fields)))


def _exists(fault: Document) -> bool:
    """Whether a document was not inserted because its key is there; another unique index is another matter."""
    return fault.get("code") == _DUPLICATE_KEY and fault.get("keyPattern", {ID: 1}) == {ID: 1}


def _reason(error: Exception) -> str:
    return str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0].partition(", full error:")[0]
