"""Typed clients: what a service asks another one, as methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pyarrow as pa
from fastiot.core import ReplySubject

from complex_system.domain.pages import MAX_PAGE_ROWS, PAGE_ROWS, Page, decode_page, encode_page
from complex_system.domain.records import Record
from complex_system.messaging import subjects
from complex_system.messaging.replicas import ALL, Share


class Asks(Protocol):
    """Whoever can send a request: every ``SystemService``, and the client of the local runner."""

    async def ask(self, subject: ReplySubject, value: Any, seconds: float | None = None) -> Any:
        """Sends a request and returns the reply's value."""


class DatabaseClient:
    """The database service of the deployment, whichever of the two it is."""

    def __init__(self, asker: Asks) -> None:
        self._ask = asker.ask

    async def save_raw(self, records: list[Record]) -> dict[str, Any]:
        """Saves raw records; returns when the database has them. Repeating it with the same keys changes nothing."""
        reply: dict[str, Any] = await self._ask(subjects.DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT, records)
        return reply

    async def counts(self) -> dict[str, int]:
        """Numbers of raw, processed, labelled and rejected records."""
        reply: dict[str, int] = await self._ask(subjects.DB_GET_COUNTS_SUBJECT, {})
        return reply

    async def unprocessed(self, version: str, limit: int, after: str | None = None, share: Share = ALL) -> Page:
        """Raw records with no processed twin (and no rejection) of that pipeline version, by key; of a share of the keys."""
        request: dict[str, Any] = {"version": version, "limit": limit, "after": after}
        if share != ALL:
            request["share"] = [share.index, share.count]
        return decode_page(await self._ask(subjects.DB_GET_UNPROCESSED_PAGE_SUBJECT, request))

    async def upsert_processed(self, page: Page) -> dict[str, Any]:
        """Writes a page of processed records; the note ``version`` names the pipeline version that made them."""
        reply: dict[str, Any] = await self._ask(subjects.DB_UPSERT_PROCESSED_COLUMNS_SUBJECT, encode_page(page))
        return reply

    async def reject(self, version: str, rejections: list[dict[str, str]]) -> dict[str, Any]:
        """Puts raw records aside that cannot be processed, each ``{"_id", "reason"}``."""
        reply: dict[str, Any] = await self._ask(
            subjects.DB_REJECT_RAW_SUBJECT, {"version": version, "rejections": rejections}
        )
        return reply

    async def processed_pages(
        self,
        columns: list[str] | None = None,
        *,
        labelled: bool = False,
        version: str | None = None,
        limit: int = PAGE_ROWS,
        start: str | None = None,
    ) -> AsyncIterator[Page]:
        """All processed records, page by page in the order of their keys; the next page is asked for while one is used.

        ``start`` leaves out the records up to this key.
        """
        request: dict[str, Any] = {"columns": columns, "labelled": labelled, "version": version, "limit": limit}

        async def fetch(after: str | None) -> Page:
            return decode_page(await self._ask(subjects.DB_GET_PROCESSED_COLUMNS_SUBJECT, {**request, "after": after}))

        ahead: asyncio.Task[Page] | None = asyncio.create_task(fetch(start))
        try:
            while ahead is not None:
                page = await ahead
                ahead = asyncio.create_task(fetch(page.next)) if page.next is not None else None
                yield page
        finally:
            if ahead is not None:
                ahead.cancel()


class ProcessingClient:
    """The data processing service."""

    def __init__(self, asker: Asks) -> None:
        self._ask = asker.ask

    async def process(self, records: list[Record]) -> list[Record]:
        """The processed twins of raw records, in the same order."""
        reply: list[Record] = await self._ask(subjects.DATA_PROCESSING_PROCESS_RAW_DATA_SUBJECT, records)
        return reply


class ServingClient:
    """A serving service: the champion's, unless another subject is named."""

    def __init__(
        self,
        asker: Asks,
        subject: ReplySubject = subjects.ML_SERVING_SUBJECT,
        columns: ReplySubject = subjects.ML_SERVING_COLUMNS_SUBJECT,
    ) -> None:
        """Makes a client.

        Args:
            asker: Sends the requests.
            subject: Answers records.
            columns: Answers Arrow pages.
        """
        self._ask = asker.ask
        self._subject = subject
        self._columns = columns

    async def predict(self, records: list[Record]) -> list[float]:
        """One prediction a raw record, in the target's own unit."""
        reply: list[list[float]] = await self._ask(self._subject, records)
        return [row[0] for row in reply]

    async def predict_table(self, table: pa.Table, rows: int = MAX_PAGE_ROWS, in_flight: int = 4) -> pa.Table:
        """Predictions of raw columns of any length, page by page.

        A champion that changes meanwhile answers the later pages: one page is never mixed, a table of several can be.

        Args:
            table: Raw columns; the key may be missing.
            rows: Rows of a page.
            in_flight: Pages that are on their way at the same time.

        Returns:
            A row a record, in the same order: ``prediction``, and the key where it was given.
        """
        places = asyncio.Semaphore(in_flight)

        async def page(start: int) -> pa.Table:
            async with places:
                encoded = await asyncio.to_thread(encode_page, Page(table.slice(start, rows)))
                return decode_page(await self._ask(self._columns, encoded)).table

        return pa.concat_tables(await asyncio.gather(*(page(start) for start in range(0, max(1, table.num_rows), rows))))
