"""Client, subscription and values of OPC UA. Only this module and the one that browses import asyncua.

asyncua's client reconnects by itself: it activates the session again, takes the subscription over and asks for the notifications that
were lost on the way, or creates both anew where the server has forgotten them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.common.subscription import DataChangeEvent, Subscription
from asyncua.common.utils import ServiceError
from asyncua.crypto import security_policies, uacrypto
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaerrors import BadMessageNotAvailable, UaError
from cryptography import x509

from complex_system.errors import DeclarationError, SourceUnavailableError
from complex_system.sources.opcua.declaration import KEPT_SECONDS, OpcUaDeclaration, Security, Sensor

log = logging.getLogger(__name__)
logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it logs a traceback for every lost connection

SECONDS = 10.0
"""Longest wait for an answer of the server."""
_MAX_PAUSE = 10.0
_ITEMS = 500  # nodes in one request: servers limit them, many to 1,000
_KEEP_ALIVE = 5.0  # seconds without a value after which the server says that it is there
_OVERFLOW = 0x480  # info bits of a status code: the queue of the node was full, and older values are lost
_LAST_USABLE = 0x40900000  # UncertainLastUsableValue: the value of earlier, kept while there is no new one
_NAMED_IDS = (ua.NodeId, ua.QualifiedName)

Value = float | int | bool | str
Quality = Literal["good", "uncertain", "bad", "refused"]


@dataclass(frozen=True)
class Change:
    """What the server reports of a node.

    Attributes:
        handle: Of the node.
        quality: ``bad`` is not a value: the status is bad, or there is none. ``refused`` is a value that is not a reading.
        value: The value; None where it is bad or refused.
        why: Name of a status that is not good, or why the value is refused.
        at: The source's time, else the server's, else that of the arrival.
        overflow: Whether older values were lost, because the node's queue at the server was full.
    """

    handle: int
    quality: Quality
    value: Value | None
    why: str
    at: datetime
    overflow: bool


class OpcUaConnection:
    """A session with one subscription.

    Attributes:
        lost: Is set when the connection was lost; whoever has noticed it clears it.
    """

    def __init__(self, client: Client, subscription: Subscription, declaration: OpcUaDeclaration) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._subscription = subscription
        self._declaration = declaration

        async def on_loss(_: Exception) -> None:
            self.lost.set()

        client.connection_lost_callback = on_loss

    @classmethod
    async def open(cls, declaration: OpcUaDeclaration, user: str = "", password: str = "") -> OpcUaConnection:
        """Connect.

        Raises:
            DeclarationError: A certificate or key cannot be read.
            SourceUnavailableError: There is no server, or it refuses; the message says what to do.
        """
        with explained_errors(declaration):
            client = await connected_client(declaration, user, password)
            interval = declaration.publishing
            parameters = ua.CreateSubscriptionParameters(
                RequestedPublishingInterval=interval * 1000,
                RequestedLifetimeCount=max(30, math.ceil(KEPT_SECONDS / interval)),
                RequestedMaxKeepAliveCount=max(1, round(_KEEP_ALIVE / interval)),
                MaxNotificationsPerPublish=0,
                PublishingEnabled=True,
            )
            return cls(client, await client.create_subscription(parameters, queue_maxsize=0), declaration)

    async def close(self) -> None:
        """Close the session, where the server still answers."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.disconnect(), 2.0)

    @property
    def connected(self) -> bool:
        """Whether the session is at work at the moment."""
        return self._client.state is UaClientState.CONNECTED

    async def namespaces(self) -> list[str]:
        """Return the URIs of the server's namespaces, by index."""
        with explained_errors(self._declaration):
            return [str(uri) for uri in await self._client.get_namespace_array()]

    @property
    def monitored(self) -> Set[int]:
        """The handles that the server monitors; asyncua drops those that it refuses when they are created anew.

        ``tests/integration/test_opcua.py`` fails when this private attribute changes.
        """
        return self._subscription._monitored_items.keys()

    async def monitor(self, sensors: Mapping[int, Sensor]) -> dict[int, str]:
        """Have the server monitor nodes, by handle; return the status of each that it refuses, and an empty text for the others."""
        found: dict[int, str] = {}
        handles = list(sensors)
        with explained_errors(self._declaration):
            for start in range(0, len(handles), _ITEMS):
                part = handles[start : start + _ITEMS]
                results = await self._subscription.create_monitored_items(_request(each, sensors[each]) for each in part)
                for handle, result in zip(part, results, strict=True):
                    found[handle] = result.name if isinstance(result, ua.StatusCode) else ""
        return found

    async def changes(self) -> AsyncIterator[Change]:
        """Yield what the server reports, also what it kept while the connection was broken."""
        async for event in self._subscription:
            if isinstance(event, DataChangeEvent):
                handle, data = event.data.subscription_data.client_handle, event.data.monitored_item.Value
                if handle is not None and data is not None:
                    yield change_of(handle, data)


async def connected_client(declaration: OpcUaDeclaration, user: str = "", password: str = "") -> Client:
    """Return asyncua's client with a session; it reconnects by itself. Raises its errors, and ``DeclarationError``."""
    client = Client(
        declaration.endpoint, timeout=SECONDS, watchdog_intervall=SECONDS / 2, auto_reconnect=True,
        reconnect_max_delay=_MAX_PAUSE, reconnect_request_timeout=SECONDS,
    )  # fmt: skip
    client.name = client.description = "complex-system"
    client.session_timeout = int(KEPT_SECONDS * 1000)
    if user:
        client.set_user(user)
        client.set_password(password)
    if declaration.security is not None:
        await _secure(client, declaration.security)
    _end_republishing(client)
    await client.connect()
    return client


def _end_republishing(client: Client) -> None:
    """Take an empty message for the end of what the server kept.

    asyncua asks for the next one until the server says BadMessageNotAvailable. Its own server returns empty ones, without end.
    """
    session = client.uaclient.session
    republish = session.republish

    async def republished(subscription_id: int, retransmit_sequence_number: int) -> ua.NotificationMessage:
        message = await republish(subscription_id, retransmit_sequence_number)
        if not message.NotificationData:
            raise BadMessageNotAvailable
        return message

    session.republish = republished  # type: ignore[method-assign]


async def _secure(client: Client, security: Security) -> None:
    try:
        certificate = await uacrypto.load_certificate(security.certificate)
        await uacrypto.load_private_key(security.key)
        if security.server_certificate:
            await uacrypto.load_certificate(security.server_certificate)
    except (OSError, ValueError, TypeError) as error:
        raise DeclarationError(f"A certificate or key of the OPC UA declaration cannot be read: {error}.") from error
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier)[:1]:
            client.application_uri = uri  # servers compare the two
    await client.set_security(
        getattr(security_policies, f"SecurityPolicy{security.policy}"),
        security.certificate,
        security.key,
        server_certificate=security.server_certificate or None,
        mode=getattr(ua.MessageSecurityMode, security.mode),
    )
    if not security.server_certificate:
        log.warning(
            "Any server is believed: declare its certificate as server_certificate, so that no other can take its place"
        )


@contextmanager
def explained_errors(declaration: OpcUaDeclaration) -> Iterator[None]:
    """Raise ``SourceUnavailableError`` in place of what asyncua and the network raise."""
    try:
        yield
    except (UaError, ServiceError, OSError, TimeoutError) as error:
        raise SourceUnavailableError(_explanation(error, declaration)) from error


def _explanation(error: BaseException, declaration: OpcUaDeclaration) -> str:
    """Return why the server cannot be read, and what to do."""
    where = f"The OPC UA server at {declaration.endpoint}"
    code = ua.StatusCode(ua.UInt32(error.code)) if isinstance(error, ServiceError) else None
    name, text = (code.name, code.doc) if code else (type(error).__name__, str(error) or type(error).__name__)
    if "No matching endpoints" in text or name in ("BadSecurityPolicyRejected", "BadSecurityModeRejected"):
        return f"{where} offers no endpoint with this security (policy and mode); `fiot extras opcua-browse` names those that it has."
    if name.startswith(("BadUser", "BadIdentity")):
        return f"{where} refuses the user ({name}): set COMPLEX_SYSTEM_OPCUA_USER and COMPLEX_SYSTEM_OPCUA_PASSWORD."
    if "ertificate" in text or name == "BadSecurityChecksFailed":
        return (
            f"{where} and the certificates do not fit: {text}. It must trust ours, and server_certificate must be its own."
        )
    hint = ""
    if declaration.security and isinstance(error, ConnectionError | TimeoutError):
        hint = " It may not trust our certificate, or the declared server_certificate is not its own."
    if isinstance(error, TimeoutError):
        return f"{where} does not answer within {SECONDS:g} s.{hint}"
    return f"{where} does not answer: {text}.{hint}"


def _request(handle: int, sensor: Sensor) -> ua.MonitoredItemCreateRequest:
    trigger = ua.DataChangeTrigger.StatusValueTimestamp if sensor.updates else ua.DataChangeTrigger.StatusValue
    change = ua.DataChangeFilter(
        Trigger=trigger,
        DeadbandType=int(ua.DeadbandType.Absolute) if sensor.dead_band else 0,
        DeadbandValue=sensor.dead_band,
    )
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=ua.NodeId.from_string(sensor.node), AttributeId=AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle,
            SamplingInterval=sensor.sampling * 1000,
            Filter=change if sensor.updates or sensor.dead_band else None,
            QueueSize=sensor.queue,
            DiscardOldest=True,
        ),
    )


# Values


class ValueRefusedError(ValueError):
    """A value is not a reading."""


def change_of(handle: int, data: ua.DataValue) -> Change:
    """Return what a notification says."""
    status = data.StatusCode or ua.StatusCode()
    at, overflow = _time_of(data), status.value & _OVERFLOW == _OVERFLOW
    if status.is_bad() or status.value & 0xFFFF0000 == _LAST_USABLE:
        return Change(handle, "bad", None, status.name, at, overflow)
    if data.Value is None or data.Value.Value is None:
        return Change(handle, "bad", None, "no value", at, overflow)
    try:
        value = reading_value(data.Value)
    except ValueRefusedError as error:
        return Change(handle, "refused", None, str(error), at, overflow)
    good = status.is_good()
    return Change(handle, "good" if good else "uncertain", value, "" if good else status.name, at, overflow)


def reading_value(variant: ua.Variant) -> Value:
    """Return a scalar as a number, a boolean or a text: dates in ISO 8601 (UTC), byte strings in hexadecimal.

    Raises:
        ValueRefusedError: An array, a structure, or a number that is not finite.
    """
    value = variant.Value
    if variant.is_array or isinstance(value, list):
        raise ValueRefusedError(f"an array of {len(value or [])} values; declare nodes that hold one value each")
    match value:
        case bool() | str():
            return value
        case int():
            return int(value)  # also of an enumeration
        case float() if not math.isfinite(value):
            raise ValueRefusedError(f"the number {value}")
        case float():
            return value
        case datetime():
            return _utc(value).isoformat()
        case bytes():
            return value.hex()
    return _text_of(value)


def _text_of(value: object) -> str:
    match value:
        case UUID():
            return str(value)
        case ua.LocalizedText():
            return value.Text or ""
        case ua.XmlElement():
            return str(value.Value)
        case ua.StatusCode():
            return value.name
    if isinstance(value, _NAMED_IDS):
        return value.to_string()
    raise ValueRefusedError(f"a structure ({type(value).__name__}); declare nodes that hold one value each")


def _time_of(data: ua.DataValue) -> datetime:
    for at in (data.SourceTimestamp, data.ServerTimestamp):
        if at is not None and at.year > 1970:  # 1601 stands for no time
            return _utc(at)
    return datetime.now(UTC)


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
