"""The labelled records for a round: samples to compare models on, and the time at which the newest records begin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.record_time import RecordTimes
from complex_system.errors import NotEnoughDataError
from complex_system.evaluation.comparison import ToCompare
from complex_system.evaluation.stacking import HoldOut
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.reference import RAW_SAMPLE
from complex_system.service_layer.training.description import training_description
from complex_system.training.conformal import are_calibration, set_apart
from complex_system.training.cross_validation import FewRecords
from complex_system.training.data import MIN_SAMPLES, SampleCollector, TrainingData
from complex_system.training.grouping import OriginCollector, Read, divide
from complex_system.training.split import KeySample, Part
from complex_system.training.targets import TargetCheck
from complex_system.training.training_set import MAX_LISTED


class LabelledData:
    """Labelled processed records of the present pipeline version. Newest are those of the latest times (``domain.record_time``)."""

    def __init__(self, dataset: Dataset, database: DatabaseClient) -> None:
        self._dataset = dataset
        self._database = database

    async def to_compare(
        self,
        newest: int,
        since: float | None = None,
        train: int = 0,
        few: int = 0,
        after: str | None = None,
        seen: Sequence[Read] = (),
        champion_seen: Read | None = None,
        moved_since: float | None = None,
        *,
        stack: bool = False,
    ) -> ToCompare:
        """Return the newest samples of the hold-out part, which no trainer sees, and some of the training part.

        Args:
            newest: How many of the hold-out part, at most; 0 for all.
            since: Only those whose time is later.
            train: How many of the training and validation parts, at most about, an even sample; 0 for none.
            few: Return all records, too, where they are fewer than this.
            after: Only those with larger keys, of a round before times were asked for.
            seen: What the trainings of the new models have read, with a split by group or time.
            champion_seen: The same of the champion; None where it does not take part.
            moved_since: The hold-out samples that decide are only those whose time is later; the others are returned beside them.
            stack: Whether some of the hold-out samples are for the weights of a stack, where the records are not few.

        Raises:
            NotEnoughDataError: There are too few to compare models with.
        """
        there = (await self._database.counts()).labelled if newest or train else 0
        # Where all fit, nobody has to know their times.
        newest = newest if there > newest else 0
        timed, by_key = moved_since is not None, self._dataset.split.by == "key"
        newest_held_out = 0 if timed else newest
        collector = SampleCollector(
            self._dataset,
            [Part.HOLDOUT],
            newest_held_out,
            keys=0 if by_key else RAW_SAMPLE,
            timed=timed,
            listed=MAX_LISTED if train and not by_key else 0,
        )
        trained = collector
        share, draw, expected = 1.0, np.random.default_rng(0), there
        if by_key:
            trained = SampleCollector(
                self._dataset,
                [Part.TRAIN, Part.VALIDATION],
                keys=RAW_SAMPLE,
                timed=train > 0,
                listed=MAX_LISTED if train else 0,
            )
            if there > train > 0:
                expected = there if since is None else (await self.newest(1, since))[0]
                share = train / max(train, expected)
        every = FewRecords(self._dataset, few)
        targets = TargetCheck(self._dataset)
        times = RecordTimes(self._dataset)
        raw = trained.raw if collector.raw is None else collector.raw
        if raw is None and since is not None:
            raw = times.raw
        pages = self._database.processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, start=after, raw=raw, arrived_after=since
        )
        labelled = 0

        def sampled(table: pa.Table) -> pa.Table:
            # An even sample, since the first ones by key may be the oldest, and beside it what no trainer has trained on.
            return table.filter(
                pa.array((draw.random(table.num_rows) < share) | are_calibration(self._dataset, table, expected))
            )

        def take(page: pa.Table) -> int:
            table = times.newer(page, since)
            for each in (collector, targets, every):
                each.add(table)
            if by_key and train:
                trained.add(table if share == 1 else sampled(table))
            return int(table.num_rows)

        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                labelled += await asyncio.to_thread(take, page.table)
        holdout, champion_has_seen = await asyncio.to_thread(collector.holdout, seen, champion_seen)
        training: TrainingData | None = None
        with contextlib.suppress(NotEnoughDataError):  # then without baselines
            training = await asyncio.to_thread(trained.training_data) if train else None
        if self._dataset.copies_together:
            holdout = holdout.without_copies()
        everything = holdout if timed else None
        if moved_since is not None:
            holdout = holdout.newer(moved_since, newest)
        if len(holdout) < MIN_SAMPLES:
            raise collector.too_few(Part.HOLDOUT, len(holdout))
        keyed, copies = await asyncio.to_thread(every.keyed), await asyncio.to_thread(collector.copies.found)
        parts = HoldOut(holdout, everything)
        if stack and keyed is None:
            parts = await asyncio.to_thread(parts.divided, self._dataset.split.by)
        if training is not None and keyed is None:
            training = await asyncio.to_thread(set_apart, self._dataset, training, max(labelled, expected), sample=share < 1)
        keys = [] if training is None else await asyncio.to_thread(trained.keys, Part.TRAIN)
        suspects = await asyncio.to_thread(targets.found)
        return ToCompare(
            parts.deciding, training, keyed, copies, champion_has_seen, collector.notes, suspects, keys, parts.everything,
            labelled, parts.weights,
        )  # fmt: skip

    async def description(self, training: TrainingData, keys: list[str], labelled: int) -> tuple[bytes, dict[str, bytes]]:
        """Describe training data as a trainer does it (``training_description``), for a model that is trained here."""
        return await training_description(self._database, self._dataset, training, keys, labelled)

    async def held_out(self, most: int, since: float | None = None) -> list[str]:
        """Return keys of the hold-out part in a split by group or time, an even sample where there are more than ``most``.

        Args:
            most: How many, at most.
            since: Only of records whose time is later.
        """
        origins, sample = OriginCollector(self._dataset), KeySample(most)
        pages = self._database.processed_pages(
            list(self._dataset.processed_names), labelled=True, version=self._dataset.version, raw=origins.raw,
            arrived_after=since,
        )  # fmt: skip

        def take(page: pa.Table, first: int) -> int:
            table = origins.record_times.newer(page, since)
            origins.add(table)
            sample.add(table.column(ID), first)
            return first + int(table.num_rows)

        seen = 0
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                seen = await asyncio.to_thread(take, page.table, seen)

        def keys() -> list[str]:
            return sample.keys(divide(self._dataset.split, origins.found()) == Part.HOLDOUT)

        return await asyncio.to_thread(keys)

    async def newest(self, count: int, since: float) -> tuple[int, float | None]:
        """Look for the newest labelled records since a time.

        What is newer by its declared time also arrived later, so the database looks among what arrived since then.

        Args:
            count: How many are wanted.
            since: Epoch seconds, by the clock of the declared time, else by the database's.

        Returns:
            How many there are, and the time after which the newest ``count`` of them begin, or more where several have the same
            time; None while there are fewer.
        """
        times, found = RecordTimes(self._dataset), [np.empty(0)]
        pages = self._database.processed_pages(
            [ID], labelled=True, version=self._dataset.version, raw=times.raw, arrived_after=since
        )
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                found.append(await asyncio.to_thread(times.of, page.table))
        made = np.concatenate(found)
        made = np.sort(made[made > since])
        if len(made) < count:
            return len(made), None
        older = made[made < made[-count]]
        return len(made), float(older[-1]) if len(older) else since
