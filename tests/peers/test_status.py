"""What a machine says about itself, and what is kept of the reports of others."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from machines import Machine
from support import eventually

from offgrid import __version__
from offgrid.api.anthropic.models import described_far
from offgrid.api.ollama.answer import to_time
from offgrid.peers.book import Grant
from offgrid.peers.status import LATEST, MAX_MODELS, MAX_REPORT, read_report
from offgrid.store.hashes import Hashes

HASH = "0123456789abcdef" * 4


def report(**changes: Any) -> bytes:
    said = {
        "id": "0123456789abcdef", "name": "galley", "version": "1.2.3", "models": [],
        "slots_total": 4, "slots_free": 3, "queue": 0, "tokens_per_second": 1.5, "time": 1.0,
        **changes,
    }  # fmt: skip
    return json.dumps(said).encode()


@pytest.mark.slow
def test_a_machine_says_what_it_has(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far", parallel=3)
    near.know(far)
    (entry,) = far.server.catalogue.entries()
    body = {"prompt": "Once", "max_tokens": 2, "temperature": 0}
    assert near.ask(far, "POST", "/v1/completions", json.dumps(body).encode()).status == 200
    said = near.peers.table.ask(far.as_peer())
    assert (said.id, said.name, said.version) == (far.peers.identity.id, "far", __version__)
    (model,) = said.models
    assert (model.id, model.size, model.kind) == (entry.id, entry.size, "chat")
    assert model.status == "loaded"
    assert said.slots_total == 3
    assert (said.queue, said.models_left_out, said.rpc) == (0, 0, None)
    assert abs(said.time - time.time()) < 60


def test_a_peer_says_where_it_listens(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.peers.table.close()  # its questions would tell the right port, perhaps later
    near.know(far)
    places = far.peers.connections.places
    assert near.ask(far, "GET", "/peer/status?port=4711").status == 200
    assert ("127.0.0.1", 4711) in places(near.peers.identity.id)
    assert ("127.0.0.1", 4711) not in places(far.peers.identity.id)


@pytest.mark.slow
def test_a_peer_that_has_moved_is_found_where_it_asks_from(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    far.peers.book.add(msgspec.structs.replace(near.as_peer(), port=port))
    far_s_view = far.peers.table.of(near.as_peer())
    assert far_s_view.state != "connected"
    near.peers.book.add(far.as_peer())

    def state() -> str:
        far.peers.table.look()
        return far.peers.table.of(near.as_peer()).state

    eventually(lambda: state() == "connected", "the peer was found")
    found = far.peers.book.by_fingerprint(near.peers.identity.fingerprint)
    assert found is not None
    assert found.port == near.peers.port


def test_a_peer_cannot_say_that_it_listens_at_no_port(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    for port in ("0", "65536", "x"):
        assert near.ask(far, "GET", f"/peer/status?port={port}").status == 400


def test_a_hash_is_said_when_it_is_known(
    make_machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offgrid.api.peers.own.KEPT_SECONDS", 0.0)
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    assert near.peers.table.ask(far.as_peer()).models[0].sha256 is None
    (entry,) = far.server.catalogue.entries()
    Hashes.beside(far.server.settings.responses_file).put(entry.path, HASH)
    assert near.peers.table.ask(far.as_peer()).models[0].sha256 == HASH


@pytest.mark.slow
def test_a_peer_learns_only_of_models_that_it_may_use(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    fingerprint = near.peers.identity.fingerprint

    def allow(*models: str) -> None:
        grant = Grant(models=models)
        far.peers.book.change(fingerprint, lambda one: msgspec.structs.replace(one, grant=grant))

    allow("another")
    assert near.peers.table.ask(far.as_peer()).models == ()
    (entry,) = far.server.catalogue.entries()
    allow(entry.id, "another")
    assert [model.id for model in near.peers.table.ask(far.as_peer()).models] == [entry.id]


def test_what_is_lent_is_said_while_the_worker_runs(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    note = far.server.settings.peers_dir / "rpc.json"
    lent = {"pid": 1, "port": 11613, "version": "1", "build": "b1", "memory_free": 5, "time": 1}
    note.write_text(json.dumps(lent), encoding="utf-8")
    said = near.peers.table.ask(far.as_peer()).rpc
    assert said is not None
    assert (said.port, said.memory_free) == (11613, 5)
    os.utime(note, (1, 1))  # its worker was killed long ago
    assert near.peers.table.ask(far.as_peer()).rpc is None
    note.write_text("nonsense", encoding="utf-8")
    assert near.peers.table.ask(far.as_peer()).rpc is None


def test_a_report_with_too_many_models_is_cut_off() -> None:
    models = [{"id": str(number), "size": 1} for number in range(30_000)]
    data = report(models=models)
    assert len(data) < MAX_REPORT  # a longer one is not read at all
    kept = read_report(data)
    assert len(kept.models) == MAX_MODELS
    assert kept.models_left_out == 30_000 - MAX_MODELS


@pytest.mark.parametrize(
    "model",
    [
        5, {}, {"id": ""}, {"id": "a", "size": -1}, {"id": "a" * 600, "size": 1},
        {"id": "a\u001b[31m", "size": 1}, {"id": "a", "size": 2**80},
        {"id": "a", "size": 1, "sha256": "../etc/passwd"}, {"id": "a", "size": 1, "kind": "new"},
        {"id": "a", "size": 1, "aliases": ["b\n"]}, {"id": "a", "size": 1, "aliases": ["b"] * 99},
    ],
)  # fmt: skip
def test_a_model_that_is_not_valid_is_left_out(model: object) -> None:
    kept = read_report(report(models=[model, {"id": "good", "size": 1, "new_field": [1]}]))
    assert [one.id for one in kept.models] == ["good"]
    assert kept.models_left_out == 1


def test_each_time_of_a_model_can_be_written_as_a_date() -> None:
    models = [{"id": str(time), "size": 1, "created": time} for time in (0, LATEST, LATEST + 1)]
    kept = read_report(report(models=models))
    assert kept.models_left_out == 1
    for write in (lambda one: described_far(one)["created_at"], lambda one: to_time(one.created)):
        assert [write(one)[:10] for one in kept.models] == ["1970-01-01", "9999-12-31"]


def test_two_models_with_one_id_are_one() -> None:
    kept = read_report(report(models=[{"id": "a", "size": 1}, {"id": "a", "size": 2}]))
    assert len(kept.models) == kept.models_left_out == 1


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, report(slots_free=-1), report(queue=1e300),
        report(queue=2**60), report(tokens_per_second=-1.0), report(models={}), report(name=5),
        report(rpc={"port": 0, "version": "", "build": ""}), report(time=10**300),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_report(data)


def test_texts_of_a_report_disturb_no_terminal() -> None:
    kept = read_report(report(name="a\x1b[2J" + "b" * 500, version="1\n" * 500))
    assert kept.name == ("a2J" + "b" * 500)[:63]
    assert len(kept.version) <= 32
    assert kept.version.isprintable()
