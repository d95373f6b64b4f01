"""The database services' subjects for monitoring: documents, and targets and raw records by key."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from complex_system.domain.documents import Cursor, Document
from complex_system.domain.pages import encode_within
from complex_system.errors import InvalidRequestError, StoreUnavailableError
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.protocol import database, documents
from complex_system.protocol.base import ArrowPage, Empty
from complex_system.protocol.database import ArrivedBefore, DatabaseTime, KeysRequest
from complex_system.protocol.documents import (
    MAX_DOCUMENTS,
    DeleteDocuments,
    DocumentMessage,
    Documents,
    DocumentsDeleted,
    DocumentsRequest,
    DocumentsSaved,
)
from complex_system.service_layer.database import requests
from complex_system.storage.base import DataStore

T = TypeVar("T")

DEFAULT_LIMIT = 500


class DocumentSubjects(SystemService):
    """Answers the document subjects over ``self.store``; a part of ``DatabaseService``."""

    store: DataStore

    @answers(documents.SAVE_DOCUMENTS)
    async def save_documents(self, value: list[DocumentMessage]) -> DocumentsSaved:
        """Save a list of documents; all of them, or none when one is malformed."""
        if len(value) > MAX_DOCUMENTS:
            raise InvalidRequestError(f"A list of at most {MAX_DOCUMENTS} documents is expected.")
        given = [Document(each.kind, each.key, _time(each.at, "at"), each.body) for each in value]
        await asyncio.to_thread(lambda: [document.encoded_body() for document in given])  # refused before any is written
        if given:
            await self._stored(self.store.documents.save(given))
        return DocumentsSaved(db=self.store.label, saved=len(given))

    @answers(documents.GET_DOCUMENTS)
    async def get_documents(self, asked: DocumentsRequest) -> Documents:
        """Return documents by keys, or a page of those between two times."""
        if asked.keys is not None:
            found = await self._stored(self.store.documents.by_keys(asked.kind, asked.keys))
            fitting = await asyncio.to_thread(self._fitting_documents, found)
            if len(fitting) < len(found):
                raise InvalidRequestError(
                    f"These {len(found)} documents do not fit into one reply; ask for fewer keys at once."
                )
            return Documents(documents=fitting)
        limit = DEFAULT_LIMIT if asked.limit is None else max(1, min(asked.limit, MAX_DOCUMENTS))
        found = await self._stored(
            self.store.documents.between(
                asked.kind,
                _time(asked.start, "from"),
                _time(asked.end, "to"),
                newest_first=asked.newest_first,
                limit=limit,
                after=None if asked.after is None else Cursor(_time(asked.after[0], "after"), asked.after[1]),
            )
        )
        fitting = await asyncio.to_thread(self._fitting_documents, found)
        more = len(fitting) < len(found) or len(found) == limit
        return Documents(documents=fitting, next=found[len(fitting) - 1].cursor if more else None)

    @answers(documents.DELETE_DOCUMENTS)
    async def delete_documents(self, asked: DeleteDocuments) -> DocumentsDeleted:
        """Delete documents by keys, or those from before a time."""
        if (asked.keys is None) == (asked.before is None):
            raise InvalidRequestError("Name either 'keys' or 'before'.")
        if asked.keys is not None:
            deleted = await self._stored(self.store.documents.delete_keys(asked.kind, asked.keys))
        else:
            deleted = await self._stored(self.store.documents.delete_before(asked.kind, _time(asked.before, "before")))
        return DocumentsDeleted(db=self.store.label, deleted=deleted)

    @answers(database.GET_TIME)
    async def get_time(self, _: Empty) -> DatabaseTime:
        """Return the time by the database's clock."""
        return DatabaseTime(at=await self._stored(self.store.now()))

    @answers(database.GET_LAST_KEY)
    async def get_last_key(self, asked: ArrivedBefore) -> str | None:
        """Return the largest key of the raw records that arrived before a time."""
        return await self._stored(self.store.last_key(_time(asked.before, "before")))

    @answers(database.GET_TARGETS)
    async def get_targets(self, asked: KeysRequest) -> dict[str, float]:
        """Return the known targets of processed records."""
        return await self._stored(self.store.targets(asked.keys))

    @answers(database.GET_RAW_BY_KEYS)
    async def get_raw_by_keys(self, asked: KeysRequest) -> ArrowPage:
        """Return an Arrow page of raw records."""
        return encode_within(await self._stored(self.store.raw_by_keys(asked.keys)), self._page_bytes)

    @property
    def _page_bytes(self) -> int:
        return int(self.broker.max_payload * 0.9)

    async def _stored(self, work: Awaitable[T]) -> T:
        """Wait for the store; while it is away, the service's state says so, too."""
        try:
            return await work
        except StoreUnavailableError as error:
            await self.set_state("failing", error.message)
            raise

    def _fitting_documents(self, found: list[Document]) -> list[DocumentMessage]:
        """Return the longest leading part that fits into a reply, at least one: the limit of a body keeps it small enough."""
        made = [DocumentMessage(kind=each.kind, key=each.key, at=each.at, body=dict(each.body)) for each in found]
        while len(made) > 1 and not requests.fits(made, self.broker.max_payload):
            made = made[: len(made) // 2]
        return made


def _time(value: float | None, name: str) -> float:
    if value is None or not math.isfinite(value):
        raise InvalidRequestError(f"'{name}' must be a time in seconds, not {value!r:.80}.")
    return float(value)
