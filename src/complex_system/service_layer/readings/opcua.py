"""An OPC UA server's nodes as Things on the broker, and what the service says of it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from complex_system.background import run_concurrently
from complex_system.messaging.ingest.thing_publisher import ThingPublisher
from complex_system.messaging.service import SystemService
from complex_system.protocol.operations import State
from complex_system.sources.opcua.declaration import OpcUaDeclaration

if TYPE_CHECKING:
    from complex_system.sources.opcua.source import OpcUaSource
    from complex_system.sources.things import ThingReading

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at the state
_COUNTED = 60.0  # seconds between two states that differ in their counts only
_LAST_SECONDS = 1.0  # for what is not published yet when the service ends


class OpcUaReadings:
    """Reads the server until the service ends."""

    def __init__(self, service: SystemService) -> None:
        """Prepare the work of a service whose settings name a declaration."""
        self._service = service
        self._file = Path(service.settings.config_dir) / service.settings.opcua_file

    def __str__(self) -> str:
        return f"the nodes in {self._file}"

    async def run(self) -> None:
        """Read and publish.

        Raises:
            DeclarationError: The declaration, a certificate or the key cannot be read.
        """
        from complex_system.sources.opcua.source import OpcUaSource  # and with it asyncua

        settings = self._service.settings
        declaration = await asyncio.to_thread(OpcUaDeclaration.load, self._file)
        publisher = ThingPublisher(self._service.broker, declaration.buffer)

        def take(reading: ThingReading) -> None:
            publisher.put(reading.machine, reading.name, reading.value, reading.at, reading.unit)

        source = OpcUaSource(declaration, take, settings.opcua_user, settings.opcua_password)
        reading = asyncio.create_task(run_concurrently(source.run(), publisher.run()))
        try:
            await self._report(source, publisher, reading, len(declaration.nodes))
            await publisher.drain(_LAST_SECONDS)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _report(self, source: OpcUaSource, publisher: ThingPublisher, reading: asyncio.Task[None], nodes: int) -> None:
        """Set the service's state until it ends, or until the reading fails, whose error is raised."""
        said: tuple[str, ...] | None = None
        at = 0.0
        while not reading.done() and not await self._service.wait_for_shutdown(_LOOK):
            faults = source.state.faults
            if publisher.problem:
                faults = (*faults, f"readings wait: {publisher.problem}")
            if publisher.dropped:
                faults = (*faults, "readings were dropped, because more waited than 'buffer' allows")
            if faults == said and time.monotonic() - at < _COUNTED:
                continue
            said, at = faults, time.monotonic()
            dropped = f", {publisher.dropped:,} dropped" if publisher.dropped else ""
            counts = f"{source.state.counts}; {publisher.published:,} published{dropped}"
            waiting = source.state.problem or publisher.problem
            state: State = "waiting" if waiting else "failing" if len(source.state.unknown) == nodes else "ready"
            await self._service.set_state(state, "; ".join((f"{nodes} nodes", *faults, counts)))
        if reading.done():
            reading.result()
