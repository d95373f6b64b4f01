"""The labelled records for a round: samples to compare models on, and the key at which the newest records begin."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import key_at
from complex_system.evaluation.comparison import ToCompare
from complex_system.messaging.clients import DatabaseClient
from complex_system.training.cross_validation import FewRecords
from complex_system.training.data import MIN_SAMPLES, SampleCollector, UnseenHoldout
from complex_system.training.split import Part
from complex_system.training.targets import TargetCheck


class LabelledData:
    """Labelled processed records of the present pipeline version. Newest are those with the largest keys."""

    def __init__(self, dataset: Dataset, database: DatabaseClient) -> None:
        self._dataset = dataset
        self._database = database

    async def to_compare(
        self, newest: int, after: str | None = None, train: int = 0, few: int = 0, champion_split: str = ""
    ) -> ToCompare:
        """Return the newest samples of the hold-out part, which no trainer sees, and some of the training part.

        Args:
            newest: How many of the hold-out part, at most; 0 for all.
            after: Only those with larger keys.
            train: How many of the training part, at most about; 0 for none.
            few: Return all records, too, where they are fewer than this.
            champion_split: By what the records of the champion were divided, which takes part; empty for the present split.

        Raises:
            NotEnoughDataError: There are too few to compare models with.
        """
        collector = SampleCollector(self._dataset, [Part.HOLDOUT], newest)
        trained = SampleCollector(self._dataset, [Part.TRAIN])
        every = FewRecords(self._dataset, few)
        targets = TargetCheck(self._dataset)
        other = UnseenHoldout(self._dataset, champion_split) if champion_split else None
        pages = self._database.processed_pages(collector.columns, labelled=True, version=self._dataset.version, start=after)
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                await asyncio.to_thread(collector.add, page.table)
                await asyncio.to_thread(targets.add, page.table)
                if trained.count() < train:
                    await asyncio.to_thread(trained.add, page.table)
                if other is not None:
                    await asyncio.to_thread(other.add, page.table)
                every.add(page.table)
        fitted = trained.samples(Part.TRAIN) if trained.count() >= MIN_SAMPLES else None
        holdout = collector.samples(Part.HOLDOUT)
        if self._dataset.copies_together:
            holdout = holdout.without_copies()
        if len(holdout) < MIN_SAMPLES:
            raise collector.too_few(Part.HOLDOUT, len(holdout))
        unseen = None if other is None else await asyncio.to_thread(other.samples, newest)
        copies, suspects = await asyncio.to_thread(collector.copies.found), await asyncio.to_thread(targets.found)
        return ToCompare(holdout, fitted, every.keyed(), copies, unseen, suspects)

    async def newest(self, count: int, since: float) -> tuple[int, str | None]:
        """Look for the newest labelled records since a time.

        When a record was made is known to its source only, whose clock may be wrong; when it arrived is known to the database.

        Args:
            count: How many are wanted.
            since: By the database's clock, epoch seconds. Left out are the keys up to the largest one that arrived before.

        Returns:
            How many there are, and the key after which the newest ``count`` begin; None while there are fewer.
        """
        first = await self._database.last_key(since) or key_at(0.0)
        keys: list[str] = []
        seen = 0
        pages = self._database.processed_pages([ID], labelled=True, version=self._dataset.version, start=first)
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                seen += page.table.num_rows
                keys = [*keys, *page.table.column(ID).to_pylist()][-count - 1 :]
        if seen < count:
            return seen, None
        return seen, keys[0] if len(keys) > count else first
