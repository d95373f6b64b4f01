"""The labelled records of a training, fetched by a worker of a cluster: its share of them, by key, through the broker."""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

import pyarrow as pa

from complex_system.background import started
from complex_system.errors import NobodyListensError, ReplyTimeoutError, StoreUnavailableError, TrainingFailedError
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.settings import Settings

FETCH_ATTEMPTS = 5
AWAY = (NobodyListensError, ReplyTimeoutError, StoreUnavailableError)
"""Errors of a database that may be back soon."""
_RANGES_A_WORKER, _RANGE_RECORDS, _MAX_RANGES = 4, 50_000, 1000
"""Ranges of keys for each worker, at least, and otherwise one for so many records, up to ``_MAX_RANGES``. Each worker gets some from
everywhere, so that the shares are alike also where only old, or new, records are labelled. A query
ends with its range, so it passes no more records than that on its way to few labelled ones."""
_AHEAD = 2
"""Pages that wait for the worker."""
_BROKER = ("nats_host", "nats_port", "nats_user", "nats_password", "nats_tls_ca", "request_timeout", "reconnect_timeout")

KeyRange = tuple[str | None, str | None]
"""Behind the first key, up to the second; None for no limit."""


@dataclass(frozen=True)
class LabelledPages:
    """Fetches labelled processed records. It pickles, with the user of the service that made it and no other secret.

    Attributes:
        settings: The broker.
        name: Of who asks.
        version: The pipeline version.
        columns: Columns of the pages.
        raw: Raw columns beside, or None.
        ranges: All ranges of keys.
    """

    settings: Settings
    name: str
    version: str
    columns: list[str]
    raw: list[str] | None
    ranges: list[KeyRange]

    @classmethod
    async def of(
        cls, client: DatabaseClient, settings: Settings, name: str, version: str, columns: list[str], raw: list[str] | None
    ) -> LabelledPages:  # fmt: skip
        """Ask where the keys are to be cut for the workers of ``settings``."""
        wanted = max(settings.ray_workers * _RANGES_A_WORKER, (await client.counts()).processed // _RANGE_RECORDS)
        ranges = await client.key_ranges(min(wanted, _MAX_RANGES))
        broker = Settings.construct(**{field: getattr(settings, field) for field in _BROKER})
        return cls(broker, name, version, columns, raw, ranges)

    def __call__(self, index: int, count: int) -> Iterator[pa.Table]:
        """Yield the pages of one of so many workers; the next ones are fetched meanwhile, in a thread."""
        pages: queue.Queue[pa.Table | None] = queue.Queue(_AHEAD)
        mine = self.ranges[index::count]

        def fetch() -> None:
            try:
                asyncio.run(self._fetch(mine, pages))
            finally:
                pages.put(None)

        fetching = started(fetch, "pages")
        while (page := pages.get()) is not None:
            yield page
        fetching.result()

    async def _fetch(self, ranges: list[KeyRange], pages: queue.Queue[pa.Table | None]) -> None:
        try:
            async with asyncio.timeout(self.settings.reconnect_timeout):
                opened = await SystemClient.open(self.settings, self.name)
        except TimeoutError as error:
            address = f"{self.settings.nats_host}:{self.settings.nats_port}"
            raise TrainingFailedError(
                f"The worker of the cluster on {socket.gethostname()} does not reach the broker at {address}. Every node must reach "
                "it under the name in FASTIOT_NATS_HOST."
            ) from error
        async with opened as client:
            database = DatabaseClient(client)
            for low, high in ranges:
                async for table in self._range(database, low, high):
                    await asyncio.to_thread(pages.put, table)

    async def _range(self, database: DatabaseClient, low: str | None, high: str | None) -> AsyncIterator[pa.Table]:
        """Yield the pages of a range; where the database is away, ask again from the last one on."""
        attempt = 0
        while True:
            found = database.processed_pages(
                self.columns, labelled=True, version=self.version, start=low, raw=self.raw, until=high
            )
            try:
                async with aclosing(found) as walk:  # type: ignore[type-var]
                    async for page in walk:
                        attempt = 0
                        yield page.table
                        if page.next is None:
                            return
                        low = page.next
                return
            except AWAY:
                attempt += 1
                if attempt == FETCH_ATTEMPTS:
                    raise
                await asyncio.sleep(0.25 * 2**attempt)
