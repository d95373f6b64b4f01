"""Records to ask predictions for, with the truth where it is known."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any

from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, has_known_function
from complex_system.domain.records import Record
from complex_system.messaging.clients import DatabaseClient
from complex_system.sources.scenarios import TARGET, Disturbance, Scenario
from complex_system.training.data import Part, parts_of

Probe = tuple[Record, float | None]
"""A raw record without its target, and the target's true value or None."""


class Probes(ABC):
    """Where the records come from."""

    @abstractmethod
    async def draw(self, count: int) -> list[Probe]:
        """At most ``count`` records."""


class LabProbes(Probes):
    """New lab records, never stored, measured under the source's scenario; the truth is the target that the record came with."""

    def __init__(self) -> None:
        self._scenario = Scenario()
        self._disturbance = Disturbance(time.time_ns())

    def follow(self, message: dict[str, Any]) -> None:
        """Takes the scenario from a message of the source."""
        self._scenario = Scenario.named(message.get("scenario"), float(message["began"]), message["ramp"])

    @override
    async def draw(self, count: int) -> list[Probe]:
        laboratory = Laboratory(seed=time.time_ns(), start=datetime.now())  # noqa: DTZ005 - the lab writes local time
        now = time.time()
        records = [self._disturbance.apply(laboratory.measured_record(), self._scenario, now) for _ in range(count)]
        return [({**record, TARGET: None}, record[TARGET]) for record in records]


class StoredProbes(Probes):
    """Stored raw records of any data set. The truth is known where a record of the hold-out part carries its target.

    Every draw takes the next page, and after the last one the first again, so that in time all records have their turn. Records
    that models were trained on are never asked for with a truth: their error would flatter the model.
    """

    PAGE = 200

    def __init__(self, database: DatabaseClient, dataset: Dataset) -> None:
        self._database = database
        self._target = dataset.target
        self._after: str | None = None

    @override
    async def draw(self, count: int) -> list[Probe]:
        continued = self._after is not None
        records = await self._next_page()
        if not records and continued:  # the last page was full, and nothing came after it
            records = await self._next_page()
        if not records:
            return []
        parts = parts_of(record[ID] for record in records)
        unseen = [record for record, part in zip(records, parts, strict=True)
                  if part == Part.HOLDOUT and record[self._target] is not None]  # fmt: skip
        chosen = random.sample(unseen or records, min(count, len(unseen or records)))
        return [({**record, self._target: None}, record[self._target] if unseen else None) for record in chosen]

    async def _next_page(self) -> list[Record]:
        # No record was processed with this version, so these are pages of all raw records.
        page = await self._database.unprocessed("none", self.PAGE, self._after)
        records: list[Record] = page.table.to_pylist()
        self._after = page.next
        return records


def probes_for(dataset: Dataset, database: DatabaseClient) -> Probes:
    """The source of records for a data set."""
    return LabProbes() if has_known_function(dataset) else StoredProbes(database, dataset)
