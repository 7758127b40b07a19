"""Models of which other machines compute a part, and what happens when these are lost.

The machines are processes on this one: real servers, real RPC workers, real TLS.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny_models
from engine_runs import Run
from processes import Child, serving
from rpc_library import rpc_library
from rpc_workers import MakeWorker, RpcWorker, rpc_workers
from support import Response, Stream, endless, eventually, request
from wires import Wire, wire_to

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model
from offgrid.rpc.child import Child as Computing
from offgrid.rpc.child import program_of

TEXT = "Once upon a time"
LOAD_LIMIT = 200_000
"""Bytes: a part of the weights, so that a load has begun and not ended."""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[MakeWorker]:
    """Machines that lend to the one with the folder of peers ``here/peers``."""
    with rpc_workers(tmp_path, tmp_path / "here" / "peers") as make:
        yield make


@contextlib.contextmanager
def borrowing(
    folder: Path,
    *servers: str,
    layers: str = "all",
    flags: tuple[str, ...] = (),
    **environ: str,
) -> Iterator[Child]:
    """A server that borrows from these machines."""
    given = (
        "--no-config", "--peers-dir", str(folder / "here" / "peers"), "--peers-name", "here",
        "--rpc-servers", ",".join(servers), "--rpc-layers", layers, "--rpc-library", rpc_library(),
        "--threads", "1",
    )  # fmt: skip
    with serving(folder, *given, *flags, **environ) as child:
        yield child


def ask(url: str, **fields: object) -> Response:
    body = {"prompt": TEXT, "max_tokens": 24, "temperature": 0, **fields}
    return request(url, "POST", "/v1/completions", body)


def answer(url: str) -> str:
    response = ask(url)
    assert response.status == 200, response.body
    return str(response.json["choices"][0]["text"])


def here(path: Path) -> str:
    """What this machine alone answers."""
    model = Model(Load(str(path), ctx_size=1024, parallel=1, batch_size=64, threads=1))
    try:
        run = Run(model)
        id = run.submit(TEXT, max_tokens=24)
        run.finish()
        return run.text(id)
    finally:
        model.close()


def test_two_machines_give_the_tokens_of_one(
    tmp_path: Path, workers: MakeWorker, starter_path: Path
) -> None:
    ann, bob = workers("ann"), workers("bob")
    with borrowing(tmp_path, ann.server, bob.server, layers="4") as server:
        url = server.wait_ready()
        server.err.find("2 layers on ann; 2 layers on bob")
        assert answer(url) == here(starter_path)
        # Neither the processes that compute nor the borrower have a port that others can use.
        for lending in (ann.lending(), bob.lending()):
            assert [one for one in lending.net_connections("tcp") if one.status == "LISTEN"] == []
        listening = [
            one for one in server.worker().net_connections("tcp") if one.status == "LISTEN"
        ]
        assert listening == []
    eventually(ann.is_idle, "ann has no session any more")
    eventually(bob.is_idle, "bob has no session any more")


@pytest.mark.slow
def test_three_machines_give_the_tokens_of_one(
    tmp_path: Path, workers: MakeWorker, starter_path: Path
) -> None:
    """Versions of llama.cpp hung with three or more processors at the end of a network."""
    machines = [workers(name) for name in ("ann", "bob", "cyd")]
    servers = [machine.server for machine in machines]
    with borrowing(tmp_path, *servers, layers="4") as server:
        url = server.wait_ready()
        assert answer(url) == here(starter_path)


def test_rows_of_logits_do_not_cross_the_network(tmp_path: Path, workers: MakeWorker) -> None:
    """The output layer is computed here, so only states of the size of the model's width come."""
    models = tmp_path / "models"
    models.mkdir()
    vocabulary = 65_536
    tiny_models.make_wordy(models, vocabulary)
    with (
        far_machine(tmp_path, workers) as (loss, name),
        borrowing(
            tmp_path, name, flags=("--models-dir", str(models), "--model", "wordy")
        ) as server,
    ):
        url = server.wait_ready()
        assert ask(url, ignore_eos=True).status == 200
        before = loss.wire.returned
        made = ask(url, prompt="Another", max_tokens=8, ignore_eos=True).json
        assert made["usage"]["completion_tokens"] == 8
        assert 0 < loss.wire.returned - before < 4 * vocabulary


# --- losses ---------------------------------------------------------------------------------------


class Loss:
    """One way to lose a machine, and to get it back."""

    def __init__(self, worker: RpcWorker, wire: Wire) -> None:
        self.worker, self.wire = worker, wire

    def happen(self, how: str) -> None:
        if how == "killed":
            self.worker.kill()
        elif how == "stopped":
            self.worker.stop_all()
        else:
            self.wire.cut()

    def undo(self, how: str) -> None:
        if how == "killed":
            self.worker.start()
        elif how == "stopped":
            self.worker.go_on()
        self.wire.mend()


@contextlib.contextmanager
def far_machine(folder: Path, workers: MakeWorker) -> Iterator[tuple[Loss, str]]:
    """A machine at the end of a wire, and its name for ``rpc_servers``."""
    worker = workers("far")
    with wire_to(worker.port) as wire:
        yield Loss(worker, wire), f"far:{wire.port}"


def comes_back(server: Child, url: str, expected: str) -> None:
    """Check that the server has lived on, and wait until the model answers again."""
    assert request(url, "GET", "/health").status == 200
    assert server.process.poll() is None

    def look() -> bool:
        return ask(url).status == 200

    eventually(look, "the model answers again")
    assert answer(url) == expected


HOW = [
    "killed",
    pytest.param("stopped", marks=pytest.mark.slow),
    pytest.param("cut off", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("how", HOW)
def test_a_machine_that_is_lost_during_an_answer_ends_it_with_an_error(
    tmp_path: Path, workers: MakeWorker, starter_path: Path, how: str
) -> None:
    with far_machine(tmp_path, workers) as (loss, name), borrowing(tmp_path, name) as server:
        url = server.wait_ready()
        with Stream(url, "/v1/completions", endless(stream=True)) as stream:
            assert stream.read_some()
            loss.happen(how)
            events = [*stream.events()]
        error = json.loads(events[-1])["error"]
        assert "The RPC worker far" in error["message"], error
        refused = ask(url)
        assert refused.status == 500
        assert "RPC worker far" in refused.json["error"]["message"]
        loss.undo(how)
        comes_back(server, url, here(starter_path))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
def test_a_machine_that_is_lost_during_a_prompt_fails_the_request(
    tmp_path: Path, workers: MakeWorker, starter_path: Path, how: str
) -> None:
    with far_machine(tmp_path, workers) as (loss, name), borrowing(tmp_path, name) as server:
        url = server.wait_ready()
        assert ask(url).status == 200
        # The machine computes nothing from now on, so the prompt cannot end.
        loss.worker.lending().suspend()
        with Stream(url, "/v1/completions", endless("Another beginning", stream=True)) as stream:
            loss.happen(how)
            events = [*stream.events()]
        assert "RPC worker far" in json.loads(events[-1])["error"]["message"]
        loss.undo(how)
        comes_back(server, url, here(starter_path))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
def test_a_machine_that_is_lost_during_loading_fails_the_load(
    tmp_path: Path, workers: MakeWorker, starter_path: Path, how: str
) -> None:
    with far_machine(tmp_path, workers) as (loss, name):
        loss.wire.limit = LOAD_LIMIT
        with borrowing(tmp_path, name) as server:
            url = server.url
            assert loss.wire.held.wait(60)
            loss.happen(how)
            refused = ask(url)
            assert refused.status == 500
            assert "RPC worker far" in refused.json["error"]["message"]
            loss.undo(how)
            comes_back(server, url, here(starter_path))


@pytest.mark.slow
def test_a_process_that_is_stopped_while_it_starts_fails_the_load(
    tmp_path: Path, workers: MakeWorker
) -> None:
    """There are no beats yet."""
    far = workers("far")
    with borrowing(tmp_path, far.server) as server:
        psutil.Process(far.lending().pid).suspend()
        refused = ask(server.url)
        assert refused.status in (200, 500)  # it may have been loaded before it was stopped
        if refused.status == 500:
            assert "stopped" in refused.json["error"]["message"]


@pytest.mark.slow
def test_a_model_of_the_start_returns_without_a_request(
    tmp_path: Path, workers: MakeWorker
) -> None:
    """Where a load balancer asks whether the server is ready, no request comes before that."""
    far = workers("far")
    with borrowing(tmp_path, far.server) as server:
        url = server.wait_ready()
        far.kill()
        eventually(lambda: request(url, "GET", "/ready").status == 503, "it is not ready")
        far.start()
        eventually(lambda: request(url, "GET", "/ready").status == 200, "it is ready again")
        assert answer(url)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_has_room_here_uses_no_other_machine(
    tmp_path: Path, workers: MakeWorker
) -> None:
    far = workers("far")
    with borrowing(tmp_path, far.server, layers="auto") as server:
        assert answer(server.wait_ready())
        assert "layers on" not in server.err.text
        assert far.is_idle()


@pytest.mark.slow
def test_a_model_without_room_here_is_divided(
    tmp_path: Path, workers: MakeWorker, starter_path: Path
) -> None:
    """The budget is too small for the whole model, and large enough for a part."""
    far = workers("far")
    with borrowing(tmp_path, far.server, layers="auto", OFFGRID_MEMORY_BUDGET="80") as server:
        url = server.wait_ready()
        server.err.find("layers on far")
        assert answer(url) == here(starter_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_every_kind_of_memory_can_be_divided(
    tmp_path: Path, workers: MakeWorker, architecture: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    path = tiny_models.make(architecture, models)
    far = workers("far")
    with borrowing(tmp_path, far.server) as server:
        url = server.wait_ready()
        assert answer(url) == here(path)


# --- what else a worker does with its model -------------------------------------------------------


@pytest.mark.slow
def test_prefixes_are_saved_and_restored_across_machines(
    tmp_path: Path, workers: MakeWorker
) -> None:
    """With one slot, each conversation displaces the other one."""
    far = workers("far")
    flags = ("--parallel", "1", "--cache-ram-mb", "64", "--ctx-size", "1024")
    texts = [f"{TEXT} there was a {animal} in the wood. " * 8 for animal in ("fox", "hen")]
    with borrowing(tmp_path, far.server, flags=flags) as server:
        url = server.wait_ready()
        responses = [ask(url, prompt=text).json for text in (*texts, *texts, *texts)]
    details = [response["usage"]["prompt_tokens_details"] for response in responses]
    assert all(one["cached_tokens"] > 50 for one in details[2:])
    answers = [response["choices"][0]["text"] for response in responses]
    assert answers[2:4] == answers[4:]


@pytest.mark.slow
def test_models_that_embed_are_divided_too(tmp_path: Path, workers: MakeWorker) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_models.make_last_pooling(models)
    far, vectors = workers("far"), []
    for servers in ((), (far.server,)):
        with borrowing(tmp_path, *servers) as server:
            url = server.wait_ready()
            response = request(url, "POST", "/v1/embeddings", {"input": [TEXT, "another"]})
            assert response.status == 200, response.body
            vectors.append([one["embedding"] for one in response.json["data"]])
    for here, there in zip(*vectors, strict=True):
        assert there == pytest.approx(here, abs=1e-3)


@pytest.mark.slow
def test_a_port_of_this_machine_is_used_without_an_rpc_worker(
    tmp_path: Path, starter_path: Path
) -> None:
    """As it is with llama.cpp's own program, or with an SSH tunnel to one."""
    job = json.dumps({"rpc_library": rpc_library(), "threads": 1})
    process = Computing(program_of(os.getpid(), job), lambda line: None)
    try:
        name = f"127.0.0.1:{process.started.port}"
        with borrowing(tmp_path, name, layers="3") as server:
            url = server.wait_ready()
            assert answer(url) == here(starter_path)
            process.end()
            with contextlib.suppress(ConnectionError):
                refused = ask(url)
                assert refused.status == 500
                assert name in refused.json["error"]["message"]
            assert request(url, "GET", "/health").status == 200
    finally:
        process.end()
