"""Images in prompts with a real projector, against libmtmd's own helpers and beside streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import GREEDY, Run
from numpy.typing import NDArray
from reference_vision import MARKER, ReferenceVision
from support import together
from tiny_vision import POSITIONS, make_gemma, make_projector, make_qwen, make_seeing, pixels, png

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, Failed
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart, TokenQuery
from offgrid.engine.worker.image import Embeddings, ImageTile
from offgrid.engine.worker.llama.errors import NO_ROOM, DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.vision import EncodeError, image_ids
from offgrid.errors import ContextLengthExceeded, InvalidParameter

RED, BLUE, GREEN = (png(pixels(seed)) for seed in (1, 2, 3))
STORY = "Once upon a time there was a small otter who lived beside a wide river."


class Watched:
    """A model that records the images it encodes, and fails to encode or decode them on demand.

    While ``gate`` is not set, encoding does not finish.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.seen: list[tuple[int, int]] = []
        self.errors: list[Exception | None] = []
        self.encoder_errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.encoding = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, tile: ImageTile) -> Embeddings:
        self.encoding.set()
        assert self.gate.wait(60)
        if self.encoder_errors:
            raise self.encoder_errors.pop(0)
        return self._model.encode(tile)

    def decode_image(self, tile: ImageTile, embeddings: Embeddings, slot: int, start: int) -> None:
        self.seen.append((slot, start))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self._model.decode_image(tile, embeddings, slot, start)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_seeing(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def loaded(files: tuple[Path, Path]) -> Iterator[Model]:
    model = Model(
        Load(str(files[0]), ctx_size=512, parallel=4, batch_size=64, threads=1,
             projector=str(files[1]))
    )  # fmt: skip
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(files: tuple[Path, Path]) -> Iterator[ReferenceVision]:
    reference = ReferenceVision(*files)
    yield reference
    reference.close()


@pytest.fixture
def model(loaded: Model) -> Iterator[Watched]:
    yield Watched(loaded)
    for slot in range(loaded.n_parallel):
        loaded.forget(slot)


def prompt(text: str, *images: bytes, **fields: Any) -> GenerationRequest:
    """A request with an image in place of each ``@`` of a text."""
    parts: list[PromptPart] = []
    for index, piece in enumerate(text.split("@")):
        if index:
            parts.append(PromptPart("", False, index - 1))
        parts.append(PromptPart(piece, True))
    params = tuple(f"image {index}" for index in range(len(images)))
    return GenerationRequest(
        parts=tuple(parts), images=images, image_params=params,
        **{"sampling": GREEDY, "max_tokens": 12, "ignore_eos": True, **fields},
    )  # fmt: skip


def ask(run: Run, text: str, *images: bytes, **fields: Any) -> int:
    return run.send(prompt(text, *images, **fields))


def alone(model: Any, text: str, *images: bytes, **fields: Any) -> str:
    """The answer of an engine with no other work and empty slots."""
    run = Run(model)
    for slot in range(model.n_parallel):
        model.forget(slot)
    id = ask(run, text, *images, **fields)
    run.finish()
    return run.text(id)


def cached(run: Run, id: int, choice: int = 0) -> int:
    return max(e.cached_tokens for e in run.events
               if isinstance(e, Delta) and (e.id, e.choice) == (id, choice))  # fmt: skip


CASES = [
    ("Look: @ What is it?", [RED]),
    ("@ What is it?", [BLUE]),
    ("Is @ like @, or like @?", [RED, BLUE, RED]),
    ("@@ Which is red?", [GREEN, RED]),
    (f"{STORY} {STORY} @ {STORY}", [GREEN]),
]


@pytest.mark.parametrize(("text", "images"), CASES)
def test_logits_are_libmtmds(
    model: Watched, reference: ReferenceVision, text: str, images: list[bytes]
) -> None:
    expected, positions = reference.greedy(text.replace("@", MARKER), images, 12)
    run = Run(model)
    assert len(run.engine.prepare(99, prompt(text, *images)).prompt) == positions
    _check(run, ask(run, text, *images, top_logprobs=5), expected)


def _check(run: Run, id: int, expected: NDArray[np.float64]) -> None:
    """The greedy answer and the best five logprobs equal those of the reference."""
    run.finish()
    entries = [e for d in run.events if isinstance(d, Delta) and d.id == id for e in d.logprobs]
    assert [entry.token for entry in entries] == expected.argmax(axis=1).tolist()
    ours = [[logprob for _, logprob in entry.top] for entry in entries]
    assert np.allclose(ours, -np.sort(-expected, axis=1)[:, :5], atol=2e-3)


def _pair(files: tuple[Path, Path]) -> Iterator[tuple[Model, ReferenceVision]]:
    path, projector = files
    model = Model(
        Load(str(path), ctx_size=512, parallel=4, batch_size=64, threads=1,
             projector=str(projector))
    )  # fmt: skip
    reference = ReferenceVision(path, projector)
    yield model, reference
    reference.close()
    model.close()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, ReferenceVision]]:
    yield from _pair(make_qwen(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, ReferenceVision]]:
    yield from _pair(make_gemma(tmp_path_factory.mktemp("gemma")))


WIDE = png(pixels(5, 200, 60))


@pytest.mark.parametrize(("text", "images"), [*CASES, ("A @ and @ then", [WIDE, RED])])
def test_logits_of_a_model_with_two_dimensional_positions(
    qwen: tuple[Model, ReferenceVision], text: str, images: list[bytes]
) -> None:
    model, reference = qwen
    run = Run(model)
    prepared = run.engine.prepare(99, prompt(text, *images))
    sequence = prepared.sequences[0]
    expected, position = reference.greedy(text.replace("@", MARKER), images, 12)
    assert sequence.position(len(sequence)) == position < len(sequence)
    _check(run, ask(run, text, *images, top_logprobs=5), expected)


def test_a_conversation_with_a_model_with_two_dimensional_positions(
    qwen: tuple[Model, ReferenceVision],
) -> None:
    """After a shared prefix, and beside other streams, positions are the same as alone."""
    model, reference = qwen
    first = f"{STORY} @ What is it?"
    longer = f"{first} An otter. And what is @ then?"
    run = Run(model)
    beside = ask(run, STORY, top_logprobs=5)
    ask(run, first, WIDE, n=2)
    run.finish()
    id = ask(run, longer, WIDE, RED, top_logprobs=5)
    changed = ask(run, f"{first} A river.", RED, top_logprobs=5)
    run.finish()
    spans = run.engine.prepare(99, prompt(longer, WIDE, RED)).sequences[0].images
    assert spans[0].lag > 0
    assert spans[0].end < cached(run, id) < spans[1].start
    for answered, text, images in (
        (beside, STORY, []), (id, longer, [WIDE, RED]), (changed, f"{first} A river.", [RED]),
    ):  # fmt: skip
        expected, _ = reference.greedy(text.replace("@", MARKER), images, 12)
        _check(run, answered, expected)


@pytest.mark.parametrize(("text", "images"), CASES)
def test_logits_of_a_model_with_bidirectional_attention_in_images(
    gemma: tuple[Model, ReferenceVision], text: str, images: list[bytes]
) -> None:
    model, reference = gemma
    expected, _ = reference.greedy(text.replace("@", MARKER), images, 12)
    run = Run(model)
    _check(run, ask(run, text, *images, top_logprobs=5), expected)


def test_a_large_image_takes_a_quarter_of_the_context(
    qwen: tuple[Model, ReferenceVision],
) -> None:
    model, _ = qwen
    large = prompt("@ What?", png(pixels(1, 1600, 1200)))
    (span,) = Run(model).engine.prepare(1, large).sequences[0].images
    assert model.n_ctx // 8 < span.end - span.start <= model.n_ctx // 4


def test_an_image_that_does_not_fit_into_one_batch(tmp_path: Path) -> None:
    path, projector = make_gemma(tmp_path)
    model = Model(
        Load(str(path), ctx_size=64, parallel=1, batch_size=3, threads=1, projector=str(projector))
    )
    with pytest.raises(
        InvalidParameter, match="4 positions of an image in one batch, which has room for 3"
    ):
        ask(Run(model), "Look: @ What?", RED)
    model.close()


def test_images_and_their_order_change_the_answer(model: Watched) -> None:
    texts = {
        alone(model, "Is @ like @?", *pair)
        for pair in ([RED, RED], [RED, BLUE], [BLUE, RED], [BLUE, BLUE])
    }
    assert len(texts) == 4


def test_the_marker_of_libmtmd_is_text_in_a_prompt(model: Watched) -> None:
    ids = model.tokenize([PromptPart(f"Look: {MARKER} What?", False)])
    run = Run(model)
    request = prompt("@ What?", RED)
    parts = (PromptPart(f"Look: {MARKER} What?", False), *request.parts)
    prepared = run.engine.prepare(
        1, GenerationRequest(parts=parts, images=request.images, image_params=("x",))
    )
    assert prepared.prompt[: len(ids)].tolist() == ids.tolist()
    assert len(prepared.sequences[0].images) == 1


def test_streams_continue_beside_images(model: Watched) -> None:
    """Every answer is the same as alone, and no step computes more than one image."""
    texts = [alone(model, STORY, max_tokens=40), alone(model, "Look: @ What?", RED),
             alone(model, "Is @ like @?", BLUE, GREEN)]  # fmt: skip
    model.seen.clear()
    run = Run(model)
    stream = ask(run, STORY, max_tokens=40)
    run.engine.step()
    ids = [stream, ask(run, "Look: @ What?", RED), ask(run, "Is @ like @?", BLUE, GREEN)]
    while run.engine.has_work:
        before = len(run.text(stream)), len(model.seen)
        run.engine.step()
        assert len(model.seen) <= before[1] + 1
    assert [run.text(id) for id in ids] == texts
    assert len(model.seen) == 3


def test_a_conversation_about_an_image_encodes_it_once(model: Watched) -> None:
    first = f"{STORY} @ What is it?"
    longer = first + " An otter. And where does it live?"
    expected = alone(model, longer, RED)
    model.seen.clear()
    run = Run(model)
    one = ask(run, first, RED)
    run.finish()
    two = ask(run, longer, RED)
    run.finish()
    assert len(model.seen) == 1
    assert run.text(two) == expected
    assert cached(run, one) == 0
    assert cached(run, two) > len(model.tokenize([PromptPart(STORY, True)])) + POSITIONS


def test_another_image_is_never_mistaken_for_a_cached_one(model: Watched) -> None:
    text = f"{STORY} @ What is it?"
    expected = alone(model, text, BLUE)
    model.seen.clear()
    run = Run(model)
    ask(run, text, RED)
    run.finish()
    other = ask(run, text, BLUE)
    run.finish()
    assert len(model.seen) == 2
    assert run.text(other) == expected
    assert 0 < cached(run, other) <= len(model.tokenize([PromptPart(f"{STORY} ", True)]))


def test_a_shared_prefix_never_ends_inside_an_image(model: Watched) -> None:
    """Two hashes may share a beginning; then the whole image is computed."""
    run = Run(model)
    ask(run, f"{STORY} @ What is it?", RED)
    run.finish()
    prepared = run.engine.prepare(50, prompt(f"{STORY} @ What is it?", BLUE))
    sequence = prepared.sequences[0]
    start = sequence.images[0].start
    red = next(held for _, held in run.engine.scheduler.idle if len(held))
    sequence.tokens[: start + 2] = red[: start + 2]
    run.engine.submit(prepared)
    run.finish()
    assert cached(run, 50) == start
    assert run.text(50) == alone(model, f"{STORY} @ What is it?", BLUE)


def test_choices_share_an_encoded_image(model: Watched) -> None:
    run = Run(model)
    id = ask(run, f"{STORY} @ What is it?", RED, n=3, cache_prompt=False)
    run.finish()
    assert len(model.seen) == 1
    assert len({run.text(id, choice) for choice in range(3)}) == 1


def test_a_stream_ends_while_an_image_is_encoded(model: Watched) -> None:
    expected = alone(model, STORY), alone(model, "Look: @ What?", RED)
    model.encoding.clear()
    model.gate.clear()
    run = Run(model)
    image = ask(run, "Look: @ What?", RED)
    while not model.encoding.is_set():
        run.engine.step()
    stream = ask(run, STORY)
    while len(run.engine.scheduler.running) < 2:
        run.engine.step()
    while len(run.engine.scheduler.running) > 1:
        run.engine.step()
    assert run.text(stream) == expected[0]
    assert run.text(image) == ""
    model.gate.set()
    run.finish()
    assert run.text(image) == expected[1]


def test_cancelled_while_its_image_is_encoded(model: Watched) -> None:
    """The next image does not get the embeddings left by the cancelled one."""
    expected = alone(model, "Look: @ What?", BLUE)
    model.seen.clear()
    model.encoding.clear()
    model.gate.clear()
    run = Run(model)
    gone = ask(run, "Look: @ What?", RED)
    while not model.encoding.is_set():
        run.engine.step()
    run.engine.cancel(gone)
    run.finish()  # no work waits for the encoding
    id = ask(run, "Look: @ What?", BLUE)
    run.engine.step()
    model.gate.set()
    run.finish()
    assert run.text(id) == expected
    assert run.text(gone) == ""
    assert len(model.seen) == 1


def test_cancelled_between_its_images(model: Watched) -> None:
    expected = alone(model, STORY)
    model.seen.clear()
    run = Run(model)
    other = ask(run, STORY)
    id = ask(run, "Is @ like @?", RED, BLUE)
    while not model.seen:
        run.engine.step()
    run.engine.cancel(id)  # between its images
    run.finish()
    assert len(model.seen) == 1
    assert run.text(other) == expected
    assert run.text(id) == ""


def test_an_encoder_that_fails_ends_its_requests_only(model: Watched) -> None:
    expected = alone(model, STORY), alone(model, "Look: @ What?", GREEN)
    run = Run(model)
    model.encoder_errors = [EncodeError("no"), EncodeError("no"), EncodeError("no")]
    other = ask(run, STORY)
    bad = [ask(run, f"Look {n}: @ What?", RED) for n in range(3)]
    run.finish()
    good = ask(run, "Look: @ What?", GREEN)
    run.finish()
    failed = [event for event in run.events if isinstance(event, Failed)]
    assert [(event.id, event.error) for event in failed] == [(id, "EngineFault") for id in bad]
    assert (run.text(other), run.text(good)) == expected


@pytest.mark.parametrize("where", ["encoder_errors", "errors"])
def test_a_failed_image_is_reported_even_if_nothing_else_runs(model: Watched, where: str) -> None:
    error = EncodeError("no") if where == "encoder_errors" else DecodeError(-3)
    setattr(model, where, [error])
    run = Run(model)
    id = ask(run, "Look: @ What?", RED)
    run.finish()
    assert isinstance(run.last(id), Failed)


def test_a_decode_that_fails_ends_its_request_only(model: Watched) -> None:
    expected = alone(model, STORY), alone(model, "Look: @ What?", RED)
    run = Run(model)
    model.errors = [DecodeError(-3)]
    other, bad = ask(run, STORY), ask(run, "Look: @ What?", RED)
    run.finish()
    again = ask(run, "Look: @ What?", RED)
    run.finish()
    assert isinstance(run.last(bad), Failed)
    assert (run.text(other), run.text(again)) == expected


def test_without_room_an_image_is_encoded_later(model: Watched) -> None:
    expected = alone(model, STORY), alone(model, "Look: @ What?", RED)
    model.seen.clear()
    run = Run(model)
    model.errors = [None, DecodeError(NO_ROOM)]
    ids = [ask(run, STORY), ask(run, "Look: @ What?", RED), ask(run, "Look! @ What?", BLUE)]
    run.finish()
    assert (run.text(ids[0]), run.text(ids[1])) == expected
    assert run.text(ids[2]) == alone(model, "Look! @ What?", BLUE)
    assert len(model.seen) > 3


def test_the_context_is_checked_before_any_image_is_encoded(model: Watched) -> None:
    run = Run(model)
    with pytest.raises(ContextLengthExceeded, match="the prompt has 6") as caught:
        ask(run, "x@" * 120 + " What?", *[RED] * 120, prompt_param="messages")
    assert caught.value.param == "messages"
    assert model.seen == []


def test_penalties_ignore_images(model: Watched) -> None:
    """The sampler gets only the tokens of the prompt: the ids of images are out of its range."""
    sampling = {"repetition_penalty": 1.3, "repeat_last_n": -1, "temperature": 0.0}
    run = Run(model)
    id = ask(run, "Look: @ What?", RED, sampling=type(GREEDY)(**sampling))
    run.finish()
    assert len(run.text(id)) > 0


def test_a_query_counts_positions(model: Watched) -> None:
    run = Run(model)
    request = prompt("Look: @ What?", RED)
    query = TokenQuery(
        request.parts, add_bos=True, images=request.images, image_params=request.image_params
    )
    tokens = run.engine.look_up(1, query).tokens
    assert len(tokens) == len(run.engine.prepare(2, request).prompt)
    assert sum(token < 0 for token in tokens) == POSITIONS


@pytest.mark.parametrize(
    ("text", "image", "param", "words"),
    [
        ("Look: @ What?", RED[:60], "image 0", "cannot be decoded"),
        ("Look: @", RED, "prompt", "after the last image"),
    ],
)
def test_requests_with_images_that_are_refused(
    model: Watched, text: str, image: bytes, param: str, words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        ask(Run(model), text, image)
    assert caught.value.param == param


def test_a_projector_of_another_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_projector(tmp_path / "mmproj-other.gguf", width=32)
    model = Model(Load(str(files[0]), ctx_size=64, parallel=1, threads=1, projector=str(other)))
    run = Run(model)
    for _ in range(2):
        with pytest.raises(InvalidParameter, match="belongs to another"):
            ask(run, "Look: @ What?", RED)
    id = ask(run, "Text only")
    run.finish()
    assert run.text(id)
    model.close()


def test_ids_of_images() -> None:
    ids = image_ids(b"digest", 0, 1000)
    assert ids.dtype == np.int32
    assert ids.max() < 0
    assert len(set(ids.tolist())) > 990
    assert image_ids(b"digest", 0, 10).tolist() == ids[:10].tolist()
    assert not set(ids[:50].tolist()) & set(image_ids(b"digest", 1, 50).tolist())


def test_two_threads_load_the_projector_once(tmp_path: Path) -> None:
    """Images are decoded on the tokeniser's thread, or with a grammar on the compiler's."""
    path, projector = make_seeing(tmp_path)
    model = Model(Load(str(path), ctx_size=256, parallel=1, projector=str(projector)))
    try:
        found = together([model.vision] * 8)
        assert all(vision is found[0] for vision in found)
        contexts = together([model.embedding_context] * 8)
        assert all(context is contexts[0] for context in contexts)
    finally:
        model.close()
