"""Certificates that look almost like those of OffGrid machines."""

from __future__ import annotations

import datetime
import functools
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@functools.cache
def odd_certificate(kind: str) -> str:
    """A certificate, PEM text: of an ``authority``, with another ``name``, with another ``curve``
    or an ``rsa`` key, or ``issued`` by somebody else; else one as a machine makes it."""
    curve = ec.SECP384R1() if kind == "curve" else ec.SECP256R1()
    key: Any = ec.generate_private_key(curve)
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name("offgrid-0" if kind == "name" else f"offgrid-{identifier.digest.hex()[:32]}")
    signer = ec.generate_private_key(ec.SECP256R1()) if kind == "issued" else key
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2040, 1, 1))
        .add_extension(identifier, critical=False)
        .add_extension(x509.BasicConstraints(ca=kind == "authority", path_length=None), True)
        .sign(signer, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()
