"""What a database must be able to do for monitoring: keep documents, and find them by kind and time or by key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from complex_system.domain.documents import Cursor, Document

DOCUMENTS = "KIOptiPackMonitoring"
"""Collection or table of the documents."""


class DocumentStore(ABC):
    """Documents of one database; two backends do it alike, ``tests/contract/test_documents.py`` holds them to it.

    It lives in an open :class:`~complex_system.storage.base.DataStore` and raises ``StoreUnavailableError`` as that does.
    """

    @abstractmethod
    async def open(self) -> None:
        """Creates what is missing; the data store calls it when it opens."""

    @abstractmethod
    async def save(self, documents: Sequence[Document]) -> None:
        """Writes documents; one of the same kind and key is replaced, of equal ones in a request the last counts."""

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
        """At most ``limit`` documents of a kind with ``start <= at < end``, by time and among equal times by key.

        The cost grows with what lies between the two times, so ask for what is needed.

        Args:
            kind: Which ones.
            start: Seconds since 1970.
            end: Seconds since 1970.
            newest_first: Falling order instead of rising.
            limit: At least 1.
            after: Where the page before ended, in the same order.
        """

    @abstractmethod
    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """The documents of a kind that have one of the keys, by key; keys that are not there are left out."""

    @abstractmethod
    async def delete_before(self, kind: str, before: float) -> int:
        """Forgets the documents of a kind with ``at < before``; returns how many."""

    @abstractmethod
    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Forgets the documents of a kind with these keys; returns how many there were."""
