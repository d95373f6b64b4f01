"""Fetches the reference of drift: from the champion's run, and from the database while there is no champion."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from datetime import datetime

from complex_system.background import run
from complex_system.domain.dataset import Dataset
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.monitoring.reference import RAW_SAMPLE, Reference, density_of
from complex_system.tracking.registry import CHAMPION_SINCE, ModelRegistry, ModelVersionRef
from complex_system.training.data import SampleCollector
from complex_system.training.split import Part

log = logging.getLogger(__name__)

MAX_REFERENCE = 50_000
"""Training samples of a reference from the database, at most."""


class ReferenceSource:
    """Fetches references."""

    def __init__(
        self, dataset: Dataset, registry: ModelRegistry, database: DatabaseClient, documents: DocumentClient
    ) -> None:
        self._dataset = dataset
        self._registry = registry
        self._database = database
        self._documents = documents

    async def champion(self) -> tuple[ModelVersionRef, Reference | None] | None:
        """Return the champion and what it was trained on, or None without a champion.

        The reference is None where the champion's run has none for this pipeline.

        Raises:
            TrackingUnavailableError: MLflow does not answer.
        """

        def load() -> tuple[ModelVersionRef, bytes | None] | None:
            champion = self._registry.champion()
            return None if champion is None else (champion, self._registry.load_reference(champion))

        found = await run(load, "mlflow")
        if found is None:
            return None
        champion, encoded = found
        if encoded is None:
            return champion, None
        try:
            reference = Reference.decoded(encoded)
        except ValueError as error:
            log.warning("The reference of %s version %s cannot be read: %s", champion.model, champion.version, error)
            return champion, None
        return champion, (reference if reference.pipeline_version == self._dataset.version else None)

    async def from_database(self) -> Reference:
        """Return a reference of the labelled training records in the database.

        Raises:
            NotEnoughDataError: There are too few.
        """
        collector, labelled = SampleCollector(self._dataset, [Part.TRAIN], keys=RAW_SAMPLE, timed=True), 0
        pages = self._database.processed_pages(
            collector.columns, labelled=True, version=self._dataset.version, raw=collector.raw
        )
        async with aclosing(pages):  # type: ignore[type-var]
            async for page in pages:
                await asyncio.to_thread(collector.add, page.table)
                labelled += page.table.num_rows
                if collector.is_by_key and collector.count() >= MAX_REFERENCE:
                    break
        features = collector.samples(Part.TRAIN).in_order()
        density = density_of(self._dataset, len(features), labelled) * (await self._database.counts()).labelled_share
        raw = await self._documents.raw_by_keys(collector.keys(Part.TRAIN))
        return await asyncio.to_thread(Reference.of, self._dataset, features[:MAX_REFERENCE], raw, "database", density)


def crowned_at(champion: ModelVersionRef) -> float:
    """Return since when a version is the champion, seconds since 1970; its registration where that is not known."""
    since = champion.tags.get(CHAMPION_SINCE)
    try:
        return datetime.fromisoformat(since).timestamp() if since else champion.created_at.timestamp()
    except ValueError:
        return champion.created_at.timestamp()
