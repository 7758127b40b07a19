"""Control tokens give no text unless a request asks for it."""

from __future__ import annotations

from engine_runs import Run

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
