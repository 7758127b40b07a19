"""Statistics, metrics and the log under attack: no secret in them, and no growth."""

from __future__ import annotations

import io
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
from processes import serving
from prometheus_client import REGISTRY
from support import STARTER, Stream, chat_body, endless, eventually, request

from offgrid.api.stats.metrics import Metrics
from offgrid.api.stats.source import Source
from offgrid.app import App
from offgrid.collaborators import make_observation
from offgrid.server import Server
from offgrid.stats.totals import TotalsFile

FIGURES = ("/v1/stats", "/metrics", "/ready", "/health")


def series(server: Server) -> set[str]:
    """The series in /metrics, each with its labels."""
    text = request(server.url, "GET", "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0] for line in lines}


@pytest.mark.parametrize(
    "rounds",
    # The full number shows no more than that nothing grows, which the small one shows too.
    [1_000, pytest.param(100_000, marks=pytest.mark.slow)],
)
def test_e17_random_paths_methods_and_models(
    make_server: Callable[..., Server], rounds: int
) -> None:
    """E17: labels come from lists, so that the series stay the same. The server is new: requests
    that end late would add series to a server of other tests."""
    server = make_server()
    logging.getLogger("offgrid.requests").setLevel(logging.CRITICAL)
    app: App = server.http._server.application
    observer = server.observation.observer

    def send(method: str, path: str, body: bytes = b"") -> None:
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
            "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
        }  # fmt: skip
        setup_testing_defaults(environ)
        list(app(environ, lambda *arguments: lambda data: None))

    def attack() -> None:
        word = secrets.token_hex(8)
        send("GET", f"/{word}/{word}")
        send("GET", f"/v1/models/{word}")
        send(word.upper(), "/health")
        send("POST", "/v1/completions", b'{"model": "%s", "prompt": "a"}' % word.encode())
        observer.refused(word, f"/{word}", 400, "http_400", word)

    try:
        for _ in range(5):
            attack()
        # The worker begins to load only now.
        late = (
            "offgrid_disk_bytes", 'process="worker"', "offgrid_sampled_tokens_total",
            "offgrid_threads{", "offgrid_cells{",
        )  # fmt: skip
        eventually(
            lambda: all(any(part in name for name in series(server)) for part in late),
            "the server has looked at its processes and disks, and its worker has reported",
        )
        before = series(server)
        for _ in range(rounds // 5):
            attack()
        assert series(server) == before
    finally:
        logging.getLogger("offgrid.requests").setLevel(logging.NOTSET)


@pytest.mark.slow
def test_e19_no_text_of_a_request_in_log_statistics_and_metrics(tmp_path: Path) -> None:
    """E19: at the most talkative level, neither a prompt nor a key nor a query is in them."""
    secret = f"Canary{secrets.token_hex(6)}"
    headers = {
        "Authorization": f"Bearer {secret}", "X-Api-Key": secret, "api-key": secret,
        "Cookie": secret, "X-Request-ID": f"{secret} with a space",
    }  # fmt: skip
    with serving(tmp_path, "--log-level", "trace") as child:
        url = child.wait_ready()
        for path, body in (
            ("/v1/chat/completions", chat_body(secret, max_tokens=3)),
            ("/v1/chat/completions", chat_body(secret, temperature=99)),
            ("/v1/completions", {"model": secret, "prompt": secret}),
            ("/v1/completions", {"model": STARTER, "prompt": secret, "stop": [secret], "n": -1}),
            ("/v1/completions", endless(secret, max_tokens=3)),
            ("/v1/responses", {"input": secret, "model": STARTER, "max_output_tokens": 3}),
            ("/v1/embeddings", {"input": secret, "model": STARTER}),
            ("/v1/chat/completions", chat_body(secret, response_format={
                "type": "json_schema", "json_schema": {"name": secret, "schema": {"type": secret}},
            })),
            (f"/v1/completions?api-key={secret}", b'{"prompt": "' + secret.encode()),
        ):  # fmt: skip
            request(url, "POST", path, body, headers)
        with Stream(url, "/v1/completions", endless(secret)) as stream:
            stream.read_some()
            stream.leave()
        answers = [request(url, "GET", path, headers=headers) for path in FIGURES]
        child.err.find(r"POST /v1/completions 499 .*client_gone")
        child.interrupt()
        assert child.wait() == 0
        assert "POST /v1/chat/completions 200" in child.err.text
        assert "POST /v1/completions begins" in child.err.text
        assert secret not in child.err.text + child.out.text
    for answer in answers:
        assert secret.encode() not in answer.body + repr(answer.headers).encode()
    assert secret not in (tmp_path / "stats.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_bodies_are_logged_only_if_asked(tmp_path: Path) -> None:
    with serving(tmp_path, "--log-level", "debug", "--log-prompts") as child:
        url = child.wait_ready()
        headers = {"X-Request-ID": "mine-7"}
        request(url, "POST", "/v1/completions", {"prompt": "Xanthippe\n", "max_tokens": 1}, headers)
        child.err.find(r"id=mine-7 body: .*Xanthippe")
        child.err.find(r"POST /v1/completions 200 .* id=mine-7\n")


@pytest.mark.slow
def test_e8_many_refusals_make_few_lines(tmp_path: Path) -> None:
    """E8: a client that repeats a wrong request cannot fill the disk."""
    with serving(tmp_path) as child:
        url = child.wait_ready()
        for _ in range(300):
            assert request(url, "POST", "/v1/completions", {"prompt": 1}).status == 400
        child.interrupt()
        assert child.wait() == 0
        lines = [line for line in child.err.text.splitlines() if " 400 " in line]
        assert 2 <= len(lines) < 20
        assert "more like it" in child.err.text


def test_a_server_has_a_registry_of_its_own(server: Server) -> None:
    """Two servers in one process do not mix, and nothing is in prometheus_client's registry."""
    file = TotalsFile(None)
    other = make_observation(server.settings, server.catalogue, server.pool, file)
    source = Source(other.observer.stats, other.keeper, server.pool, other.readiness)
    text = Metrics(source).text("")[0].decode()
    assert "offgrid_requests_total{" not in text
    assert not [family for family in REGISTRY.collect() if family.name.startswith("offgrid")]
