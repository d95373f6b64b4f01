"""The labelled records for a round: samples to compare models on, and the key at which the newest records begin."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import key_at
from complex_system.messaging.clients import DatabaseClient
from complex_system.training.cross_validation import FewRecords, Keyed
from complex_system.training.data import MIN_SAMPLES, Part, SampleCollector, Samples


@dataclass(frozen=True)
class ToCompare:
    """Samples to compare models on.

    Attributes:
        holdout: Samples that no registered model was fitted to.
        train: Samples for the baselines; None where there are too few or none were asked for.
        few: All labelled records, where they are few.
        records: Labelled records that were looked at.
        copies: Those of them whose features and target are those of an earlier one.
    """

    holdout: Samples
    train: Samples | None = None
    few: Keyed | None = None
    records: int = 0
    copies: int = 0


class LabelledData:
    """Labelled processed records of the present pipeline version. Newest are those with the largest keys."""

    def __init__(self, dataset: Dataset, database: DatabaseClient) -> None:
        self._dataset = dataset
        self._database = database

    async def to_compare(self, newest: int, after: str | None = None, train: int = 0, few: int = 0) -> ToCompare:
        """Return the newest samples of the hold-out part, which no trainer sees, and some of the training part.

        Args:
            newest: How many of the hold-out part, at most; 0 for all.
            after: Only those with larger keys.
            train: How many of the training part, at most about; 0 for none.
            few: Return all records, too, where they are fewer than this.

        Raises:
            NotEnoughDataError: There are too few to compare models with.
        """
        collector = SampleCollector(self._dataset, [Part.HOLDOUT], newest)
        trained = SampleCollector(self._dataset, [Part.TRAIN])
        every = FewRecords(self._dataset, few)
        pages = self._database.processed_pages(collector.columns, labelled=True, version=self._dataset.version, start=after)
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                await asyncio.to_thread(collector.add, page.table)
                if trained.count() < train:
                    await asyncio.to_thread(trained.add, page.table)
                every.add(page.table)
        fitted = trained.samples(Part.TRAIN) if trained.count() >= MIN_SAMPLES else None
        holdout, copies = collector.samples(Part.HOLDOUT), collector.copies
        if self._dataset.copies_together:
            holdout = holdout.without_copies()
        return ToCompare(holdout, fitted, every.keyed(), copies.records, copies.copies)

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
