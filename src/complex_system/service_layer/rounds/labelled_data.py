"""The labelled records for a round: samples to compare models on, and the time at which the newest records begin."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.record_time import RecordTimes
from complex_system.evaluation.comparison import ToCompare
from complex_system.messaging.clients import DatabaseClient
from complex_system.training.cross_validation import FewRecords
from complex_system.training.data import MIN_SAMPLES, SampleCollector, UnseenHoldout
from complex_system.training.split import Part
from complex_system.training.targets import TargetCheck


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
        champion_split: str = "",
        after: str | None = None,
    ) -> ToCompare:
        """Return the newest samples of the hold-out part, which no trainer sees, and some of the training part.

        Args:
            newest: How many of the hold-out part, at most; 0 for all.
            since: Only those whose time is later.
            train: How many of the training part, at most about; 0 for none.
            few: Return all records, too, where they are fewer than this.
            champion_split: By what the records of the champion were divided, which takes part; empty for the present split.
            after: Only those with larger keys, of a round before times were asked for.

        Raises:
            NotEnoughDataError: There are too few to compare models with.
        """
        # Where all fit, nobody has to know their times.
        newest = newest if newest and (await self._database.counts()).labelled > newest else 0
        collector = SampleCollector(self._dataset, [Part.HOLDOUT], newest)
        trained = SampleCollector(self._dataset, [Part.TRAIN])
        every = FewRecords(self._dataset, few)
        targets = TargetCheck(self._dataset)
        other = UnseenHoldout(self._dataset, champion_split) if champion_split else None
        times = RecordTimes(self._dataset)
        pages = self._database.processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, start=after,
            raw=collector.raw if since is None else times.raw, arrived_after=since,
        )  # fmt: skip
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                table = await asyncio.to_thread(times.newer, page.table, since)
                await asyncio.to_thread(collector.add, table)
                await asyncio.to_thread(targets.add, table)
                if trained.count() < train:
                    await asyncio.to_thread(trained.add, table)
                if other is not None:
                    await asyncio.to_thread(other.add, table)
                every.add(table)
        fitted = trained.samples(Part.TRAIN) if trained.count() >= MIN_SAMPLES else None
        holdout = collector.samples(Part.HOLDOUT)
        if self._dataset.copies_together:
            holdout = holdout.without_copies()
        if len(holdout) < MIN_SAMPLES:
            raise collector.too_few(Part.HOLDOUT, len(holdout))
        unseen = None if other is None else await asyncio.to_thread(other.samples, newest)
        copies, suspects = await asyncio.to_thread(collector.copies.found), await asyncio.to_thread(targets.found)
        return ToCompare(holdout, fitted, every.keyed(), copies, unseen, suspects)

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
