"""``/v1/stats``, ``/metrics`` and ``/ready`` of real servers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripted_model
from documented import Documented
from openai import OpenAI
from processes import all_stopped, serving
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support import STARTER, Json, Stream, chat_body, endless, eventually, request

from offgrid.api.http.gate import places
from offgrid.server import Server

Serve = Callable[..., Server]
TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"


def stats_of(server: Server) -> Json:
    response = request(server.url, "GET", "/v1/stats")
    Documented.of(server.url).check(response, "get", "/v1/stats")
    return response.json  # type: ignore[no-any-return]


def metrics_of(server: Server) -> dict[str, float]:
    """Metric, and its labels except for model and engine -> value."""
    text = request(server.url, "GET", "/metrics").body.decode()
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items())
                                 if k not in ("model_name", "engine"))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }  # fmt: skip


def model_of(stats: Json) -> Json:
    (model,) = stats["models"]
    assert model["id"] == STARTER
    return model  # type: ignore[no-any-return]


def counts_of(stats: Json) -> dict[tuple[str, str, str], int]:
    """Method, endpoint and kind of status -> number of requests."""
    return {
        (row["method"], row["endpoint"], row["status"]): row["count"]
        for row in stats["total"]["endpoints"]
    }


def test_requests_and_tokens(make_server: Serve) -> None:
    """What the answers say they used is what the statistics say."""
    server = make_server(parallel=2)
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    usages = [
        client.chat.completions.create(
            model=STARTER, messages=[{"role": "user", "content": "Hello!"}], n=2, max_tokens=5
        ).usage,
        client.completions.create(model=STARTER, prompt=["Once", "Once upon"], max_tokens=4).usage,
        *(
            chunk.usage
            for chunk in client.chat.completions.create(
                model=STARTER, messages=[{"role": "user", "content": "Hello!"}], stream=True,
                max_tokens=5, stream_options={"include_usage": True},
            )
        ),
    ]  # fmt: skip
    embedded = client.embeddings.create(model=STARTER, input=["a b c", "d"]).usage
    answer = client.responses.create(model=STARTER, input="Hello!", max_output_tokens=5)
    assert request(server.url, "POST", TEXT, {"model": STARTER}).status == 400
    assert request(server.url, "GET", "/v1/nothing").status == 404
    used = [usage for usage in usages if usage is not None]
    assert answer.usage is not None
    prompt = sum(u.prompt_tokens for u in used) + embedded.prompt_tokens + answer.usage.input_tokens
    completion = sum(u.completion_tokens for u in used) + answer.usage.output_tokens
    cached = sum(
        u.prompt_tokens_details.cached_tokens or 0 for u in used if u.prompt_tokens_details
    )
    cached += answer.usage.input_tokens_details.cached_tokens
    tokens = {"prompt": prompt, "cached": cached, "completion": completion}
    # A stream ends for the server a moment after its client has read the end.
    eventually(
        lambda: counts_of(stats_of(server)).get(("POST", CHAT, "2xx")) == 2, "the stream has ended"
    )
    stats = stats_of(server)
    model = model_of(stats)
    assert model["tokens"] == stats["total"]["tokens"] == tokens
    assert model["requests"] == 5
    finished = model["finished"]
    assert sum(finished.values()) == 6
    assert finished["abort"] == finished["error"] == 0
    counts = counts_of(stats)
    assert counts[("POST", CHAT, "2xx")] == 2
    assert counts[("POST", TEXT, "2xx")] == counts[("POST", TEXT, "4xx")] == 1
    assert counts[("GET", "(unknown)", "4xx")] == 1
    assert stats["total"]["requests"] == sum(counts.values())
    for kind in ("first_token", "per_token", "request"):
        times = model["latency"][kind]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"]
    metrics = metrics_of(server)
    assert metrics["vllm:prompt_tokens_total"] == prompt
    assert metrics["vllm:generation_tokens_total"] == completion
    assert metrics["vllm:prefix_cache_hits_total"] == cached
    assert metrics["vllm:e2e_request_latency_seconds_count"] == 5
    assert metrics["vllm:time_to_first_token_seconds_count"] == 5  # two prompts in one request
    assert metrics["vllm:request_generation_tokens_sum"] == completion
    assert metrics["vllm:inter_token_latency_seconds_count"] == completion - 6
    assert metrics[f"offgrid_requests_total endpoint={TEXT} method=POST status=4xx"] == 1


@pytest.mark.slow
def test_state_of_the_model_and_the_machine(make_server: Serve) -> None:
    server = make_server(parallel=2, queue_size=3, ctx_size=512, cache_ram_mb=0)
    body = endless("word " * 40, max_tokens=10)
    with Stream(server.url, TEXT, body) as stream:
        usage = len(list(stream.events()))
    assert usage > 10

    def seen() -> bool:
        stats = stats_of(server)
        model, taken = model_of(stats), stats["places"]["taken"]
        return model["process"] is not None and model["cells"]["used"] > 0 and taken == 0

    eventually(seen, "the worker has said what it holds, and was looked at")
    stats = stats_of(server)
    model = model_of(stats)
    assert (model["state"], model["slots"], model["queue"]) == ("ready", 2, 3)
    assert model["cells"]["total"] == 1024
    assert model["steps"] > 1
    assert model["cells"]["used"] > 40
    assert model["cells"]["fill"] == model["cells"]["used"] / 1024
    assert model["threads"] == {"decode": 1, "prefill": 1}
    assert model["process"]["rss"] > 1 << 20
    assert model["process"]["cpu_seconds"] > 0
    assert stats["server"]["threads"] > 8
    assert stats["machine"]["available"] < stats["machine"]["memory"]
    assert [disk["place"] for disk in stats["machine"]["disks"]] == ["cache", "models", "responses"]
    assert stats["places"] == {"taken": 0, "total": places(server.settings)}
    assert stats["throughput"]["completion"] == model["throughput"]["completion"]


def test_running_and_waiting_sequences(make_server: Serve, tmp_path: Path) -> None:
    # The starter would fill its context before its worker says for the first time what runs.
    prompt = "{{ messages[0]['content'] }}"
    scripted_model.write(tmp_path / "endless.gguf", prompt, [], "On and on. ", context=100_000)
    server = make_server(parallel=1, ctx_size=0, drafts=False)

    def model() -> Json:
        [found] = stats_of(server)["models"]
        return found  # type: ignore[no-any-return]

    with (
        Stream(server.url, TEXT, endless(model="endless")) as one,
        # A chat stream sends its role at once, while the first stream still runs.
        Stream(server.url, CHAT, chat_body(model="endless", stream=True)) as two,
    ):
        one.read_some()
        eventually(
            lambda: (model()["running"], model()["waiting"]) == (1, 1), "one runs, one waits"
        )
        assert stats_of(server)["places"]["taken"] == 2
        metrics = metrics_of(server)
        assert metrics["vllm:num_requests_running"] == metrics["vllm:num_requests_waiting"] == 1
        two.leave()
        # If the other one left first, this one would begin, and might end before it is cancelled.
        eventually(lambda: stats_of(server)["places"]["taken"] == 1, "the one that waits has ended")
        one.leave()
    eventually(lambda: stats_of(server)["places"]["taken"] == 0, "both have ended")
    eventually(lambda: model()["finished"]["abort"] == 2, "both were aborted")


def test_totals_survive_a_restart(make_server: Serve, tmp_path: Path) -> None:
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 3}
    for run in (1, 2):
        server = make_server()
        assert request(server.url, "POST", TEXT, body).status == 200
        total = stats_of(server)["total"]
        assert total["tokens"]["completion"] == 3 * run
        assert metrics_of(server)["vllm:generation_tokens_total"] == 3
        server.stop()
    assert b'"completion":6' in (tmp_path / "stats.json").read_bytes()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain"), ("*/*", "text/plain"), ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
         "application/openmetrics-text"),
        # Prometheus 2 and 3 ask like this.
        ("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;"
         "version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
         "application/openmetrics-text"),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;"
         "version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2", "application/openmetrics-text"),
        ("text/plain;version=1.0.0;escaping=dots", "text/plain"),
        ("\xff;;q=,", "text/plain"),
    ],
)  # fmt: skip
def test_the_formats_of_the_metrics(server: Server, accept: str | None, kind: str) -> None:
    assert request(server.url, "POST", TEXT, {"prompt": "a", "max_tokens": 1}).status == 200
    headers = {} if accept is None else {"Accept": accept}
    response = request(server.url, "GET", "/metrics", headers=headers)
    assert response.status == 200
    assert response.headers["content-type"].startswith(kind)
    text = response.body.decode()
    parse: Any = text_string_to_metric_families
    if kind != "text/plain":
        assert text.endswith("# EOF\n")
        parse = openmetrics.text_string_to_metric_families
    families = list(parse(text))
    names = {family.name for family in families}
    assert {"vllm:num_requests_running", "offgrid_requests", "offgrid_ready"} <= names
    samples = {sample.name for family in families for sample in family.samples}
    assert {"vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_sum"} <= samples
    assert not [name for name in samples if name.startswith("vllm_")]
    assert request(server.url, "HEAD", "/metrics", headers=headers).body == b""


# --- ready ----------------------------------------------------------------------------------------


def test_ready_while_the_model_loads_and_after(make_server: Serve) -> None:
    server = make_server()
    documented = Documented.of(server.url)
    before = request(server.url, "GET", "/ready")
    documented.check(before, "get", "/ready")
    if before.status == 503:  # it may have been quick
        assert before.json == {"status": "not ready", "reason": "loading"}
        assert before.headers["retry-after"] == "1"
    server.pool.engine(STARTER)
    after = request(server.url, "GET", "/ready")
    documented.check(after, "get", "/ready")
    assert (after.status, after.json) == (200, {"status": "ready"})
    assert metrics_of(server)["offgrid_ready"] == 1
    server.pool.drain()
    last = request(server.url, "GET", "/ready")
    assert (last.status, last.json["reason"]) == (503, "draining")
    assert request(server.url, "GET", "/health").status == 200
    assert stats_of(server)["status"] == "draining"


def test_a_model_that_cannot_be_loaded(make_server: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(64))
    (tmp_path / "b.gguf").symlink_to(Path(__file__))
    server = make_server(default_model="a")
    eventually(
        lambda: request(server.url, "GET", "/ready").json.get("reason") == "failed",
        "the server says that its model has failed",
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a12_a_worker_that_is_stopped(tmp_path: Path) -> None:
    """A12: it is noticed, and /health, /metrics and /v1/stats are answered all the time."""
    with serving(tmp_path, "--ready-timeout", "1") as child:
        url = child.wait_ready()
        eventually(lambda: request(url, "GET", "/ready").status == 200, "it is ready")
        worker = child.worker()
        with Stream(url, TEXT, endless()) as stream:
            stream.read_some()
            os.kill(worker.pid, signal.SIGSTOP)
            eventually(lambda: all_stopped(worker.pid), "it has stopped")
            eventually(
                lambda: request(url, "GET", "/ready").json.get("reason") == "stalled",
                "the stopped worker is noticed",
            )
            for path in ("/health", "/metrics", "/v1/stats"):
                assert request(url, "GET", path).status == 200
            os.kill(worker.pid, signal.SIGCONT)
            eventually(lambda: request(url, "GET", "/ready").status == 200, "it goes on")


@pytest.mark.slow
def test_nothing_here_waits_for_locks_of_requests(make_server: Serve) -> None:
    """A request that holds the locks of the pool and of a model for ever delays none of them."""
    server = make_server()
    engine = server.pool.engine(STARTER)
    eventually(lambda: engine.latest is not None, "the worker has answered a ping")
    with server.pool._changed, engine._readiness.lock:
        for path in ("/health", "/ready", "/metrics", "/v1/stats"):
            assert request(server.url, "GET", path).status == 200, path
