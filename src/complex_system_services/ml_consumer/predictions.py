"""Requests for predictions of records whose true target may be known, and where the records come from."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory, has_known_function
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError, InvalidRecordError
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.operations import ScenarioState
from complex_system.protocol.serving import Origin, Truth
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.sources.scenarios import TARGET, Disturbance, Scenario
from complex_system.training.split import Part, groups_of, parts_of

log = logging.getLogger(__name__)

REFUSALS = 3
"""Consecutive requests of which no record is accepted, until that is logged."""
LOGGED = 2
"""Predictions of a request that are logged."""

Probe = tuple[Record, float | None]
"""A raw record without its target, and the target's true value or None."""


class Probes(ABC):
    """Source of the records.

    Attributes:
        origin: As what the requests count.
    """

    origin: ClassVar[Origin] = "own"

    @abstractmethod
    async def draw(self, count: int) -> list[Probe]:
        """Return at most ``count`` records."""


class LabProbes(Probes):
    """New lab records, never stored, measured under the source's scenario; the truth is their target."""

    origin: ClassVar[Origin] = "probe"

    def __init__(self) -> None:
        self._scenario = Scenario()
        self._disturbance = Disturbance(time.time_ns())

    def follow(self, state: ScenarioState) -> None:
        """Measure under this scenario from now on."""
        self._scenario = Scenario.named(state.scenario, state.began_by(time.time()), state.ramp)

    @override
    async def draw(self, count: int) -> list[Probe]:
        laboratory = Laboratory(seed=time.time_ns(), start=datetime.now())  # noqa: DTZ005 - the lab writes local time
        now = time.time()
        records = [self._disturbance.apply(laboratory.measured_record(), self._scenario, now) for _ in range(count)]
        return [({**record, TARGET: None}, record[TARGET]) for record in records]


class StoredProbes(Probes):
    """Stored raw records of any data set. The truth is known where a record of the hold-out part carries its target.

    Every draw takes the next page, and after the last one the first again, so that all records have their turn. Records that
    models were trained on are left out: their error would flatter the model. With a split by group or time, what is in the
    hold-out part moves with the records, so it is that of the last comparison, and there is none before the first one.

    Attributes:
        round: The last comparison; empty for none.
        since: Of which records the last models were trained on newer ones only; None for all.
    """

    PAGE = 200
    HELD_OUT = 1000
    """Keys of hold-out records that are drawn from, with a split by group or time."""

    def __init__(self, database: DatabaseClient, dataset: Dataset) -> None:
        self._database, self._dataset = database, dataset
        self.round = ""
        self.since: float | None = None
        self._held_out: list[str] = []
        self._held_out_in = ""
        self._target = dataset.target
        self._pipeline, self._schema = Pipeline(dataset), raw_schema(dataset)
        self._after: str | None = None

    @override
    async def draw(self, count: int) -> list[Probe]:
        if self._dataset.split.by != "key" and (keys := await self._held_out_keys()):
            found: list[Record] = (await self._database.raw_by_keys(random.sample(keys, min(count, len(keys))))).to_pylist()
            return [({**each, self._target: None}, each[self._target]) for each in found]
        continued = self._after is not None
        records = await self._next_page()
        if not records and continued:  # the last page was full, and nothing came after it
            records = await self._next_page()
        if not records:
            return []
        unseen = await asyncio.to_thread(self._unseen, records)
        # A record that models may have seen has a target that monitoring would find in the database: it is not asked for.
        usable = unseen or [record for record in records if record[self._target] is None]
        chosen = random.sample(usable, min(count, len(usable)))
        return [({**record, self._target: None}, record[self._target] if unseen else None) for record in chosen]

    async def _held_out_keys(self) -> list[str]:
        if self._held_out_in != self.round:
            self._held_out = await LabelledData(self._dataset, self._database).held_out(self.HELD_OUT, self.since)
            self._held_out_in = self.round
        return self._held_out

    def _unseen(self, records: list[Record]) -> list[Record]:
        """Return the labelled records of the hold-out part; none with a split by group or time, which no page tells."""
        labelled = [record for record in records if record[self._target] is not None]
        if not labelled or self._dataset.split.by != "key":
            return []
        processed, _ = self._pipeline.split(pa.Table.from_pylist(labelled, schema=self._schema))
        table = processed.to_arrow()
        parts = parts_of(groups_of(self._pipeline.dataset, table))
        unseen = {key for key, part in zip(table.column(ID).to_pylist(), parts, strict=True) if part == Part.HOLDOUT}
        return [record for record in labelled if record[ID] in unseen]

    async def _next_page(self) -> list[Record]:
        # No record was processed with this version, so these are pages of all raw records.
        page = await self._database.unprocessed("none", self.PAGE, self._after)
        records: list[Record] = page.table.to_pylist()
        self._after = page.next
        return records


def probes_for(dataset: Dataset, database: DatabaseClient) -> Probes:
    """Return the source of records for a data set."""
    return LabProbes() if has_known_function(dataset) else StoredProbes(database, dataset)


class PredictionRequests:
    """Asks for predictions of records whose truth may be known."""

    def __init__(self, probes: Probes, serving: ServingClient, count: int) -> None:
        """Prepare requests.

        Args:
            probes: Where the records come from.
            serving: Predicts.
            count: Records in a request.
        """
        self._probes = probes
        self._serving = serving
        self._count = count
        self._failed = ""
        self._refusals = 0

    async def make(self) -> list[Truth]:
        """Make one request; return the truths of the predicted records, none when nothing was predicted."""
        try:
            probes = await self._probes.draw(self._count)
            probes, predictions = await self._predicted(probes)
        except ComplexSystemError as error:
            # Logged once and not every few seconds: this is normal before the first model.
            if self._failed != error.code:
                self._failed = error.code
                log.warning("No prediction: %s", error.message)
            return []
        self._failed = ""
        for (_, truth), prediction in list(zip(probes, predictions, strict=True))[:LOGGED]:
            if truth is None:
                log.info("Prediction %.2f, truth not known", prediction)
            else:
                log.info("Prediction %.2f, truth %.2f, error %+.2f", prediction, truth, prediction - truth)
        return [Truth(id=record[ID], truth=truth) for record, truth in probes if truth is not None]

    async def _predicted(self, probes: list[Probe]) -> tuple[list[Probe], list[float]]:
        """Return the records that can be processed, and their predictions; the others are left out."""
        while probes:
            try:
                predictions = await self._serving.predict([record for record, _ in probes])
                self._refusals = 0
                return probes, predictions
            except InvalidRecordError as error:
                bad = {int(fault["record"]) for fault in error.faults}
                if not bad:
                    raise
                log.debug("%d records are not predicted: %s", len(bad), error.message)
                probes = [probe for place, probe in enumerate(probes) if place not in bad]
                if not probes:
                    # It may last: after a change of the declaration, the old model may need a column that no longer exists.
                    self._refusals += 1
                    if self._refusals == REFUSALS:
                        log.warning("No prediction: the model that answers accepts none of the records. %s", error.message)
        return [], []
