"""The source of Things keeps the contract of its kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
import pytest_asyncio

from complex_system.sources.things import Take
from complex_system.testing.thing_sources import Machine, ThingSourceContract
from my_plant import line_source
from my_plant.line_source import LineSource

UNITS = {"temperature": "degC", "part": ""}


class Press(Machine):
    """A device that sends its values to everybody who is connected."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(lambda _, writer: self.connections.append(writer), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def source(self, take: Take) -> LineSource:
        return LineSource("press-4", "127.0.0.1", self.port, UNITS, take)

    def away(self, take: Take) -> LineSource:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        return LineSource("press-4", "127.0.0.1", port, UNITS, take)

    async def set(self, name: str, value: float, at: datetime) -> None:
        for connection in self.connections:
            connection.write(f"{name};{value};{at.isoformat()}\n".encode())

    async def break_connection(self) -> bool:
        while self.connections:
            self.connections.pop().close()
        return True


class TestLineSource(ThingSourceContract):
    @pytest_asyncio.fixture
    async def machine(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
        monkeypatch.setattr(line_source, "PAUSE", 0.05)
        press = Press()
        await press.start()
        yield press
        await press.break_connection()
        press.server.close()
