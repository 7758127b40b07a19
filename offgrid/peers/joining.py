"""The side of a pairing where the code is typed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from typing import cast

import msgspec

from offgrid.addresses import url
from offgrid.errors import InvalidParameter, OffgridError, Overloaded, RequestError, StoreFailed
from offgrid.peers import pairing
from offgrid.peers.book import Book, Peer
from offgrid.peers.contexts import pairing_context
from offgrid.peers.desk import locked, store
from offgrid.peers.identity import Identity, der_of
from offgrid.peers.pairing import PairingClosed, PairingFailed
from offgrid.peers.timed import TimedSocket

SECONDS = 15.0
"""How long the other machine may take for all of it, after the connection."""
_CONNECT = 5.0
_BETWEEN = (
    "The certificate of the connection is not that of the pairing: another machine is in between "
    "and reads what is sent. Nothing was stored."
)

_NO_CODE = (
    "shows no pairing code now. Run 'offgrid peers pair' on that machine, and type its code here "
    "within five minutes; a code is valid once."
)
_ENDED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError)
"""How the end of a connection by the other machine appears if its reason is lost."""


class MachineUnreachable(RequestError):
    """502: nothing answers at the address of another machine, or something else than OffGrid."""

    status = 502
    code = "peer_unreachable"
    may_succeed = False


class _Error(msgspec.Struct):
    code: str | None = None


class _Refusal(msgspec.Struct):
    """An error of the other machine. Its message is not repeated: nothing is proved yet."""

    error: _Error


class Line:
    """A TLS connection to a machine that is not paired yet.

    Args:
        host, port: where it is.

    Attributes:
        certificate: the DER encoding of its certificate.

    Raises:
        MachineUnreachable: nothing answers there, or it speaks no TLS 1.3.
    """

    def __init__(self, host: str, port: int) -> None:
        self._where = url("", host, port).removeprefix("://")
        self._http = http.client.HTTPConnection("offgrid")
        # A second connection would be without TLS, and could be to another machine.
        self._http.auto_open = 0
        try:
            sock = _connected(host, port)
        except (OSError, ValueError) as ex:
            raise self._broken(ex) from None
        sock.allow(SECONDS, time.monotonic() + SECONDS)
        self._http.sock = sock
        self.certificate = sock.getpeercert(binary_form=True) or b""

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def send(self, path: str, body: bytes) -> bytes:
        """Send a message; return the answer.

        Raises:
            MachineUnreachable: there is no answer.
            PairingClosed, PairingLocked, PairingFailed, Overloaded, InvalidParameter: the other
                machine refuses it.
        """
        try:
            self._http.request("POST", path, body, {"Content-Type": "application/json"})
            response = self._http.getresponse()
            answer = response.read(pairing.MAX_BODY + 1)
        except (OSError, http.client.HTTPException) as ex:
            raise self._ended(ex, path) from None
        if len(answer) > pairing.MAX_BODY:
            raise self._strange()
        if response.status != http.HTTPStatus.OK:
            raise self._refused(answer, response.headers.get("Retry-After", ""))
        return answer

    def _ended(self, ex: Exception, path: str) -> RequestError:
        """Return the error for a message without an answer.

        Without an open code the other machine ends a handshake without a certificate, which this
        side notices only at its first request. The reason that it gives may be lost.
        """
        if path == pairing.CONFIRM_PATH:
            return MachineUnreachable(
                f"The connection to {self._where} ended before the pairing did. That machine may "
                "know this one already; pair them again."
            )
        if _is_refusal(ex):
            return PairingClosed(f"{self._where} {_NO_CODE}")
        return self._broken(ex)

    def _broken(self, ex: Exception) -> RequestError:
        if isinstance(ex, (ssl.SSLError, http.client.HTTPException)):
            return self._strange()
        why = "it does not answer" if isinstance(ex, TimeoutError) else reason(ex)
        return MachineUnreachable(
            f"Cannot pair with {self._where}: {why}. Check the address, that the port is the peers "
            "port (11612 by default) and not that of the API, that the server there runs with "
            "--peers, and that no firewall blocks the port."
        )

    def _strange(self) -> MachineUnreachable:
        return MachineUnreachable(
            f"What answers at {self._where} is no peers port of OffGrid. Give the peers port, "
            "which is 11612 by default, and not that of the API."
        )

    def _refused(self, answer: bytes, retry_after: str) -> RequestError:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            code = msgspec.json.decode(answer, type=_Refusal).error.code or ""
            seconds = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 5 else 60
            made = _refusals(self._where, seconds).get(code)
            if made is not None:
                return made()
        return self._strange()


def _refusals(where: str, seconds: int) -> dict[str, Callable[[], RequestError]]:
    """Return the errors of the other machine, as this one reports them, by code."""
    return {
        "pairing_closed": lambda: PairingClosed(
            f"{where} {_NO_CODE}"
        ),
        "pairing_locked": lambda: locked(seconds),
        "pairing_failed": lambda: PairingFailed(
            "The code is wrong, or somebody on the network has altered the pairing. Compare the "
            f"code that {where} shows, and try again; five wrong codes lock its pairing."
        ),
        "server_busy": lambda: Overloaded(
            f"{where} pairs with other machines now; try again later.", retry_after=5
        ),
        "store_failed": lambda: StoreFailed(
            f"{where} cannot store the pairing; its log says why. Nothing was stored here."
        ),
        "invalid_value": lambda: InvalidParameter(
            f"{where} does not accept this pairing: it is this same machine, it has too many "
            "peers, or its version of OffGrid is another one."
        ),
    }  # fmt: skip


class Initiator:
    """The messages of the machine where the code is typed; for one exchange.

    Args:
        identity: this machine.
        port: its peers port, at which the other machine will look for it.
        certificate: the DER encoding of the certificate that the TLS connection has.
        code: eight digits.

    Attributes:
        hello: the first message.
    """

    def __init__(self, identity: Identity, port: int, certificate: bytes, code: str) -> None:
        self._identity, self._certificate = identity, certificate
        self._theirs = hashlib.sha256(certificate).hexdigest()
        self._speaker = pairing.Speaker("initiator", code, identity.fingerprint, self._theirs)
        self.hello = pairing.encoded(
            pairing.Hello(
                pairing.VERSION, identity.name, identity.certificate, port, self._speaker.element
            )
        )

    def prove(self, answer: bytes) -> bytes:
        """Return the third message.

        Args:
            answer: the second one; to be given once.

        Raises:
            PairingFailed: a machine is in between.
            InvalidParameter: it is no such message, or both machines are the same.
        """
        try:
            self._reply = pairing.decoded(answer, pairing.Reply)
            text = pairing.checked_certificate(self._reply.certificate, self._identity.fingerprint)
            self._shared = self._speaker.finish(self._reply.spake, self.hello, answer)
        except InvalidParameter as ex:
            raise InvalidParameter(f"The other machine's answer is refused. {ex}") from None
        if der_of(text) != self._certificate:
            raise PairingFailed(_BETWEEN)
        self._text = text
        return self._proof("confirm")

    def finish(self, receipt: bytes) -> Peer:
        """Return the other machine, without addresses, when it has proved that it has the code.

        Args:
            receipt: the fourth message.

        Raises:
            PairingFailed: it proves nothing.
        """
        try:
            proved = pairing.decoded(receipt, pairing.Receipt).mac
        except InvalidParameter:
            proved = ""
        if not self._shared.proves(proved, "responder", "confirm"):
            raise PairingFailed(
                "The other machine does not know the code that was typed here. Nothing was stored."
            )
        return Peer(
            name=self._reply.name, certificate=self._text, addresses=(), port=0, paired_at=0
        )

    def undo(self) -> bytes:
        """Return the message that this machine cannot store the other one."""
        return self._proof("undo")

    def _proof(self, step: pairing.Step) -> bytes:
        mac = self._shared.mac("initiator", step)
        signature = pairing.sign(self._identity, self._shared)
        return pairing.encoded(pairing.Proof(self._reply.exchange, step, mac, signature))


def pair_with(
    identity: Identity, book: Book, own_port: int, host: str, port: int, code: str
) -> Peer:
    """Pair with the machine that shows a code; return it. It is in the book then, and this machine
    in its book.

    If the answer to the last message is lost, the other machine knows this one, and is not known
    here: pairing again mends that.

    Args:
        identity: this machine.
        book: its peers.
        own_port: its peers port, at which the other machine will look for it.
        host: address or name of the other machine.
        port: its peers port.
        code: eight digits.

    Raises:
        MachineUnreachable: nothing answers there.
        PairingClosed: it shows no code.
        PairingFailed: the code is wrong, or somebody is in between.
        PairingLocked: too many wrong codes were typed.
        StoreFailed: one of the machines cannot write; none has stored the other.
        Overloaded: it pairs with too many machines now.
        InvalidParameter: one of the machines has too many peers, or both are the same.
    """
    with contextlib.closing(Line(host, port)) as line:
        if not book.has_room(hashlib.sha256(line.certificate).hexdigest()):
            raise InvalidParameter("This machine has too many peers; forget one first.")
        initiator = Initiator(identity, own_port, line.certificate, code)
        proof = initiator.prove(line.send(pairing.PAIR_PATH, initiator.hello))
        found = initiator.finish(line.send(pairing.CONFIRM_PATH, proof))
        peer = msgspec.structs.replace(
            found, addresses=(host,), port=port, paired_at=int(time.time())
        )
        try:
            store(book, peer)
        except OffgridError:
            # If that is lost too, the other machine sees that this one refuses it.
            with contextlib.suppress(OffgridError):
                line.send(pairing.CONFIRM_PATH, initiator.undo())
            raise
    return book.by_fingerprint(peer.fingerprint) or peer


def _connected(host: str, port: int) -> TimedSocket:
    """Return a TLS connection. It sends no host name: the other machine may have any.

    Raises:
        OSError, ValueError: there is none.
    """
    context = pairing_context()
    context.sslsocket_class = TimedSocket
    plain = socket.create_connection((host, port), _CONNECT)
    try:
        return cast(TimedSocket, context.wrap_socket(plain))
    except BaseException:
        plain.close()
        raise


def _is_refusal(ex: Exception) -> bool:
    """Return whether the other machine ended the handshake for want of a certificate, or without a
    reason."""
    if isinstance(ex, ssl.SSLError) and "CERTIFICATE" in (ex.reason or ""):
        return True
    return isinstance(ex, _ENDED)


def reason(ex: Exception) -> str:
    """Return why a connection failed, in words."""
    if isinstance(ex, socket.gaierror):
        return "no machine has this name"
    return (getattr(ex, "strerror", None) or str(ex) or type(ex).__name__).lower()
