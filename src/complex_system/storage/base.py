"""The stores of records and of monitoring's documents: two databases, one interface, whose suite is ``complex_system.testing``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.documents import Cursor, Document
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.domain.types import column_type
from complex_system.protocol.database import ConflictMessage, RecordCounts, Rejection, Saved
from complex_system.storage.conflicts import Orders

RAW = "KIOptiPackRaw"
PROCESSED = "KIOptiPackProcessed"
REJECTED = "KIOptiPackRejected"
DOCUMENTS = "KIOptiPackMonitoring"
"""Collections or tables of raw, processed and rejected records, and of monitoring's documents."""


class DataStore(ABC):
    """Raw, processed and rejected records of one data set in one database.

    Records come in checked (``domain.records``): every declared field present, numbers finite floats, keys set. They come back with
    value and type, numbers to the last bit, except that a negative zero is a zero. Keys are compared and ordered by their UTF-8 bytes.
    The store keeps an envelope beside each raw record (``storage.envelope``). Every method that talks to the database raises
    ``StoreUnavailableError`` whatever the database fails for, unless it says that a record itself is wrong (``InvalidRecordError``,
    which does not name it). How much of a write was done by then is not known (MariaDB: all or nothing); writes are idempotent by
    key, so the caller repeats them.
    """

    label: ClassVar[str]
    """The database's name in replies: ``MongoDB`` or ``MariaDB``."""

    address: str
    """``host:port`` of the database, for messages."""

    documents: DocumentStore
    """The documents of monitoring; opened and closed with the store."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def example(self, key: str) -> Record:
        """Return a raw record with a value in every column."""
        values = {"number": 0.5, "integer": 1, "boolean": True}
        others = {c.name: [] if column_type(c).is_list else "x" for c in self.dataset.columns}
        return {ID: key, **{c.name: values.get(c.type, others[c.name]) for c in self.dataset.columns}}

    @abstractmethod
    async def open(self) -> None:
        """Connect once and create what is missing: database, tables or collections, indexes, envelopes of older records.

        Raises:
            StoreUnavailableError: The database does not answer; the caller tries again.
            DeclarationError: The database cannot keep such records, or keeps records that the declaration does not allow.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release the connections; no error if there are none."""

    @abstractmethod
    async def ping(self) -> None:
        """Check that the database answers.

        Raises:
            StoreUnavailableError: It does not.
        """

    @abstractmethod
    async def now(self) -> float:
        """Return the time by the database's clock, seconds since 1970."""

    @abstractmethod
    async def last_key(self, before: float) -> str | None:
        """Return the largest key of the raw records that arrived before a time by the database's clock; None where none did."""

    @abstractmethod
    async def probe(self) -> None:
        """Write an example of a raw record durably, as :meth:`save_raw` writes, and delete it; nobody meets it.

        A database that refuses it as a record, for instance by a constraint of the operator's, can write.

        Raises:
            StoreUnavailableError: The database cannot write at the moment.
        """

    @abstractmethod
    async def trial(self, records: list[Record]) -> None:
        """Write raw records as :meth:`save_raw` does, and take them back: nobody meets them, and what is there stays.

        Raises:
            InvalidRecordError: As ``save_raw`` would raise it.
            StoreUnavailableError: The same.
        """

    @abstractmethod
    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        """Insert raw records; one whose key exists fills missing values, changes nothing, or is a conflict (``storage.conflicts``).

        Whatever changes the values of a record raises its revision and takes its mark off.

        Args:
            records: What is kept. They may carry their order as ``domain.columns.ORDER``.
            sources: Who sent them: one for all, or one a record.
            orders: Revisions or times of the records; by default the time by the database's clock.

        Raises:
            InvalidRecordError: The database refuses a record for what it is; ``storage.quarantine`` finds out which. None was saved.
            StoreUnavailableError: Anything else.
        """

    @abstractmethod
    async def raw_records(self, limit: int) -> list[Record]:
        """Return at most ``limit`` raw records as dicts by key: ``_id``, then the columns as declared."""

    @abstractmethod
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        """Return at most ``limit`` raw records after a key that are not done (processed or rejected) with ``version``, by key.

        The table has ``domain.pages.raw_schema`` and, last, the column ``envelope.REVISION``; ``next`` is set when the page is full.
        """

    @abstractmethod
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, int]:
        """Insert or replace processed records (``domain.pages.processed_schema``) and mark their raw records as done.

        With a column ``envelope.REVISION`` a raw record is marked only if it still has this revision; otherwise the result comes too
        late and replaces no other one, and the record waits or has its newer result. A rejection of the same key is deleted. A
        processed record needs no raw record.

        Returns:
            ``{"upserted": n}``, without those that came too late.
        """

    @abstractmethod
    async def reject(self, rejections: list[Rejection], version: str) -> dict[str, int]:
        """Reject raw records that cannot be processed, and mark them as done; of equal keys the last rejection counts.

        A revision counts as in :meth:`upsert_processed`. A processed record of the same key is deleted. Returns ``{"rejected": n}``.
        """

    @abstractmethod
    async def rejected(self, after: str | None, limit: int) -> list[Rejection]:
        """Return at most ``limit`` rejections after a key, with their version, by key."""

    async def recount(self) -> None:  # noqa: B027 - a database that counts quickly has nothing to do
        """Count all records and correct the numbers that :meth:`counts` keeps; nothing where the database counts quickly itself.

        Our writes keep the numbers. Writes of other programs, and of services of an earlier release, do not. Their records get the
        hash of their content, too.
        """

    @abstractmethod
    async def conflicts(self, after: tuple[str, str] | None, limit: int) -> list[ConflictMessage]:
        """Return at most ``limit`` conflicts after one, given by key and hash, in the order of these."""

    @abstractmethod
    async def processed_columns(
        self,
        columns: list[str],
        *,
        labelled: bool,
        version: str | None,
        after: str | None,
        limit: int,
        raw: Sequence[str] | None = None,
        arrived_after: float | None = None,
        until: str | None = None,
    ) -> Page:
        """Return at most ``limit`` processed records after a key, by key.

        Args:
            columns: Which of ``dataset.processed_names``, in this order; the key may be left out and is then not in the table.
            labelled: Only records whose target is known.
            version: Only records of this pipeline version; None for all.
            after: Key to continue after; None from the beginning.
            limit: Most rows.
            raw: Raw columns that follow the others, with the time of arrival last (``domain.pages.beside_schema``).
            arrived_after: Only records whose raw record is there and arrived later by the database's clock, seconds since 1970. They
                come by arrival and then by key, and ``after`` is the last key that is known of those that arrived at this very time.
            until: Only keys up to this one; records beyond it are not searched for labelled ones. None for no limit.

        Returns:
            Page whose ``next`` is set when the page is full.
        """

    @abstractmethod
    async def processed_key(self, after: str | None, places: int) -> str | None:
        """Return the key of the processed record that lies so many places behind a key, or from the beginning; None past the end."""

    @abstractmethod
    async def counts(self) -> RecordCounts:
        """Return the numbers of records."""

    @abstractmethod
    async def targets(self, keys: list[str]) -> dict[str, float]:
        """Return the known targets of processed records by key; what is not there, or has no target, is left out."""

    @abstractmethod
    async def delete_raw(self, days: float, limit: int) -> int:
        """Delete at most ``limit`` raw records that arrived more than ``days`` days ago, by the database's clock, the oldest first.

        Only records that are done with this declaration's pipeline version are deleted: the delete itself asks for the mark, so what
        begins to wait meanwhile stays. Processed records and rejections stay, too. Return how many were deleted.
        """

    @abstractmethod
    async def raw_by_keys(self, keys: list[str]) -> Page:
        """Return the raw records with these keys, by key (``domain.pages.raw_schema``); keys that are not there are left out."""


class DocumentStore(ABC):
    """Documents in one database; ``complex_system.testing.stores`` holds both backends to it.

    It is part of an open :class:`DataStore` and raises ``StoreUnavailableError`` as it does.
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
