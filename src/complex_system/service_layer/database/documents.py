"""The database services' subjects for monitoring: documents, and targets by key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from complex_system.domain.documents import (
    MAX_DOCUMENT_KEY,
    MAX_DOCUMENTS,
    Cursor,
    Document,
    checked_key,
    checked_kind,
    checked_time,
)
from complex_system.domain.pages import encode_within
from complex_system.errors import InvalidRequestError
from complex_system.messaging import subjects
from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.service_layer.database import requests
from complex_system.storage.base import DataStore

T = TypeVar("T")

DEFAULT_LIMIT = 500


class DocumentSubjects(SystemService):
    """Answers the document subjects over ``self.store``; a part of ``DatabaseService``."""

    store: DataStore

    async def _stored(self, work: Awaitable[T]) -> T:
        raise NotImplementedError

    @answers(subjects.DB_SAVE_DOCUMENTS_SUBJECT)
    async def save_documents(self, value: Any) -> dict[str, Any]:
        """Saves a list of documents; all of them, or none when one is malformed."""
        if not isinstance(value, list) or len(value) > MAX_DOCUMENTS:
            raise InvalidRequestError(f"A list of at most {MAX_DOCUMENTS} documents is expected.")
        documents = [Document.parse(each) for each in value]
        await asyncio.to_thread(
            lambda: [document.encoded_body() for document in documents]
        )  # refused before anything is written
        if documents:
            await self._stored(self.store.documents.save(documents))
        return {"acknowledged": True, "db": self.store.label, "saved": len(documents)}

    @answers(subjects.DB_GET_DOCUMENTS_SUBJECT)
    async def get_documents(self, value: Any) -> dict[str, Any]:
        """Documents by keys, or a page of those between two times."""
        name = subjects.DB_GET_DOCUMENTS_SUBJECT.name
        fields = requests.fields_of(value, name, ("kind", "keys", "from", "to", "newest_first", "limit", "after"))
        kind = checked_kind(fields.get("kind"))
        if "keys" in fields:
            found = await self._stored(self.store.documents.by_keys(kind, _keys(fields["keys"])))
            fitting = await asyncio.to_thread(self._fitting_documents, found)
            if len(fitting) < len(found):
                raise InvalidRequestError(
                    f"These {len(found)} documents do not fit into one reply; ask for fewer keys at once."
                )
            return {"documents": fitting, "next": None}
        limit = min(requests.whole_number(fields, "limit", DEFAULT_LIMIT) or 1, MAX_DOCUMENTS)
        found = await self._stored(
            self.store.documents.between(
                kind,
                checked_time(fields.get("from"), "from"),
                checked_time(fields.get("to"), "to"),
                newest_first=fields.get("newest_first") is True,
                limit=limit,
                after=_cursor(fields.get("after")),
            )
        )
        fitting = await asyncio.to_thread(self._fitting_documents, found)
        more = len(fitting) < len(found) or len(found) == limit
        return {"documents": fitting, "next": list(found[len(fitting) - 1].cursor) if more else None}

    @answers(subjects.DB_DELETE_DOCUMENTS_SUBJECT)
    async def delete_documents(self, value: Any) -> dict[str, Any]:
        """Forgets documents by keys, or those that are older than a time."""
        fields = requests.fields_of(value, subjects.DB_DELETE_DOCUMENTS_SUBJECT.name, ("kind", "keys", "before"))
        kind = checked_kind(fields.get("kind"))
        if ("keys" in fields) == ("before" in fields):
            raise InvalidRequestError("Name either 'keys' or 'before'.")
        if "keys" in fields:
            deleted = await self._stored(self.store.documents.delete_keys(kind, _keys(fields["keys"])))
        else:
            deleted = await self._stored(self.store.documents.delete_before(kind, checked_time(fields["before"], "before")))
        return {"acknowledged": True, "deleted": deleted}

    @answers(subjects.DB_GET_TARGETS_SUBJECT)
    async def get_targets(self, value: Any) -> dict[str, float]:
        """The known targets of processed records."""
        fields = requests.fields_of(value, subjects.DB_GET_TARGETS_SUBJECT.name, ("keys",))
        return await self._stored(self.store.targets(_keys(fields.get("keys"))))

    @answers(subjects.DB_GET_RAW_BY_KEYS_SUBJECT)
    async def get_raw_by_keys(self, value: Any) -> bytes:
        """An Arrow page of raw records."""
        fields = requests.fields_of(value, subjects.DB_GET_RAW_BY_KEYS_SUBJECT.name, ("keys",))
        page = await self._stored(self.store.raw_by_keys(_keys(fields.get("keys"))))
        return encode_within(page, int(self.broker.max_payload * 0.9))

    def _fitting_documents(self, found: list[Document]) -> list[dict[str, Any]]:
        """The longest leading part that fits into a reply; at least one document, which a body's limit keeps small enough."""
        made = [document.as_dict() for document in found]
        while len(made) > 1 and not requests.fits(made, self.broker.max_payload):
            made = made[: len(made) // 2]
        return made


def _keys(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_DOCUMENTS:
        raise InvalidRequestError(f"'keys' must be a list of at most {MAX_DOCUMENTS} texts.")
    return [checked_key(key) for key in value]


def _cursor(value: object) -> Cursor | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidRequestError(f"'after' must be [at, key], with a key of at most {MAX_DOCUMENT_KEY} characters.")
    return Cursor(checked_time(value[0], "after"), checked_key(value[1]))
