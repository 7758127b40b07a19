"""Settings of single models in the catalogue: what they change, and what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_models
from tiny_lora import make_lora

from offgrid.collaborators import make_collaborators
from offgrid.config import load_settings
from offgrid.errors import ConfigError, ModelNotFound
from offgrid.sampling.params import RANGES
from offgrid.store.catalogue import Catalogue
from offgrid.store.profiles import sampling_defaults

PIRATE = '[models.pirate]\nbase = "base"\nlora = "lora.gguf"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_models.make("llama", tmp_path).rename(tmp_path / "base.gguf")
    (tmp_path / "other.gguf").symlink_to(tmp_path / "base.gguf")
    make_lora(tmp_path, "lora")
    return tmp_path


def catalogue(folder: Path, text: str) -> Catalogue:
    file = folder / "offgrid.toml"
    file.write_text(text, encoding="utf-8")
    flags = {"models_dir": folder, "responses_file": folder / "r.sqlite3"}
    made = Catalogue(load_settings(flags, environ={}, config_file=file))
    made.check()
    return made


def test_a_model_with_a_base_is_a_model_of_its_own(folder: Path) -> None:
    made = catalogue(folder, f'{PIRATE}\naliases = ["arr"]')
    entries, skipped = made.survey()
    assert [entry.id for entry in entries] == ["base", "other", "pirate"]
    assert skipped == []  # the adapter is in use
    base, pirate = made.get("base"), made.get("ARR")
    assert (pirate.id, pirate.path) == ("pirate", base.path)
    assert pirate.adapters == (folder / "lora.gguf",)
    assert pirate.stamp != base.stamp
    assert made.describe(pirate) == made.describe(base)
    assert made.aliases() == {"pirate": ["arr"]}
    assert made.get("base").own.lora == ()


def test_an_adapter_that_is_not_used_is_named(folder: Path) -> None:
    made = catalogue(folder, "")
    reason = made.describe(made.get("lora")).problem
    assert reason is not None
    assert reason.startswith("it is a LoRA adapter and not a model; serve it with a model as its")


def test_an_adapter_for_another_architecture_is_a_problem_of_the_model(folder: Path) -> None:
    make_lora(folder, "qwen", architecture="qwen2")
    made = catalogue(folder, '[models.p]\nbase = "base"\nlora = "qwen.gguf"')
    assert made.describe(made.get("p")).problem == (
        "its adapter qwen.gguf is for qwen2 models, and its base is llama"
    )
    make_lora(folder, "qwen", kind="model")
    assert made.describe(made.get("p")).problem == "its adapter qwen.gguf is not a LoRA adapter"
    assert made.fault(made.get("p")) == "as p: its adapter qwen.gguf is not a LoRA adapter"
    assert made.fault(made.get("base")) is None
    (folder / "qwen.gguf").write_bytes(b"GGUF")
    assert "its adapter qwen.gguf: " in (made.describe(made.get("p")).problem or "")


def test_an_adapter_that_vanishes_makes_its_model_unusable(folder: Path) -> None:
    made = catalogue(folder, PIRATE)
    (folder / "lora.gguf").unlink()
    with pytest.raises(ModelNotFound, match=r"its adapter lora\.gguf: does not exist"):
        made.get("pirate")
    assert made.get("base").id == "base"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[models.bas]\n", 'models."bas": no model has the id bas (the ids are base, lora, other); '
         "did you mean base?"),
        ("[models.zzz]\n", 'models."zzz": no model has the id zzz (the ids are base, lora, other)'),
        ('[models.a]\nbase = "bass"', 'models."a".base: no model has the id bass (the ids are'),
        ('[models.other]\nbase = "base"', 'models."other".base: a file has the id other already'),
        ('[models.a]\nbase = "base"\nlora = "gone.gguf"', "/gone.gguf does not exist"),
        ('[models.a]\nbase = "a"', '"a".base: a cannot be its own base; leave base out'),
        ('[models.a]\nbase = "base"\n[models.b]\nbase = "a"', '"b".base: a has a base itself'),
        ("[models.base]\nsampling = { temprature = 1 }",
         'models."base".sampling.temprature is not a sampling parameter of a model; did you '
         "mean temperature?"),
        ("[models.base]\nsampling = { seed = 1 }", "a request without a seed draws one"),
        ("[models.base]\nsampling = { temperature = 3 }",
         'models."base".sampling.temperature: temperature must be between 0 and 2, not 3'),
        ("[models.base]\nsampling = { top_k = 1.5 }", "top_k must be a whole number, not float"),
        ("[models.base]\nsampling = { p_less = 1 }", "p_less must be true or false, not int"),
        ('[models.base]\nchat_template = "none.jinja"', 'models."base".chat_template: '),
        ('[models.base]\naliases = ["x"]\n[models.other]\naliases = ["x"]',
         'models."other".aliases: x is an alias of base too'),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_key(folder: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalogue(folder, text)
    assert named in str(caught.value)
    assert str(caught.value).startswith(str(folder / "offgrid.toml"))


def test_every_sampling_parameter_may_be_set(folder: Path) -> None:
    """With the values that requests may have; ``repeat_penalty`` is another name here too."""
    values = {name: limits.kind(limits.api_most) for name, limits in RANGES.items()}
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    made = catalogue(folder, f"[models.base]\nsampling = {{ {pairs} }}")
    assert sampling_defaults(made.get("base").own) == values
    made = catalogue(folder, "[models.base]\nsampling = { repeat_penalty = 1.5, top_k = -1 }")
    assert sampling_defaults(made.get("base").own) == {"repetition_penalty": 1.5, "top_k": 0}


def test_a_template_belongs_to_its_model(folder: Path) -> None:
    (folder / "t.jinja").write_text("{{ messages[0].content }}")
    text = '[models.base]\nchat_template = "t.jinja"\n[models.other]\nchat_template = "chatml"'
    made = catalogue(folder, text)
    assert made.get("base").template == "{{ messages[0].content }}"
    assert made.get("other").template == "chatml"


def test_a_template_with_a_fault_ends_the_start(folder: Path) -> None:
    (folder / "t.jinja").write_text("{% if %}")
    file = folder / "offgrid.toml"
    file.write_text('[models.base]\nchat_template = "t.jinja"')
    flags = {"models_dir": folder, "responses_file": folder / "r.sqlite3"}
    with pytest.raises(ConfigError, match=r'models."base"\.chat_template: '):
        make_collaborators(load_settings(flags, environ={}, config_file=file))


def test_the_default_model_is_a_file_of_its_own(folder: Path) -> None:
    """If none is configured; the name of a model with a base may come first."""
    made = catalogue(folder, '[models.a]\nbase = "other"')
    assert made.entries()[0].id == "a"
    assert made.default == "base"
    assert catalogue(folder, 'default_model = "a"\n[models.a]\nbase = "other"').default == "a"


def test_what_is_loaded_at_start(folder: Path) -> None:
    """With several models and no default, only those that are pinned."""
    assert catalogue(folder, "").start_ids() == []
    assert catalogue(folder, 'default_model = "other"').start_ids() == ["other"]
    assert catalogue(folder, 'keep_alive = 0\ndefault_model = "other"').start_ids() == []
    pinned = 'default_model = "other"\n[models.base]\npin = true'
    assert catalogue(folder, pinned).start_ids() == ["other", "base"]
    assert catalogue(folder, "[models.base]\npin = true").start_ids() == ["base"]
    (folder / "other.gguf").unlink()
    assert catalogue(folder, "").describe(catalogue(folder, "").get("lora")).problem
    assert catalogue(folder, "").start_ids() == ["base"]


# --- draft models ---------------------------------------------------------------------------------


def test_a_draft_model_is_an_id_or_a_path(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tiny_models.make_draft(tmp_path_factory.mktemp("elsewhere"), "small")
    (folder / "sub").mkdir()
    inside = tiny_models.make_draft(folder / "sub", "small")
    for wanted, path in (
        ("sub/small", inside),
        ("sub/small.gguf", inside),
        (str(elsewhere), elsewhere),
    ):
        made = catalogue(folder, f'[models.base]\ndraft_model = "{wanted}"')
        base = made.get("base")
        assert base.draft == (path,)
        description = made.describe(base)
        assert description.problem is None
        assert description.draft_sizes == made.describe(made.get("sub/small")).sizes
        assert made.get("other").draft == ()
        stamp = base.stamp
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        assert made.get("base").stamp != stamp  # the model is loaded again


def test_the_setting_is_for_the_default_model(folder: Path) -> None:
    tiny_models.make_draft(folder, "small")
    flags = {"models_dir": folder, "draft_model": "small", "model": "other"}
    made = Catalogue(load_settings(flags, environ={}))
    made.check()
    drafts = {entry.id: [file.name for file in entry.draft] for entry in made.entries()}
    assert drafts == {"base": [], "lora": [], "other": ["small.gguf"], "small": []}
    made = Catalogue(load_settings({**flags, "model": ""}, environ={}))
    made.check()
    assert made.get("").id == "base"
    assert made.get("").draft == (folder / "small.gguf",)


@pytest.mark.parametrize(
    ("draft", "named"),
    [
        ("gone", "no model has the id 'gone', and there is no file "),
        ("base", "base cannot be its own draft model; name a smaller model"),
        ("lora", "its draft model lora.gguf: it is a LoRA adapter and not a model"),
        ("last", "its draft model last.gguf does not generate text"),
        ("cut", "its draft model cut.gguf: "),
        ("empty.gguf", "its draft model empty.gguf: the file is empty"),
    ],
)
def test_files_that_cannot_draft(folder: Path, draft: str, named: str) -> None:
    tiny_models.make_last_pooling(folder).rename(folder / "last.gguf")
    (folder / "cut.gguf").write_bytes((folder / "base.gguf").read_bytes()[:9000])
    (folder / "empty.gguf").touch()
    with pytest.raises(ConfigError) as caught:
        catalogue(folder, f'[models.base]\ndraft_model = "{draft}"')
    source = f'{folder}/offgrid.toml: models."base".draft_model: '
    assert str(caught.value).startswith(source + named)
    # Paths in the file are relative to its folder.
    given = str(folder / draft) if draft.endswith(".gguf") else draft
    flags = {"models_dir": folder, "draft_model": given, "model": "base"}
    with pytest.raises(ConfigError) as caught:
        Catalogue(load_settings(flags, environ={})).check()
    assert str(caught.value).startswith("OFFGRID_DRAFT_MODEL (--draft-model): " + named)


def test_a_draft_model_that_vanishes_is_a_problem_of_its_model(folder: Path) -> None:
    small = tiny_models.make_draft(folder, "small")
    made = catalogue(folder, '[models.base]\ndraft_model = "small"')
    small.unlink()
    problem = made.describe(made.get("base")).problem
    assert problem is not None
    assert problem.startswith("its draft model small")
