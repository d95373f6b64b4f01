"""The declaration of an OPC UA server's nodes, and what becomes of its values."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua

from complex_system.errors import DeclarationError
from complex_system.sources.opcua.connection import ValueRefusedError, change_of, reading_value
from complex_system.sources.opcua.declaration import MAX_QUEUE, OpcUaDeclaration

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEXT = """
endpoint: opc.tcp://10.0.0.5:4840
machine: press-4
sampling: 0.1s
nodes:
  - {node: "ns=2;s=Press.Temperature", name: temperature, unit: degC}
  - {node: "nsu=urn:plant:press;i=7", name: pressure, machine: press-5, sampling: 1 min, dead_band: 0.5}
"""


def problem_of(text: str) -> str:
    with pytest.raises(DeclarationError) as raised:
        OpcUaDeclaration.parse(text)
    return raised.value.message


def test_nodes_take_what_the_declaration_says_for_all() -> None:
    temperature, pressure = OpcUaDeclaration.parse(TEXT).sensors
    assert (temperature.label, temperature.sampling, temperature.unit, temperature.dead_band) == (
        "press-4.temperature", 0.1, "degC", 0.0,
    )  # fmt: skip
    assert (pressure.label, pressure.sampling, pressure.dead_band) == ("press-5.pressure", 60.0, 0.5)
    assert temperature.queue == 1200  # two minutes, ten values a second
    assert OpcUaDeclaration.parse(TEXT.replace("0.1s", "0.001")).sensors[0].queue == MAX_QUEUE


def test_a_namespace_is_found_by_its_uri() -> None:
    _, pressure = OpcUaDeclaration.parse(TEXT).sensors
    resolved = pressure.resolved({"urn:plant:press": 3})
    assert resolved is not None
    assert resolved.node == "ns=3;i=7"
    assert pressure.resolved({"urn:other": 3}) is None


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (("opc.tcp://10.0.0.5:4840", "http://10.0.0.5"), "line 2, endpoint: must be an address such as opc.tcp://"),
        (("10.0.0.5", "me:secret@10.0.0.5"), "COMPLEX_SYSTEM_OPCUA_PASSWORD"),
        (("ns=2;s=Press.Temperature", "Press.Temperature"), "line 6, nodes, entry 1, node: must be a node id such as ns=2;s="),
        (("name: temperature", "name: the temperature"), "line 6, nodes, entry 1, name: must consist of letters"),
        (("name: temperature, ", ""), "line 6, nodes, entry 1, name: is required"),
        (("sampling: 0.1s", "sampling: often"), "line 4, sampling: must be a duration"),
        (("unit: degC", "units: degC"), "units: is not a known key"),
        (("machine: press-4\n", ""), "needs a machine"),
        (("name: pressure, machine: press-5", "name: temperature"), "'press-4.temperature' is the name of ns=2;s=Press.Temp"),
        (("dead_band: 0.5", "dead_band: 0.5, report: updates"), "keep one"),
        (("machine: press-4", "machine: press-4\nsecurity: {policy: None}"), "must be one of Basic256Sha256"),
        ((TEXT[TEXT.index("nodes:") :], "nodes: []\n"), "must name at least one node"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_explained(changed: tuple[str, str], names: str) -> None:
    assert names in problem_of(TEXT.replace(*changed))


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "opcua.yaml"
    with pytest.raises(DeclarationError, match="COMPLEX_SYSTEM_OPCUA_FILE"):
        OpcUaDeclaration.load(path)
    path.write_text(f"{TEXT}security: {{certificate: own.der, key: own.pem}}\n")
    (tmp_path / "own.der").touch()
    with pytest.raises(DeclarationError, match=r"there is no file .*own\.pem;"):
        OpcUaDeclaration.load(path)
    (tmp_path / "own.pem").touch()
    security = OpcUaDeclaration.load(path).security
    assert security is not None
    assert (security.certificate, security.server_certificate) == (str(tmp_path / "own.der"), "")


GUID = uuid.UUID("12345678-1234-1234-1234-123456789abc")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, "Boolean", True),
        (-3, "SByte", -3), (200, "Byte", 200), (-300, "Int16", -300), (65_535, "UInt16", 65_535), (-70_000, "Int32", -70_000),
        (4_000_000_000, "UInt32", 4_000_000_000), (-(2**60), "Int64", -(2**60)), (2**63, "UInt64", 2**63),
        (1.5, "Float", 1.5), (0.1, "Double", 0.1),
        ("ready", "String", "ready"),
        (NOON, "DateTime", "2026-01-01T12:00:00+00:00"),
        (GUID, "Guid", str(GUID)),
        (b"\x00\xff", "ByteString", "00ff"),
        (ua.XmlElement("<a/>"), "XmlElement", "<a/>"),
        (ua.NodeId("Press", 2), "NodeId", "ns=2;s=Press"),
        (ua.ExpandedNodeId("Press", 2), "ExpandedNodeId", "ns=2;s=Press"),
        (ua.StatusCode(ua.StatusCodes.BadSensorFailure), "StatusCode", "BadSensorFailure"),
        (ua.QualifiedName("Press", 2), "QualifiedName", "2:Press"),
        (ua.LocalizedText("Presse", "de"), "LocalizedText", "Presse"),
        (ua.NodeClass.Variable, "Int32", 2),
    ],
)  # fmt: skip
def test_scalars_become_numbers_and_texts(value: Any, kind: str, expected: Any) -> None:
    found = reading_value(ua.Variant(value, getattr(ua.VariantType, kind)))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (ua.Variant([1.0, 2.0]), "an array of 2 values"),
        (ua.Variant([], ua.VariantType.Double, is_array=True), "an array of 0 values"),
        (ua.Variant(math.nan), "the number nan"),
        (ua.Variant(-math.inf), "the number -inf"),
        (ua.Variant(ua.EUInformation(), ua.VariantType.ExtensionObject), r"a structure \(EUInformation\)"),
    ],
)
def test_what_is_not_one_value_is_refused(value: ua.Variant, why: str) -> None:
    with pytest.raises(ValueRefusedError, match=why):
        reading_value(value)


def test_status_and_time_of_a_value() -> None:
    def change(value: float | None, status: int, *times: datetime) -> Any:
        return change_of(1, ua.DataValue(ua.Variant(value), ua.StatusCode(status), *times))

    assert change(1.0, ua.StatusCodes.Good, NOON).at == NOON
    server = datetime(2026, 1, 1, 13, tzinfo=UTC)
    assert change(1.0, ua.StatusCodes.Good, datetime(1601, 1, 1), server).at == server
    assert change(1.0, ua.StatusCodes.Good).at.year >= 2026
    bad = change(1.0, ua.StatusCodes.BadSensorFailure, NOON)
    assert (bad.quality, bad.value, bad.why) == ("bad", None, "BadSensorFailure")
    assert change(None, ua.StatusCodes.Good, NOON).quality == "bad"
    uncertain = change(1.0, ua.StatusCodes.UncertainSensorNotAccurate, NOON)
    assert (uncertain.quality, uncertain.value) == ("uncertain", 1.0)
    # The server keeps an old value while the sensor gives none: not a new reading.
    assert change(1.0, ua.StatusCodes.UncertainLastUsableValue, NOON).quality == "bad"
    assert change(1.0, ua.StatusCodes.Good | 0x480, NOON).overflow
    assert not change(1.0, ua.StatusCodes.Good, NOON).overflow
