"""The ``[models."id"]`` tables of a configuration file, without any model."""

from __future__ import annotations

from pathlib import Path

import pytest

from offgrid.config import FOREVER, LoraFile, ModelSettings, load_settings
from offgrid.config.model import KEYS
from offgrid.errors import ConfigError


def tables(tmp_path: Path, text: str) -> tuple[ModelSettings, ...]:
    file = tmp_path / "offgrid.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings({}, environ={}, config_file=file).models


def test_every_key(tmp_path: Path) -> None:
    [own] = tables(
        tmp_path,
        """
        [models."chat/qwen"]
        base = "qwen"
        aliases = ["gpt-4o", "best"]
        ctx_size = 8192
        parallel = 2
        batch_size = 64
        threads = 3
        gpu_layers = -1
        flash_attention = "on"
        kv_type_k = "q8_0"
        kv_type_v = "bf16"
        use_mmap = false
        use_mlock = true
        drafts = false
        chat_template = "t.jinja"
        draft_model = "small"
        system_prompt = "Be brief."
        reasoning_budget = 500
        keep_alive = "forever"
        pin = true
        lora = ["a.gguf", { path = "/b.gguf", scale = 0.5 }]
        sampling = { temperature = 0.2, top_k = 40 }
        """,
    )
    assert own == ModelSettings(
        name="chat/qwen",
        source=f'{tmp_path}/offgrid.toml: models."chat/qwen"',
        folder=tmp_path,
        base="qwen",
        aliases=("gpt-4o", "best"),
        ctx_size=8192,
        parallel=2,
        batch_size=64,
        threads=3,
        gpu_layers=-1,
        flash_attention="on",
        kv_type_k="q8_0",
        kv_type_v="bf16",
        use_mmap=False,
        use_mlock=True,
        drafts=False,
        chat_template="t.jinja",
        draft_model="small",
        system_prompt="Be brief.",
        reasoning_budget=500,
        keep_alive=FOREVER,
        pin=True,
        lora=(LoraFile(tmp_path / "a.gguf"), LoraFile(Path("/b.gguf"), 0.5)),
        sampling=(("temperature", 0.2), ("top_k", 40)),
    )
    # A key that is added must be added here.
    assert [key for key in KEYS if getattr(own, key) == getattr(ModelSettings(), key)] == []


def test_a_single_adapter_needs_no_list(tmp_path: Path) -> None:
    [own] = tables(tmp_path, '[models.a]\nlora = "a.gguf"')
    assert own.lora == (LoraFile(tmp_path / "a.gguf"),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("models = 5", "must be tables"),
        ("[models]\na = 5", 'models."a" must be a table'),
        ('[models.""]\n', "the name of a model is empty"),
        ("[models.a]\nctx_sise = 5", "unknown setting ctx_sise; did you mean ctx_size?"),
        ("[models.a]\nqqqqq = 5", "; the settings of a model are base, aliases, ctx_size"),
        ("[models.a]\nctx_size = -5", 'models."a".ctx_size: -5 is too small'),
        ("[models.a]\nparallel = 1000", 'models."a".parallel: 1000 is too large'),
        ('[models.a]\nkeep_alive = "soon"', "\"a\".keep_alive: 'soon' is not a time"),
        ('[models.a]\nkv_type_k = "q3"', "kv_type_k: 'q3' is not one of f16, f32, bf16, q8_0"),
        ("[models.a]\nflash_attention = true", "flash_attention: True is not text"),
        ("[models.a]\npin = 5", "pin: 5 is not true or false"),
        ("[models.a]\nbase = 5", "base: 5 is not text"),
        ('[models.a]\nchat_template = ""', "chat_template: '' is not text"),
        ("[models.a]\ndraft_model = 5", "draft_model: 5 is not text"),
        ("[models.a]\naliases = 5", "aliases: 5 is not a list of names"),
        ("[models.a]\nsampling = 5", "sampling must be a table"),
        ("[models.a]\nlora = 5", "5 is neither a path nor a table"),
        ("[models.a]\nlora = [{ scale = 1 }]", "neither a path nor a table"),
        ('[models.a]\nlora = [{ path = "a", strength = 1 }]', "unknown key strength"),
        ('[models.a]\nlora = [{ path = "a", scale = nan }]', "scale must be a number"),
        ('[models.a]\nlora = [{ path = "a", scale = true }]', "scale must be a number"),
        ('[models.a]\nlora = ""', "'' is not a path"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tables(tmp_path, text)
    assert named in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "offgrid.toml"))


@pytest.mark.parametrize(
    ("text", "values", "attention"),
    [
        ('kv_type_v = "q8_0"\nflash_attention = "off"', "OFFGRID_KV_TYPE_V (--kv-type-v)",
         "OFFGRID_FLASH_ATTENTION (--flash-attention)"),
        ('kv_type_v = "q8_0"\n[models.a]\nflash_attention = "off"',
         "OFFGRID_KV_TYPE_V (--kv-type-v)", '{file}: models."a".flash_attention'),
        ('flash_attention = "off"\n[models.a]\nkv_type_v = "q4_0"',
         '{file}: models."a".kv_type_v', "OFFGRID_FLASH_ATTENTION (--flash-attention)"),
    ],
)  # fmt: skip
def test_quantised_values_without_flash_attention_are_refused_at_start(
    tmp_path: Path, text: str, values: str, attention: str
) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, environ={}, config_file=file)
    message = str(caught.value)
    assert message.startswith(f"{values.format(file=file)}: q")
    assert f"Set {attention.format(file=file)} to auto or on" in message


def test_a_model_may_turn_on_what_its_values_need(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text(
        'flash_attention = "off"\n[models.a]\nkv_type_v = "q8_0"\nflash_attention = "auto"'
    )
    assert load_settings({}, environ={}, config_file=file).models[0].kv_type_v == "q8_0"


def test_slots_of_all_models_count_for_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text("max_models = 16\n[models.a]\nparallel = 256")
    with pytest.raises(ConfigError, match="5450 open requests"):
        load_settings({}, environ={}, config_file=file)
