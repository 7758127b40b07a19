"""Which requests are forwarded, which are refused, and what the lists of models show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_peer import FakePeer, whole
from forwarded import MODEL, Pair, give_model, introduce, report_of, wait_for
from keyed import bearer, new_key
from machines import Machine
from support import STARTER, request

from offgrid.caller import Limits
from offgrid.peers.book import Grant

TEXT = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 4}


def ask(machine: Machine, path: str = "/v1/completions", **fields: Any) -> Any:
    """Send a request for the model; return the response."""
    return request(machine.server.url, "POST", path, {"model": MODEL, **TEXT, **fields})


def test_a_model_of_a_peer_is_listed(lasting_pair: Pair) -> None:
    url = lasting_pair.near.server.url
    models = {one["id"]: one for one in request(url, "GET", "/v1/models").json["data"]}
    assert models.keys() == {STARTER, MODEL}
    far = lasting_pair.far.peers.identity
    assert models[MODEL]["owned_by"] == "far"
    assert models[MODEL]["peer"] == far.id
    assert models[STARTER]["peer"] is None
    assert models[MODEL]["kind"] == models[STARTER]["kind"]
    one = request(url, "GET", f"/v1/models/{MODEL}").json
    assert one["owned_by"] == "far"
    assert one["settings"] is None
    detailed = request(url, "GET", "/v1/models?details=true").json["data"]
    assert [model["id"] for model in detailed] == sorted([STARTER, MODEL])


def test_lists_of_other_apis_have_it_too(lasting_pair: Pair) -> None:
    url, version = lasting_pair.near.server.url, {"anthropic-version": "2023-06-01"}
    listed = request(url, "GET", "/v1/models", headers=version).json["data"]
    assert MODEL in [one["id"] for one in listed]
    assert request(url, "GET", f"/v1/models/{MODEL}", headers=version).json["id"] == MODEL
    tags = request(url, "GET", "/api/tags").json["models"]
    assert f"{MODEL}:latest" in [one["name"] for one in tags]
    shown = request(url, "POST", "/api/show", {"model": f"{MODEL}:latest"}).json
    assert "completion" in shown["capabilities"]


def test_an_unknown_name_is_answered_with_the_models_of_peers(lasting_pair: Pair) -> None:
    refused = ask(lasting_pair.near, model="lightship")
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert refused.json["error"]["message"].endswith(f"The models of peers are: {MODEL}.")


def test_a_peer_does_not_learn_of_models_of_other_peers(
    make_machine: Callable[..., Machine], lasting_pair: Pair
) -> None:
    near, third = lasting_pair.near, make_machine("third")
    third.know(near)
    body = json.dumps({"model": "lightship", **TEXT}).encode()
    answer = third.ask(near, "POST", "/v1/completions", body)
    near.peers.book.remove(third.peers.identity.fingerprint)
    assert answer.status == 404
    message = json.loads(answer.content)["error"]["message"]
    assert STARTER in message
    assert MODEL not in message


def test_a_machine_without_models_names_those_of_its_peers(
    make_machine: Callable[..., Machine], lasting_pair: Pair
) -> None:
    empty = make_machine("empty", default_model=None)
    introduce(empty, lasting_pair.far)
    assert ask(empty).status == 200
    refused = request(empty.server.url, "POST", "/v1/completions", TEXT)
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert refused.json["error"]["message"].endswith(f"The models of peers are: {MODEL}.")
    lasting_pair.far.peers.book.remove(empty.peers.identity.fingerprint)


def test_names_with_a_tag_are_forwarded(lasting_pair: Pair) -> None:
    body = {"model": f"{MODEL}:latest", "prompt": "Once", "stream": False}
    answer = request(lasting_pair.near.server.url, "POST", "/api/generate", body)
    assert answer.status == 200
    assert answer.headers["x-offgrid-peer"] == "far"


@pytest.mark.parametrize("name", [MODEL, MODEL.upper(), f"{MODEL}.gguf"])
def test_ids_are_found_in_any_case(lasting_pair: Pair, name: str) -> None:
    assert ask(lasting_pair.near, model=name).headers["x-offgrid-peer"] == "far"


def test_own_models_come_first(lasting_pair: Pair) -> None:
    for name in (STARTER, "", STARTER[:9]):
        answer = ask(lasting_pair.near, model=name)
        assert answer.status == 200
        assert "x-offgrid-peer" not in answer.headers


@pytest.mark.parametrize("name", ["nothing", MODEL[:5]])
def test_unknown_models_are_unknown(lasting_pair: Pair, name: str) -> None:
    assert ask(lasting_pair.near, model=name).json["error"]["code"] == "model_not_found"


def test_a_forwarded_request_is_not_forwarded_again(lasting_pair: Pair) -> None:
    url, body = lasting_pair.near.server.url, {"model": MODEL, **TEXT}
    answer = request(url, "POST", "/v1/completions", body, {"x-offgrid-forwarded": "0" * 16})
    assert answer.json["error"]["code"] == "model_not_found"
    raw = json.dumps(body).encode()
    inner = lasting_pair.far.ask(lasting_pair.near, "POST", "/v1/completions", raw)
    assert inner.status == 404
    assert json.loads(inner.content)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "fields", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"background": True}]
)
def test_what_needs_stored_responses_is_refused(lasting_pair: Pair, fields: Any) -> None:
    body = {"model": MODEL, "input": "Hello!", **fields}
    answer = request(lasting_pair.near.server.url, "POST", "/v1/responses", body)
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["param"]) == ("not_forwarded", next(iter(fields)))
    assert "far" in error["message"]


def test_responses_are_not_stored_and_say_so(lasting_pair: Pair) -> None:
    body = {"model": MODEL, "input": "Hello!", "max_output_tokens": 4, "store": True}
    answer = request(lasting_pair.near.server.url, "POST", "/v1/responses", body)
    assert answer.json["store"] is False
    assert answer.headers["x-offgrid-ignored"] == "store"


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin", "default", "remove"])
def test_models_of_peers_are_not_changed(lasting_pair: Pair, action: str) -> None:
    url, body = lasting_pair.near.server.url, {"confirm": MODEL} if action == "remove" else {}
    answer = request(url, "POST", f"/v1/models/{MODEL}/{action}", body)
    assert answer.status == 409
    assert answer.json["error"]["code"] == "model_on_peer"
    assert "far" in answer.json["error"]["message"]


@pytest.mark.parametrize("path", ["/props", "/slots"])
def test_the_state_of_a_peers_model_is_not_known(lasting_pair: Pair, path: str) -> None:
    answer = request(lasting_pair.near.server.url, "GET", f"{path}?model={MODEL}")
    assert answer.status == 409
    assert "far" in answer.json["error"]["message"]


def test_the_vocabulary_of_a_peers_model_is_described(lasting_pair: Pair) -> None:
    path = f"/tokenizer_info?model={MODEL}"
    relayed = request(lasting_pair.near.server.url, "GET", path)
    assert relayed.headers["x-offgrid-peer"] == "far"
    assert relayed.json == request(lasting_pair.far.server.url, "GET", path).json


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 5}', b"\xff", b"[" * 100_000])
def test_odd_bodies_get_the_usual_errors(lasting_pair: Pair, body: bytes) -> None:
    answer = request(lasting_pair.near.server.url, "POST", "/v1/completions", body)
    assert answer.status == 400
    assert "x-offgrid-peer" not in answer.headers


def test_limits_of_the_grant_apply_and_are_told(pair: Pair) -> None:
    def limited(one: Any) -> Any:
        return msgspec.structs.replace(one, grant=Grant(limits=Limits(requests_per_minute=1)))

    pair.far.peers.book.change(pair.near.peers.identity.fingerprint, limited)
    assert ask(pair.near).status == 200
    refused = ask(pair.near)
    assert refused.status == 429
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert refused.json["error"]["message"].startswith("The machine near may use 1 requests per")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-offgrid-peer"] == "far"
    assert request(pair.far.server.url, "POST", "/v1/completions", TEXT).status == 200


def test_errors_about_a_grant_name_the_machine(pair: Pair) -> None:
    """Users of that machine read them, and must not look for the reason in their keys."""
    near, far = pair
    far.peers.book.change(
        near.peers.identity.fingerprint,
        lambda one: msgspec.structs.replace(one, grant=Grant(models=(MODEL,))),
    )

    def refused(model: str) -> str:
        body = msgspec.json.encode({"model": model, **TEXT})
        answer = near.ask(far, "POST", "/v1/completions", body)
        return str(json.loads(answer.content)["error"]["message"])

    give_model(far.models, "other")
    assert refused("other").startswith("The machine near may not use the model other.")
    assert f"The models that the machine near may use are: {MODEL}." in refused("none")


def test_the_near_machine_s_limit_of_tokens_holds_there(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine]
) -> None:
    near, far = make_machine("near", max_tokens=3), make_far()
    introduce(near, far)
    refused = ask(near)
    assert refused.status == 400
    assert "at most 3" in refused.json["error"]["message"]
    answer = request(near.server.url, "POST", "/v1/completions", {"model": MODEL, "prompt": "a"})
    assert answer.json["usage"]["completion_tokens"] <= 3


def test_the_content_filter_of_the_near_machine_is_not_passed_by(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine], tmp_path: Any
) -> None:
    (tmp_path / "filter.txt").write_text("forbidden\n")
    near, far = make_machine("near", filter_file=str(tmp_path / "filter.txt")), make_far()
    introduce(near, far)
    refused = ask(near)
    assert refused.status == 400
    assert refused.json["error"]["code"] == "not_forwarded"


@pytest.mark.slow
def test_two_machines_that_know_each_other_make_no_circle(
    make_far: Callable[..., Machine],
) -> None:
    one, other = make_far("one"), make_far("other")
    introduce(one, other)
    introduce(other, one)
    for machine in (one, other):
        answer = ask(machine)
        assert answer.status == 200
        assert "x-offgrid-peer" not in answer.headers
        assert ask(machine, model="nothing").status == 404


@pytest.mark.slow
def test_an_exact_name_of_a_peers_model_is_no_beginning_of_an_own_one(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine], tmp_path: Path
) -> None:
    (tmp_path / "near" / "models").mkdir(parents=True)
    give_model(tmp_path / "near" / "models", f"{MODEL}-small")
    near, far = make_machine("near"), make_far()
    introduce(near, far)
    assert ask(near).headers["x-offgrid-peer"] == "far"
    assert "x-offgrid-peer" not in ask(near, model=f"{MODEL}-s").headers


@pytest.mark.slow
def test_keys_can_be_made_for_models_of_peers(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine], tmp_path: Path
) -> None:
    (tmp_path / "near").mkdir()
    file = tmp_path / "near" / "keys.json"
    boss = bearer(new_key(file, "boss", "admin")[1])
    near, far = make_machine("near", keys_file=file), make_far()
    introduce(near, far)

    def create(model: str) -> Any:
        body = {"name": model, "scopes": ["inference"], "models": [model]}
        return request(near.server.url, "POST", "/v1/keys", body, boss)

    made = create(MODEL.upper())
    assert (made.status, made.json["models"]) == (201, [MODEL])
    body = {"model": MODEL, **TEXT}
    answer = request(near.server.url, "POST", "/v1/completions", body, bearer(made.json["key"]))
    assert (answer.status, answer.headers["x-offgrid-peer"]) == (200, "far")
    assert create("lightship").json["error"]["param"] == "models"


def test_keys_decide_which_models_of_peers_may_be_used(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine], tmp_path: Path
) -> None:
    (tmp_path / "near").mkdir()
    file = tmp_path / "near" / "keys.json"
    secrets = {
        name: new_key(file, name, models=models)[1]
        for name, models in (("all", None), ("few", (STARTER,)), ("far", (MODEL,)))
    }
    near, far = make_machine("near", keys_file=file), make_far()
    introduce(near, far)
    body = {"model": MODEL, **TEXT}
    found = {}
    for name, secret in secrets.items():
        headers = bearer(secret)
        answer = request(near.server.url, "POST", "/v1/completions", body, headers)
        listed = request(near.server.url, "GET", "/v1/models", headers=headers).json["data"]
        found[name] = (answer.status, sorted(one["id"] for one in listed))
    assert found == {
        "all": (200, sorted([STARTER, MODEL])), "few": (403, [STARTER]), "far": (200, [MODEL]),
    }  # fmt: skip
    assert request(near.server.url, "POST", "/v1/completions", body).status == 401


def test_an_alias_of_a_peer_gives_a_key_for_an_own_model_nothing(
    make_machine: Callable[..., Machine], tmp_path: Path
) -> None:
    (tmp_path / "near").mkdir()
    file = tmp_path / "near" / "keys.json"
    secrets = [new_key(file, name, models=(name,))[1] for name in (STARTER, "beacon")]
    near = make_machine("near", keys_file=file)
    report = report_of(MODEL, aliases={MODEL: (STARTER, "beacon")})
    peer = FakePeer(tmp_path / "fake", near.as_peer(), report, whole(200, b"{}"))
    near.peers.book.add(peer.as_peer())
    wait_for(near, peer.as_peer())
    body = {"model": MODEL, **TEXT}
    found = []
    for secret in secrets:
        headers = bearer(secret)
        answer = request(near.server.url, "POST", "/v1/completions", body, headers)
        listed = request(near.server.url, "GET", "/v1/models", headers=headers).json["data"]
        found.append((answer.status, [one["id"] for one in listed]))
    peer.close()
    assert found == [(403, [STARTER]), (200, [MODEL])]
