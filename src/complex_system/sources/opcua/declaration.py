"""Declaration of an OPC UA server's nodes: ``opcua.yaml`` in the deployment's ``config_dir``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, root_validator, validator

from complex_system.domain.columns import Declared
from complex_system.domain.partition import gap_seconds
from complex_system.domain.validation import faults_message, parsed
from complex_system.domain.yaml_reader import Fault, YamlFile
from complex_system.errors import DeclarationError

KEPT_SECONDS = 120.0
"""Seconds that the server keeps session, subscription and unsent values while the connection is broken."""
MAX_QUEUE = 10_000
"""Values of one node that the server is asked to keep."""

_NODE_ID = re.compile(r"(?:ns=\d+;|nsu=[^;]+;)?(?:i=\d+|s=.+|g=[0-9a-fA-F-]{36}|b=[A-Za-z0-9+/]+=*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NAME_PROBLEM = "must consist of letters, digits, _ and -, because it is a part of the subject v1.thing.<machine>.<name>"
_SCHEME = "opc.tcp://"


def _seconds(value: Any) -> float:
    seconds = gap_seconds(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    if seconds is None or not 0 < seconds <= 86_400:
        raise ValueError("must be a duration such as 0.5s or 1min, at most a day")
    return seconds


class Security(Declared):
    """How messages are signed and encrypted, and who the two sides are."""

    policy: Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = Field(
        "Basic256Sha256", description="Security policy of the endpoint"
    )
    mode: Literal["Sign", "SignAndEncrypt"] = Field("SignAndEncrypt", description="Security mode of the endpoint")
    certificate: str = Field(
        min_length=1, description="Our certificate, DER or PEM, relative to the folder of the declaration"
    )
    key: str = Field(min_length=1, description="Its private key, PEM or DER")
    server_certificate: str = Field("", description="The server's certificate; without it any server is believed")


class DeclaredNode(Declared):
    """A variable of the server, and the sensor that its values are published as."""

    node: str = Field(description="Node id: ns=2;s=Press.Temperature, or nsu=urn:maker:press;s=... with the namespace's URI")
    name: str = Field(description="Name of the sensor, the last part of its subject")
    machine: str = Field("", description="Machine of the sensor; by default the declaration's")
    unit: str = Field("", description="Unit of the values, as it is published with them")
    sampling: float | None = Field(None, description="Seconds between two samples; by default the declaration's")
    dead_band: float = Field(0.0, ge=0, description="Change, in the node's unit, up to which a value is not reported")
    report: Literal["changes", "updates"] = Field(
        "changes",
        description="changes: a value is reported when it differs from the one before; updates: also when only its time is newer",
    )

    _duration = validator("sampling", pre=True, allow_reuse=True)(_seconds)

    @validator("node")
    def _is_node_id(cls, value: str) -> str:
        if _NODE_ID.fullmatch(value) is None:
            raise ValueError(
                f"must be a node id such as ns=2;s=Press.Temperature, ns=3;i=1042 or nsu=URI;s=..., not '{value}'"
            )
        return value

    @validator("name", "machine")
    def _is_name(cls, value: str) -> str:
        if value and _NAME.fullmatch(value) is None:
            raise ValueError(f"{_NAME_PROBLEM}, not '{value}'")
        return value

    @root_validator(skip_on_failure=True)
    def _not_both(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values["dead_band"] and values["report"] == "updates":
            raise ValueError(
                "has a dead_band, which reports fewer values, and report: updates, which reports more; keep one"
            )
        return values


class OpcUaDeclaration(Declared):
    """A server and its nodes."""

    endpoint: str = Field(description="Address of the server: opc.tcp://host:4840")
    security: Security | None = Field(None, description="Certificates; without them nothing is signed or encrypted")
    machine: str = Field("", description="Machine of the nodes that name none")
    sampling: float = Field(0.5, description="Seconds between two samples of a node")
    publishing: float = Field(1.0, description="Seconds between two messages of the server, with what was sampled meanwhile")
    buffer: int = Field(100_000, ge=1, description="Readings that are kept while the broker is away; the oldest are dropped")
    nodes: tuple[DeclaredNode, ...] = Field(description="The variables to read")

    _durations = validator("sampling", "publishing", pre=True, allow_reuse=True)(_seconds)

    @validator("endpoint")
    def _is_address(cls, value: str) -> str:
        if not value.startswith(_SCHEME) or len(value) == len(_SCHEME):
            raise ValueError(f"must be an address such as opc.tcp://10.0.0.5:4840, not '{value}'")
        if "@" in value:
            raise ValueError("must not hold a password; set COMPLEX_SYSTEM_OPCUA_USER and COMPLEX_SYSTEM_OPCUA_PASSWORD")
        return value

    @classmethod
    def load(cls, path: Path) -> OpcUaDeclaration:
        """Read a declaration; relative paths of certificates become those beside it.

        Raises:
            DeclarationError: The file is missing or not valid; names all faults, each with line, key and what is allowed.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DeclarationError(f"{path} (COMPLEX_SYSTEM_OPCUA_FILE) cannot be read: {error}.") from error
        found = cls.parse(text, str(path))
        if found.security is None:
            return found
        files = {name: getattr(found.security, name) for name in ("certificate", "key", "server_certificate")}
        beside = {name: str(path.parent / file) for name, file in files.items() if file}
        if missing := [file for file in beside.values() if not Path(file).is_file()]:
            raise DeclarationError(f"{path}: there is no file {', '.join(missing)}; docs/machines.md says how to make one.")
        return found.copy(update={"security": found.security.copy(update=beside)})

    @classmethod
    def parse(cls, text: str, source: str = "opcua.yaml") -> OpcUaDeclaration:
        """Read a declaration from a text.

        Raises:
            DeclarationError: As for :meth:`load`.
        """
        file = YamlFile(text, source, names=("node", "name", "machine", "unit"))
        faults: list[Fault] = list(file.duplicates)
        found = parsed(cls, file.content, (), faults)
        if found is not None:
            faults += _contradictions(found)
        if faults:
            raise DeclarationError(faults_message(faults, file))
        made: OpcUaDeclaration = found
        return made

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The nodes with the declaration's defaults."""
        return tuple(
            Sensor(
                node.node,
                node.machine or self.machine,
                node.name,
                node.unit,
                node.sampling or self.sampling,
                node.dead_band,
                node.report == "updates",
            )
            for node in self.nodes
        )


@dataclass(frozen=True)
class Sensor:
    """A node to monitor.

    Attributes:
        node: Node id; with ``nsu=`` until the server has told the namespace's index.
        sampling: Seconds between two samples.
        dead_band: Change up to which a value is not reported.
        updates: Whether a newer time alone is reported, too.
    """

    node: str
    machine: str
    name: str
    unit: str
    sampling: float
    dead_band: float
    updates: bool

    @property
    def label(self) -> str:
        """``machine.name``, as people and the collection know it."""
        return f"{self.machine}.{self.name}"

    @property
    def queue(self) -> int:
        """Values that the server is asked to keep while the connection is broken."""
        return min(MAX_QUEUE, max(10, int(KEPT_SECONDS / self.sampling)))

    def resolved(self, namespaces: Mapping[str, int]) -> Sensor | None:
        """Return the sensor with the index of its namespace; None where the server has no such namespace."""
        if not self.node.startswith("nsu="):
            return self
        uri, _, identifier = self.node.removeprefix("nsu=").partition(";")
        return replace(self, node=f"ns={namespaces[uri]};{identifier}") if uri in namespaces else None


def _contradictions(declaration: OpcUaDeclaration) -> list[Fault]:
    faults: list[Fault] = [] if declaration.nodes else [(("nodes",), "must name at least one node")]
    if declaration.machine and _NAME.fullmatch(declaration.machine) is None:
        faults.append((("machine",), f"{_NAME_PROBLEM}, not '{declaration.machine}'"))
    seen: dict[str, str] = {}
    for place, sensor in enumerate(declaration.sensors):
        if not sensor.machine:
            faults.append((("nodes", place), f"'{sensor.name}' needs a machine, of its own or the declaration's"))
        if sensor.label in seen:
            faults.append(
                (("nodes", place), f"'{sensor.label}' is the name of {seen[sensor.label]} already; names must differ")
            )
        seen[sensor.label] = sensor.node
    return faults
