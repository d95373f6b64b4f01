"""The database service of both databases: every database subject over a :class:`DataStore`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any, Literal, TypeVar

from typing_extensions import override

from complex_system import tracing
from complex_system.domain.columns import ORDER, Column
from complex_system.domain.dataset import ID
from complex_system.domain.pages import MAX_PAGE_ROWS, REVISION, Page, beside_schema, encode_within
from complex_system.domain.records import Record, processed_check, raw_check, with_ids
from complex_system.errors import (
    DeclarationError,
    InvalidRecordError,
    InvalidRequestError,
    StoreUnavailableError,
    TooLargeError,
)
from complex_system.messaging import subjects
from complex_system.messaging.handlers import SENDER, SENT, answers
from complex_system.messaging.ingest.consumer import Ingest
from complex_system.protocol import database
from complex_system.protocol.base import ArrowPage, Empty
from complex_system.protocol.database import (
    ColumnsRequest,
    ConflictMessage,
    ConflictsRequest,
    IngestCounts,
    KeyRangesRequest,
    RecordCounts,
    Rejected,
    RejectedRequest,
    Rejection,
    RejectRequest,
    Saved,
    UnprocessedRequest,
    Upserted,
)
from complex_system.protocol.operations import RECORDS_TRACED, RecordTrace, TracedRecords
from complex_system.service_layer.database import requests
from complex_system.service_layer.database.documents import DocumentSubjects
from complex_system.storage.arrow import records_of, with_key
from complex_system.storage.base import DataStore
from complex_system.storage.quarantine import RawWriter

T = TypeVar("T", Record, Rejection, ConflictMessage)
W = TypeVar("W")

log = logging.getLogger(__name__)

_OLD_AT_ONCE = 1000
"""Raw records in one delete of those that are too old ..."""
_OLD_PAUSE = 0.2
"""... and seconds until the next one, for whoever else needs the database."""
_PLACES_AT_ONCE = 500_000
"""Records that one query passes on the way to the end of a range of keys: the database walks over them, and a query has 20 s."""
_RANGES_SECONDS = 10.0
"""Seconds for which ranges of keys are looked for, in one request; whoever asks waits for some more."""
_WALK_SECONDS = 20.0
"""Seconds after which no further of these queries begins: whoever asks gives up after 30 s."""
_PAGES_REMEMBERED = 60.0
"""Seconds in which the end of a numbered page is where the next one begins, also where records were added or deleted before it ..."""
_MOST_PAGES = 1000
"""... and number of pages, of all clients."""

_RAW_PAGES = (
    f"walk it with '{database.GET_UNPROCESSED.name}'; with a version that no pipeline has, such as 'none', "
    "its pages hold every raw record"
)
_PROCESSED_PAGES = f"ask '{subjects.GET_PROCESSED_PAGE.name}' page by page, or walk '{database.GET_PROCESSED.name}' by key"
_LABELLED_PAGES = f"walk '{database.GET_PROCESSED.name}' by key with 'labelled': true"


class DatabaseService(DocumentSubjects):
    """Answers the database subjects; a subclass makes the store.

    It waits for a database that is not up yet, and answers with ``StoreUnavailableError`` while it is away or cannot write.
    """

    watch_interval = 2.0
    """Seconds between two checks of the database."""
    retention_interval = 3600.0
    """Seconds between two searches for raw records that are too old."""

    first_recount, recount_interval = 3600.0, 86_400.0
    """Seconds from the count of all records at the start to the second one, for what replicas of an earlier release have written while
    one after the other was updated; and between later ones, for what other programs write."""

    records_decide = 15.0
    """Seconds after a failed write of records in which a probe write alone does not make the service ready; writers pause for 10 s."""

    ingest: Ingest | None = None
    _ends: dict[tuple[int, int], tuple[str, float]]
    _failed_writes: dict[str, float]
    _recounts = 0

    @abstractmethod
    def make_store(self) -> DataStore:
        """Return the store of this service, not opened."""

    @override
    async def on_start(self) -> None:
        order = () if ORDER in self.dataset.by_name else (Column(name=ORDER, type="number", optional=True),)
        self._ends, self._failed_writes = {}, {}
        self._raw_check = raw_check(self.dataset, also=order)
        self._processed_check = processed_check(self.dataset)
        self.store = self.make_store()
        self.writer = RawWriter(self.store)
        pause = 0.2
        while True:
            try:
                await self.store.open()
                await self.store.probe()
                break
            except StoreUnavailableError as error:
                await self.set_state("waiting", error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            except DeclarationError:
                await self.store.close()
                raise  # ends the service with the reason
        self.every(self.watch_interval, self._watch)
        self.every(self.recount_interval, self._recount)
        if self.settings.raw_days:
            self.every(self.retention_interval, self._delete_old_raw)
        if self.settings.ingest:
            self.ingest = self._make_ingest()
            self.run_task(self.ingest.run())

    @override
    async def on_stop(self) -> None:
        if self.ingest is not None:
            await self.ingest.stop()
        # A service that ended while it waited has a store, too; closing it again does no harm.
        if hasattr(self, "store"):
            await self.store.close()

    # kio's subjects

    @answers(subjects.SAVE_RAW)
    async def save_raw(self, value: Any) -> Saved:
        """Save a list of raw records; all of them, or none when one is malformed."""
        try:
            records = with_ids(self._raw_check(value))
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        try:
            saved = await self._written("raw", self.writer.save(records, SENDER.get(), SENT.get()))
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        if headers := tracing.headers():
            await self._announce_traces([RecordTrace(headers=headers, keys=tuple(str(each[ID]) for each in records))])
        return saved

    @answers(subjects.GET_ALL_RAW)
    async def get_all_raw(self, value: Any) -> list[Record]:
        """Return all raw records, as long as they fit into one reply."""
        requests.published(value, subjects.GET_ALL_RAW, Empty)
        limit = requests.max_records(self.broker.max_payload, (ID, *self.dataset.raw_names))
        self._refuse_more((await self._counts()).raw, limit, _RAW_PAGES)
        return self._fitting(await self._stored(self.store.raw_records(limit + 1)), _RAW_PAGES)

    @answers(subjects.UPSERT_PROCESSED_RECORDS)
    async def upsert_processed(self, value: Any) -> Upserted:
        """Insert or replace a list of processed records; all of them, or none when one is malformed."""
        try:
            records = self._processed_check(value)
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        return await self._upsert(Page(await asyncio.to_thread(requests.table_of, records, self.dataset)))

    @answers(subjects.GET_ALL_PROCESSED)
    async def get_all_processed(self, value: Any) -> list[Record]:
        """Return all processed records, as long as they fit into one reply."""
        requests.published(value, subjects.GET_ALL_PROCESSED, Empty)
        return await self._all_processed((await self._counts()).processed, _PROCESSED_PAGES, labelled=False)

    @answers(subjects.GET_LABELLED)
    async def get_labelled(self, value: Any) -> list[Record]:
        """Return the processed records whose target is known, as long as they fit into one reply."""
        requests.published(value, subjects.GET_LABELLED, Empty)
        return await self._all_processed((await self._counts()).labelled, _LABELLED_PAGES, labelled=True)

    @answers(subjects.COUNT_PROCESSED)
    async def count_processed(self, value: Any) -> int:
        """Return the number of processed records."""
        requests.published(value, subjects.COUNT_PROCESSED, Empty)
        return (await self._counts()).processed

    @answers(subjects.COUNT_PROCESSED_POINTS)
    async def count_processed_points(self, value: Any) -> int:
        """Return the same under kio's second name."""
        requests.published(value, subjects.COUNT_PROCESSED_POINTS, Empty)
        return (await self._counts()).processed

    @answers(subjects.GET_PROCESSED_PAGE)
    async def get_processed_page(self, value: Any) -> list[Record]:
        """Return a numbered page of processed records, without keys."""
        asked = requests.published(value, subjects.GET_PROCESSED_PAGE, requests.NumberedPage)
        if asked.page_size > MAX_PAGE_ROWS:
            raise InvalidRequestError(
                f"'page_size' must be at most {MAX_PAGE_ROWS}, not {asked.page_size}; ask for more pages."
            )
        if asked.page_size == 0 or asked.page * asked.page_size >= 2**63:  # past any end, and past what databases count
            return []
        return self._fitting(await self._numbered_page(asked.page, asked.page_size), "ask with a smaller 'page_size'")

    # Our subjects

    @answers(database.GET_COUNTS)
    async def get_counts(self, _: Empty) -> RecordCounts:
        """Return the numbers of raw, processed, labelled and rejected records."""
        return await self._counts()

    @answers(database.GET_UNPROCESSED)
    async def get_unprocessed(self, asked: UnprocessedRequest) -> ArrowPage:
        """Return an Arrow page of raw records that are not done with a pipeline version."""
        share, limit = requests.share_of(asked.share), requests.page_limit(asked.limit)
        rows = min(limit * share.count, MAX_PAGE_ROWS)
        page = await self._stored(self.store.unprocessed(asked.version, asked.after, rows))
        if not asked.revisions:
            page = Page(page.table.drop_columns([REVISION]), page.next, page.notes)
        if share.count > 1:
            page = await asyncio.to_thread(requests.part_of, page, share, limit)
        return encode_within(page, self._page_bytes)

    @answers(database.UPSERT_PROCESSED)
    async def upsert_columns(self, value: ArrowPage) -> Upserted:
        """Insert or replace an Arrow page of processed records."""
        try:
            page = await asyncio.to_thread(requests.processed_of, value, self.dataset)
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        return await self._upsert(page)

    @answers(database.GET_PROCESSED)
    async def get_columns(self, asked: ColumnsRequest) -> ArrowPage:
        """Return an Arrow page of chosen columns of processed records."""
        columns, raw = requests.wanted_columns(asked.columns, self.dataset), requests.wanted_raw(asked, self.dataset)
        found = self.store.processed_columns(
            with_key(columns),
            labelled=bool(asked.labelled),
            version=asked.version,
            after=asked.after,
            limit=requests.page_limit(asked.limit),
            raw=raw,
            arrived_after=requests.arrival(asked),
            until=asked.until,
        )
        page = await self._stored(found)
        beside = [] if raw is None else beside_schema(self.dataset, raw).names
        return encode_within(page, self._page_bytes, [*columns, *beside])

    @answers(database.GET_KEY_RANGES)
    async def get_key_ranges(self, asked: KeyRangesRequest) -> list[str]:
        """Return the ends of ranges of processed records, as many as are found in some seconds; none behind the last record."""
        ends: list[str] = []
        end, until = asked.after, time.monotonic() + _RANGES_SECONDS
        if (places := asked.places) is None:
            places = max(1, math.ceil((await self._counts()).processed / (asked.count + 1)))
        while len(ends) < asked.count and (not ends or time.monotonic() < until):
            try:
                end = await self._key_behind(end, places)
            except StoreUnavailableError:
                if not ends:
                    raise
                break  # whoever asks for the rest hears of it
            if end is None:
                break
            ends.append(end)
        return ends

    @answers(database.REJECT_RAW)
    async def reject(self, asked: RejectRequest) -> Rejected:
        """Reject raw records that cannot be processed."""
        await self._written("rejected", self.store.reject(asked.rejections, asked.version))
        return Rejected(db=self.store.label, rejected=len(asked.rejections))

    @answers(database.GET_REJECTED)
    async def get_rejected(self, asked: RejectedRequest) -> list[Rejection]:
        """Return rejections with their reasons, by key."""
        found = await self._stored(self.store.rejected(asked.after, requests.page_limit(asked.limit)))
        return self._fitting(found, "ask with a smaller 'limit'")

    @answers(database.GET_CONFLICTS)
    async def get_conflicts(self, asked: ConflictsRequest) -> list[ConflictMessage]:
        """Return values that lost against others of their key, by key and hash."""
        found = await self._stored(self.store.conflicts(asked.after, requests.page_limit(asked.limit)))
        return self._fitting(found, "ask with a smaller 'limit'")

    @answers(database.GET_INGEST_COUNTS)
    async def get_ingest_counts(self, _: Empty) -> IngestCounts:
        """Return how the ingest is doing."""
        return await self.ingest.report(self.replica) if self.ingest else IngestCounts(replica=self.replica)

    # Inside

    def _make_ingest(self) -> Ingest:
        def save(records: list[Record], sources: Sequence[str], orders: Sequence[float]) -> Awaitable[Any]:
            return self._written("raw", self.writer.save(records, sources, orders))

        check, probe, traced = self._raw_check, self.store.probe, self._announce_traces
        return Ingest(self.broker, self.settings, check=check, save=save, probe=probe, traced=traced)

    async def _announce_traces(self, traces: list[RecordTrace]) -> None:
        await self.announce(RECORDS_TRACED, TracedRecords(traces=tuple(traces)))

    async def _counts(self) -> RecordCounts:
        return await self._stored(self.store.counts())

    async def _key_behind(self, after: str | None, places: int) -> str | None:
        """Return the key of the processed record that lies so many places behind a key; None past the end.

        Raises:
            StoreUnavailableError: It is too far away. The database is well, so the service's state stays as it is.
        """
        until = time.monotonic() + _WALK_SECONDS
        for passed in range(0, places, _PLACES_AT_ONCE):
            if passed and time.monotonic() >= until:
                raise StoreUnavailableError(
                    f"The database has walked over {passed:,} of {places:,} records in {_WALK_SECONDS:g} s and has not arrived. Read "
                    f"numbered pages in order, ask for smaller ranges, or walk by key with '{database.GET_PROCESSED.name}'.",
                    answered=True,
                )
            after = await self._stored(self.store.processed_key(after, min(places - passed, _PLACES_AT_ONCE)))
            if after is None:
                break
        return after

    async def _upsert(self, page: Page) -> Upserted:
        await self._written(
            "processed", self.store.upsert_processed(page.table, page.notes.get("version", self.dataset.version))
        )
        return Upserted(db=self.store.label, upserted=page.table.num_rows)

    async def _written(self, kind: Literal["raw", "processed", "rejected"], work: Awaitable[W]) -> W:
        """Wait for a write of records, as for any work of the store, and remember when one of its kind failed last.

        With the last room on a disk one table can still grow and another cannot.
        """
        try:
            written = await self._stored(work)
        except StoreUnavailableError as error:
            if error.answered:
                self._failed_writes[kind] = time.monotonic()
            raise
        self._failed_writes.pop(kind, None)
        return written

    async def _watch(self) -> float | None:
        try:
            if self.health().state != "failing":
                await self.store.ping()
                return None
            await self.store.probe()  # a full disk answers a ping
        except StoreUnavailableError as error:
            await self.set_state("failing", error.message)
        else:
            # On a disk that is almost full a probe may be written where a batch is not: the records decide while somebody sends any.
            if time.monotonic() - max(self._failed_writes.values(), default=-math.inf) > self.records_decide:
                await self.set_state("ready")
        return None

    async def _recount(self) -> float | None:
        await self.store.recount()
        self._recounts += 1
        return self.first_recount if self._recounts == 1 else None

    async def _delete_old_raw(self) -> float | None:
        deleted, began = 0, time.monotonic()
        # Replicas find the same records, and each of these is deleted by one of them.
        while found := await self.store.delete_raw(self.settings.raw_days, _OLD_AT_ONCE):
            deleted += found
            if await self.wait_for_shutdown(_OLD_PAUSE):
                break
        if deleted:
            days, seconds = self.settings.raw_days, time.monotonic() - began
            log.info("Deleted %d raw records that arrived more than %g days ago, in %.1f s", deleted, days, seconds)
        return None

    async def _numbered_page(self, number: int, size: int) -> list[Record]:
        """Return a numbered page: behind the end of the nearest page before it that was answered here lately, or from the beginning.

        The database walks over all records between: a minute for ten million. Where several replicas answer the pages of one walk,
        each has answered one of the last few. The kept number of records does not say where the end is: it lags where another
        program writes.
        """
        now = time.monotonic()
        self._ends = {page: end for page, end in self._ends.items() if now - end[1] < _PAGES_REMEMBERED}
        nearest = max((page for page, of in self._ends if of == size and page < number), default=-1)
        after = self._ends[nearest, size][0] if nearest >= 0 else None
        if between := (number - 1 - nearest) * size:
            after = await self._key_behind(after, between)
            if after is None:
                return []
        names = list(self.dataset.processed_names)
        found = self.store.processed_columns(names, labelled=False, version=None, after=after, limit=size)
        page = await self._stored(found)
        if page.next is not None:
            if len(self._ends) >= _MOST_PAGES:
                self._ends.pop(next(iter(self._ends)))
            self._ends[number, size] = page.next, now
        return await asyncio.to_thread(records_of, page.table.drop_columns([ID]))

    async def _all_processed(self, count: int, how_to_page: str, *, labelled: bool) -> list[Record]:
        names = list(self.dataset.processed_names)
        limit = requests.max_records(self.broker.max_payload, self.dataset.processed_names)
        self._refuse_more(count, limit, how_to_page)
        page = await self._stored(
            self.store.processed_columns(names, labelled=labelled, version=None, after=None, limit=limit + 1)
        )
        return self._fitting(await asyncio.to_thread(records_of, page.table), how_to_page)

    def _refuse_more(self, count: int, limit: int, how_to_page: str) -> None:
        """Refuse before reading what cannot fit into one reply."""
        if count > limit:
            raise self._too_large(count, how_to_page)

    def _fitting(self, records: list[T], how_to_page: str) -> list[T]:
        if not requests.fits(records, self.broker.max_payload):
            raise self._too_large(len(records), how_to_page)
        return records

    def _too_large(self, count: int, how_to_page: str) -> TooLargeError:
        limit = self.broker.max_payload
        return TooLargeError(
            f"{count} records do not fit into one reply (the broker's limit is {limit} bytes); {how_to_page}."
        )


def _nothing_written(error: InvalidRecordError) -> InvalidRecordError:
    return InvalidRecordError(f"{error.message} Nothing of this batch was written.", error.faults)
