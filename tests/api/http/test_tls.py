"""HTTPS: real clients and hand-made ones, streams, reloading, and files that cannot be used."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import certificates
import httpx
import openai
import pytest
from certificates import Made
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from processes import comments_arrive
from support import STARTER, TIMEOUT, chat_body, endless, eventually
from variants import few

from offgrid.api.http.waitress import tls
from offgrid.cli import main
from offgrid.config import load_settings
from offgrid.errors import ConfigError
from offgrid.server import Server

Make = Callable[..., Server]
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return certificates.make(tmp_path_factory.mktemp("tls"), "localhost", "127.0.0.1")


@pytest.fixture
def server(make_server: Make, files: Made) -> Server:
    return make_server(tls_cert=files.cert, tls_key=files.key)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), TIMEOUT)


@contextlib.contextmanager
def secured(server: Server, files: Made, **options: bool) -> Iterator[ssl.SSLSocket]:
    context = files.trust()
    with (
        connect(server) as raw,
        context.wrap_socket(raw, server_hostname="localhost", **options) as client,
    ):
        yield client


def answer_of(client: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


def post(path: str, body: object, spaces: int = 0) -> bytes:
    data = json.dumps(body).encode() + b" " * spaces
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(), len(data), data,
    )  # fmt: skip


@pytest.mark.slow
def test_the_openai_client_and_its_streams(server: Server, files: Made) -> None:
    assert server.url == f"https://127.0.0.1:{server.port}"
    with httpx.Client(verify=files.trust()) as trusting:
        client = openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", http_client=trusting, max_retries=0
        )
        messages = [{"role": "user", "content": "Hello!"}]
        options = {"model": STARTER, "messages": messages, "temperature": 0, "max_tokens": 8}
        whole = client.chat.completions.create(**options).choices[0].message.content
        stream = client.chat.completions.create(**options, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole != ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Server, files: Made) -> None:
    for version, works in (("1.2", True), ("1.3", True)):
        command = ["curl", "-sS", "--cacert", str(files.authority), f"--tlsv{version}",
                   "--tls-max", version, "-i", f"{server.url}/health"]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        assert (ended.returncode == 0) == works, ended.stderr
        assert "strict-transport-security: max-age=" in ended.stdout.lower()
        assert '{"status":"healthy"}' in ended.stdout.replace(" ", "")


def test_an_older_version_of_tls_is_refused(server: Server, files: Made) -> None:
    context = files.trust()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with connect(server) as raw, pytest.raises((ssl.SSLError, ConnectionResetError)):
        context.wrap_socket(raw, server_hostname="localhost")


@pytest.mark.slow
def test_large_bodies_and_several_requests_on_a_connection(server: Server, files: Made) -> None:
    """More than a record in both directions, and records that arrive in pieces."""
    with secured(server, files) as client:
        for _ in range(2):
            client.sendall(post("/tokenize", {"model": STARTER, "prompt": "a"}, spaces=300_000))
            response = answer_of(client)
            assert (response.status, json.loads(response.read())["count"]) == (200, 1)
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            document = answer_of(client).read()
            assert len(document) > 1 << 16
            assert json.loads(document)["openapi"]


@pytest.mark.slow
def test_several_requests_in_one_record(server: Server, files: Made) -> None:
    """The second one is in OpenSSL's buffer, where poll does not see it."""
    with secured(server, files) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        content = b""
        while content.count(b"healthy") < 3:
            piece = client.recv(1 << 16)
            assert piece, content
            content += piece


def test_a_request_byte_by_byte(server: Server, files: Made) -> None:
    """Each byte is a record, and each record arrives in pieces."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = files.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with connect(server) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send() -> None:
            data = outgoing.read()
            for place in range(0, len(data), 7):
                raw.sendall(data[place : place + 7])

        def until(step: Callable[[], object]) -> object:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    send()
                    piece = raw.recv(1 << 16)
                    assert piece
                    incoming.write(piece)

        until(client.do_handshake)
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n":
            client.write(bytes([byte]))
        answer = until(lambda: client.read(1 << 16))
        assert isinstance(answer, bytes)
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_a_slow_reader_gets_everything(server: Server, files: Made) -> None:
    """The responses do not fit into the buffers of the system: writes have to be repeated."""
    times = 40
    with secured(server, files) as client:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * times)
        eventually(
            lambda: any(one.total_outbufs_len for one in server.http.channels),
            "a part of the responses waits",
        )
        bodies = set()
        with client.makefile("rb") as responses:
            for _ in range(times):
                length = 0
                while (line := responses.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                bodies.add(responses.read(length))
        assert len(bodies) == 1
        assert json.loads(bodies.pop())["openapi"]


def test_the_server_notices_that_the_client_has_left(server: Server, files: Made) -> None:
    """A4: whether the client says goodbye or not."""
    for polite in (True, False):
        with secured(server, files, suppress_ragged_eofs=True) as client:
            client.sendall(post(TEXT, endless()))
            response = answer_of(client)
            assert response.readline().startswith(b"data: ")
            if polite:
                with contextlib.suppress(OSError, ValueError):
                    client.unwrap()
            response.close()  # otherwise it keeps the connection open
        engine = server.pool.engine(STARTER)
        eventually(lambda engine=engine: engine.in_flight == 0, "the generation has ended")


def test_a_stream_is_sent_as_it_comes(make_server: Make, files: Made) -> None:
    """E18: comments of a waiting stream arrive while the worker is stopped."""
    server = make_server(tls_cert=files.cert, tls_key=files.key, parallel=1, sse_ping_interval=0.01)
    with secured(server, files) as busy, secured(server, files) as client:
        busy.sendall(post(TEXT, endless()))
        assert busy.recv(1)
        client.sendall(post(TEXT, endless(max_tokens=500)))
        response = answer_of(client)
        assert response.getheader("X-Accel-Buffering") == "no"
        assert response.readline()  # now the worker has accepted it
        comments_arrive(response)
        busy.shutdown(socket.SHUT_RDWR)
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_plain_http_gets_a_response_that_says_so(server: Server) -> None:
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = answer_of(client)
        assert response.status == 400
        assert response.getheader("Strict-Transport-Security") is None
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert "https://" in json.loads(response.read())["error"]["message"]
        assert client.recv(1) == b""


@pytest.mark.parametrize("sent", few(1, [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"]))
def test_a_handshake_that_never_ends(
    server: Server, files: Made, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E6: it holds up no other client, and is ended after a while."""
    with connect(server) as client:
        client.sendall(sent)
        eventually(lambda: len(server.http.channels) == 1, "it is connected")
        with secured(server, files) as other:
            other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer_of(other).status == 200
        monkeypatch.setattr(tls, "_HANDSHAKE_SECONDS", 0.0)
        assert client.recv(1) == b""
    monkeypatch.undo()
    with secured(server, files) as other:
        assert other.version() is not None


@pytest.mark.parametrize("sent", few(1, [b"\x16\x03\x01\x00\x05aaaaa", b"\x00" * 50, b"\x80" * 50]))
def test_a_broken_handshake_ends_only_its_connection(
    server: Server, files: Made, sent: bytes
) -> None:
    with connect(server) as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1 << 12):
                pass
    for _ in range(3):  # clients that leave before or in the handshake
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.sendall(sent[:1])
    with secured(server, files) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_of(client).status == 200


def test_a_new_certificate_without_a_restart(
    make_server: Make, tmp_path: Path, files: Made, caplog: pytest.LogCaptureFixture
) -> None:
    own = certificates.make(tmp_path / "tls", "localhost")
    server = make_server(tls_cert=own.cert, tls_key=own.key)
    with secured(server, own) as before:
        old = before.getpeercert(binary_form=True)
        own.cert.write_bytes(files.cert.read_bytes())
        server.reload()
        assert "does not belong to the certificate" in caplog.text
        with secured(server, own) as still:
            assert still.getpeercert(binary_form=True) == old
        own.key.write_bytes(files.key.read_bytes())
        server.reload()
        with secured(server, files) as after:
            assert after.getpeercert(binary_form=True) != old
        before.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_of(before).status == 200


@pytest.mark.slow
def test_https_begins_and_ends_with_a_restart(server: Server, files: Made) -> None:
    with pytest.raises(ConfigError, match="only by a restart"):
        server.reloads.reload(replace(server.settings, tls_cert=None, tls_key=None))


def wrong_files(folder: Path, files: Made) -> dict[str, tuple[Path, Path | None]]:
    """Name of a fault -> the two settings."""
    other = certificates.make(folder / "other", "localhost")
    text, locked = folder / "text.pem", folder / "locked.pem"
    text.write_text("no PEM")
    locked.write_bytes(certificates.pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    return {
        "cannot read": (folder / "absent.pem", files.key),
        "cannot read.*absent": (files.cert, folder / "absent.pem"),
        "contains no certificate": (text, files.key),
        "contains no private key": (files.cert, text),
        r"OFFGRID_TLS_CERT.*contains no private key": (files.cert, None),
        "does not belong to the certificate": (files.cert, other.key),
        "has a password": (files.cert, locked),
    }


def test_files_that_cannot_be_used_end_the_start(
    make_server: Make, tmp_path: Path, files: Made
) -> None:
    for fault, (cert, key) in wrong_files(tmp_path, files).items():
        with pytest.raises(ConfigError, match=fault):
            make_server(tls_cert=cert, tls_key=key)
    with pytest.raises(ConfigError, match="has no effect without a certificate"):
        load_settings({"tls_key": files.key}, environ={})
    with pytest.raises(ConfigError, match="exclude each other"):
        load_settings({"tls_cert": files.cert, "socket": "a.sock"}, environ={})


@pytest.mark.parametrize("command", ["ps", "stats"])
def test_the_commands_of_the_terminal(
    server: Server, files: Made, tmp_path: Path, command: str
) -> None:
    def call(*flags: str) -> tuple[int, str]:
        ended = CliRunner().invoke(main, [command, "--no-config", *flags])
        return ended.exit_code, ended.output

    status, output = call("--url", server.url, "--ca", str(files.authority))
    assert status == 0, output
    status, output = call("--url", server.url)
    assert status == 1
    assert "is not trusted" in output
    (tmp_path / "text").write_text("")
    assert "no certificates" in call("--url", server.url, "--ca", str(tmp_path / "text"))[1]
    # With the server's configuration, its certificate is trusted.
    config = tmp_path / "offgrid.toml"
    config.write_text(f'port = {server.port}\ntls_cert = "{files.cert}"\ntls_key = "{files.key}"\n')
    ended = CliRunner().invoke(main, [command, "--config", str(config)])
    assert ended.exit_code == 0, ended.output
    assert urlsplit(server.url).netloc


def test_a_request_is_told_the_scheme(server: Server, files: Made) -> None:
    with httpx.Client(verify=files.trust()) as client:
        answer = client.post(f"{server.url}/nothing", json=chat_body())
    assert f"https://127.0.0.1:{server.port}/v1" in answer.json()["error"]["message"]
