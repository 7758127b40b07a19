"""The exchange by which two machines become peers: its messages, and what proves them.

One machine shows a code of eight digits, a person types it on the other one, and the two exchange
four messages over TLS 1.3:

1. The initiator sends a :class:`Hello`: its certificate, name and port, and its message of SPAKE2.
2. The responder, which shows the code, answers with a :class:`Reply`: the same.
3. The initiator sends a :class:`Proof`: an HMAC over both messages, and a signature that it has the
   key of its certificate.
4. The responder stores the initiator and answers with a :class:`Receipt`: another HMAC. Then the
   initiator stores the responder.

SPAKE2 (RFC 9382) makes a key from the code that differs on the two sides unless both used the same
code. An observer learns nothing about the code, and each exchange tests one guess. The identities
of SPAKE2 contain the fingerprints of both certificates, and the HMACs cover the first two messages
byte by byte, so nothing that is stored can be altered on the way. The responder proves its key by
TLS: the certificate of the connection must be the one in its reply, or a machine in between ends
the TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import ssl
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from offgrid.errors import InvalidParameter, RequestError
from offgrid.peers.identity import Identity, fingerprint_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import Certificate

T = TypeVar("T", bound=msgspec.Struct)

VERSION = 1
MAX_BODY = 8 << 10
"""Bytes of a message."""
CODE_DIGITS = 8
PAIR_PATH, CONFIRM_PATH = "/peer/pair", "/peer/pair/confirm"
_PROTOCOL = b"offgrid-pairing-1"
_ELEMENT = 33
"""Bytes of a message of SPAKE2: the side, and an element of Ed25519's group."""
_MAX_CERTIFICATE = 4 << 10
_SIGNED = b"initiator's certificate"

Side = Literal["initiator", "responder"]
Step = Literal["confirm", "undo"]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Pem = Annotated[str, Meta(min_length=1, max_length=_MAX_CERTIFICATE)]
Element = Annotated[str, Meta(pattern=rf"\A[0-9a-f]{{{2 * _ELEMENT}}}\Z")]
Mac = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Exchange = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Signature = Annotated[str, Meta(pattern=r"\A([0-9a-f]{2}){8,80}\Z")]


class PairingClosed(RequestError):
    """409: the machine shows no pairing code, or no longer."""

    status = 409
    type = "invalid_request_error"
    code = "pairing_closed"
    may_succeed = False


class PairingFailed(RequestError):
    """403: the code is wrong, or a message was altered; the two cannot be told apart."""

    status = 403
    type = "permission_error"
    code = "pairing_failed"
    may_succeed = False


class PairingLocked(RequestError):
    """429: too many wrong codes."""

    status = 429
    type = "rate_limit_error"
    code = "pairing_locked"


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first message; ``port`` is the peers port of its sender."""

    version: int
    name: Name
    certificate: Pem
    port: Annotated[int, Meta(ge=1, le=65535)]
    spake: Element


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to :class:`Hello`. The port of its sender is the one that the person typed."""

    version: int
    name: Name
    certificate: Pem
    spake: Element
    exchange: Exchange


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The third message; with ``undo``, a fifth one: the initiator could not store its peer."""

    exchange: Exchange
    step: Step
    mac: Mac
    signature: Signature


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to :class:`Proof`."""

    mac: Mac


class Shared(NamedTuple):
    """What both sides have after the first two messages; equal if the code is the same.

    Attributes:
        key: the key of SPAKE2, 32 bytes.
        transcript: SHA-256 of both messages.
    """

    key: bytes
    transcript: bytes

    def mac(self, side: Side, step: Step) -> str:
        """Return the HMAC by which a side proves a step, 64 hexadecimal digits."""
        key = hmac.digest(self.key, _PROTOCOL + f" {side} {step}".encode(), "sha256")
        return hmac.digest(key, self.transcript, "sha256").hex()

    def proves(self, mac: str, side: Side, step: Step) -> bool:
        """Return whether an HMAC is that of a side and a step; takes the same time for all."""
        return hmac.compare_digest(mac, self.mac(side, step))

    @property
    def signed(self) -> bytes:
        """What the initiator signs."""
        return b"%b %b %b" % (_PROTOCOL, _SIGNED, self.transcript)


def new_code() -> str:
    """Return a random code, eight digits."""
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"


def shown_code(code: str) -> str:
    """Return a code as people read it: 1234-5678."""
    return f"{code[:4]}-{code[4:]}"


def typed_code(text: str) -> str:
    """Return the digits of a code that a person typed.

    Raises:
        InvalidParameter: the text is no code.
    """
    code = text.translate({ord(c): None for c in " -\N{NO-BREAK SPACE}\N{NON-BREAKING HYPHEN}"})
    if len(code) != CODE_DIGITS or not (code.isascii() and code.isdigit()):
        # The text is not repeated: it may be most of a code.
        raise InvalidParameter("A pairing code has eight digits, such as 1234-5678.", "code")
    return code


def new_exchange() -> str:
    """Return a random id of an exchange."""
    return secrets.token_hex(16)


def decoded(body: bytes, cls: type[T]) -> T:
    """Return a message.

    Raises:
        InvalidParameter: the bytes are no such message, or one of another version.
    """
    try:
        message = msgspec.json.decode(body, type=cls)
    except (msgspec.MsgspecError, UnicodeDecodeError) as ex:
        raise InvalidParameter(f"This is no message of a pairing: {ex}.") from None
    version = getattr(message, "version", VERSION)
    if version != VERSION:
        raise InvalidParameter(
            f"The machines pair by different versions, {version} and {VERSION}. Install the same "
            "version of OffGrid on both.",
            "version",
        )
    return message


def encoded(message: msgspec.Struct) -> bytes:
    """Return the bytes of a message."""
    return msgspec.json.encode(message)


class Speaker:
    """One side's part of SPAKE2; made for one exchange.

    Args:
        side: who this side is.
        code: the code, digits only.

    Attributes:
        element: its message, hexadecimal.
    """

    def __init__(self, side: Side, code: str, initiator: str, responder: str) -> None:
        """``initiator`` and ``responder``: fingerprints of the certificates."""
        import spake2

        cls = spake2.SPAKE2_A if side == "initiator" else spake2.SPAKE2_B
        self._spake: Any = cls(
            code.encode(),
            idA=_identity("initiator", initiator),
            idB=_identity("responder", responder),
        )
        self.element: str = self._spake.start().hex()

    def finish(self, element: str, hello: bytes, reply: bytes) -> Shared:
        """Return what both sides share; to be called once.

        Args:
            element: the message of the other side, hexadecimal.
            hello: the bytes of the first message.
            reply: the bytes of its answer.

        Raises:
            InvalidParameter: it is no message of the other side.
        """
        try:
            key: bytes = self._spake.finish(bytes.fromhex(element))
        except Exception:  # the errors of the library have no common base
            raise InvalidParameter("This is no message of SPAKE2.", "spake") from None
        return Shared(key, _transcript(hello, reply))


def _identity(side: Side, fingerprint: str) -> bytes:
    return _PROTOCOL + f" {side} {fingerprint}".encode()


def _transcript(*messages: bytes) -> bytes:
    """Return the SHA-256 of messages and their lengths: no two lists have the same."""
    whole = hashlib.sha256()
    for part in (_PROTOCOL, *messages):
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.digest()


def checked_certificate(pem: str, own: str) -> str:
    """Return the certificate of another machine as it is stored: PEM text.

    Certificates of peers are trust anchors of TLS, so only those pass that a machine makes for
    itself: one P-256 key, signed by itself, no authority, with a name that is made from the key, so
    that no peer's certificate has the name of another one.

    Args:
        pem: what the machine sent.
        own: the fingerprint of this machine.

    Raises:
        InvalidParameter: it is not such a certificate, or it is this machine's.
    """
    try:
        certificate = _parsed(pem.strip())
        certificate.verify_directly_issued_by(certificate)
        is_machines = _is_machines(certificate)
    except Exception:  # the errors of the library have no common base
        is_machines = False
    if not is_machines:
        raise InvalidParameter("This is not the certificate of an OffGrid machine.")
    text = _pem_of(certificate)
    if fingerprint_of(text) == own:
        raise InvalidParameter("This is the same machine; it cannot be a peer of itself.")
    return text


def sign(identity: Identity, shared: Shared) -> str:
    """Return the signature by which this machine proves that it has its key, hexadecimal."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(identity.key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(shared.signed, ec.ECDSA(hashes.SHA256())).hex()


def has_signed(certificate: str, signature: str, shared: Shared) -> bool:
    """Return whether the key of a checked certificate made a signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        _key_of(_parsed(certificate)).verify(
            bytes.fromhex(signature), shared.signed, ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        return False
    return True


def _parsed(pem: str) -> Certificate:
    """Return a certificate; raise ValueError unless the text is just one."""
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(pem))


def _pem_of(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _key_of(certificate: Certificate) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP256R1.name:
        raise ValueError("the key is not of P-256")
    return key


def _is_machines(certificate: Certificate) -> bool:
    """Return whether a certificate has the fields that :mod:`offgrid.peers.identity` writes."""
    from cryptography import x509

    identifier = x509.SubjectKeyIdentifier.from_public_key(_key_of(certificate))
    name = f"CN=offgrid-{identifier.digest.hex()[:32]}"
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return certificate.subject.rfc4514_string() == name and not basic.ca
