"""The socket that the server listens on: TCP, a Unix socket, or one that systemd passes on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import psutil

from offgrid.config import BY_NAME, Settings
from offgrid.errors import ConfigError, OffgridError
from offgrid.terminal import shown

BACKLOG = 128
"""Connections that the system queues until the server accepts them."""
_SEND_BUFFER = 1 << 17
"""Size of a connection's send buffer in bytes; Linux doubles it. By default the buffer grows to
megabytes, and a hundred clients that read nothing keep the processor busy filling theirs."""
OLLAMA_PORT = 11434
_FREE = "stop the other program, or choose another port: --port 0 picks a free one"
_PASSED = "fd:"
"""Beginning of the setting ``socket`` for a socket that another process opened."""


class PortTaken(OffgridError):
    """The server cannot listen on the address. ``reason`` says why, ``fix`` what to do."""

    def __init__(self, host: str, port: int | None, why: object, fix: str = "") -> None:
        place = host if port is None else f"{host}:{port}"
        self.reason = f"cannot listen on {place}: {why}"
        self.fix = fix
        super().__init__(f"{self.reason}; {fix}" if fix else self.reason)


class ListeningSocket:
    """A listening socket.

    Args:
        settings: the settings.

    Attributes:
        socket: the socket.
        host: the address as it is set; the numeric one of a socket that was passed on; empty for a
            Unix socket.
        port: its TCP port, or 0.
        path: the path of a Unix socket; None for TCP.

    Raises:
        ConfigError: there is no such socket to take over.
        PortTaken: the address is in use, or it does not belong to this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self.path: Path | None = None
        self.host, self.port = settings.host, 0
        self._inode: tuple[int, int] | None = None
        if settings.socket.startswith(_PASSED):
            self.socket = _passed(settings.socket)
            self.host = str(self.socket.getsockname()[0]) if _is_ip(self.socket) else ""
        elif settings.socket:
            self.path, self.host = Path(settings.socket).expanduser().absolute(), ""
            self.socket = listen_unix(self.path, int(settings.socket_mode, 8))
            self._inode = _inode(self.path)
        else:
            self.socket = listen(settings.host, settings.port)
        if _is_ip(self.socket):
            self.port = int(self.socket.getsockname()[1])
        elif self.path is None:
            self.path = Path(os.fsdecode(self.socket.getsockname()))

    def close(self) -> None:
        """Close the socket and remove its file."""
        self.socket.close()
        self.remove()

    def remove(self) -> None:
        """Remove the file of a Unix socket that this object made, if it is still the same file."""
        if self.path is not None and self._inode is not None:
            with contextlib.suppress(OSError):
                if _inode(self.path) == self._inode:
                    self.path.unlink()
            self._inode = None


def listen_for_ollama(settings: Settings) -> socket.socket | None:
    """Return a listening socket on Ollama's port of the address in the settings; None if they do
    not ask for it, or if it is the server's usual port.

    Raises:
        PortTaken: the port is in use, or the address does not belong to this machine.
    """
    if not settings.ollama or (not settings.socket and settings.port == OLLAMA_PORT):
        return None
    fix = "stop the other program (Ollama itself?), or leave out --ollama"
    return listen(settings.host, OLLAMA_PORT, fix)


def listen(host: str, port: int, fix: str = _FREE) -> socket.socket:
    """Return a listening TCP socket. TCP keep-alive detects clients that vanish without closing.

    Args:
        host: address or name.
        port: 0 for a free one.
        fix: what to do if the port is in use.

    Raises:
        PortTaken: the address is in use, or it does not belong to this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as ex:
        raise PortTaken(host, port, ex.strerror or ex) from ex
    except UnicodeError as ex:  # the text cannot be a host name
        raise PortTaken(host, port, ex) from ex
    try:
        if os.name != "nt":  # on Windows this would let a second server take over the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _prepare(sock)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as ex:
        sock.close()
        raise _taken(host, port, ex, fix) from ex
    return sock


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Return a listening Unix socket with a new file.

    Args:
        path: its file. One that a server left behind is removed.
        mode: the permissions of the file.

    Raises:
        PortTaken: a server listens there, another file has the name, or none can be made.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise PortTaken(str(path), None, "this system has no Unix sockets", "use --host and --port")
    _remove_stale(path, family)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # With a later chmod, other accounts could connect in between.
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
    except OSError as ex:
        sock.close()
        fix = "choose a shorter path" if "too long" in str(ex) else ""
        raise PortTaken(str(path), None, ex.strerror or ex, fix) from ex
    return sock


def _remove_stale(path: Path, family: int) -> None:
    """Remove the file of a socket on which no process listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            fix = "choose another path for the socket"
            raise PortTaken(str(path), None, "a file with this name exists", fix)
    except OSError:  # there is none, or the folder cannot be read: bind says why
        return
    with socket.socket(family, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return
        except OSError as ex:
            if ex.errno not in (errno.EAGAIN, errno.EINPROGRESS):  # its backlog is full
                raise PortTaken(str(path), None, ex.strerror or ex) from ex
    raise PortTaken(
        str(path), None, "a server listens there already", "stop it, or choose another path"
    )


def _passed(name: str) -> socket.socket:
    """Return the listening socket with the descriptor that ``fd:3`` names."""
    source = BY_NAME["socket"].source_names
    number = name.removeprefix(_PASSED)
    sock = None
    try:
        if not number.isdecimal():
            raise ValueError
        sock = socket.socket(fileno=int(number))
        if sock.type != socket.SOCK_STREAM or not _listens(sock):
            raise ValueError
    except (OSError, ValueError, OverflowError):
        if sock is not None:
            sock.detach()  # it belongs to something else
        raise ConfigError(
            f"{source}: {name!r} is no listening socket; systemd passes the first one of a "
            ".socket unit as fd:3"
        ) from None
    os.set_inheritable(sock.fileno(), False)
    if _is_ip(sock):
        _prepare(sock)
    return sock


def _listens(sock: socket.socket) -> bool:
    if not hasattr(socket, "SO_ACCEPTCONN"):
        return True
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    for name, value in (
        ("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 20_000),
    ):  # fmt: skip
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_ip(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def port_holder(port: int) -> str:
    """Return the end of a sentence that names the process which listens on a TCP port; empty if
    this user may not know it."""
    # The system may hide the connections of other users, or all of them.
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN
            if is_listening and connection.laddr.port == port and connection.pid:
                words = psutil.Process(connection.pid).cmdline()[:3]
                return f" by process {connection.pid} ({shown(' '.join(words))})"
    return ""


def _taken(host: str, port: int, ex: OSError, fix: str) -> PortTaken:
    why = ex.strerror or ex
    if ex.errno == errno.EADDRINUSE:
        return PortTaken(host, port, f"{why}{port_holder(port)}", fix)
    if ex.errno == errno.EACCES:
        return PortTaken(host, port, why, "choose a port above 1023, such as --port 11611")
    return PortTaken(host, port, why)
