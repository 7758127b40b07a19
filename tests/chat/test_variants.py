"""Variants of conversations that a template refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.chat.conventions import Conventions
from offgrid.chat.variants import variants


def conversation(calls: list[Any], results: list[Any]) -> list[dict[str, Any]]:
    """A question, calls with these ids, results with these ids, and another question."""
    return [
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": id, "type": "function", "function": {"name": f"f{n}", "arguments": {}}}
                for n, id in enumerate(calls)
            ],
        },
        *({"role": "tool", "content": "r", "tool_call_id": id} for id in results),
        {"role": "user", "content": "u"},
    ]


def answered(calls: list[Any], results: list[Any]) -> list[str]:
    """The functions whose calls have no result: each result belongs to the first call with its id,
    or else to the first one that is left."""
    left = [*enumerate(calls)]
    for id in results:
        if left:
            left.remove(next((call for call in left if call[1] == id), left[0]))
    return [f"f{n}" for n, _ in left]


IDS = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6)


@given(IDS.filter(len), IDS)
def test_every_call_gets_a_result(calls: list[Any], results: list[Any]) -> None:
    messages = conversation(calls, results)
    longer = next((v for v in variants(messages, Conventions()) if len(v) > len(messages)), None)
    missing = answered(calls, results)
    if not missing:
        assert longer is None or [m["role"] for m in longer].count("tool") == len(results)
        return
    assert longer is not None
    added = longer[2 + len(results) : -1]
    assert [message["name"] for message in added] == missing
    assert {message["content"] for message in added} == {"No result."}


class Id(str):
    """An id that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Id.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("same", [True, False])
def test_the_work_does_not_grow_with_calls_times_results(same: bool) -> None:
    """Thousands of calls and results would take minutes, if the template refuses all variants."""

    def comparisons(number: int) -> int:
        ids = [f"{0 if same else n}" for n in range(number)]
        results = [Id("other" if same else id) for id in reversed(ids)]
        messages = conversation([*map(Id, ids)], [*results])
        Id.compared = 0
        assert len([*variants(messages, Conventions())]) > 2
        return Id.compared

    assert comparisons(400) < 3 * comparisons(200) + 100
