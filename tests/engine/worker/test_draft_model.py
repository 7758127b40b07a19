"""The draft model: its drafts are its own greedy tokens, and it follows its sequences exactly."""

from __future__ import annotations

import ctypes
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_runs import Failing
from tiny_lora import make_lora
from tiny_models import make, make_draft, make_last_pooling

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.drafts.model import CHUNK, FLOOR, DraftModel, Wish
from offgrid.engine.worker.llama.draft import DraftFile, load_draft
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.examine import examine
from offgrid.engine.worker.llama.model import Model

SLOTS, CONTEXT = 3, 512
LOAD = {"ctx_size": CONTEXT, "parallel": SLOTS, "batch_size": 64, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make("llama", path).rename(path / "main.gguf")
    make_draft(path)
    return path


@pytest.fixture(scope="module")
def models(folder: Path) -> Iterator[tuple[Model, Model]]:
    """The same draft model twice: one to draft, one to compare."""
    load = Load(str(folder / "draft.gguf"), **LOAD)
    pair = DraftFile(load), DraftFile(load)
    yield pair
    for model in pair:
        model.close()


@pytest.fixture
def loaded(models: tuple[Model, Model]) -> Model:
    for slot in range(SLOTS):
        models[0].forget(slot)
    return models[0]


def reference(model: Model, tokens: list[int], most: int, floor: float) -> list[int]:
    """Compute the whole sequence again for every token of the draft."""
    draft: list[int] = []
    likely = 1.0
    while len(draft) < most:
        model.forget(0)
        whole = np.array([*tokens, *draft], dtype=np.int32)
        for begin in range(0, len(whole), 64):
            model.batch.clear()
            part = whole[begin : begin + 64]
            index = model.batch.add(0, begin, part, 1)
            model.decode()
        row = np.ctypeslib.as_array(
            (ctypes.c_float * model.n_vocab).from_address(model.logits(index))
        ).astype(np.float64)
        likely *= float(1 / np.exp(row - row.max()).sum())
        if likely < floor:
            break
        draft.append(int(row.argmax()))
    return draft


def wish(slot: int, tokens: list[int], most: int) -> Wish:
    return Wish(slot, np.array(tokens, dtype=np.int32), most)


@pytest.mark.parametrize("seed", range(3))
def test_drafts_are_the_greedy_tokens_whatever_happened_before(
    models: tuple[Model, Model], loaded: Model, seed: int
) -> None:
    """Sequences grow by tokens that were drafted or not, end, and begin with parts of others."""
    rng = random.Random(seed)
    drafter = DraftModel(loaded, loaded.n_vocab, floor=0.0)

    def text(length: int) -> list[int]:
        return [rng.randrange(loaded.n_vocab) for _ in range(length)]

    running = [text(rng.choice([1, 5, 40])) for _ in range(SLOTS)]
    drafted = 0
    for _ in range(25):
        asked = [slot for slot in range(SLOTS) if rng.random() < 0.8]
        most = {slot: rng.randint(1, 4) for slot in asked}
        drafts = drafter.draft([wish(slot, running[slot], most[slot]) for slot in asked])
        assert drafts.keys() <= set(asked)
        for slot, draft in drafts.items():
            assert draft == reference(models[1], running[slot], most[slot], 0.0)
            drafted += 1
        for slot in range(SLOTS):
            accepted = drafts.get(slot, [])[: rng.randint(0, 4)]
            running[slot] = [*running[slot], *accepted, *text(1)]
            if rng.random() < 0.15:
                other = rng.choice(running)
                running[slot] = [*other[: rng.randrange(len(other))], *text(rng.choice([1, 100]))]
    assert drafter.works
    assert drafted > 25


def test_a_draft_ends_where_the_model_is_unsure(models: tuple[Model, Model], loaded: Model) -> None:
    tokens = [300, 301, 302, 303]
    lengths = set()
    for floor in (0.0, 1e-3, 0.01, 0.1, FLOOR, 0.6, 1.0):
        loaded.forget(0)
        drafts = DraftModel(loaded, loaded.n_vocab, floor=floor).draft([wish(0, tokens, 5)])
        assert drafts.get(0, []) == reference(models[1], tokens, 5, floor)
        lengths.add(len(drafts.get(0, [])))
    assert {0, 5} <= lengths
    assert len(lengths) > 2


def test_a_long_prompt_is_computed_in_chunks(loaded: Model) -> None:
    drafter = DraftModel(loaded, loaded.n_vocab, floor=0.0)
    short, long = [5, 6], [7] * (2 * CHUNK)
    first = drafter.draft([wish(0, long, 2), wish(1, short, 2)])
    assert first.keys() == {1}  # the short one does not wait for the long one
    assert drafter.draft([wish(0, long, 2)]) == {}
    assert drafter.draft([wish(0, long, 2)]).keys() == {0}


def test_a_prompt_of_several_choices_is_computed_once(loaded: Model) -> None:
    drafter = DraftModel(loaded, loaded.n_vocab, floor=0.0)
    prompt = [7] * (2 * CHUNK)
    wishes = [wish(slot, prompt, 2) for slot in range(SLOTS)]
    steps = 0
    while len(drafts := drafter.draft(wishes)) < SLOTS:
        steps += 1
        assert steps <= 4
    assert drafts[0] == drafts[1] == drafts[2]


def test_where_there_is_no_draft(loaded: Model) -> None:
    drafter = DraftModel(loaded, loaded.n_vocab - 1, floor=0.0)
    assert drafter.draft([]) == {}
    assert drafter.draft([wish(0, [], 2)]) == {}
    assert drafter.draft([wish(0, [5, -7, 6], 2)]) == {}  # an image
    assert drafter.draft([wish(0, [5, loaded.n_vocab - 1], 2)]) == {}  # only the main model has it
    full = [5] * CONTEXT
    drafter = DraftModel(loaded, loaded.n_vocab, floor=0.0)
    for _ in range(2 + CONTEXT // CHUNK):
        assert drafter.draft([wish(0, full, 2)]) == {}
        last = drafter.draft([wish(1, full[:-1], 4)])
    assert [*map(len, last.values())] == [1]  # no more fits
    assert drafter.works


def test_a_failure_only_ends_the_drafts(loaded: Model, caplog: pytest.LogCaptureFixture) -> None:
    codes = iter([None, -3])
    drafter = DraftModel(Failing(loaded, lambda: next(codes)), loaded.n_vocab, floor=0.0)
    assert drafter.draft([wish(0, [5, 6], 3)]) == {}
    assert not drafter.works
    assert "is not used any more" in caplog.text
    assert drafter.draft([wish(0, [5, 6], 3)]) == {}


# --- loading --------------------------------------------------------------------------------------


def refused(load: Load) -> LoadError:
    """Load a model and its draft model; return the error."""
    main = Model(load)
    try:
        with pytest.raises(LoadError) as caught:
            load_draft(load, main)
    finally:
        main.close()
    return caught.value


def with_draft(main: Path, draft: Path) -> Load:
    return Load(str(main), draft_model=str(draft), **LOAD)


def test_a_draft_model_with_the_same_vocabulary(folder: Path, tmp_path: Path) -> None:
    padded = make_draft(tmp_path, "padded", unused=3)
    for draft in (folder / "draft.gguf", padded):
        for load in (with_draft(folder / "main.gguf", draft), with_draft(draft, draft)):
            main = Model(load)
            second = load_draft(load, main)
            assert second is not None
            assert (second.n_ctx, second.n_parallel) == (CONTEXT, SLOTS)
            second.close()
            main.close()
            examine(load)
    assert load_draft(Load(str(padded), **LOAD), main) is None


def test_a_sliding_window_can_draft(tmp_path: Path) -> None:
    """Both models may have one: the draft model keeps its whole context."""
    main = make("gemma3", tmp_path)
    load = with_draft(main, Path(shutil.copy(main, tmp_path / "twin.gguf")))
    model = Model(load)
    second = load_draft(load, model)
    assert second is not None
    assert second.can_cut
    text = [*range(20, 120)]
    drafter = DraftModel(second, model.n_vocab, floor=0.0)
    while not (drafts := drafter.draft([wish(0, text, 4)])):
        pass
    assert drafter.works
    # Much more than the window is taken back.
    assert drafter.draft([wish(0, text[:30], 4)])[0] == reference(second, text[:30], 4, 0.0)
    assert len(drafts[0]) == 4
    second.close()
    model.close()


def test_other_vocabularies(folder: Path, tmp_path: Path) -> None:
    main = folder / "main.gguf"
    other = make_draft(tmp_path, "other", vocab=520)
    larger = make_draft(tmp_path, "larger", vocab=1024)
    for draft, difference in (
        (other, "token 508 is "),
        (larger, "token 508 is "),
    ):
        load = with_draft(main, draft)
        error = refused(load)
        assert error.lasting
        assert f"draft model {draft.name} has another vocabulary than main.gguf" in str(error)
        assert difference in str(error)
        with pytest.raises(LoadError) as examined:
            examine(load)
        assert str(examined.value) == str(error)


def test_files_that_are_no_draft_models(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main = folder / "main.gguf"
    gone = tmp_path / "gone.gguf"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((folder / "draft.gguf").read_bytes()[:5000])
    adapter = make_lora(tmp_path)
    for file, words in (
        (gone, "its draft model gone.gguf: gone.gguf is not there any more"),
        (broken, "its draft model broken.gguf: llama.cpp does not load broken.gguf"),
        (adapter, "its draft model lora.gguf: llama.cpp does not load lora.gguf"),
    ):
        load = with_draft(main, file)
        assert words in str(refused(load))
        with pytest.raises(LoadError, match=words):
            examine(load)
    embedding = make_last_pooling(tmp_path)
    assert "does not generate text" in str(refused(with_draft(main, embedding)))
    assert "needs no draft model" in str(refused(with_draft(embedding, main)))


@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_models_that_cannot_cut(folder: Path, tmp_path: Path, architecture: str) -> None:
    recurrent = make(architecture, tmp_path)
    twin = Path(shutil.copy(recurrent, tmp_path / "twin.gguf"))
    for main, draft in ((recurrent, twin), (recurrent, folder / "draft.gguf"),
                        (folder / "main.gguf", recurrent)):  # fmt: skip
        load = with_draft(main, draft)
        error = refused(load)
        assert error.lasting
        assert f"memory of {recurrent.name} (recurrent or hybrid) cannot remove" in str(error)
        with pytest.raises(LoadError, match="recurrent or hybrid"):
            examine(load)
