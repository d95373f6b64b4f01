"""Processes raw records that wait, and answers requests with the same pipeline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
from fastiot.msg import Thing
from typing_extensions import override

from complex_system import tracing
from complex_system.domain.columns import counts_text
from complex_system.domain.dataset import ID
from complex_system.domain.pages import REVISION, Page, processed_schema
from complex_system.domain.records import Record, raw_check
from complex_system.errors import ComplexSystemError, InvalidRecordError, NobodyListensError
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.replicas import BEATS_MISSED, Replicas
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import PROCESS_RAW, event_subject
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import (
    RANGE_EXCEEDED,
    RECORDS_REJECTED,
    RangeExceeded,
    RecordsRejected,
    Rejection,
)
from complex_system.protocol.operations import RECORDS_TRACED, SERVICE_HEARTBEAT, Heartbeat, TracedRecords

log = logging.getLogger(__name__)

_REJECTIONS = 1000
"""Rejections in one message."""
_MEETING = 0.3
"""Seconds in which a new replica hears from the others; one that it misses costs work done twice until the next heartbeat."""
_LONGEST_PAUSE = 10.0
_WRITTEN = 2_000_000
"""Bytes of processed records in one message (15,000 of 16 features, 800 of 300), so that the time-out is for a bounded write."""
_FEWEST_ROWS = 50


@dataclass
class Sweep:
    """Results of one sweep over the unprocessed records.

    Attributes:
        outside: Values outside of their range that were taken, by column.
    """

    processed: int = 0
    rejected: int = 0
    outside: Counter[str] = field(default_factory=Counter)


class DataProcessingService(SystemService):
    """Finds its work by query, never by memory: the next sweep finds what a crash or a lost reply leaves undone.

    Replicas share the work: each sweeps over its share of the keys, and over more when another one is no longer heard.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pipeline = Pipeline(self.dataset)
        self._check = raw_check(self.dataset)
        self._schema = processed_schema(self.dataset)
        self._database = DatabaseClient(self)
        lasting = BEATS_MISSED * self.settings.heartbeat_interval
        self._replicas = Replicas(self.health(), lasting)
        self._share = self._replicas.share
        self._rows = self.settings.processing_batch
        self._outside: Counter[str] = Counter()
        self._traces = tracing.TracedKeys()

    @override
    def health(self) -> Heartbeat:
        return msgspec.structs.replace(super().health(), pipeline_version=self.dataset.version)

    @override
    async def on_start(self) -> None:
        self._subs.append(await self.broker.subscribe(event_subject(SERVICE_HEARTBEAT), self._hear))
        await self.broker.settle()
        await self._beat()  # says that we are starting, which the others answer
        await self.wait_for_shutdown(_MEETING)
        self.every(self.settings.processing_interval, self.process_new_records, _LONGEST_PAUSE)

    @answers(PROCESS_RAW)
    async def process_raw(self, value: Any) -> list[Record]:
        """Return the processed records of raw ones, in the same order; a record without a key keeps None as its key."""
        return await asyncio.to_thread(lambda: self._pipeline.process(self._check(value)).to_dicts())

    @hears(RECORDS_TRACED)
    async def records_traced(self, message: TracedRecords) -> None:
        """Remember the traces of records that wait now, or soon."""
        for each in message.traces:
            self._traces.add(each.headers, each.keys)

    async def process_new_records(self) -> float | None:
        """Sweep once; while the database is away, say so and try again later."""
        started, done = time.monotonic(), Sweep()
        try:
            await self._sweep(done)
        except NobodyListensError as error:
            # This costs nothing and fails at once, so the pauses need not grow.
            await self.set_state("waiting", error.message)
            return max(1.0, self.settings.processing_interval)
        except ComplexSystemError as error:
            await self.set_state("waiting", error.message)
            raise
        finally:
            if done.processed or done.rejected:
                seconds = time.monotonic() - started
                log.info("Processed %d records and rejected %d in %.2f s", done.processed, done.rejected, seconds)
            if done.outside:
                self._outside += done.outside
                log.info("Processed all the same, though outside of their range: %s", counts_text(done.outside))
        said = (
            f"values outside of their range, processed all the same: {counts_text(self._outside)}" if self._outside else ""
        )
        await self.set_state("ready", said)
        return None

    async def _sweep(self, done: Sweep) -> None:
        ahead: asyncio.Task[Page] | None = self._fetch(None)
        try:
            while ahead is not None and not self._shutdown_event.is_set():
                asked = time.monotonic()
                try:
                    page = await ahead
                except ComplexSystemError:
                    self._adapt_batch_size(time.monotonic() - asked, grow=False)
                    raise
                ahead = self._fetch(page.next) if page.next is not None else None
                began = time.time_ns()
                table, rejected, outside = await asyncio.to_thread(self._process_page, page.table)
                started = time.monotonic()
                try:
                    refused = await self._write(table)
                finally:
                    if table.num_rows >= self._rows // 2:
                        self._adapt_batch_size(time.monotonic() - started)
                done.processed += table.num_rows - len(refused)
                rejected += refused
                await self._reject(rejected)
                if tracing.is_on():
                    self._traces.processed("process", page.table.column(ID).to_pylist(), began)
                done.rejected += len(rejected)
                done.outside += outside
                if self._pipeline.lenient and table.num_rows:
                    await self.announce(RANGE_EXCEEDED, RangeExceeded(counts=dict(outside), records=table.num_rows))
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def _fetch(self, after: str | None) -> asyncio.Task[Page]:
        version, limit, share = self.dataset.version, self._rows, self._replicas.share
        if share != self._share:
            self._share = share
            log.info("Works on share %d of %d of the keys", share.index + 1, share.count)
        return asyncio.create_task(self._database.unprocessed(version, limit, after, share, revisions=True))

    async def _hear(self, thing: Thing) -> None:
        beat = SERVICE_HEARTBEAT.decode(thing.value)
        # Two that start would greet each other indefinitely.
        if self._replicas.hear(beat) and beat.state == "starting" and self.health().state != "starting":
            await self._beat()

    def _adapt_batch_size(self, seconds: float, *, grow: bool = True) -> None:
        """Adapt the size of batches: one that runs into its time-out is written twice, which makes a slow database slower."""
        before, limit = self._rows, self.settings.request_timeout
        if seconds > limit / 2:
            self._rows = max(min(_FEWEST_ROWS, before), before // 2)
            log.warning(
                "The database takes %.1f s for a batch of %d: the next ones have %d records", seconds, before, self._rows
            )
        elif grow and seconds < limit / 10:
            self._rows = min(self.settings.processing_batch, 2 * before)

    def _process_page(self, raw: pa.Table) -> tuple[pa.Table, list[Rejection], Counter[str]]:
        """Return what the pipeline makes of raw records, and how many values outside of their range it takes, by column."""
        table, rejected = self._processed_page(raw)
        if not self._pipeline.lenient:
            return table, rejected, Counter()
        columns = self._pipeline.typed(raw)
        if rejected:
            columns = columns.filter(pl.col(ID).is_in(table.column(ID).to_pylist()))
        return table, rejected, Counter({each.column.name: each.count for each in self._pipeline.outside(columns)})

    def _processed_page(self, raw: pa.Table) -> tuple[pa.Table, list[Rejection]]:
        """Return processed records with their revisions: a record that changes meanwhile is processed again.

        A record at which the pipeline itself fails, while others of the page are processed, is rejected and does not hold them up.
        """
        try:
            return self._processed(raw)
        except (ComplexSystemError, MemoryError):
            raise
        except Exception as error:
            parts, rejected = self._processed_by_halves(raw, error)
            if not parts:
                raise
            first = {"record_key": rejected[0].id if rejected else None}
            log.exception(
                "The pipeline fails at %d of %d records, which are rejected", len(rejected), raw.num_rows, extra=first
            )
            return pa.concat_tables(parts), rejected

    def _processed_by_halves(self, raw: pa.Table, error: Exception) -> tuple[list[pa.Table], list[Rejection]]:
        """Return the processed parts of a table that cannot be processed as a whole, and rejections of the records that cause it."""
        if raw.num_rows == 1:
            reason = f"data_processing fails at this record ({type(error).__name__}); its log says more"
            return [], [Rejection(id=raw.column(ID)[0].as_py(), reason=reason, revision=_revisions(raw)[0])]
        parts, rejected, middle = [], [], raw.num_rows // 2
        for half in (raw.slice(0, middle), raw.slice(middle)):
            try:
                table, left_out = self._processed(half)
                parts.append(table)
            except MemoryError:
                raise
            except Exception as deeper:  # noqa: BLE001 - it is logged and kept with the record
                tables, left_out = self._processed_by_halves(half, deeper)
                parts += tables
            rejected += left_out
        return parts, rejected

    def _processed(self, raw: pa.Table) -> tuple[pa.Table, list[Rejection]]:
        revisions = dict(zip(raw.column(ID).to_pylist(), _revisions(raw), strict=True))
        has = REVISION in raw.column_names  # a database service of an earlier release has none
        frame, faults = self._pipeline.split(raw.drop_columns([REVISION]) if has else raw)
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema)
        if has:
            processed = [revisions[key] for key in table.column(ID).to_pylist()]
            table = table.append_column(REVISION, pa.array(processed, pa.int64()))
        return table, [Rejection(id=each[ID], reason=each["reason"], revision=revisions.get(each[ID])) for each in faults]

    async def _write(self, table: pa.Table) -> list[Rejection]:
        """Write in messages that the broker takes: with many features a page is larger than its raw records.

        Returns:
            Rejections of the records that the database can never store.
        """
        most = min(_WRITTEN, 0.9 * self.broker.max_payload)
        rows = max(1, int(table.num_rows * most / max(1, table.nbytes)))
        refused: list[Rejection] = []
        for start in range(0, table.num_rows, rows):
            refused += await self._upsert(table.slice(start, rows))
        return refused

    async def _upsert(self, table: pa.Table) -> list[Rejection]:
        try:
            await self._database.upsert_processed(Page(table, notes={"version": self.dataset.version}))
        except InvalidRecordError as error:
            if table.num_rows == 1:
                reason = f"the database does not take the processed record: {error.message}"
                return [Rejection(id=table.column(ID)[0].as_py(), reason=reason, revision=_revisions(table)[0])]
            middle = table.num_rows // 2
            return [*await self._upsert(table.slice(0, middle)), *await self._upsert(table.slice(middle))]
        return []

    async def _reject(self, rejected: list[Rejection]) -> None:
        for start in range(0, len(rejected), _REJECTIONS):
            part = rejected[start : start + _REJECTIONS]
            await self._database.reject(self.dataset.version, part)
            await self.announce(RECORDS_REJECTED, RecordsRejected(rejections=part))


def _revisions(table: pa.Table) -> list[int | None]:
    """Return the revision of each record; None where the table does not have it."""
    return list(table.column(REVISION).to_pylist()) if REVISION in table.column_names else [None] * table.num_rows
