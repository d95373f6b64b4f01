"""The store of monitoring's documents: found by kind and time or by key; two databases behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from complex_system.domain.documents import Cursor, Document

DOCUMENTS = "KIOptiPackMonitoring"
"""Collection or table of the documents."""


class DocumentStore(ABC):
    """Documents in one database; ``tests/contract/test_documents.py`` holds both backends to it.

    It is part of an open :class:`~complex_system.storage.base.DataStore` and raises ``StoreUnavailableError`` as it does.
    """

    @abstractmethod
    async def open(self) -> None:
        """Create what is missing; the data store calls it when it opens."""

    @abstractmethod
    async def save(self, documents: Sequence[Document]) -> None:
        """Write documents; one of the same kind and key is replaced, of equal ones in a request the last counts."""

    @abstractmethod
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
        """Return at most ``limit`` documents of a kind with ``start <= at < end``, by time and then by key.

        The cost grows with what lies between the two times, so ask for what is needed.

        Args:
            kind: Which documents.
            start: Seconds since 1970.
            end: Seconds since 1970.
            newest_first: Falling order instead of rising.
            limit: At least 1.
            after: End of the page before, in the same order.
        """

    @abstractmethod
    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """Return the documents of a kind that have one of the keys, by key; keys that are not there are left out."""

    @abstractmethod
    async def delete_before(self, kind: str, before: float) -> int:
        """Delete the documents of a kind with ``at < before``; return how many."""

    @abstractmethod
    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Delete the documents of a kind with these keys; return how many there were."""
