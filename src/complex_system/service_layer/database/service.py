"""What both database services are: every database subject over a :class:`DataStore`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable
from typing import Any, TypeVar

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.pages import MAX_PAGE_ROWS, encode_within
from complex_system.domain.records import Record, processed_check, raw_check, with_ids
from complex_system.errors import DeclarationError, InvalidRecordError, StoreUnavailableError, TooLargeError
from complex_system.messaging import subjects
from complex_system.messaging.handlers import answers
from complex_system.messaging.ingest.consumer import Ingest
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_INGEST_COUNTS, IngestCounts
from complex_system.service_layer.database import requests
from complex_system.service_layer.database.documents import DocumentSubjects
from complex_system.storage.arrow import records_of, with_key
from complex_system.storage.base import DataStore

T = TypeVar("T")

_RAW_PAGES = (
    f"walk it with '{subjects.DB_GET_UNPROCESSED_PAGE_SUBJECT.name}'; with a version that no pipeline has, such as 'none', "
    "its pages hold every raw record"
)
_PROCESSED_PAGES = (
    f"ask '{subjects.DB_GET_PROCESSED_DATA_PAGE_SUBJECT.name}' page by page, or walk "
    f"'{subjects.DB_GET_PROCESSED_COLUMNS_SUBJECT.name}' by key"
)
_LABELLED_PAGES = f"walk '{subjects.DB_GET_PROCESSED_COLUMNS_SUBJECT.name}' by key with 'labelled': true"


class DatabaseService(DocumentSubjects):
    """Answers the database subjects; a subclass makes the store.

    It waits for a database that is not up yet, answers with ``StoreUnavailableError`` while it is away, and comes back with it.
    """

    watch_interval = 2.0
    """Seconds between two looks whether the database is there."""

    ingest: Ingest | None = None

    @abstractmethod
    def make_store(self) -> DataStore:
        """The store of this service, not opened."""

    @override
    async def on_start(self) -> None:
        self._raw_check = raw_check(self.dataset)
        self._processed_check = processed_check(self.dataset)
        self.store = self.make_store()
        pause = 0.2
        while True:
            try:
                await self.store.open()
                break
            except StoreUnavailableError as error:
                await self.set_state("waiting", error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            except DeclarationError:
                await self.store.close()
                raise  # ends the service with the reason
        self.every(self.watch_interval, self._watch)
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

    @answers(subjects.DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT)
    async def save_raw(self, value: Any) -> dict[str, Any]:
        """Saves a list of raw records; all of them, or none when one is malformed."""
        try:
            records = with_ids(self._raw_check(value))
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        return self._acknowledged(await self._stored(self.store.save_raw(records)))

    @answers(subjects.DB_GET_ALL_RAW_DATA_SUBJECT)
    async def get_all_raw(self, value: Any) -> list[Record]:
        """All raw records, as long as they fit into one reply."""
        requests.fields_of(value, subjects.DB_GET_ALL_RAW_DATA_SUBJECT.name)
        most = requests.most_records(self.broker.max_payload, (ID, *self.dataset.raw_names))
        await self._refuse_more("raw", most, _RAW_PAGES)
        return self._fitting(await self._stored(self.store.raw_records(most + 1)), _RAW_PAGES)

    @answers(subjects.DB_UPSERT_MANY_PROCESSED_DATAPOINTS_SUBJECT)
    async def upsert_processed(self, value: Any) -> dict[str, Any]:
        """Inserts or replaces a list of processed records; all of them, or none when one is malformed."""
        try:
            records = self._processed_check(value)
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        table = await asyncio.to_thread(requests.table_of, records, self.dataset)
        return self._acknowledged(await self._stored(self.store.upsert_processed(table, self.dataset.version)))

    @answers(subjects.DB_GET_ALL_PROCESSED_DATA_SUBJECT)
    async def get_all_processed(self, value: Any) -> list[Record]:
        """All processed records, as long as they fit into one reply."""
        requests.fields_of(value, subjects.DB_GET_ALL_PROCESSED_DATA_SUBJECT.name)
        return await self._all_processed("processed", _PROCESSED_PAGES)

    @answers(subjects.DB_GET_LABELED_DATASET_SUBJECT)
    async def get_labelled(self, value: Any) -> list[Record]:
        """The processed records whose target is known, as long as they fit into one reply."""
        requests.fields_of(value, subjects.DB_GET_LABELED_DATASET_SUBJECT.name)
        return await self._all_processed("labelled", _LABELLED_PAGES)

    @answers(subjects.DB_GET_PROCESSED_DATA_COUNT_SUBJECT)
    async def count_processed(self, value: Any) -> int:
        """How many processed records there are."""
        requests.fields_of(value, subjects.DB_GET_PROCESSED_DATA_COUNT_SUBJECT.name)
        return (await self._stored(self.store.counts()))["processed"]

    @answers(subjects.DB_GET_PROCESSED_DATA_POINTS_COUNT_SUBJECT)
    async def count_processed_points(self, value: Any) -> int:
        """The same under kio's second name."""
        requests.fields_of(value, subjects.DB_GET_PROCESSED_DATA_POINTS_COUNT_SUBJECT.name)
        return (await self._stored(self.store.counts()))["processed"]

    @answers(subjects.DB_GET_PROCESSED_DATA_PAGE_SUBJECT)
    async def get_processed_page(self, value: Any) -> list[Record]:
        """A numbered page of processed records, without keys."""
        fields = requests.fields_of(value, subjects.DB_GET_PROCESSED_DATA_PAGE_SUBJECT.name, ("page", "page_size"))
        page = requests.whole_number(fields, "page", 0)
        size = requests.whole_number(fields, "page_size", 10, MAX_PAGE_ROWS)
        if size == 0 or page * size >= 2**63:  # past any end, and past what databases count
            return []
        return self._fitting(await self._stored(self.store.processed_page(page, size)), "ask with a smaller 'page_size'")

    # Our subjects

    @answers(subjects.DB_GET_COUNTS_SUBJECT)
    async def get_counts(self, value: Any) -> dict[str, int]:
        """How many raw, processed, labelled and rejected records there are."""
        requests.fields_of(value, subjects.DB_GET_COUNTS_SUBJECT.name)
        return await self._stored(self.store.counts())

    @answers(subjects.DB_GET_UNPROCESSED_PAGE_SUBJECT)
    async def get_unprocessed(self, value: Any) -> bytes:
        """An Arrow page of raw records that a pipeline version has not seen."""
        fields = requests.fields_of(
            value, subjects.DB_GET_UNPROCESSED_PAGE_SUBJECT.name, ("version", "after", "limit", "share")
        )
        version, after = requests.version_of(fields), requests.short_text(fields, "after", optional=True)
        share, limit = requests.share_of(fields), requests.page_limit(fields)
        page = await self._stored(self.store.unprocessed(version, after, min(limit * share.count, MAX_PAGE_ROWS)))
        if share.count > 1:
            page = await asyncio.to_thread(requests.part_of, page, share, limit)
        return encode_within(page, self._page_bytes)

    @answers(subjects.DB_UPSERT_PROCESSED_COLUMNS_SUBJECT)
    async def upsert_columns(self, value: Any) -> dict[str, Any]:
        """Inserts or replaces an Arrow page of processed records."""
        try:
            page = await asyncio.to_thread(requests.processed_of, value, self.dataset)
        except InvalidRecordError as error:
            raise _nothing_written(error) from None
        return self._acknowledged(await self._stored(self.store.upsert_processed(page.table, page.notes["version"])))

    @answers(subjects.DB_GET_PROCESSED_COLUMNS_SUBJECT)
    async def get_columns(self, value: Any) -> bytes:
        """An Arrow page of chosen columns of processed records."""
        asked = requests.ColumnsRequest.parse(value, subjects.DB_GET_PROCESSED_COLUMNS_SUBJECT.name, self.dataset)
        found = self.store.processed_columns(
            with_key(asked.columns), labelled=asked.labelled, version=asked.version, after=asked.after, limit=asked.limit
        )
        return encode_within(await self._stored(found), self._page_bytes, asked.columns)

    @answers(subjects.DB_REJECT_RAW_SUBJECT)
    async def reject(self, value: Any) -> dict[str, Any]:
        """Puts raw records aside that cannot be processed."""
        fields = requests.fields_of(value, subjects.DB_REJECT_RAW_SUBJECT.name, ("version", "rejections"))
        version, rejections = requests.version_of(fields), requests.rejections_of(fields)
        return self._acknowledged(await self._stored(self.store.reject(rejections, version)))

    @answers(subjects.DB_GET_REJECTED_PAGE_SUBJECT)
    async def get_rejected(self, value: Any) -> list[dict[str, str]]:
        """Rejections with their reasons, by key."""
        fields = requests.fields_of(value, subjects.DB_GET_REJECTED_PAGE_SUBJECT.name, ("after", "limit"))
        after, limit = requests.short_text(fields, "after", optional=True), requests.page_limit(fields)
        return self._fitting(await self._stored(self.store.rejected(after, limit)), "ask with a smaller 'limit'")

    @answers(GET_INGEST_COUNTS)
    async def get_ingest_counts(self, _: Empty) -> IngestCounts:
        """Return how the ingest is doing."""
        return await self.ingest.report(self.replica) if self.ingest else IngestCounts(replica=self.replica)

    # Inside

    def _make_ingest(self) -> Ingest:
        def save(records: list[Record]) -> Awaitable[Any]:
            return self._stored(self.store.save_raw(records))

        return Ingest(self.broker, self.settings, check=self._raw_check, save=save, ping=self.store.ping)

    @property
    def _page_bytes(self) -> int:
        return int(self.broker.max_payload * 0.9)

    def _acknowledged(self, numbers: dict[str, Any]) -> dict[str, Any]:
        return {"acknowledged": True, "db": self.store.label, **numbers}

    @override
    async def _stored(self, work: Awaitable[T]) -> T:
        """Waits for the store; when it is away, the service says so with its state, too."""
        try:
            return await work
        except StoreUnavailableError as error:
            await self.set_state("failing", error.message)
            raise

    async def _watch(self) -> float | None:
        try:
            await self.store.ping()
        except StoreUnavailableError as error:
            await self.set_state("failing", error.message)
        else:
            if self.health().state == "failing":
                await self.set_state("ready")
        return None

    async def _all_processed(self, which: str, how_to_page: str) -> list[Record]:
        names = list(self.dataset.processed_names)
        most = requests.most_records(self.broker.max_payload, self.dataset.processed_names)
        await self._refuse_more(which, most, how_to_page)
        page = await self._stored(
            self.store.processed_columns(names, labelled=which == "labelled", version=None, after=None, limit=most + 1)
        )
        return self._fitting(await asyncio.to_thread(records_of, page.table), how_to_page)

    async def _refuse_more(self, which: str, most: int, how_to_page: str) -> None:
        # Counted first: what cannot fit need not be read.
        count = (await self._stored(self.store.counts()))[which]
        if count > most:
            raise self._too_large(f"{count} records do", how_to_page)

    def _fitting(self, records: list[dict[str, T]], how_to_page: str) -> list[dict[str, T]]:
        if not requests.fits(records, self.broker.max_payload):
            raise self._too_large(f"{len(records)} records do", how_to_page)
        return records

    def _too_large(self, what: str, how_to_page: str) -> TooLargeError:
        limit = self.broker.max_payload
        return TooLargeError(f"{what} not fit into one reply (the broker's limit is {limit} bytes); {how_to_page}.")


def _nothing_written(error: InvalidRecordError) -> InvalidRecordError:
    return InvalidRecordError(f"{error.message} Nothing of this batch was written.", error.faults)
