"""The source of an SQL table: sends its new rows, and those whose cursor has changed, from the place on that it has reached."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from complex_system.background import Worker
from complex_system.domain.documents import Document
from complex_system.domain.keys import derived_key
from complex_system.domain.records import raw_check
from complex_system.errors import ComplexSystemError, SourceTableError, how_to_install
from complex_system.sources.cursor import Place, Scalar, earlier, is_ahead, is_later, key_text, read, written
from complex_system.sources.delivery import Delivery, Documents, Host, source_name
from complex_system.sources.rows import Row, checked_rows

if TYPE_CHECKING:
    from complex_system.sources.sql import SqlRow, SqlTable

log = logging.getLogger(__name__)

KIND = "source-place"
"""Kind of the documents that keep the place of a table's source."""
_SAVE_INTERVAL = 1.0
_MANY = 100_000


class TableSource:
    """New rows of a table or view, each at least once, and with a key that makes a repetition harmless."""

    def __init__(self, host: Host, delivery: Delivery, documents: Documents) -> None:
        self._host = host
        self._delivery = delivery
        self._documents = documents
        self._settings = host.settings
        self._name = source_name(host.settings)
        self._document = hashlib.sha256(f"{self._name}\0{self._settings.source_table_cursor}".encode()).hexdigest()[:32]
        self._check = raw_check(host.dataset)
        self._key = ""
        self._newest: Scalar | None = None
        self._sent: dict[Scalar | None, Scalar] = {}
        self._kept_at = float("-inf")
        self._is_kept = True

    def __str__(self) -> str:
        """Return what the source is, for the state of the service."""
        return f"the table {self._settings.source_table}"

    async def run(self) -> None:
        """Send what the table has, then what is new at each look, until the service ends.

        Raises:
            SourceTableError: Settings, table or driver are not as they should be.
        """
        worker, table = Worker("source table"), None
        try:
            table = await self._delivery.repeated(lambda: worker.run(self._open))
            found = await self._delivery.repeated(lambda: self._documents.by_keys(KIND, [self._document]))
            if table is None or found is None:
                return
            self._key = table.key
            log.info("The rows of %s are read by %s and %s, under the name '%s'",
                     self, self._settings.source_table_cursor, self._key, self._name)  # fmt: skip
            self._resume(found)
            self._delivery.begin(self._settings.source_table, 0, None)
            while await self._look(table, worker):
                await self._host.set_state("ready", str(self._delivery.progress))
                if await self._host.wait_for_shutdown(self._settings.source_interval):
                    return
        finally:
            if await worker.close(1.0) and table is not None:
                await asyncio.to_thread(table.close)

    def _open(self) -> SqlTable:
        settings = self._settings
        for name in ("source_table_url", "source_table_cursor"):
            if not getattr(settings, name):
                raise SourceTableError(f"COMPLEX_SYSTEM_SOURCE_TABLE is set, and COMPLEX_SYSTEM_{name.upper()} is not.")
        try:
            from complex_system.sources.sql import SqlTable
        except ModuleNotFoundError as error:
            raise SourceTableError(f"Tables need SQLAlchemy: {how_to_install('sql')}; and a driver.") from error
        return SqlTable(
            settings.source_table_url, settings.source_table, settings.source_table_cursor, settings.source_table_unique,
            self._host.dataset,
        )  # fmt: skip

    async def _look(self, table: SqlTable, worker: Worker) -> bool:
        """Send the rows after the place, and those of the overlap before it that were not sent; return False if the service ends."""
        size, place = self._settings.batch_size, self._start()
        while True:
            read_at = time.time()
            page = await self._delivery.repeated(partial(worker.run, partial(table.page, place, size)))
            if page is None:
                return False
            new = [row for row in page if self._sent.get(row.place.key) != row.place.cursor]
            # One batch at a time, in the order of the cursor: a row that changed in between is saved as it is now.
            self._delivery.made = read_at
            self._delivery.progress.wanted += len(new)
            if new and not await self._delivery.save_rows(self._rows(new)):
                return False
            self._advance(new)
            if not self._is_kept and time.monotonic() - self._kept_at >= _SAVE_INTERVAL:
                await self._keep()
            if len(page) < size:
                break
            place = page[-1].place
        self._forget_before(self._start())
        if not self._is_kept:
            await self._keep()
        return True

    def _start(self) -> Place | None:
        """Return where a look begins: all rows of that cursor are read again, since one with a smaller key may have come."""
        return None if self._newest is None else Place(earlier(self._newest, self._settings.source_table_overlap))

    def _advance(self, rows: Sequence[SqlRow]) -> None:
        """Note rows that the database has."""
        now = datetime.now(UTC)
        for key, cursor in ((row.place.key, row.place.cursor) for row in rows):
            self._sent[key] = cursor
            if is_ahead(cursor, now):
                self._delivery.progress.note = (
                    f"the time of the row with {self._key} {key_text(key)} is more than a day ahead: {cursor!s}"
                )
            elif is_later(cursor, self._newest):
                self._newest, self._is_kept = cursor, False
        if len(self._sent) > _MANY:
            self._forget_before(self._start())

    def _forget_before(self, start: Place | None) -> None:
        if start is not None:
            self._sent = {key: cursor for key, cursor in self._sent.items() if cursor >= start.cursor}  # type: ignore[operator]

    def _rows(self, found: Sequence[SqlRow]) -> list[Row]:
        """Return the checked rows, with a key of the table's name and key where the records have none."""
        numbers = range(1, len(found) + 1)
        keys = [key_text(row.place.key) for row in found]
        checked = checked_rows(
            numbers, [row.values for row in found], self._host.dataset, self._check,
            lambda number: derived_key(self._name, keys[number - 1]),
        )  # fmt: skip
        return [replace(row, name=f"the row with {self._key} {keys[row.number - 1]}") for row in checked]

    def _resume(self, found: Sequence[Document]) -> None:
        if found:
            self._newest = read(found[0].body["cursor"])
            log.info("%s was read up to %s", self, self._newest)

    async def _keep(self) -> None:
        """Keep the place. A failure costs that rows are read again after a restart, and they change nothing."""
        assert self._newest is not None
        body = {"name": self._name, "cursor": written(self._newest)}
        self._kept_at = time.monotonic()
        try:
            await self._documents.save([Document(KIND, self._document, time.time(), body)])
            self._is_kept = True
        except ComplexSystemError as error:
            log.warning("The place in %s is not kept, it is tried again: %s", self, error.message)
