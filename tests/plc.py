"""An OPC UA server in this process, as a PLC: variables that a test sets, and certificates made here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.cert_gen import dump_private_key_as_pem, generate_private_key, generate_self_signed_app_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from complex_system.local.servers import free_port

URI = "urn:plant:press"


class Plc:
    """A running server with one variable a name, ``ns=2;s=<name>``."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.index = 0

    def node(self, name: str) -> ua.NodeId:
        return ua.NodeId(name, self.index)

    async def add(self, values: Mapping[str, Any], units: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add variables, with their engineering units where these are given. A value may be a ``Variant``."""
        folder = await self.server.nodes.objects.add_folder(self.index, "Press")
        for name, value in values.items():
            variable = await folder.add_variable(self.node(name), ua.QualifiedName(name, self.index), value)
            if unit := units.get(name):
                information = ua.EUInformation(DisplayName=ua.LocalizedText(unit))
                await variable.add_property(0, "EngineeringUnits", information)

    async def set(self, name: str, value: Any, status: int = ua.StatusCodes.Good, at: datetime | None = None) -> None:
        """Write a value with status and source time; now by default."""
        variant = value if isinstance(value, ua.Variant) else ua.Variant(value)
        data = ua.DataValue(variant, ua.StatusCode(status), at or datetime.now(UTC), datetime.now(UTC))
        await self.server.write_attribute_value(self.node(name), data)

    def break_connections(self) -> None:
        for client in list(self.server.bserver.clients):
            client.transport.abort()


class _OneUser(UserManager):
    def __init__(self, name: str, password: str) -> None:
        self._expected = (name, password)

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> User | None:
        return User(role=UserRole.User) if (username, password) == self._expected else None


@asynccontextmanager
async def plc(
    values: Mapping[str, Any],
    port: int = 0,
    *,
    certificates: Path | None = None,
    user: tuple[str, str] | None = None,
    earlier: str = "",
) -> AsyncIterator[Plc]:
    """A server until the block ends; with certificates it speaks Basic256Sha256 only, and trusts ``client.der``."""
    server = Server(user_manager=_OneUser(*user) if user else None)
    await server.init()
    port = port or free_port()
    url = f"opc.tcp://127.0.0.1:{port}/press"
    server.set_endpoint(url)
    await server.set_application_uri("urn:plant:server")
    if certificates:
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        await server.load_certificate(str(certificates / "server.der"))
        await server.load_private_key(str(certificates / "server.pem"))
        trusted = TrustStore([certificates / "trusted"], [])
        await trusted.load()
        checks = CertificateValidatorOptions.TRUSTED_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
        server.set_certificate_validator(CertificateValidator(checks, trusted))
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    found = Plc(server, url)
    if earlier:
        await server.register_namespace(earlier)
    found.index = await server.register_namespace(URI)
    await found.add(values, {"temperature": "degC"})
    async with server:
        yield found


def write_opcua_certificates(folder: Path) -> Path:
    """Write self-signed certificates and keys of ``server``, ``client`` and ``stranger``; the server trusts the client."""
    (folder / "trusted").mkdir()
    for name, uri, use in (
        ("server", "urn:plant:server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", "urn:complex-system", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("stranger", "urn:stranger", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        key = generate_private_key()
        certificate = generate_self_signed_app_certificate(
            key, name, {}, [x509.UniformResourceIdentifier(uri)], [use], days=1
        )
        (folder / f"{name}.pem").write_bytes(dump_private_key_as_pem(key))
        (folder / f"{name}.der").write_bytes(certificate.public_bytes(Encoding.DER))
    (folder / "trusted" / "client.der").write_bytes((folder / "client.der").read_bytes())
    return folder
