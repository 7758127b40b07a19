"""Control tokens give no text unless a request asks for it."""

from __future__ import annotations

from pathlib import Path

import scripted_model
from engine_runs import Run

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams

LOAD = {"ctx_size": 64, "parallel": 2}


def test_ids_of_control_texts(model: Model) -> None:
    assert tuple(sorted(model.info.control_ids)) == model.info.control_texts
    for text, token in model.info.control_ids.items():
        assert token in model.control_ids
        assert model.piece(token) == b""
        assert model.visible_pieces([text, "no such token"]) == {token: text.encode()}


def test_only_the_request_that_asks_sees_them(model: Model) -> None:
    run = Run(model)
    forced = SamplingParams(
        temperature=0.0, logit_bias={model.info.control_ids["<|im_start|>"]: 100.0}
    )
    shown = run.submit("Once", sampling=forced, max_tokens=3, visible=("<|im_start|>", "<x>"))
    hidden = run.submit("Once", sampling=forced, max_tokens=3)
    stopped = run.submit(
        "Once", sampling=forced, max_tokens=3, visible=("<|im_start|>",), stop=("start|><|im",)
    )
    run.finish()
    assert run.text(shown) == "<|im_start|>" * 3
    assert run.text(hidden) == ""
    assert run.text(stopped) == "<|im_"


def test_control_tokens_that_are_loaded_as_text_are_still_control_tokens(tmp_path: Path) -> None:
    """llama.cpp changes the kind of these tokens, which gpt-oss has."""
    markers = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>")
    path = scripted_model.write(tmp_path / "channels.gguf", "", markers, "Hello")
    model = Model(Load(str(path), ctx_size=64, parallel=1))
    try:
        ids = model.info.control_ids
        assert set(markers) <= ids.keys()
        for text in markers:
            for written in (text, f"<{text}é<{text[1:]}"):
                tokens = model.tokenize([PromptPart(written, special=False)]).tolist()
                assert not set(ids.values()) & set(tokens)
                assert b"".join(map(model.piece, tokens)).decode() == written
                assert not set(ids.values()) & set(model.tokenize_input(written).tolist())
            assert model.tokenize([PromptPart(text, special=True)]).tolist() == [ids[text]]
    finally:
        model.close()
