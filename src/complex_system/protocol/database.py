"""The database service's subjects for records, beside those that kio publishes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from complex_system.protocol.base import ArrowPage, Empty, Event, Message, Request

Key = Annotated[str, Meta(min_length=1, max_length=64)]
"""Key of a record, and a pipeline version: 1 to 64 characters."""
Limit = Annotated[int, Meta(ge=1)]
"""Rows that are wanted. A page never holds more than ``MAX_PAGE_ROWS``; its cursor says that there are more."""
Value = bool | int | float | str | list[str | float] | None
"""A value of a raw record."""
MAX_KEYS = 5000
Keys = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=MAX_KEYS)]
"""Keys of records, or of documents, that a request names."""


class RecordCounts(Message, frozen=True, kw_only=True):
    """Numbers of records.

    Attributes:
        raw: Saved raw records.
        processed: Processed records, of any pipeline version.
        labelled: Processed records whose target is known.
        rejected: Raw records that could not be processed.
        conflicts: Contents that lost against other values of their key: kept beside the records.
        corrected: Those of them that were a labelled record's until newer values replaced them.
    """

    raw: int
    processed: int
    labelled: int
    rejected: int
    conflicts: int = 0
    corrected: int = 0

    @property
    def labelled_share(self) -> float:
        """Share of the processed records that are labelled; 1 while none is."""
        return min(1.0, self.labelled / self.processed) if self.labelled and self.processed else 1.0


class UnprocessedRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for raw records that a pipeline version has not processed yet.

    Attributes:
        version: The pipeline version.
        after: Only records with larger keys; None from the first one on.
        limit: Rows of the page; the default page size where it is missing.
        share: ``(index, count)``: only keys whose CRC-32 modulo ``count`` is ``index``, the share of one of ``count`` replicas.
        revisions: With the column ``_envelope_revision``; given back with the results, it protects them from a change in between.
    """

    version: Key
    after: Key | None = None
    limit: Limit | None = None
    share: tuple[int, int] | None = None
    revisions: bool = False


class ColumnsRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for processed records, in the order of their keys or, with ``arrived_after``, of their arrival and then their keys.

    Attributes:
        columns: Names of the wanted columns; None for all.
        labelled: Only records whose target is known.
        version: Only records of this pipeline version; None for any.
        after: Only records with larger keys; None from the first one on. With ``arrived_after``, of the records that arrived at
            this very time only those with larger keys, and those that arrived later: time and key of the last record of a page
            continue after it.
        limit: Rows of the page; the default page size where it is missing.
        raw: Names of raw columns that are wanted beside, as ``_envelope_raw_<name>``, with the time of arrival as
            ``_envelope_arrived``; null where the raw record is not there. None for neither.
        arrived_after: Only records whose raw record is there and arrived later, by the database's clock, seconds since 1970 (UTC).
        until: Only records with keys up to this one; None for no limit. A search for few labelled records ends there, too.
    """

    columns: list[str] | None = None
    labelled: bool | None = None
    version: Key | None = None
    after: Key | None = None
    limit: Limit | None = None
    raw: list[str] | None = None
    arrived_after: float | None = None
    until: Key | None = None


class KeyRangesRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks where the keys of the processed records are to be cut.

    Attributes:
        count: Ranges whose ends are wanted.
        places: Processed records of a range; None for as many as make one range more of all records than ends are wanted.
        after: Key behind which the first range begins, such as the last one of the reply before; None for all records.
    """

    count: Annotated[int, Meta(ge=1, le=1000)]
    places: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    after: Key | None = None


class Rejection(Message, frozen=True, kw_only=True, rename={"id": "_id"}):
    """A raw record that cannot be processed.

    Attributes:
        id: Key of the record.
        reason: Why, for a person.
        version: The pipeline version that rejected it; given in replies only.
        revision: The revision that could not be processed; in requests, where it is known.
    """

    id: Key
    reason: str
    version: str = ""
    revision: int | None = None


class RejectRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Reports raw records that a pipeline version cannot process.

    Attributes:
        version: The pipeline version.
        rejections: The records with the reasons.
    """

    version: Key
    rejections: list[Rejection]


class RejectedRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for rejections, in the order of their keys.

    Attributes:
        after: Only records with larger keys; None from the first one on.
        limit: Rejections of the page; the default page size where it is missing.
    """

    after: Key | None = None
    limit: Limit | None = None


class ConflictsRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for conflicts, in the order of their keys and hashes.

    Attributes:
        after: Key and hash of the last one that is known; None from the first one on.
        limit: Conflicts of the page; the default page size where it is missing.
    """

    after: tuple[Key, Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]] | None = None
    limit: Limit | None = None


class DifferingValue(Message, frozen=True, kw_only=True):
    """Two values of a column.

    Attributes:
        column: Its name.
        kept: What the record has now; null where it has none.
        lost: The value that lost.
    """

    column: str
    kept: Value
    lost: Value


class ConflictMessage(Message, frozen=True, kw_only=True):
    """Values that lost against others of their key: they were not taken, or were replaced.

    Attributes:
        key: Of the record.
        hash: Of the values, hexadecimal; with the key it names the conflict.
        at: When the database wrote it down, seconds since 1970 (UTC).
        source: Who sent the values.
        kept_source: Who sent the record that was there, or that replaced them.
        corrected: Whether they were a labelled record's until newer values replaced them.
        deleted: Whether the record is no longer there, so that nothing is known of its values.
        values: The columns in which they differ from what the record has now.
    """

    key: Key
    hash: str
    at: float
    source: str = ""
    kept_source: str = ""
    corrected: bool = False
    deleted: bool = False
    values: tuple[DifferingValue, ...] = ()


class RecordsRejected(Message, frozen=True, kw_only=True):
    """Raw records that were rejected at this moment.

    Attributes:
        rejections: At most a thousand of them.
    """

    rejections: list[Rejection]


class RangeExceeded(Message, frozen=True, kw_only=True):
    """Values of processed records that lie outside of their column's range and were taken all the same.

    Attributes:
        counts: How many, by column.
        records: Records that were processed with them; 0 from an earlier release.
    """

    counts: dict[str, int]
    records: int = 0


class DatabaseTime(Message, frozen=True, kw_only=True):
    """The database's clock.

    Attributes:
        at: Seconds since 1970 (UTC).
    """

    at: float


class ArrivedBefore(Message, frozen=True, kw_only=True):
    """Asks for a key by the time of arrival.

    Attributes:
        before: By the database's clock, seconds since 1970 (UTC).
    """

    before: float


class Acknowledged(Message, frozen=True, kw_only=True):
    """Confirms that the database has what was sent.

    Attributes:
        acknowledged: Always true.
        db: ``MongoDB`` or ``MariaDB``.
    """

    acknowledged: bool = True
    db: str = ""


class Saved(Acknowledged, frozen=True, kw_only=True):
    """Confirms raw records.

    Attributes:
        inserted: Records that were written.
        existing: Records whose key was there.
        conflicts: Those of them that were there with other values.
        filled: Those of the existing ones that had values which were missing, and no other values.
        replaced: Those of the conflicts that replaced values.
        differing: Keys of the conflicts, at most 20.
    """

    inserted: int
    existing: int
    conflicts: int = 0
    filled: int = 0
    replaced: int = 0
    differing: tuple[str, ...] = ()


class Upserted(Acknowledged, frozen=True, kw_only=True):
    """Confirms processed records.

    Attributes:
        upserted: Records that were written.
    """

    upserted: int


class Rejected(Acknowledged, frozen=True, kw_only=True):
    """Confirms rejections.

    Attributes:
        rejected: Rejections that were written.
    """

    rejected: int


class KeysRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Names records by their keys.

    Attributes:
        keys: At most 5,000 keys.
    """

    keys: Keys


class IngestCounts(Message, frozen=True, kw_only=True):
    """How the ingest is doing: the streams, which all replicas share, and what the replica that answers has done.

    Attributes:
        replica: The replica that answers.
        on: Whether the ingest is switched on.
        problem: Why nothing is read at the moment, or which messages wait; empty when all is well.
        waiting: Messages that no replica has taken yet; None where the broker does not say.
        in_flight: Messages that a replica has taken and not acknowledged.
        dead: Dead letters.
        stopped: Sources without room for another dead letter, at most 100: their refused messages wait.
        saved: Records that this replica has saved.
        refused: Messages that this replica has refused.
    """

    replica: str = ""
    on: bool = False
    problem: str = ""
    waiting: int | None = None
    in_flight: int | None = None
    dead: int | None = None
    stopped: tuple[str, ...] = ()
    saved: int = 0
    refused: int = 0


GET_COUNTS = Request("get-record-counts", Empty, RecordCounts, "Return how many records there are.")
GET_UNPROCESSED = Request(
    "get-unprocessed-page",
    UnprocessedRequest,
    ArrowPage,
    "Return an Arrow page of raw records that a pipeline version has not processed.",
)
UPSERT_PROCESSED = Request(
    "upsert-processed-columns",
    ArrowPage,
    Upserted,
    "Write an Arrow page of processed records; its note `version` names the pipeline version.",
)
GET_PROCESSED = Request("get-processed-columns", ColumnsRequest, ArrowPage, "Return an Arrow page of processed records.")
GET_KEY_RANGES = Request(
    "get-key-ranges",
    KeyRangesRequest,
    list[str],
    "Return the last keys of ranges of processed records, in order, as many as are found in some seconds; none past the end.",
)
REJECT_RAW = Request(
    "reject-raw-datapoints", RejectRequest, Rejected, "Write down which raw records cannot be processed, and why."
)
GET_REJECTED = Request("get-rejected-page", RejectedRequest, list[Rejection], "Return rejections with their reasons.")
GET_CONFLICTS = Request(
    "get-conflicts-page",
    ConflictsRequest,
    list[ConflictMessage],
    "Return values that lost against others of their key, beside those that the record has now.",
)
GET_RAW_BY_KEYS = Request(
    "get-raw-by-keys",
    KeysRequest,
    ArrowPage,
    "Return an Arrow page of raw records; where its cursor is set, ask again for the keys beyond it.",
)
GET_TARGETS = Request("get-targets", KeysRequest, dict[str, float], "Return the known targets of processed records, by key.")
RECORDS_REJECTED = Event("records-rejected", RecordsRejected)
RANGE_EXCEEDED = Event("range-exceeded", RangeExceeded)
GET_TIME = Request("get-database-time", Empty, DatabaseTime, "Return the time by the database's clock.")
GET_LAST_KEY: Request[ArrivedBefore, str | None] = Request(
    "get-last-key",
    ArrivedBefore,
    str | None,
    "Return the largest key of the raw records that arrived before a time; null where none did.",
)
GET_INGEST_COUNTS = Request("get-ingest-counts", Empty, IngestCounts, "Return how the ingest is doing.")
