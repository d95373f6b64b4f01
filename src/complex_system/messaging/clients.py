"""Typed clients of each service, and a connection for programs that are not services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import ARRIVED, ID
from complex_system.domain.documents import Cursor, Document
from complex_system.domain.pages import MAX_PAGE_ROWS, PAGE_ROWS, Page, decode_page, encode_page, plain_columns
from complex_system.domain.records import Record
from complex_system.errors import TooLargeError
from complex_system.messaging import subjects
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.replicas import ALL, Share
from complex_system.messaging.things import to_thing, value_of
from complex_system.protocol import database
from complex_system.protocol.base import ArrowPage, Empty, Event, Request
from complex_system.protocol.database import ConflictMessage, RecordCounts, Rejected, Rejection, Saved, Upserted
from complex_system.protocol.documents import (
    DELETE_DOCUMENTS,
    GET_DOCUMENTS,
    SAVE_DOCUMENTS,
    DeleteDocuments,
    DocumentMessage,
    Documents,
    DocumentsRequest,
)
from complex_system.protocol.serving import ORIGIN_NAMES, PREDICT_COLUMNS, Origin
from complex_system.settings import Settings

M = TypeVar("M")
Q = TypeVar("Q")
R = TypeVar("R")

DOCUMENTS_IN_REQUEST = 500
"""Documents, and keys, in one request."""
CONFLICTS_IN_REQUEST = 500
"""Conflicts in one request; half as many after a reply that would be too large."""


class Requester(Protocol):
    """Sends requests: every ``SystemService``, and :class:`SystemClient`."""

    async def ask(self, request: Request[Q, R], value: Q, seconds: float | None = None, made: float | None = None) -> R:
        """Send a request and return the reply."""


async def ask(
    connection: ServiceConnection,
    sender: str,
    request: Request[Q, R],
    value: Q,
    seconds: float,
    made: float | None = None,
) -> R:
    """Send a request and return the reply.

    Args:
        connection: The connection to the broker.
        sender: Who asks, as the Thing's ``machine`` says it.
        request: The subject.
        value: The request.
        seconds: How long to wait for the reply.
        made: When the value was made, seconds since 1970; by default now.

    Raises:
        ComplexSystemError: The error that an error reply carries.
    """
    reply = await connection.request(subjects.reply_subject(request), to_thing(value, sender, made, request.thing), seconds)
    return request.decode_reply(value_of(reply))


class SystemClient:
    """Requester services and hears events, for programs around the system such as the local runner.

    ``async with await SystemClient.open(settings, "name") as client: ...`` closes the connection at the end.
    """

    def __init__(self, connection: ServiceConnection, settings: Settings, name: str) -> None:
        self.broker = connection
        self.settings = settings
        self._name = name

    @classmethod
    async def open(cls, settings: Settings, name: str) -> SystemClient:
        """Connect; wait for the broker as long as it takes."""
        return cls(await ServiceConnection.open(settings, name), settings, name)

    async def ask(self, request: Request[Q, R], value: Q, seconds: float | None = None, made: float | None = None) -> R:
        """Send a request and return the reply; an error reply is raised as the error that it carries."""
        return await ask(self.broker, self._name, request, value, seconds or self.settings.request_timeout, made)

    async def hear(self, event: Event[M], handler: Callable[[M], Awaitable[None]]) -> None:
        """Call ``handler`` with the message of every event on the subject."""

        async def consume(thing: Any) -> None:
            await handler(event.decode(thing.value))

        await self.broker.subscribe(subjects.event_subject(event), consume)

    async def close(self) -> None:
        """Close the connection."""
        await self.broker.close()

    async def __aenter__(self) -> SystemClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class DatabaseClient:
    """The database service of the deployment, whichever of the two it is."""

    def __init__(self, requester: Requester) -> None:
        self._ask = requester.ask

    async def save_raw(self, records: list[Record], made: float | None = None) -> Saved:
        """Save raw records; return when the database has them. Repeating it with the same keys changes nothing.

        Args:
            records: The records.
            made: When their source made them, seconds since 1970: the order in which they replace others. By default now.
        """
        return msgspec.convert(await self._ask(subjects.SAVE_RAW, records, made=made), Saved)

    async def counts(self) -> RecordCounts:
        """Return the numbers of raw, processed, labelled and rejected records."""
        return await self._ask(database.GET_COUNTS, Empty())

    async def now(self) -> float:
        """Return the time by the database's clock, seconds since 1970."""
        return (await self._ask(database.GET_TIME, Empty())).at

    async def unprocessed(
        self, version: str, limit: int, after: str | None = None, share: Share = ALL, *, revisions: bool = False
    ) -> Page:
        """Return raw records that a pipeline version has neither processed nor rejected, by key; of a share of the keys."""
        part = None if share == ALL else (share.index, share.count)
        request = database.UnprocessedRequest(version=version, limit=limit, after=after, share=part, revisions=revisions)
        return decode_page(await self._ask(database.GET_UNPROCESSED, request))

    async def upsert_processed(self, page: Page) -> Upserted:
        """Write a page of processed records; its note ``version`` names the pipeline version that made them."""
        return await self._ask(database.UPSERT_PROCESSED, encode_page(page))

    async def reject(self, version: str, rejections: list[Rejection]) -> Rejected:
        """Write down which raw records cannot be processed, and why."""
        return await self._ask(database.REJECT_RAW, database.RejectRequest(version=version, rejections=rejections))

    async def rejected(self, after: str | None = None, limit: int | None = None) -> list[Rejection]:
        """Return rejections, by key."""
        return await self._ask(database.GET_REJECTED, database.RejectedRequest(after=after, limit=limit))

    async def conflicts(self, most: int | None = None) -> AsyncGenerator[ConflictMessage]:
        """Yield values that lost against others of their key, at most so many, by key and hash; None for all."""
        left, rows = float("inf") if most is None else most, CONFLICTS_IN_REQUEST
        after: tuple[str, str] | None = None
        while left > 0:
            limit = int(min(rows, left))
            try:
                found = await self._ask(database.GET_CONFLICTS, database.ConflictsRequest(after=after, limit=limit))
            except TooLargeError:
                if limit == 1:
                    raise
                rows = limit // 2
                continue
            for each in found:
                yield each
            if len(found) < limit:
                return
            left, after = left - len(found), (found[-1].key, found[-1].hash)

    async def processed_pages(
        self,
        columns: list[str] | None = None,
        *,
        labelled: bool = False,
        version: str | None = None,
        limit: int = PAGE_ROWS,
        start: str | None = None,
        raw: list[str] | None = None,
        arrived_after: float | None = None,
        until: str | None = None,
    ) -> AsyncIterator[Page]:
        """Yield all processed records, page by page; the next page is fetched while one is used.

        They come by key, or with ``arrived_after`` by arrival (``ColumnsRequest``). ``start`` leaves out the records up to this key,
        ``until``, which needs the key among the columns, those behind that one.
        """
        request = partial(
            database.ColumnsRequest, columns=columns, labelled=labelled, version=version, limit=limit, raw=raw, until=until
        )

        async def fetch(asked: database.ColumnsRequest) -> Page:
            return decode_page(await self._ask(database.GET_PROCESSED, asked))

        ahead: asyncio.Task[Page] | None = asyncio.create_task(fetch(request(after=start, arrived_after=arrived_after)))
        try:
            while ahead is not None:
                page, ahead = await ahead, None
                behind = until is not None and arrived_after is None and page.next is not None and page.next >= until
                if page.next is not None and not behind:
                    last = None if arrived_after is None else page.table.column(ARRIVED)[-1].as_py()
                    ahead = asyncio.create_task(fetch(request(after=page.next, arrived_after=last)))
                yield page if until is None else _up_to(page, until)
        finally:
            if ahead is not None:
                ahead.cancel()

    async def key_ranges(self, count: int) -> list[tuple[str | None, str | None]]:
        """Return ranges with about as many processed records each: behind the first key, up to the second; None for no limit."""
        places = max(1, -(-(await self.counts()).processed // count))
        ends: list[str] = []
        while wanted := count - 1 - len(ends):
            asked = database.KeyRangesRequest(count=wanted, places=places, after=ends[-1] if ends else None)
            found: list[str] = await self._ask(database.GET_KEY_RANGES, asked)
            # Fewer records than ranges, or some have gone; or a replica of an earlier release, which begins anew.
            if not found or (ends and found[0] <= ends[-1]):
                break
            ends += found
        return list(pairwise([None, *ends, None]))

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        """Return the known targets of processed records, by key."""
        found: dict[str, float] = {}
        for part in _parts(keys):
            targets: dict[str, float] = await self._ask(database.GET_TARGETS, database.KeysRequest(keys=part))
            found |= targets
        return found

    async def raw_by_keys(self, keys: Sequence[str]) -> pa.Table:
        """Return the raw records with these keys (``domain.pages.raw_schema``), at least one key; unknown keys are left out."""
        ordered, tables = sorted(set(keys)), []
        while ordered:
            part, ordered = ordered[:DOCUMENTS_IN_REQUEST], ordered[DOCUMENTS_IN_REQUEST:]
            page = decode_page(await self._ask(database.GET_RAW_BY_KEYS, database.KeysRequest(keys=part)))
            tables.append(page.table)
            if page.next is not None:
                ordered = [key for key in part if key > page.next] + ordered
        return pa.concat_tables(tables)


class DocumentClient:
    """Documents in the database of the deployment. Every method raises what the database service answers with.

    It has the methods that ``monitoring.history.Documents`` asks for.
    """

    def __init__(self, requester: Requester) -> None:
        self._ask = requester.ask
        records = DatabaseClient(requester)
        self.targets, self.raw_by_keys = records.targets, records.raw_by_keys

    async def save(self, documents: Sequence[Document]) -> None:
        """Write documents; one of the same kind and key is replaced. Return when the database has them."""
        for part in _parts(documents):
            messages = [DocumentMessage(kind=e.kind, key=e.key, at=e.at, body=dict(e.body)) for e in part]
            await self._ask(SAVE_DOCUMENTS, messages)

    async def between(
        self, kind: str, start: float, end: float, *, newest_first: bool = False, most: int = 10_000
    ) -> list[Document]:
        """Return at most ``most`` documents of a kind with ``start <= at < end``, fetched page by page, by time and key."""
        found: list[Document] = []
        after: Cursor | None = None
        while len(found) < most:
            limit = min(DOCUMENTS_IN_REQUEST, most - len(found))
            request = DocumentsRequest(kind=kind, start=start, end=end, newest_first=newest_first, limit=limit, after=after)
            reply = await self._ask(GET_DOCUMENTS, request)
            found += _documents(reply)
            if reply.next is None or not reply.documents:
                break
            after = Cursor(*reply.next)
        return found

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        """Return the documents of a kind that have one of the keys."""
        found: list[Document] = []
        for part in _parts(keys):
            found += _documents(await self._ask(GET_DOCUMENTS, DocumentsRequest(kind=kind, keys=part)))
        return found

    async def delete_before(self, kind: str, before: float) -> int:
        """Delete the documents of a kind from before a time; return how many."""
        return (await self._ask(DELETE_DOCUMENTS, DeleteDocuments(kind=kind, before=before))).deleted

    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        """Delete documents by key; return how many there were."""
        deleted = 0
        for part in _parts(keys):
            request = DeleteDocuments(kind=kind, keys=part)
            deleted += (await self._ask(DELETE_DOCUMENTS, request)).deleted
        return deleted


class ProcessingClient:
    """The data processing service."""

    def __init__(self, requester: Requester) -> None:
        self._ask = requester.ask

    async def process(self, records: list[Record]) -> list[Record]:
        """Return the processed records of raw ones, in the same order."""
        reply: list[Record] = await self._ask(subjects.PROCESS_RAW, records)
        return reply


class ServingClient:
    """A serving service: the champion's, unless another subject is named."""

    def __init__(
        self, requester: Requester, subject: Request[Any, Any] = subjects.PREDICT,
        columns: Request[ArrowPage, ArrowPage] = PREDICT_COLUMNS, origin: Origin = "live",
    ) -> None:  # fmt: skip
        """Make a client.

        Args:
            requester: Sends the requests.
            subject: Answers records.
            columns: Answers Arrow pages.
            origin: Who asks.
        """
        self._ask, name = requester.ask, ORIGIN_NAMES[origin]
        self._subject, self._columns = replace(subject, thing=name), replace(columns, thing=name)

    async def predict(self, records: list[Record]) -> list[float]:
        """Return one prediction a raw record, in the target's own unit."""
        reply: list[list[float]] = await self._ask(self._subject, records)
        return [row[0] for row in reply]

    async def predict_table(self, table: pa.Table, rows: int = MAX_PAGE_ROWS, in_flight: int = 4) -> pa.Table:
        """Return predictions for raw columns of any length, page by page.

        If the champion changes in between, the new one answers the later pages; within a page there is only one.

        Args:
            table: Raw columns; the key may be missing.
            rows: Rows of a page.
            in_flight: Pages requested at the same time.

        Returns:
            One row per record, in the same order: ``prediction``, and the key where it was given.
        """
        places = asyncio.Semaphore(in_flight)

        async def page(start: int) -> pa.Table:
            async with places:
                encoded = await asyncio.to_thread(encode_page, Page(plain_columns(table.slice(start, rows))))
                return decode_page(await self._ask(self._columns, encoded)).table

        return pa.concat_tables(await asyncio.gather(*(page(start) for start in range(0, max(1, table.num_rows), rows))))


def _up_to(page: Page, until: str) -> Page:
    """Return a page without the records behind a key, which a database service of an earlier release sends, too."""
    within = pc.less_equal(page.table.column(ID), until)
    return page if pc.all(within).as_py() else Page(page.table.filter(within), page.next, page.notes)


def _parts(items: Sequence[M]) -> list[list[M]]:
    return [list(items[start : start + DOCUMENTS_IN_REQUEST]) for start in range(0, len(items), DOCUMENTS_IN_REQUEST)]


def _documents(reply: Documents) -> list[Document]:
    return [Document(each.kind, each.key, each.at, each.body) for each in reply.documents]
