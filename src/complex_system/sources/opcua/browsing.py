"""Looks through an OPC UA server and writes a first declaration of its variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from complex_system.errors import SourceUnavailableError
from complex_system.sources.opcua.connection import (
    SECONDS,
    ValueRefusedError,
    connected_client,
    explained_errors,
    reading_value,
)
from complex_system.sources.opcua.declaration import OpcUaDeclaration

MAX_VARIABLES = 20_000
"""Variables at which the search ends."""
_BATCH = 200
_PARTS = (ua.NodeClass.Object, ua.NodeClass.Variable)
_UNITS = "EngineeringUnits"
_OWN = {ua.NodeId(ua.Int32(own)) for own in (ObjectIds.Server, ObjectIds.Aliases, ObjectIds.Locations)}


@dataclass(frozen=True)
class Variable:
    """A variable of the server.

    Attributes:
        node: Node id, with the namespace's URI.
        path: Browse names from the objects' folder on.
        unit: As the server declares it; empty where it does not.
        value: The present value as text; empty where there is none.
        problem: Why it cannot be a reading; empty where it can.
    """

    node: str
    path: tuple[str, ...]
    unit: str = ""
    value: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What a server has.

    Attributes:
        endpoints: Policies and modes that it offers, such as ``Basic256Sha256 SignAndEncrypt``.
        variables: Its variables, those of the server itself not among them.
    """

    endpoints: tuple[str, ...]
    variables: tuple[Variable, ...]


async def browse(declaration: OpcUaDeclaration, user: str = "", password: str = "") -> Found:
    """Return what a server has; of the declaration only endpoint and security count.

    Raises:
        DeclarationError: A certificate or key cannot be read.
        SourceUnavailableError: There is no server, or it refuses; the message says what it offers.
    """
    with explained_errors(declaration):
        offered = await Client(declaration.endpoint, timeout=SECONDS).connect_and_get_server_endpoints()
        endpoints = tuple(
            dict.fromkeys(
                f"{each.SecurityPolicyUri.rpartition('#')[2]} {each.SecurityMode.name.rstrip('_')}" for each in offered
            )
        )
        if declaration.security is None and "None None" not in endpoints:
            raise SourceUnavailableError(
                f"The OPC UA server at {declaration.endpoint} offers {', '.join(endpoints)} only; name a certificate and its key."
            )
        client = await connected_client(declaration, user, password)
        try:
            return Found(endpoints, tuple(await _variables(client)))
        finally:
            await client.disconnect()


async def _variables(client: Client) -> list[Variable]:
    uris = await client.get_namespace_array()
    found: list[Variable] = []
    seen: set[ua.NodeId] = set()
    level: list[tuple[Node, tuple[str, ...]]] = [(client.nodes.objects, ())]
    while level and len(found) < MAX_VARIABLES:
        below: list[tuple[Node, tuple[str, ...]]] = []
        for node, path in level:
            children = await node.get_references(ObjectIds.HierarchicalReferences, ua.BrowseDirection.Forward)
            variables: list[tuple[Node, tuple[str, ...], str]] = []
            for child in children:
                if child.NodeId in seen or child.NodeId in _OWN or child.NodeClass not in _PARTS:
                    continue
                seen.add(child.NodeId)
                place = (*path, str(child.BrowseName.Name))
                there = client.get_node(child.NodeId)
                if child.NodeClass == ua.NodeClass.Object:
                    below.append((there, place))
                elif child.TypeDefinition.Identifier != ObjectIds.PropertyType:
                    below.append((there, place))
                    variables.append((there, place, _with_uri(child.NodeId, uris)))
            found += await _described(client, variables)
        level = below
    return found[:MAX_VARIABLES]


async def _described(client: Client, variables: Sequence[tuple[Node, tuple[str, ...], str]]) -> list[Variable]:
    found = []
    for start in range(0, len(variables), _BATCH):
        part = variables[start : start + _BATCH]
        data = await client.read_attributes([node for node, _, _ in part], AttributeIds.Value)
        for (node, path, node_id), read in zip(part, data, strict=True):
            value, problem = "", ""
            if read.Value is not None and read.Value.Value is not None:
                try:
                    value = str(reading_value(read.Value))
                except ValueRefusedError as error:
                    problem = str(error)
            found.append(Variable(node_id, path, "" if problem else await _unit_of(node), value, problem))
    return found


async def _unit_of(node: Node) -> str:
    for child in await node.get_references(ObjectIds.HasProperty, ua.BrowseDirection.Forward):
        if child.BrowseName.Name == _UNITS:
            unit = await Node(node.session, child.NodeId).read_value()
            return str(unit.DisplayName.Text or "") if isinstance(unit, ua.EUInformation) else ""
    return ""


def _with_uri(node_id: ua.NodeId, uris: Sequence[str]) -> str:
    text = node_id.to_string()
    index = int(node_id.NamespaceIndex)
    return text.replace(f"ns={index};", f"nsu={uris[index]};", 1) if index and index < len(uris) else text


def declaration_text(declaration: OpcUaDeclaration, machine: str, found: Found) -> str:
    """Return a first ``opcua.yaml`` of a server that was browsed, with what a person has to look at as comments."""
    security = declaration.security
    offered = ", ".join("no security" if each == "None None" else each for each in found.endpoints)
    files = security and f"certificate: {_quoted(security.certificate)}, key: {_quoted(security.key)}"
    lines = [
        f"# Made by `fiot extras opcua-browse`. The server offers: {offered}.",
        "# Delete what no record needs, check names and units, and see docs/machines.md for the other keys.",
        f"endpoint: {declaration.endpoint}",
        *([f"security: {{{files}}}  # add server_certificate, and copy the files beside this one"] if files else []),
        f"machine: {machine}",
        "sampling: 0.5s",
        "publishing: 1s",
        "nodes:",
    ]
    usable = [each for each in found.variables if not each.problem]
    for variable, name in zip(usable, _names([each.path for each in usable]), strict=True):
        unit = f", unit: {_quoted(variable.unit)}" if variable.unit else ""
        now = f" = {variable.value[:40]}" if variable.value else ""
        lines.append(f"  - {{node: {_quoted(variable.node)}, name: {name}{unit}}}  # {' / '.join(variable.path)}{now}")
    lines += [f"# Not readings: {each.node}: {each.problem}" for each in found.variables if each.problem]
    return "\n".join(lines) + "\n"


def _names(paths: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield a name for each path that no other has: its last parts, as many as it takes, and a number where that is not enough."""
    taken: set[str] = set()
    last = [path[-1] for path in paths]
    for path in paths:
        parts = path[-1:] if last.count(path[-1]) == 1 else path[-2:]
        base = re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(parts)).strip("_")[:90] or "value"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        yield name


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
