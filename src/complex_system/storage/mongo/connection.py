"""The connection to MongoDB, writes of many documents, and the driver's errors made ours.

The only module that imports the driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any

from pymongo import AsyncMongoClient, DeleteMany, ReplaceOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, ConnectionFailure, ExecutionTimeout, OperationFailure, WTimeoutError

from complex_system.domain.dataset import ID
from complex_system.errors import StoreUnavailableError
from complex_system.settings import Settings

Document = dict[str, Any]
Collection = AsyncCollection[Document]
Turn = AbstractAsyncContextManager[None]

KEYS_A_FILTER = 25
"""Most keys in one query: servers that compare a list of keys one by one stay quick with short lists."""
KEYS_A_SEARCH = 100
"""The same where few or none of the keys are expected."""

_DUPLICATE_KEY = 11000
_REFUSED = {13, 18, 11600, 14031}  # unauthorized, authentication failed, shutting down, disk full
_ROWS_A_WRITE = 500
_VALUES = 40_000  # in a reply or a write: of wide documents so many fewer rows
_AT_ANY_TIME: Turn = nullcontext()
_TIMEOUT_MS = 20_000


class MongoConnection:
    """One client, while it is open, and the collections of its database.

    Attributes:
        address: Where the server is, for messages.
        in_ranges: Whether the server reads to the end before it cuts a sorted read at its limit (:mod:`mongo_ranges`).
    """

    def __init__(self, settings: Settings) -> None:
        self.address = f"{settings.mongo_host}:{settings.mongo_port}"
        self.in_ranges = False
        self._settings = settings
        self._client: AsyncMongoClient[Document] | None = None
        self._turns: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """Makes the client, unless there is one, and asks the server for a sign of life and what it is."""
        if self._client is None:
            self._client = self._connect()
        await self.ping()
        self.in_ranges = "secantusVersion" in await self._connected.admin.command("buildInfo")

    async def ping(self) -> None:
        """Asks the server for a sign of life."""
        await self._connected.admin.command("ping")

    async def close(self) -> None:
        """Releases the client; no error if there is none."""
        if self._client is not None:
            client, self._client = self._client, None
            # Closed while it tries to connect, as it does right after a failure, the driver would leave the socket behind.
            await asyncio.sleep(0.05)
            await client.close()

    def collection(self, name: str) -> Collection:
        """A collection of the client that is connected at the moment.

        Raises:
            StoreUnavailableError: There is none.
        """
        return self._database[name]

    def unjournalled(self, name: str) -> Collection:
        """For what may be forgotten when the server is killed, and so need not wait for the disk."""
        return self._database.get_collection(name, write_concern=WriteConcern(j=False))

    def turn(self, collection: Collection) -> Turn:
        """What to hold for a read or a write of many documents.

        ``secantusdb`` keeps its one lock while it looks up the documents of a reply. Each look-up sleeps on a page of the storage
        engine that has grown beyond 5 MB and cannot be divided because a write to it is not committed; and that write waits for the
        lock. A few thousand wide documents so took a minute and all requests with them. There, writes and reads of a collection go
        one after another, which it does not do any slower.
        """
        return self._turns.setdefault(collection.name, asyncio.Lock()) if self.in_ranges else nullcontext()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The one place where the driver's errors become ours."""
        try:
            yield
        except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as error:
            raise StoreUnavailableError(f"MongoDB at {self.address} does not answer: {_reason(error)}") from error
        except OperationFailure as error:
            if error.code not in _REFUSED:
                raise
            raise StoreUnavailableError(f"MongoDB at {self.address} refuses: {_reason(error)}") from error

    @property
    def _connected(self) -> AsyncMongoClient[Document]:
        if self._client is None:
            raise StoreUnavailableError(f"MongoDB at {self.address} is not connected.")
        return self._client

    @property
    def _database(self) -> AsyncDatabase[Document]:
        return self._connected[self._settings.mongo_name]

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


async def insert(collection: Collection, documents: list[Document], turn: Turn = _AT_ANY_TIME) -> list[int]:
    """Inserts what is not there yet and returns the places of the documents whose key existed."""
    existing: list[int] = []
    rows = rows_at_once(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
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


async def put(collection: Collection, documents: list[Document], turn: Turn = _AT_ANY_TIME) -> int:
    """Inserts or replaces; returns how many were new. Most are, and an insert is many times cheaper than a replacement."""
    existing = await insert(collection, documents, turn)
    rows = rows_at_once(_ROWS_A_WRITE, len(documents[0]) if documents else 1)
    for start in range(0, len(existing), rows):
        part = [documents[place] for place in existing[start : start + rows]]
        async with turn:
            await collection.bulk_write([ReplaceOne({ID: d[ID]}, d, upsert=True) for d in part], ordered=False)
    return len(documents) - len(existing)


async def delete(collection: Collection, keys: Iterable[str]) -> int:
    """Deletes documents by key; returns how many there were."""
    operations = [DeleteMany({ID: {"$in": part}}) for part in parts(keys, KEYS_A_SEARCH)]
    return (await collection.bulk_write(operations, ordered=False)).deleted_count if operations else 0


def parts(keys: Iterable[str], size: int = KEYS_A_FILTER) -> Iterator[list[str]]:
    """The keys in rising order, so many at a time as one query takes."""
    ordered = sorted(keys)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def rows_at_once(most: int, fields: int) -> int:
    """Documents of so many fields in one message."""
    return max(1, min(most, _VALUES // max(1, fields)))


def _reason(error: Exception) -> str:
    return str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
