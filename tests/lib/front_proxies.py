"""nginx, HAProxy and Caddy in front of a server, configured as in ``docs/deployment``.

Only ports, and paths of certificates, are put in place of those in the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certificates import Made
from support import TIMEOUT, eventually

DOCS = Path(__file__).parents[2] / "docs" / "deployment"
NAME = "llm.example"
PROXIES = ("nginx", "haproxy", "caddy")
CLIENT = "127.0.0.5"
"""The address that clients connect from; the proxy has another one."""
_NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include offgrid.conf;
}
"""
"""What a system's own nginx.conf has around the file."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    trust: ssl.SSLContext

    @contextlib.contextmanager
    def connect(self) -> Iterator[ssl.SSLSocket]:
        """A connection of a client."""
        with (
            socket.create_connection(
                ("127.0.0.1", self.port), TIMEOUT, source_address=(CLIENT, 0)
            ) as raw,
            self.trust.wrap_socket(raw, server_hostname=NAME) as client,
        ):
            yield client


def installed(name: str) -> bool:
    """Whether a proxy is installed."""
    return program(name) is not None


def program(name: str) -> str | None:
    """The path of a proxy's program."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def in_front(
    name: str, upstream: int, files: Made, folder: Path, below: str = "/"
) -> Iterator[Proxy]:
    """Run a proxy on a free port.

    Args:
        name: one of PROXIES.
        upstream: the port of the server.
        files: a certificate for NAME.
        folder: for its files.
        below: the path under which nginx serves, as docs/DEPLOYMENT.md describes it.
    """
    folder.mkdir()
    port = free_port()
    both = folder / "all.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    command = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}[name](folder, port)
    for file in folder.iterdir():
        if file.suffix != ".pem":
            text = file.read_text()
            text = text.replace("127.0.0.1:11611", f"127.0.0.1:{upstream}")
            if below != "/":
                text = text.replace("location / {", f"location {below} {{")
                text = text.replace("proxy_pass http://offgrid;", "proxy_pass http://offgrid/;")
            for path, real in (
                ("fullchain.pem", files.cert), ("key.pem", files.key), ("all.pem", both)
            ):  # fmt: skip
                text = text.replace(f"/etc/ssl/{NAME}/{path}", str(real))
            file.write_text(text)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **home},
        )  # fmt: skip
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket() as asking:
                return asking.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, f"{name} listens")
        yield Proxy(port, files.trust())
    finally:
        process.kill()
        process.wait(TIMEOUT)


def free_port() -> int:
    """A port that no program used a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as asking:
        return int(asking.getsockname()[1])


def _replaced(file: str, old: str, new: str) -> str:
    text = (DOCS / file).read_text()
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _nginx(folder: Path, port: int) -> list[str]:
    (folder / "nginx.conf").write_text(_NGINX)
    config = _replaced("nginx.conf", "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    (folder / "offgrid.conf").write_text(config)
    return [program("nginx") or "", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _haproxy(folder: Path, port: int) -> list[str]:
    config = _replaced("haproxy.cfg", "bind :443 ssl", f"bind 127.0.0.1:{port} ssl")
    (folder / "haproxy.cfg").write_text(config)
    return [program("haproxy") or "", "-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(folder: Path, port: int) -> list[str]:
    config = _replaced("Caddyfile", f"\n{NAME} {{", f"\nhttps://{NAME}:{port} {{")
    # Otherwise it also listens on port 80 and on the port of its administration.
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + config)
    command = [program("caddy") or "", "run", "--adapter", "caddyfile"]
    return [*command, "--config", str(folder / "Caddyfile")]
