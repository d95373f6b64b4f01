"""The source: makes a seeded stock of lab records and then a slow stream of new measurements, or replays a file."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory, has_known_function
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError, InvalidRequestError
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import (
    GET_SCENARIO,
    SCENARIO_CHANGED,
    SET_SCENARIO,
    ScenarioRequest,
    ScenarioState,
    State,
)
from complex_system.service_layer.readings.opcua import OpcUaReadings
from complex_system.sources.delivery import Delivery, source_name
from complex_system.sources.file_source import FileSource
from complex_system.sources.folder_source import FolderSource
from complex_system.sources.scenarios import Disturbance, Scenario
from complex_system.sources.table_source import TableSource

log = logging.getLogger(__name__)


class DummyDataGenerationService(SystemService):
    """A source that gives its records keys and sends a batch again, with the same keys, until the database has it.

    The same seed makes the same stock, and a file gives the same records each time, so a restart sends them again and changes
    nothing.
    """

    acts_alone: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        send: Callable[[list[Record], float | None], Awaitable[Any]] = DatabaseClient(self).save_raw
        if self.settings.source_sends == "messages":
            send = IngestClient(self.broker, self.settings, type(self).__name__, self.service_name()).publish
        self._delivery = Delivery(self, send, "published" if self.settings.source_sends == "messages" else "saved")
        self._source = self._declared_source()
        self._laboratory = Laboratory(secrets.randbits(64))
        self._disturbance = Disturbance(secrets.randbits(64))
        self._scenario = Scenario()
        self._due = 0.0

    @override
    def lease_key(self) -> str:
        """Sources of other files, folders and tables, or with another seed, run beside each other."""
        settings = self.settings
        source = source_name(settings) if settings.source_table or settings.source_folder else settings.source_file
        source = settings.opcua_file or source
        return hashlib.sha256(f"{self.dataset.name}\0{source or settings.seed}".encode()).hexdigest()[:16]

    def _declared_source(self) -> FileSource | FolderSource | TableSource | OpcUaReadings | None:
        """Return the source that the settings name; None for lab records."""
        settings, documents = self.settings, DocumentClient(self)
        if settings.opcua_file:
            return OpcUaReadings(self)
        if settings.source_table:
            return TableSource(self, self._delivery, documents)
        if settings.source_folder:
            return FolderSource(self, self._delivery, documents, Path(settings.config_dir) / settings.source_folder)
        if settings.source_file:
            return FileSource(self, self._delivery, Path(settings.config_dir) / settings.source_file)
        return None

    @override
    async def on_start(self) -> None:
        if self._source:
            self.run_task(self._until_refused(self._source.run))
        elif has_known_function(self.dataset):
            self.run_task(self._until_refused(self._make))

    @override
    def initial_state(self) -> tuple[State, str]:
        if self._source:
            return "working", f"reading {self._source}"
        if has_known_function(self.dataset):
            return "working", str(self._delivery.progress)
        return "ready", (
            f"makes lab records only, and none for the data set '{self.dataset.name}'; name a file with COMPLEX_SYSTEM_SOURCE_FILE "
            "(a copy of the lab's declaration makes them with 'law: laboratory')"
        )

    async def _until_refused(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ComplexSystemError as error:
            log.critical("The source stops, no more records are made: %s", error.message)
            await self.set_state("failing", error.message)

    # Dummy data

    async def _make(self) -> None:
        records = Laboratory(self.settings.seed).records(self.settings.records)
        stock = iter(lambda: list(islice(records, self.settings.batch_size)), [])
        await self._delivery.send_all(stock, self._save_stock)
        if self.settings.scenario != "normal" and self._scenario.name == "normal":
            await self._begin(self.settings.scenario, self.settings.scenario_ramp)
        while not self._shutdown_event.is_set():
            scenario = "" if self._scenario.name == "normal" else f", scenario {self._scenario.name}"
            await self.set_state("ready", f"{self._delivery.progress}{scenario}")
            await self._measure()
            await self.wait_for_shutdown(1.0)

    async def _save_stock(self, records: list[Record]) -> bool:
        saved = await self._delivery.save(records)
        if saved:
            await self._delivery.count(len(records))
        return saved

    async def _measure(self) -> None:
        """Send the measurements of one second of the live stream, with keys and time of now."""
        self._due += self.settings.live_rate
        due = min(int(self._due), self.settings.batch_size)
        self._due %= 1
        now, local = time.time(), datetime.now().strftime("%d.%m.%Y, %H:%M:%S")  # noqa: DTZ005 - the lab writes local time
        measured = (self._disturbance.apply(record, self._scenario, now) for record in self._laboratory.records(due))
        batch = [{**record, ID: new_key(), "datum": local} for record in measured]
        if batch:
            await self._delivery.save(batch)

    @answers(SET_SCENARIO)
    async def _set_scenario(self, request: ScenarioRequest) -> ScenarioState:
        """Start a scenario with the live records."""
        if self._source or not has_known_function(self.dataset):
            raise InvalidRequestError("Scenarios change lab records only, and this source makes none.")
        await self._begin(request.scenario, self.settings.scenario_ramp if request.ramp is None else request.ramp)
        return self._scenario.state(time.time())

    @answers(GET_SCENARIO)
    async def _get_scenario(self, _: Empty) -> ScenarioState:
        return self._scenario.state(time.time())

    async def _begin(self, name: str, ramp: float) -> None:
        self._scenario = Scenario.named(name, time.time(), ramp)
        log.info("Scenario '%s' begins", self._scenario.name)
        await self.announce(SCENARIO_CHANGED, self._scenario.state(time.time()))
