"""Certificates for tests: an authority, and the certificate of a server that it signed."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """Files of PEM: the authority's certificate, the server's with its issuer, and its key."""

    authority: Path
    cert: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        """What a client needs that trusts the authority only."""
        return ssl.create_default_context(cafile=self.authority)


def make(folder: Path, *names: str) -> Made:
    """Write a new authority and a certificate for names and addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    own, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _signed("OffGrid test authority", own.public_key(), "", own, [])
    server = _signed("server", key.public_key(), "OffGrid test authority", own, [*names])
    made = Made(folder / "authority.pem", folder / "cert.pem", folder / "key.pem")
    made.authority.write_bytes(authority)
    made.cert.write_bytes(server + authority)
    made.key.write_bytes(pem(key))
    return made


def pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """A private key as a file has it."""
    locked = serialization.BestAvailableEncryption(password) if password else None
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        locked or serialization.NoEncryption(),
    )


def _signed(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str],
) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer or name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(one) for one in names]), critical=False
        )
    else:
        usage = [*[False] * 5, True, True, False, False]  # keyCertSign and cRLSign
        builder = builder.add_extension(x509.KeyUsage(*usage), critical=True)
    signed = builder.sign(signer, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
