"""A certificate authority and a server's certificate for 127.0.0.1 and other addresses, made here."""

from __future__ import annotations

import datetime
import inspect
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from complex_system.local.servers import HOST


def write_certificates(folder: Path, *addresses: str) -> Path:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem``, and ``other.pem`` of an authority that signed nothing; return the folder.

    Args:
        folder: Where to.
        addresses: Further addresses of the server.
    """
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: x509.Name | None, signer: Any) -> tuple[x509.Certificate, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(each)) for each in (HOST, *addresses)])
        signing = signer or key
        authority = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(address, critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        )
        if signer is None:  # Python 3.13 refuses an authority that does not say what its key is for
            uses = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False) | {
                "key_cert_sign": True,
                "crl_sign": True,
            }
            builder = builder.add_extension(x509.KeyUsage(**uses), critical=True)
        return builder.sign(signing, hashes.SHA256()), key

    pem = serialization.Encoding.PEM
    authority, authority_key = make("CA", None, None)
    server, server_key = make("nats", authority.subject, authority_key)
    other, _ = make("another CA", None, None)
    for name, certificate in (("ca", authority), ("cert", server), ("other", other)):
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    private = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder
