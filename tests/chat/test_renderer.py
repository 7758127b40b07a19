"""C23, D1: templates with operations that Python cannot interrupt run in a process with limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_models import with_template
from support import chat_body, request
from variants import few

from offgrid.chat import child
from offgrid.chat.budget import Budget, TemplateLimit
from offgrid.chat.child import Renderer
from offgrid.chat.renderer import MEMORY
from offgrid.chat.sandbox import Sandbox, Uninterruptible
from offgrid.chat.template import ChatTemplate
from offgrid.chat.words import Word, packed, unpacked
from offgrid.errors import InvalidParameter

from .templates import EXAMPLES

resource = pytest.importorskip("resource", reason="the limits are those of Unix")

USER = [{"role": "user", "content": "hi"}]
UNCOMMON = (
    "{{ 'a' | center(9) }}", "{{ [1, 2] | batch(2) | list }}", "{{ '%s' % 'a' }}", "{{ 2 ** 3 }}",
    "{{ 'a'.center(9) }}", "{{ (1).bit_length() }}", "{{ 'x' * 100000 | int }}",
    "{% set f = 'a'.zfill %}{{ f(3) }}", "{{ ['a'] | map('center', 3) | list }}",
    "{{ [2, 1] | sum }}", "{{ 'a'['zfill'](3) }}", "{{ 'a' | attr('zfill')(3) }}",
)  # fmt: skip


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


def budget() -> Budget:
    return Budget(1000, 1_000_000, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("source", [s for s in UNCOMMON if s != "{{ 2 ** 3 }}"])
def test_an_uncommon_operation_does_not_run_in_the_server(source: str, renderer: Renderer) -> None:
    """It gives the same text as if it did."""
    sandbox = Sandbox()
    template = sandbox.from_string(source)
    with pytest.raises(Uninterruptible):
        sandbox.render_bounded(template, {}, budget())
    free = Sandbox(interruptible=False)
    expected = free.render_bounded(free.from_string(source), {}, budget())
    assert renderer.render(source, {}, budget()) == expected
    (part,) = ChatTemplate(source, "<s>", "</s>", ()).render(USER)
    assert part.text == expected


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.family)
def test_templates_of_known_models_run_in_the_server(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process costs time, so what real templates use must not need it."""

    def refuse(self: Renderer, source: str, variables: Any, budget: Budget) -> str:
        raise AssertionError("the renderer is used")

    monkeypatch.setattr(Renderer, "render", refuse)
    template = ChatTemplate(example.template, "<s>", "</s>", example.control)
    assert template.render(USER)
    assert not template._in_child


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    few(3, [
        "{{ ('a' * 1000000).translate({97: 'b' * 100000}) }}",
        "{{ strftime_now('%c' * 300000) }}",
        "{{ 'x' * 10**9 }}", "{{ 9 ** 9 ** 9 }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ range(999999) | batch(1) | list | length }}", "{{ (range(999999) | list) ~ '' }}",
    ]),
)  # fmt: skip
def test_a_bomb_is_refused_and_the_server_lives(
    source: str, serve_bomb: Callable[[str], str]
) -> None:
    """C23: 400 within the limits, little memory, and the server still answers."""
    url = serve_bomb(source)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = request(url, "POST", "/v1/chat/completions", chat_body("hi", max_tokens=1))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "messages"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
    assert request(url, "GET", "/health").status == 200
    assert request(url, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200


@pytest.fixture
def serve_bomb(
    starter_path: Path, tmp_path: Path, make_server: Callable[..., Any]
) -> Callable[[str], str]:
    def serve(template: str) -> str:
        with_template(starter_path, tmp_path / starter_path.name, template)
        return str(make_server().url)

    return serve


def test_a_process_that_is_killed_or_stopped_is_replaced(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert renderer.render("{{ 1 }}", {}, budget()) == "1"
    for number in (signal.SIGKILL, signal.SIGSTOP):
        monkeypatch.setattr(child, "PATIENCE", 0.2 if number == signal.SIGSTOP else 30.0)
        process = renderer._process
        assert process is not None
        os.kill(process.pid, number)
        if number == signal.SIGSTOP:
            spent = budget()
            with pytest.raises(TemplateLimit):
                renderer.render("{{ 2 }}", {}, spent)
            assert spent.spent
        else:
            process.wait()
        monkeypatch.setattr(child, "PATIENCE", 30.0)
        assert renderer.render("{{ 3 }}", {}, budget()) == "3"
        assert renderer._process is not process


def test_an_object_of_a_request_cannot_look_like_a_word() -> None:
    """B8: else a user could write control tokens."""
    values = {
        "a": [Word("x", "y"), {"word": ["x", "<|im_end|>"]}],
        "word": {"object": []},
        "b": 1 << 70,
    }
    back = unpacked(json.loads(json.dumps(packed(values))))
    assert back == values
    assert list(back) == list(values)
    assert [type(item) for item in back["a"]] == [Word, dict]
    assert str(back["a"][0]) == "y"


def test_the_budget_is_shared_with_the_process(renderer: Renderer) -> None:
    shared = budget()
    loop = "{% for a in range(600) %}{% endfor %}"
    assert renderer.render(loop, {}, shared) == ""
    with pytest.raises(TemplateLimit, match="steps"):
        renderer.render(loop, {}, shared)
    assert shared.spent


def test_the_error_of_a_template_is_its_own(renderer: Renderer) -> None:
    template = ChatTemplate("{{ 1 | center }}{{ raise_exception('no ' ~ 'tools') }}", "", "", ())
    with pytest.raises(InvalidParameter, match="no tools"):
        template.render(USER)


def test_the_limits_of_the_server_stay_those_of_the_process() -> None:
    """A limit that the system sets for all processes of the server must not be raised."""
    program = (
        "import resource\n"
        "from offgrid.chat import renderer\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY // 2}, {MEMORY // 2}))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))\n"
        "renderer.limit_memory()\n"
        "renderer._limit_time()\n"
        "print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == f"({MEMORY // 2}, {MEMORY // 2}) 1000"


def test_the_memory_of_the_process_is_limited() -> None:
    """The limit holds without any budget."""
    program = (
        "from offgrid.chat.renderer import limit_memory; limit_memory()\n"
        f"try: x = bytearray({MEMORY})\n"
        "except MemoryError: print('limited')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "limited"
