"""The labelled records for a round: samples to compare models on, and the time at which the newest records begin."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.record_time import RecordTimes
from complex_system.errors import ComplexSystemError, NotEnoughDataError
from complex_system.evaluation.comparison import ToCompare
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.reference import RAW_SAMPLE, Reference
from complex_system.training.cross_validation import FewRecords
from complex_system.training.data import MIN_SAMPLES, SampleCollector, TrainingData
from complex_system.training.split import Part
from complex_system.training.targets import TargetCheck

log = logging.getLogger(__name__)


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
        seen: Sequence[float] = (),
        champion_seen: float | None = None,
        moved_since: float | None = None,
    ) -> ToCompare:
        """Return the newest samples of the hold-out part, which no trainer sees, and some of the training part.

        Args:
            newest: How many of the hold-out part, at most; 0 for all.
            since: Only those whose time is later.
            train: How many of the training and validation parts, at most about; 0 for none.
            few: Return all records, too, where they are fewer than this.
            after: Only those with larger keys, of a round before times were asked for.
            seen: When the newest records of the new models' trainings had arrived, with a split by group or time.
            champion_seen: The same of the champion; None where it does not take part.
            moved_since: The hold-out samples that decide are only those whose time is later; the others are returned beside them.

        Raises:
            NotEnoughDataError: There are too few to compare models with.
        """
        # Where all fit, nobody has to know their times.
        newest = newest if newest and (await self._database.counts()).labelled > newest else 0
        timed, by_key = moved_since is not None, self._dataset.split.by == "key"
        newest_held_out = 0 if timed else newest
        collector = SampleCollector(
            self._dataset, [Part.HOLDOUT], newest_held_out, keys=0 if by_key else RAW_SAMPLE, timed=timed
        )
        trained = collector
        if by_key:
            trained = SampleCollector(self._dataset, [Part.TRAIN, Part.VALIDATION], keys=RAW_SAMPLE)
        every = FewRecords(self._dataset, few)
        targets = TargetCheck(self._dataset)
        times = RecordTimes(self._dataset)
        pages = self._database.processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, start=after,
            raw=times.raw if since is not None and collector.raw is None else collector.raw, arrived_after=since,
        )  # fmt: skip
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                table = await asyncio.to_thread(times.newer, page.table, since)
                await asyncio.to_thread(collector.add, table)
                await asyncio.to_thread(targets.add, table)
                if by_key and trained.count() < train:
                    await asyncio.to_thread(trained.add, table)
                every.add(table)
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
        keys = [] if training is None else await asyncio.to_thread(trained.keys, Part.TRAIN)
        suspects = await asyncio.to_thread(targets.found)
        return ToCompare(holdout, training, keyed, copies, champion_has_seen, collector.notes, suspects, keys, everything)

    async def reference(self, training: TrainingData, keys: list[str]) -> bytes:
        """Describe training data as a trainer does it, for the drift of a model that is trained here.

        Args:
            training: The data.
            keys: A sample of their keys.
        """
        raw: pa.Table | None = None
        try:
            raw = await self._database.raw_by_keys(keys)
        except ComplexSystemError as error:
            log.warning("The reference of the linear model is without raw columns: %s", error.message)
        return (await asyncio.to_thread(Reference.of, self._dataset, training.train.x, raw)).encoded()

    async def held_out(self, most: int, since: float | None = None) -> list[str]:
        """Return keys of the hold-out part, an even sample where there are more than ``most``; of records since a time, or of all."""
        collector, times = SampleCollector(self._dataset, [], keys=most), RecordTimes(self._dataset)
        pages = self._database.processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, arrived_after=since,
            raw=times.raw if collector.raw is None else collector.raw,
        )  # fmt: skip
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                await asyncio.to_thread(collector.add, times.newer(page.table, since))
        return await asyncio.to_thread(collector.keys, Part.HOLDOUT)

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
