"""A source that reads the declared nodes of an OPC UA server, whatever becomes of the connection.

The connection survives what asyncua can repair. What it leaves to its user is here: nodes that the server does not have yet,
namespaces whose index has changed, and a connection from the start where a server stays away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from typing_extensions import override

from complex_system.background import run_concurrently
from complex_system.errors import SourceUnavailableError
from complex_system.sources.opcua.connection import Change, OpcUaConnection
from complex_system.sources.opcua.declaration import KEPT_SECONDS, OpcUaDeclaration, Sensor
from complex_system.sources.things import Take, ThingReading, ThingSource

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at the connection
_RETRY = 10.0  # seconds between two attempts for nodes that the server does not have
_MAX_PAUSE = 10.0
_NAMED = 3


@dataclass
class OpcUaState:
    """What is known of the connection and the nodes.

    Attributes:
        problem: Why there is no connection; empty while there is one.
        readings: Values that became readings.
        bad: Statuses of the nodes whose newest value is bad, by label: they are silent.
        refused: Why the values of a node are not readings, by label.
        unknown: Nodes that the server does not monitor, by label: node id and status.
        bad_values: Values with a bad status, or without a value.
        uncertain: Values with an uncertain status; they are readings.
        overflows: Notifications that say that older values were lost, because the node's queue at the server was full.
        breaks: How often the connection was lost.
    """

    problem: str = "not connected yet"
    readings: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    bad_values: int = 0
    uncertain: int = 0
    overflows: int = 0
    breaks: int = 0

    @property
    def faults(self) -> tuple[str, ...]:
        """What a person has to know, as phrases without counts that grow."""
        found = [self.problem.rstrip(".")] if self.problem else []
        for what, nodes in (("unknown to the server", self.unknown), ("bad", self.bad), ("not readings", self.refused)):
            if nodes:
                named = ", ".join(f"{label} ({why})" for label, why in sorted(nodes.items())[:_NAMED])
                found.append(f"{len(nodes)} {what}: {named}{', ...' if len(nodes) > _NAMED else ''}")
        return tuple(found)

    @property
    def counts(self) -> str:
        """The counts that are not 0."""
        named = {
            "readings": self.readings, "bad values": self.bad_values, "uncertain values": self.uncertain,
            "overflows at the server": self.overflows, "lost connections": self.breaks,
        }  # fmt: skip
        return ", ".join(f"{count:,} {name}" for name, count in named.items() if count) or "no reading yet"


class _StartAgainError(Exception):
    """The connection must be made from the start."""


class OpcUaSource(ThingSource):
    """Reads the declared nodes of a server until it is cancelled.

    Attributes:
        state: What is known of connection and nodes.
    """

    def __init__(self, declaration: OpcUaDeclaration, take: Take, user: str = "", password: str = "") -> None:
        """Prepare the source.

        Args:
            declaration: Server and nodes.
            take: Is called with every reading, and must not wait.
            user: User at the server; empty for none.
            password: Its password.
        """
        self.state = OpcUaState()
        self._declaration = declaration
        self._take = take
        self._user, self._password = user, password
        self._sensors: dict[int, Sensor] = {}  # by handle

    @property
    @override
    def faults(self) -> tuple[str, ...]:
        return self.state.faults

    @override
    async def run(self) -> None:
        pause = 1.0
        while True:
            try:
                connection = await OpcUaConnection.open(self._declaration, self._user, self._password)
                pause = 1.0
                try:
                    await self._read(connection)
                finally:
                    await connection.close()
            except (_StartAgainError, SourceUnavailableError) as why:
                if str(why) != self.state.problem:
                    log.warning("%s", why)
                self.state.problem = str(why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    async def _read(self, connection: OpcUaConnection) -> None:
        namespaces = await connection.namespaces()
        self._resolve(namespaces)
        await self._monitor(connection)
        self.state.problem = ""
        log.info("Reading %d nodes of %s", len(connection.monitored), self._declaration.endpoint)
        await run_concurrently(self._consume(connection), self._watch(connection, namespaces))

    def _resolve(self, namespaces: list[str]) -> None:
        """Give every node a handle; those of a namespace that the server does not have wait until it starts again."""
        self.state.unknown.clear()
        self._sensors.clear()
        indices = {uri: index for index, uri in enumerate(namespaces)}
        for handle, sensor in enumerate(self._declaration.sensors, 1):
            resolved = sensor.resolved(indices)
            if resolved is None:
                self._miss(sensor, "the server has no such namespace")
            else:
                self._sensors[handle] = resolved

    async def _monitor(self, connection: OpcUaConnection) -> None:
        """Have the server monitor all nodes that it does not monitor yet."""
        there = connection.monitored
        missing = {handle: sensor for handle, sensor in self._sensors.items() if handle not in there}
        for handle, status in (await connection.monitor(missing)).items():
            sensor = self._sensors[handle]
            if status:
                self._miss(sensor, status)
            elif self.state.unknown.pop(sensor.label, None):
                log.info("%s: the server has the node %s now", sensor.label, sensor.node)

    def _miss(self, sensor: Sensor, why: str) -> None:
        text = f"{sensor.node}: {why}"
        if self.state.unknown.get(sensor.label) != text:
            log.error("%s is not read, the server does not monitor the node %s", sensor.label, text)
        self.state.unknown[sensor.label] = text

    async def _watch(self, connection: OpcUaConnection, namespaces: list[str]) -> None:
        """Look after the connection.

        Raises:
            _StartAgainError: It must be made from the start.
            SourceUnavailableError: The same.
        """
        away: float | None = None
        tried = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            if connection.lost.is_set():
                connection.lost.clear()
                away = time.monotonic()
                self.state.breaks += 1
                self.state.problem = f"The connection to {self._declaration.endpoint} is lost."
                log.warning("%s", self.state.problem)
            if not connection.connected:
                if away is not None and time.monotonic() - away > KEPT_SECONDS:
                    raise _StartAgainError(self.state.problem)
                continue
            if away is not None:
                if await connection.namespaces() != namespaces:
                    raise _StartAgainError("The server has started again with other namespaces.")
                log.info("The connection to %s is back after %.1f s", self._declaration.endpoint, time.monotonic() - away)
                self.state.problem = ""
            if away is not None or time.monotonic() - tried > _RETRY:
                away, tried = None, time.monotonic()
                await self._monitor(connection)

    async def _consume(self, connection: OpcUaConnection) -> None:
        async for change in connection.changes():
            if sensor := self._sensors.get(change.handle):
                self._count(sensor, change)
                if change.value is not None:
                    self.state.readings += 1
                    self._take(ThingReading(sensor.machine, sensor.name, change.value, change.at, sensor.unit))

    def _count(self, sensor: Sensor, change: Change) -> None:
        state, label = self.state, sensor.label
        state.overflows += change.overflow
        state.uncertain += change.quality == "uncertain"
        if change.quality == "bad":
            state.bad_values += 1
            if label not in state.bad:
                log.warning("%s is bad and silent: %s", label, change.why)
            state.bad[label] = change.why
        elif state.bad.pop(label, None):
            log.info("%s is good again", label)
        if change.quality == "refused":
            if label not in state.refused:
                log.error("%s (%s) is not a reading: %s", label, sensor.node, change.why)
            state.refused[label] = change.why
        elif change.quality != "bad":
            state.refused.pop(label, None)
