"""The OPC UA source keeps the contract of ``complex_system.testing.thing_sources``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from complex_system.local.servers import free_port
from complex_system.sources.opcua import source
from complex_system.sources.opcua.declaration import OpcUaDeclaration
from complex_system.sources.opcua.source import OpcUaSource
from complex_system.sources.things import Take
from complex_system.testing.thing_sources import Machine, ThingSourceContract
from plc import URI, Plc, plc


def declaration(url: str) -> OpcUaDeclaration:
    nodes = [
        {"node": f"nsu={URI};s={name}", "name": name, "unit": "degC" if name == "temperature" else ""}
        for name in ("temperature", "part")
    ]
    return OpcUaDeclaration(endpoint=url, machine="press-4", sampling=0.05, publishing=0.1, nodes=nodes)


class OpcUaMachine(Machine):
    def __init__(self, press: Plc) -> None:
        self.press = press

    def source(self, take: Take) -> OpcUaSource:
        return OpcUaSource(declaration(self.press.url), take)

    def away(self, take: Take) -> OpcUaSource:
        return OpcUaSource(declaration(f"opc.tcp://127.0.0.1:{free_port()}/press"), take)

    async def set(self, name: str, value: float, at: datetime) -> None:
        await self.press.set(name, value, at=at)

    async def break_connection(self) -> bool:
        self.press.break_connections()
        return True


class TestOpcUaSource(ThingSourceContract):
    @pytest.fixture
    async def machine(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
        monkeypatch.setattr(source, "_LOOK", 0.05)
        async with plc({"temperature": 180.0, "part": 0.0}) as press:
            yield OpcUaMachine(press)
