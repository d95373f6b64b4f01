"""What a database must be able to do. Two backends do it alike; ``tests/contract`` holds them to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.storage.documents import DocumentStore

RAW = "KIOptiPackRaw"
PROCESSED = "KIOptiPackProcessed"
REJECTED = "KIOptiPackRejected"


class DataStore(ABC):
    """Raw, processed and rejected records of one data set in one database.

    Records come in checked (``domain.records``): every declared field present, numbers finite floats, keys set. Every method that
    talks to the database raises ``StoreUnavailableError`` when it cannot be reached. How much of a write was done by then is not
    known (MariaDB: all or nothing); writes are idempotent by key, so the caller repeats them.
    """

    label: ClassVar[str]
    """What replies call the database: ``MongoDB`` or ``MariaDB``."""

    address: str
    """Where the database is, as ``host:port``, for messages."""

    documents: DocumentStore
    """What monitoring keeps; it is opened and closed with the store."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @abstractmethod
    async def open(self) -> None:
        """Connects once and creates what is missing (database, tables or collections, indexes).

        Raises:
            StoreUnavailableError: The database does not answer; the caller tries again.
            DeclarationError: The database cannot keep such records, or keeps others that the declaration cannot be of.
        """

    @abstractmethod
    async def close(self) -> None:
        """Releases the connections; no error if there are none."""

    @abstractmethod
    async def ping(self) -> None:
        """Asks the database for a sign of life.

        Raises:
            StoreUnavailableError: It gives none.
        """

    @abstractmethod
    async def save_raw(self, records: list[Record]) -> dict[str, Any]:
        """Inserts raw records; a key that exists is left as it is.

        Returns:
            ``{"inserted": n, "existing": m}`` with n + m = len(records).
        """

    @abstractmethod
    async def raw_records(self, limit: int) -> list[Record]:
        """At most ``limit`` raw records as dicts by key: ``_id``, then the columns as declared."""

    @abstractmethod
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        """At most ``limit`` raw records after a key that have neither a processed twin nor a rejection of ``version``.

        The table has ``domain.pages.raw_schema``; ``next`` is set when the page is full, or when the store has looked at so many keys
        for it that the rest is left to the next page.
        """

    @abstractmethod
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, Any]:
        """Inserts or replaces processed records (``domain.pages.processed_schema``) and notes their raw twins as processed.

        A rejection of the same key is taken back. A processed record needs no raw twin.

        Returns:
            ``{"upserted": n}``.
        """

    @abstractmethod
    async def reject(self, rejections: list[dict[str, str]], version: str) -> dict[str, Any]:
        """Keeps raw records aside as not processable, each ``{"_id", "reason"}``; repeated keys are replaced.

        A processed twin of an earlier version is removed. Returns ``{"rejected": n}``.
        """

    @abstractmethod
    async def rejected(self, after: str | None, limit: int) -> list[dict[str, str]]:
        """At most ``limit`` rejections after a key: ``{"_id", "reason", "version"}``, by key."""

    @abstractmethod
    async def processed_columns(
        self, columns: list[str], *, labelled: bool, version: str | None, after: str | None, limit: int
    ) -> Page:
        """At most ``limit`` processed records after a key, by key.

        Args:
            columns: Which of ``dataset.processed_names``, in this order; the key may be left out and is then not in the table.
            labelled: Only records whose target is known.
            version: Only records of this pipeline version; None for all.
            after: Key to continue after; None from the beginning.
            limit: Most rows.

        Returns:
            Page whose ``next`` is set when the page is full.
        """

    @abstractmethod
    async def processed_page(self, page: int, page_size: int) -> list[Record]:
        """Page ``page`` (from 0) of ``page_size`` processed records by key, without the key; [] past the end."""

    @abstractmethod
    async def counts(self) -> dict[str, int]:
        """``{"raw", "processed", "labelled", "rejected"}``: how many records there are.

        A count that takes long, as where all records must be read for it, may be given again until it is ten times as old as it took.
        """

    @abstractmethod
    async def targets(self, keys: list[str]) -> dict[str, float]:
        """The known targets of processed records by key; what is not there, or has no target, is left out."""

    @abstractmethod
    async def raw_by_keys(self, keys: list[str]) -> Page:
        """The raw records with these keys, by key (``domain.pages.raw_schema``); keys that are not there are left out."""
