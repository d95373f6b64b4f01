"""The OPC UA source against a real server, and through the service into a stream of a real broker."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from fastiot.core.serialization import serialize_from_bin
from fastiot.msg import Thing

from complex_system.errors import DeclarationError, SourceUnavailableError
from complex_system.local.servers import Server, free_port
from complex_system.settings import Settings
from complex_system.sources.opcua import connection, source
from complex_system.sources.opcua.browsing import browse, declaration_text
from complex_system.sources.opcua.connection import OpcUaConnection
from complex_system.sources.opcua.declaration import OpcUaDeclaration
from complex_system.sources.opcua.source import OpcUaSource
from complex_system.sources.things import ThingReading
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from plc import URI, Plc, plc, write_opcua_certificates
from support import TesterService, eventually, running

PRESS = {"temperature": 180.0, "pressure": 90.0, "part": 0}
MANY = [f"n{number}" for number in range(1000)]


def declaration(url: str, nodes: Mapping[str, str] | None = None, **more: Any) -> OpcUaDeclaration:
    nodes = nodes or {name: f"nsu={URI};s={name}" for name in PRESS}
    declared = [{"node": node, "name": name, "unit": "degC"} for name, node in nodes.items()]
    return OpcUaDeclaration(endpoint=url, machine="press-4", sampling=0.05, publishing=0.1, nodes=declared, **more)


@asynccontextmanager
async def reading(declared: OpcUaDeclaration, *user: str) -> AsyncIterator[tuple[OpcUaSource, list[ThingReading]]]:
    """A source at work, and what it has read."""
    found: list[ThingReading] = []
    read = OpcUaSource(declared, found.append, *user)
    task = asyncio.create_task(read.run())
    try:
        yield read, found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def values(found: list[ThingReading], name: str) -> list[Any]:
    return [each.value for each in found if each.name == name]


async def first_values(found: list[ThingReading], count: int = len(PRESS)) -> None:
    await eventually(lambda: len({each.name for each in found}) == count)


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Plc]:
    """A server for the tests that need none of their own: one takes two seconds to start."""
    async with plc({**PRESS, "curve": [1.0, 2.0, 3.0], **dict.fromkeys(MANY, 0.0)}) as press:
        yield press


@pytest.fixture
async def press(shared: Plc) -> Plc:
    """The shared server with its first values."""
    for name, value in PRESS.items():
        await shared.set(name, value)
    return shared


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks more often than every half second, and for unknown nodes more often than every ten."""
    monkeypatch.setattr(source, "_LOOK", 0.05)
    monkeypatch.setattr(source, "_RETRY", 0.2)


async def test_readings_have_the_sources_time_and_what_goes_bad_is_silent(press: Plc) -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    async with reading(declaration(press.url)) as (read, found):
        await first_values(found)
        await press.set("temperature", 181.5, at=at)
        await eventually(lambda: 181.5 in values(found, "temperature"))
        assert found[-1] == ThingReading("press-4", "temperature", 181.5, at, "degC")

        await press.set("temperature", 999.0, ua.StatusCodes.BadSensorFailure)
        await eventually(lambda: read.state.bad)
        await press.set("pressure", 91.0)
        await eventually(lambda: 91.0 in values(found, "pressure"))
        assert 999.0 not in values(found, "temperature")
        assert read.state.faults == ("1 bad: press-4.temperature (BadSensorFailure)",)
        assert read.state.bad_values == 1

        await press.set("temperature", 182.0)
        await eventually(lambda: 182.0 in values(found, "temperature"))
        assert read.state.faults == ()


async def test_all_values_between_two_messages_arrive_in_their_order(press: Plc) -> None:
    async with reading(declaration(press.url)) as (_, found):
        await first_values(found)
        for part in range(1, 301):
            await press.set("part", part)
        await eventually(lambda: len(values(found, "part")) >= 301)
        assert values(found, "part") == list(range(301))


async def test_a_dead_band_and_updates(press: Plc) -> None:
    nodes = [
        {"node": f"nsu={URI};s=temperature", "name": "temperature", "dead_band": 1.0},
        {"node": f"nsu={URI};s=pressure", "name": "pressure", "report": "updates"},
        {"node": f"nsu={URI};s=part", "name": "part"},
    ]
    declared = OpcUaDeclaration(endpoint=press.url, machine="press-4", sampling=0.05, publishing=0.1, nodes=nodes)
    async with reading(declared) as (_, found):
        await first_values(found)
        await press.set("temperature", 180.4)
        await press.set("pressure", 90.0)  # the same again, with a newer time
        await press.set("part", 0)
        await press.set("temperature", 183.0)
        await eventually(lambda: 183.0 in values(found, "temperature"))
        assert values(found, "temperature") == [180.0, 183.0]
        assert values(found, "pressure") == [90.0, 90.0]
        assert values(found, "part") == [0]


async def test_what_the_server_kept_while_the_connection_was_broken_is_not_lost(press: Plc, quick: None) -> None:
    async with reading(declaration(press.url)) as (read, found):
        await first_values(found)
        for part in range(1, 101):
            await press.set("part", part)
            if part in (30, 60):
                press.break_connections()
            if part % 10 == 0:
                await asyncio.sleep(0.05)  # the PLC goes on while the source is away
        await eventually(lambda: set(values(found, "part")) >= set(range(101)))  # what was kept may come after what is new
        assert sorted(set(values(found, "part"))) == list(range(101))
        await eventually(lambda: not read.state.problem)
        assert read.state.breaks >= 1


async def test_a_server_that_starts_again_is_read_again(quick: None) -> None:
    """Also where a node comes later, and where its namespace has another index."""
    port = free_port()
    async with reading(declaration(f"opc.tcp://127.0.0.1:{port}/press")) as (read, found):
        await eventually(lambda: "does not answer" in read.state.problem)
        async with plc(PRESS, port):
            await first_values(found)
            assert read.state.problem == ""
        await eventually(lambda: "is lost" in read.state.problem)
        async with plc({"temperature": 200.0, "pressure": 95.0}, port, earlier="urn:another") as press:
            await eventually(lambda: 200.0 in values(found, "temperature"))
            await eventually(lambda: "press-4.part" in read.state.unknown)
            assert read.state.unknown["press-4.part"] == "ns=3;s=part: BadNodeIdUnknown"
            await press.add({"part": 7})
            await eventually(lambda: 7 in values(found, "part"))
            await eventually(lambda: read.state.faults == ())


async def test_wrong_nodes_and_arrays_are_named_and_cost_only_themselves(press: Plc) -> None:
    nodes = {"temperature": "ns=2;s=temperature", "torque": "ns=2;s=torqe", "speed": "nsu=urn:nowhere;s=speed"}
    async with reading(declaration(press.url, {**nodes, "curve": "ns=2;s=curve"})) as (read, found):
        await first_values(found, 1)
        await eventually(lambda: read.state.refused)
        assert read.state.faults == (
            "2 unknown to the server: press-4.speed (nsu=urn:nowhere;s=speed: the server has no such namespace), "
            "press-4.torque (ns=2;s=torqe: BadNodeIdUnknown)",
            "1 not readings: press-4.curve (an array of 3 values; declare nodes that hold one value each)",
        )


async def test_a_thousand_nodes(press: Plc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_ITEMS", 300)
    async with reading(declaration(press.url, {name: f"ns=2;s={name}" for name in MANY})) as (read, found):
        await first_values(found, 1000)
        for turn in range(1, 6):
            for name in MANY:
                await press.set(name, float(turn))
        await eventually(lambda: read.state.readings >= 6000)
        assert values(found, "n0") == values(found, "n999") == [0, 1, 2, 3, 4, 5]
        assert read.state.readings == 6000


async def test_a_server_is_browsed_into_a_declaration_that_reads_it(press: Plc) -> None:
    found = await browse(declaration(press.url))
    assert found.endpoints == ("None None",)
    text = declaration_text(declaration(press.url), "press-4", found)
    assert f'- {{node: "nsu={URI};s=temperature", name: temperature, unit: "degC"}}  # Press / temperature = 180.0' in text
    assert f"# Not readings: nsu={URI};s=curve: an array of 3 values" in text
    declared = OpcUaDeclaration.parse(text)
    assert len(declared.nodes) == len(PRESS) + len(MANY)
    only = declared.copy(update={"nodes": tuple(node for node in declared.nodes if node.name in PRESS)})
    async with reading(only) as (_, read):
        await first_values(read)
        assert {f"{each.machine}.{each.name}": each.value for each in read} == {
            f"press-4.{name}": value for name, value in PRESS.items()
        }


def secured(url: str, folder: Path, **changes: str) -> OpcUaDeclaration:
    files = {"certificate": "client.der", "key": "client.pem", "server_certificate": "server.der", **changes}
    return declaration(url, security={name: str(folder / file) for name, file in files.items() if file})


async def test_the_certificate_of_the_documentation_is_made_as_printed(tmp_path: Path) -> None:
    folder = write_opcua_certificates(tmp_path)
    text = (Path(__file__).parents[2] / "docs/machines.md").read_text(encoding="utf-8")
    [block] = [each for each in text.split("```")[1::2] if "openssl req" in each]
    for name in ("client.der", "client.pem", "trusted/client.der"):
        (folder / name).unlink()
    done = await asyncio.to_thread(subprocess.run, ["bash", "-euc", block], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copy(folder / "client.der", folder / "trusted")
    async with plc(PRESS, certificates=folder) as press, reading(secured(press.url, folder)) as (_, found):
        await first_values(found)


async def test_certificates_and_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_opcua_certificates(tmp_path)
    async with plc(PRESS, certificates=folder, user=("line", "secret")) as press:
        async with reading(secured(press.url, folder), "line", "secret") as (_, found):
            await first_values(found)
            press.break_connections()
            await press.set("part", 5)
            await eventually(lambda: 5 in values(found, "part"))

        async def refusal(declared: OpcUaDeclaration, *user: str) -> str:
            with pytest.raises(SourceUnavailableError) as raised:
                await OpcUaConnection.open(declared, *user)
            return raised.value.message

        assert "refuses the user (BadUserAccessDenied)" in await refusal(secured(press.url, folder), "line", "wrong")
        assert "no endpoint with this security" in await refusal(declaration(press.url))
        with pytest.raises(SourceUnavailableError, match="offers Basic256Sha256 SignAndEncrypt only; name a certificate"):
            await browse(declaration(press.url))
        stranger = secured(press.url, folder, certificate="stranger.der", key="stranger.pem")
        assert "must trust ours" in await refusal(stranger, "line", "secret")
        # Another server's certificate was declared: this server could be anybody.
        monkeypatch.setattr(connection, "SECONDS", 1.0)
        other = secured(press.url, folder, server_certificate="stranger.der")
        assert "the declared server_certificate is not its own" in await refusal(other, "line", "secret")
        (folder / "client.pem").write_text("no key")
        with pytest.raises(DeclarationError, match="cannot be read"):
            await OpcUaConnection.open(secured(press.url, folder), "line", "secret")


def write_declaration(folder: Path, press: Plc) -> None:
    nodes = "\n".join(f'  - {{node: "nsu={URI};s={name}", name: {name}, unit: degC}}' for name in PRESS)
    lines = f"endpoint: {press.url}\nmachine: press-4\nsampling: 0.05s\npublishing: 0.1s\nnodes:\n{nodes}\n"
    (folder / "opcua.yaml").write_text(lines)


@pytest.fixture
def settings(nats_server: Server, make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(nats_server, config_dir=str(tmp_path), opcua_file="opcua.yaml")


@asynccontextmanager
async def stream_of_things(tester: TesterService) -> AsyncIterator[Callable[[], Any]]:
    """A stream of Things until the block ends; gives a function that returns what is in it."""
    context = tester.broker.client.jetstream()
    await context.add_stream(name="test_things", subjects=["v1.thing.>"])

    async def things() -> list[Thing]:
        messages = (await context.stream_info("test_things")).state.messages
        subscription = await context.pull_subscribe("v1.thing.>", stream="test_things")
        found = [await subscription.fetch(1, 5) for _ in range(messages)]
        await subscription.unsubscribe()
        return [serialize_from_bin(Thing, message.data) for [message] in found]

    try:
        yield things
    finally:
        await context.delete_stream("test_things")


async def test_the_service_publishes_things_and_waits_for_a_stream(
    press: Plc, tester: TesterService, settings: Settings, tmp_path: Path
) -> None:
    write_declaration(tmp_path, press)
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: "no stream of the broker keeps v1.thing.press-4" in service.health().detail)
        assert service.health().state == "waiting"
        async with stream_of_things(tester) as things:
            await eventually(lambda: service.health().state == "ready")
            await press.set("pressure", 93.5)

            async def published() -> list[Thing]:
                return [thing for thing in await things() if thing.value == 93.5]

            [thing] = await eventually(published)
            assert (thing.machine, thing.name, thing.unit) == ("press-4", "pressure", "degC")
            await press.set("pressure", 0.0, ua.StatusCodes.BadCommunicationError)
            await eventually(lambda: "1 bad: press-4.pressure (BadCommunicationError)" in service.health().detail)
            assert [each.name for each in await things() if each.name == "pressure"] == ["pressure"] * 2


async def test_a_wrong_declaration_fails_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "opcua.yaml").write_text("endpoint: 10.0.0.5\nnodes: []\n")
    async with running(DummyDataGenerationService, settings) as service:
        await eventually(lambda: service.health().state == "failing")
        assert "must be an address such as opc.tcp://" in service.health().detail
