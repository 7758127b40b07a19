"""The identity of this machine among its peers: a key and a self-signed certificate.

They are made at first use and never change, because paired machines know this certificate. Its
fingerprint is the SHA-256 of its DER encoding.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import re
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from offgrid.engine.folders import sync_folder
from offgrid.errors import ConfigError

if sys.platform != "win32":
    import fcntl

MISSING = "OFFGRID_PEERS (--peers): libraries are missing; run pip install 'offgrid-llm[peers]'"
_KEY, _CERTIFICATE = "key.pem", "certificate.pem"
_ID_DIGITS = 16
"""Hexadecimal digits of the fingerprint that are the id: 64 bits."""
MAX_NAME = 63
"""Characters of a machine's name, as of a label of a host name."""
_NO_BEGIN = datetime.datetime(1970, 1, 2, tzinfo=datetime.timezone.utc)
_NO_END = datetime.datetime(9999, 12, 31, tzinfo=datetime.timezone.utc)
"""The certificate has no useful end: it is pinned, and clocks of machines without a network are
often wrong."""
_UNSHOWN = re.compile(r"[^\w .()+-]")


@dataclass(frozen=True, slots=True)
class Identity:
    """This machine, as its peers know it.

    Attributes:
        name: a name for people; unique only by chance.
        certificate: PEM text.
        certificate_file: its file.
        key_file: PEM file of the private key, which only its owner may read.
    """

    name: str
    certificate: str
    certificate_file: Path
    key_file: Path

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 hexadecimal digits."""
        return fingerprint_of(self.certificate)

    @property
    def id(self) -> str:
        """The first 16 digits of the fingerprint."""
        return id_of(self.fingerprint)


@functools.lru_cache(maxsize=256)
def fingerprint_of(certificate: str) -> str:
    """Return the SHA-256 of a PEM certificate, as hexadecimal digits.

    Raises:
        ValueError: the text contains no certificate, or more than one.
    """
    return hashlib.sha256(der_of(certificate)).hexdigest()


def der_of(certificate: str) -> bytes:
    """Return the DER encoding of a PEM certificate.

    Raises:
        ValueError: the text contains no certificate, or more than one.
    """
    if certificate.count("BEGIN CERTIFICATE") != 1:
        raise ValueError("the text does not contain exactly one certificate")
    der = ssl.PEM_cert_to_DER_cert(certificate)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except ssl.SSLError as ex:
        raise ValueError(f"the text contains no certificate ({ex.reason})") from None
    return der


def id_of(fingerprint: str) -> str:
    """Return the id of the machine whose certificate has a fingerprint."""
    return fingerprint[:_ID_DIGITS]


def clean_name(name: str) -> str:
    """Return a machine's name without characters that could disturb a list or a terminal."""
    return _UNSHOWN.sub("", name)[:MAX_NAME].strip() or "unnamed"


def load_identity(folder: Path, name: str = "") -> Identity:
    """Return the identity in a folder; it is made there if there is none.

    Args:
        folder: the setting ``peers_dir``.
        name: the machine's name; its host name if empty.

    Raises:
        ConfigError: the folder cannot be used, or a file in it is damaged.
    """
    key, certificate = folder / _KEY, folder / _CERTIFICATE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (key.exists() and certificate.exists()):
            # The server and the RPC worker may start at the same time on a new machine.
            with _alone(folder):
                if not (key.exists() and certificate.exists()):
                    _make(folder, key, certificate)
    except OSError as ex:
        raise _unusable(folder, ex) from None
    shown = clean_name(name or socket.gethostname())
    return Identity(shown, _read(folder), certificate, key)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes the identity in a folder, and keep others from it.

    Raises:
        OSError: the folder cannot be used.
    """
    if sys.platform == "win32":
        import msvcrt

        descriptor = os.open(folder / ".identity.lock", os.O_RDWR | os.O_CREAT)
    else:
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        # A network file system may have no locks; then two programs must not start at a time.
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # this ends the lock


def check_identity(folder: Path) -> None:
    """Check the identity in a folder, if there is one.

    Raises:
        ConfigError: the folder cannot be used, or a file in it is damaged.
    """
    if (folder / _KEY).exists() and (folder / _CERTIFICATE).exists():
        _read(folder)


def _read(folder: Path) -> str:
    """Return the certificate in a folder, if it is sound and the key is its own."""
    key, certificate = folder / _KEY, folder / _CERTIFICATE
    try:
        text = certificate.read_text(encoding="ascii")
        fingerprint_of(text)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as ex:
        raise _damaged(folder, ex) from None
    except OSError as ex:
        raise _unusable(folder, ex) from None
    return text


def _unusable(folder: Path, ex: OSError) -> ConfigError:
    return ConfigError(f"OFFGRID_PEERS_DIR (--peers-dir): cannot use {folder}: {ex.strerror or ex}")


def _damaged(folder: Path, ex: Exception) -> ConfigError:
    return ConfigError(
        f"{folder}: {_KEY} and {_CERTIFICATE} cannot be used together ({ex}). Restore both from a "
        "backup; or delete both, and pair this machine with its peers again."
    )


def _make(folder: Path, key: Path, certificate: Path) -> None:
    """Write a new key and its certificate. The certificate gets its name last, so that a kill in
    between leaves no pair of files that differ."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise ConfigError(MISSING) from None
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    # OpenSSL looks for trusted certificates by name, so each has another one.
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"offgrid-{identifier.digest.hex()[:32]}")]
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NO_BEGIN)
        .not_valid_after(_NO_END)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identifier.digest, None, None), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate.unlink(missing_ok=True)
    write_private(key, secret)
    write_private(certificate, built.public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all, and durably.

    Raises:
        OSError: it cannot be written; a file that was there before is unchanged.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)
