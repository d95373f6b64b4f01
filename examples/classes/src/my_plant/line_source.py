"""A source of Things: a device that sends a line of text for each value over TCP, ``temperature;181.5;2026-01-01T12:00:00+00:00``."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from datetime import datetime

from typing_extensions import override

from complex_system.sources.things import Take, ThingReading, ThingSource

PAUSE = 1.0
"""Seconds before the next attempt to connect."""


class LineSource(ThingSource):
    """Reads one device."""

    def __init__(self, machine: str, host: str, port: int, units: Mapping[str, str], take: Take) -> None:
        self._machine, self._host, self._port, self._units, self._take = machine, host, port, units, take
        self._fault = ""

    @property
    @override
    def faults(self) -> tuple[str, ...]:
        return (self._fault,) if self._fault else ()

    @override
    async def run(self) -> None:
        while True:
            try:
                await self._read()
                reason = "it has closed the connection"
            except OSError as error:
                reason = error.strerror or str(error)
            self._fault = f"{self._machine} at {self._host}:{self._port} does not answer: {reason}"
            await asyncio.sleep(PAUSE)

    async def _read(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            self._fault = ""
            while line := await reader.readline():
                with contextlib.suppress(ValueError):  # not such a line
                    name, value, at = line.decode().strip().split(";")
                    reading = ThingReading(
                        self._machine, name, float(value), datetime.fromisoformat(at), self._units.get(name, "")
                    )
                    if name in self._units and math.isfinite(float(value)) and reading.at.tzinfo:
                        self._take(reading)
        finally:
            writer.close()
