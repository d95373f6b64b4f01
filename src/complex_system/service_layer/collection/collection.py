"""From the stream of readings to saved records: read, collect, save, join labels, keep the place, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from complex_system.collection import Checkpoint, CollectedRecord, Collector, SensorState, WaitingRecord
from complex_system.domain.columns import ID, ORDER
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, InvalidRecordError
from complex_system.messaging.clients import DatabaseClient, DocumentClient, ServingClient
from complex_system.messaging.reading_messages import Decoder, Label
from complex_system.messaging.readings import ReadingStream
from complex_system.protocol.collection import CollectionCounts, CollectionState, OpenLabel, OpenRecord, Sensor
from complex_system.service_layer.collection.labels import LabelBook, Outcome

log = logging.getLogger(__name__)

RECORDS_AT_ONCE = 500
"""Records in one request."""
_PLACE_SECONDS = 1.0
"""Seconds of the broker's clock between two writes of the place."""
_SHOWN, _UNMATCHED, _NOTES = 50, 20, 20
"""Open records and labels, unmatched labels, and notes that are shown."""


class _Kept(msgspec.Struct, frozen=True):
    """What is kept with the place.

    Attributes:
        checkpoint: Where a collector can begin again.
        seen: Sequence number of the last message that was read: its label is in the database, and its faults are counted.
        counts: What was counted until then.
        unmatched: The newest labels that found no record in time.
    """

    checkpoint: Checkpoint
    seen: int = 0
    counts: CollectionCounts = CollectionCounts()
    unmatched: tuple[OpenLabel, ...] = ()


class Collection:
    """Makes records of what the stream holds, one batch after the other.

    What was read stays here until the database has it: nothing more is read before, so a fault costs time, and no memory. A process
    that ends in between leaves its place in the stream, from which the next one makes the same records with the same keys again.

    Attributes:
        problem: Why nothing goes on; empty if everything works.
    """

    def __init__(
        self, dataset: Dataset, stream: ReadingStream, database: DatabaseClient, documents: DocumentClient,
        serving: ServingClient, check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Prepare the collection without contacting anybody.

        Args:
            dataset: Declares how readings become records.
            stream: Has the readings, and keeps the place.
            database: Takes the records.
            documents: Keeps labels that wait.
            serving: Predicts complete records, where that is declared.
            check: Raises an error where this process may not act; called before everything that has an effect.
        """
        collecting = dataset.collect
        assert collecting is not None
        self._collecting, self._dataset, self._stream = collecting, dataset, stream
        self._seen = 0
        self._database, self._serving, self._check = database, serving, check
        label = collecting.label
        self._decoder = Decoder(label)
        self._labels = LabelBook(label, database, documents) if label else None
        self._collector = Collector(collecting, dataset)
        self._records: deque[CollectedRecord] = deque()
        self._new_labels: list[Label] = []
        self._counts = CollectionCounts()
        self._unmatched: deque[OpenLabel] = deque(maxlen=_UNMATCHED)
        self._notes: dict[str, int] = {}  # how often each came, the newest last
        self._predicting: set[asyncio.Task[None]] = set()
        self._reads_again = False
        self._unanswered: set[str] = set()  # records that were new when they were sent, and for which no answer has come
        self._opened = False
        self._now = self._kept_at = 0.0
        self.problem = ""

    async def turn(self, stopping: asyncio.Event) -> None:
        """Take the next batch, and have everything saved that follows from it.

        Raises:
            ComplexSystemError: Broker or database are not available. What is not saved yet waits for the next call.
        """
        try:
            if not self._opened:
                await self._open()
            await self._save_all()
            batch = await self._stream.next(stopping)
            self._now = max(self._now, batch.now)
            found = self._decoder.decode(batch.messages, after=self._seen)
            self._seen = max(self._seen, found.last)
            self._count(malformed=len(found.faults), dropped=batch.dropped)
            self._note(*found.faults)
            self._new_labels = found.labels
            self._collector.add(found.readings)
            self._records.extend(self._collector.due(datetime.fromtimestamp(batch.now, UTC)))
            await self._save_all()
            if self._now - self._kept_at >= _PLACE_SECONDS:
                await self._keep_place()
        except ComplexSystemError as error:
            self.problem, self._opened = error.message, self._opened and not self._stream.is_gone
            raise
        except Exception as error:
            # What was read may be half taken, so it is read again from the place.
            self.problem, self._opened = f"{type(error).__name__}: {error}", False
            await self._stream.close()
            raise
        self.problem = ""

    async def close(self) -> None:
        """Keep the place, if everything is saved, and end the reader."""
        for task in self._predicting:
            task.cancel()
        with contextlib.suppress(ComplexSystemError):  # the next process reads a second more of the stream
            if self._opened and not self._records and not self._new_labels:
                await self._keep_place()
        await self._stream.close()

    def state(self) -> CollectionState:
        """Return the live view."""
        found = self._collector.sensors(datetime.fromtimestamp(self._now, UTC))
        sensors = [_sensor(each) for each in found]
        opened = self._collector.waiting()
        labels = self._labels
        return CollectionState(
            at=self._now,
            problem=self.problem,
            notes=(
                *(text if times == 1 else f"{text} ({times:,} times)" for text, times in self._notes.items()),
                *self._collector.warnings(),
            ),
            behind=self._stream.behind,
            per_second=sum(sensor.per_second for sensor in sensors),
            sensors=tuple(sensors),
            open_records=tuple(_open(each, self._now) for each in opened[:_SHOWN]),
            waiting_records=self._collector.open,
            open_labels=tuple(_shown(label) for label in labels.oldest(_SHOWN)) if labels else (),
            waiting_labels=len(labels) if labels else 0,
            unmatched=tuple(self._unmatched),
            counts=replace(self._counts, unusable=sum(each.refused for each in found)),
        )

    async def _open(self) -> None:
        kept = await self._stream.open()
        self._collector, self._new_labels = Collector(self._collecting, self._dataset), []
        self._records.clear()
        self._unmatched.clear()
        self._seen, self._reads_again = 0, True
        if kept is not None:
            place = msgspec.json.decode(kept, type=_Kept)
            self._seen, self._counts = place.seen, place.counts
            self._stream.read_from(place.checkpoint.sequence, place.seen)
            self._collector = Collector(self._collecting, self._dataset, place.checkpoint)
            self._unmatched.extend(place.unmatched)
            log.info("Reads the stream again from message %d on", place.checkpoint.sequence)
        if self._labels is not None:
            await self._labels.load()
        self._opened = True

    async def _save_all(self) -> None:
        """Have the database take labels and records, then join what belongs together."""
        if self._labels is not None and self._new_labels:
            self._check()
            await self._labels.add(self._new_labels)
        self._new_labels = []
        while self._records:
            part = [self._records[place] for place in range(min(len(self._records), RECORDS_AT_ONCE))]
            await self._save(part)
            for _ in part:
                self._records.popleft()
        if self._labels is not None:
            await self._join(self._labels)

    async def _save(self, records: Sequence[CollectedRecord]) -> None:
        self._check()
        good, sent_before = list(records), self._unanswered.intersection(each.key for each in records)
        new = await self._new(records) if self._collecting.record.predict else set()
        self._unanswered |= new
        while good:
            try:
                # Ordered by the time of the record: a label, which is measured later, is newer.
                saved = await self._database.save_raw([{**each.record, ORDER: each.time.timestamp()} for each in good])
                break
            except InvalidRecordError as error:
                bad = {int(fault["record"]) for fault in error.faults}
                if not bad:
                    raise
                self._note(f"record {good[min(bad)].key}: {error.message}")
                log.warning("The database refuses %d records: %s", len(bad), error.message)
                self._count(refused=len(bad))
                good = [each for place, each in enumerate(good) if place not in bad]
        else:
            self._unanswered.difference_update(each.key for each in records)
            return
        self._unanswered.difference_update(each.key for each in records)
        self._reads_again = self._reads_again and saved.existing > 0
        # Also those that a killed process had saved: what it counted after the place is lost.
        self._count(records=saved.inserted + saved.existing)
        if self._labels is not None:
            self._labels.saved(each.key for each in good)
        predicted = [each for each in good if each.key in new]
        if predicted and (saved.inserted or sent_before):
            task = asyncio.create_task(self._predict(predicted))
            self._predicting.add(task)
            task.add_done_callback(self._predicting.discard)

    async def _new(self, records: Sequence[CollectedRecord]) -> set[str]:
        """Return the keys of records that were not saved before: a stream that is read again gives records once more."""
        keys = {each.key for each in records}
        if self._reads_again and (unknown := keys - self._unanswered):
            keys -= set((await self._database.raw_by_keys(list(unknown))).column(ID).to_pylist()) & unknown
        return keys

    async def _predict(self, records: Sequence[CollectedRecord]) -> None:
        """Ask for predictions, once, also across a restart: a later one is not what the plant would have been told."""
        try:
            predictions = await self._serving.predict([each.record for each in records])
        except ComplexSystemError as error:
            log.warning("%d records were not predicted: %s", len(records), error.message)
            self._note(f"not predicted: {error.message}")
        else:
            self._count(predicted=len(predictions))

    async def _join(self, labels: LabelBook) -> None:
        self._check()
        await labels.join(self._now)
        outcome, labels.outcome = labels.outcome, Outcome()
        self._count(labels=outcome.joined, refused=len(outcome.refused), unmatched=len(outcome.unmatched))
        self._note(*outcome.refused)
        self._unmatched.extend(_shown(label) for label in outcome.unmatched)

    async def _keep_place(self) -> None:
        self._check()
        kept = _Kept(self._collector.checkpoint(), self._seen, self._counts, tuple(self._unmatched))
        await self._stream.keep(msgspec.json.encode(kept))
        self._kept_at = self._now

    def _note(self, *texts: str) -> None:
        """Keep the newest messages; one that comes again is kept once."""
        for text in texts:
            self._notes[text] = self._notes.pop(text, 0) + 1
            if len(self._notes) > _NOTES:
                del self._notes[next(iter(self._notes))]

    def _count(self, **more: int) -> None:
        if any(more.values()):
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})


def _sensor(state: SensorState) -> Sensor:
    at = state.time.timestamp() if state.time else None
    return Sensor(
        name=f"{state.machine}.{state.name}", value=state.value, unit=state.unit, at=at, age=state.age,
        per_second=state.rate, silent=state.silent,
    )  # fmt: skip


def _open(record: WaitingRecord, now: float) -> OpenRecord:
    """Return an open record with what it waits for: late readings, and the columns that have none yet."""
    waits = f"late readings, {max(record.until.timestamp() - now, 0):,.1f} s more"
    missing = f"; nothing yet for {', '.join(record.missing)}" if record.missing else ""
    return OpenRecord(key=record.key, at=record.time.timestamp(), waits_for=waits + missing)


def _shown(label: Label) -> OpenLabel:
    return OpenLabel(record=label.record, value=label.value, at=label.at)
