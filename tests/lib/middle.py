"""A machine between two that pair: it ends the TLS of one and begins its own to the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from support import TIMEOUT

from offgrid.peers.contexts import pairing_context
from offgrid.peers.identity import Identity

Alter = Callable[[str, bytes], bytes]
"""Gets the path of a request, or of the request that is answered, and a body; returns another
one."""


@contextlib.contextmanager
def in_between(
    identity: Identity,
    port: int,
    ask: Alter = lambda path, body: body,
    answer: Alter = lambda path, body: body,
) -> Iterator[int]:
    """Pass requests on to a peers port, with an own certificate; the port to connect to.

    Args:
        identity: whose certificate the TLS has.
        port: where requests go.
        ask, answer: change bodies.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, got = onward(self.path, ask(self.path, body))
            got = answer(self.path, got)
            self.send_response(status)
            self.send_header("Content-Length", str(len(got)))
            self.end_headers()
            self.wfile.write(got)

        def log_message(self, *_: Any) -> None:
            pass

    def onward(path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT, context=pairing_context()
        )
        with contextlib.closing(connection):
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, response.read()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


def with_certificate(identity: Identity) -> Alter:
    """Put another certificate into the first two messages."""

    def alter(path: str, body: bytes) -> bytes:
        if path.endswith("/confirm") or b'"certificate"' not in body:
            return body
        return json.dumps({**json.loads(body), "certificate": identity.certificate}).encode()

    return alter
