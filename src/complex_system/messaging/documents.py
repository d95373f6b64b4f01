"""The client of the document subjects: what monitoring keeps in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from complex_system.domain.documents import Cursor, Document
from complex_system.domain.pages import decode_page
from complex_system.messaging import subjects
from complex_system.messaging.clients import Asks

BATCH = 500
"""Documents, and keys, in one request."""


class DocumentClient:
    """Documents in the database of the deployment. Every method raises what the database service answers with.

    It has the methods that ``monitoring.history.Documents`` asks for.
    """

    def __init__(self, asker: Asks) -> None:
        self._ask = asker.ask

    async def save(self, documents: Sequence[Document]) -> None:
        """Writes documents; one of the same kind and key is replaced. Returns when the database has them."""
        for start in range(0, len(documents), BATCH):
            part = [document.as_dict() for document in documents[start : start + BATCH]]
            await self._ask(subjects.DB_SAVE_DOCUMENTS_SUBJECT, part)

    async def between(
        self, kind: str, start: float, end: float, *, newest_first: bool = False, most: int = 10_000
    ) -> list[Document]:
        """At most ``most`` documents of a kind with ``start <= at < end``, page by page, by time and key."""
        found: list[Document] = []
        after: Cursor | None = None
        while len(found) < most:
            request: dict[str, Any] = {
                "kind": kind, "from": start, "to": end, "newest_first": newest_first, "limit": min(BATCH, most - len(found)),
            }  # fmt: skip
            if after is not None:
                request["after"] = list(after)
            reply = await self._ask(subjects.DB_GET_DOCUMENTS_SUBJECT, request)
            found += [Document.parse(each) for each in reply["documents"]]
            if reply["next"] is None or not reply["documents"]:
                break
            after = Cursor(*reply["next"])
        return found

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """The documents of a kind that have one of the keys."""
        found: list[Document] = []
        for start in range(0, len(keys), BATCH):
            request = {"kind": kind, "keys": list(keys[start : start + BATCH])}
            reply = await self._ask(subjects.DB_GET_DOCUMENTS_SUBJECT, request)
            found += [Document.parse(each) for each in reply["documents"]]
        return found

    async def delete_before(self, kind: str, before: float) -> int:
        """Forgets the documents of a kind from before a time; returns how many."""
        reply = await self._ask(subjects.DB_DELETE_DOCUMENTS_SUBJECT, {"kind": kind, "before": before})
        return int(reply["deleted"])

    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Forgets documents by key; returns how many there were."""
        deleted = 0
        for start in range(0, len(keys), BATCH):
            request = {"kind": kind, "keys": list(keys[start : start + BATCH])}
            deleted += int((await self._ask(subjects.DB_DELETE_DOCUMENTS_SUBJECT, request))["deleted"])
        return deleted

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        """The known targets of processed records, by key."""
        found: dict[str, float] = {}
        for start in range(0, len(keys), BATCH):
            found |= await self._ask(subjects.DB_GET_TARGETS_SUBJECT, {"keys": list(keys[start : start + BATCH])})
        return found

    async def raw_by_keys(self, keys: Sequence[str]) -> pa.Table:
        """The raw records with these keys (``domain.pages.raw_schema``), at least one key; those that are not there are left out."""
        ordered, tables = sorted(set(keys)), []
        while ordered:
            part, ordered = ordered[:BATCH], ordered[BATCH:]
            page = decode_page(await self._ask(subjects.DB_GET_RAW_BY_KEYS_SUBJECT, {"keys": part}))
            tables.append(page.table)
            if page.next is not None:
                ordered = [key for key in part if key > page.next] + ordered
        return pa.concat_tables(tables)
