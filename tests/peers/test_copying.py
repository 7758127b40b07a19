"""Models from peers: ``POST /v1/import`` with a peer."""

from __future__ import annotations

from typing import Any

from machines import Machine
from sticks import content, hidden, put, sha256, split_model, visible
from support import Json, request

BIG = content(1, 3_000_000)


def post(near: Machine, **body: Any) -> Json:
    answer = request(near.server.url, "POST", "/v1/import", {"peer": "far", **body})
    assert answer.status == 200, answer.body
    made: Json = answer.json
    return made


def statuses(made: Json) -> dict[str, str]:
    return {file["id"] or file["name"]: file["status"] for file in made["files"]}


def test_a_model_with_its_projector_and_a_split_one(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "sub/ä b.gguf", BIG)
    put(far.models / "sub/mmproj-f16.gguf", content(9, 1000))
    parts = split_model(far.models, 3)
    made = post(near, ids=["SUB/Ä B.gguf", "big-00001-of-00003"])
    assert (made["status"], made["error"], made["peer"]) == ("completed", None, "far")
    assert statuses(made) == {
        "sub/ä b": "imported", "sub/mmproj-ä b": "imported", "big-00001-of-00003": "imported",
    }  # fmt: skip
    assert visible(near.models) == {
        "sub/ä b.gguf": BIG, "sub/mmproj-ä b.gguf": content(9, 1000), **parts,
    }  # fmt: skip
    assert hidden(near.models) == []
    details = request(near.server.url, "GET", "/v1/models/sub%2F%C3%A4%20b").json
    assert details["sha256"] == sha256(BIG)
    again = post(near, ids=["sub/ä b"])
    assert set(statuses(again).values()) == {"identical"}
