"""Settings of single models, as the ``[models."id"]`` tables of a configuration file give them.

:mod:`offgrid.config.model_tables` reads the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from offgrid.config.values import shown_lifetime


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA adapter. ``scale`` multiplies its effect: 1 is the effect that it was trained for."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one model. None, or an empty value, means that the server's setting holds.

    Attributes:
        name: the id of the model.
        source: where the settings are, for messages; empty for a model without a table.
        folder: the folder of the configuration file, to which paths are relative.
        base: the id of the model whose file is used; then ``name`` is the id of a new model.
        aliases: further names of the model.
        ctx_size, parallel, batch_size, threads, gpu_layers, flash_attention, kv_type_k, kv_type_v,
            use_mmap, use_mlock, drafts: as the settings of the same names.
        chat_template: a Jinja file, or the name of a template.
        draft_model: the id or path of a smaller model that proposes tokens.
        reasoning_budget: as the setting of the same name.
        system_prompt: put first into conversations without a system message.
        keep_alive: seconds after the last request until the model is unloaded.
        pin: whether it is loaded at start and stays loaded.
        lora: the adapters.
        sampling: sampling parameters of requests that do not set them, as pairs.
    """

    name: str = ""
    source: str = ""
    folder: Path = Path()
    base: str | None = None
    aliases: tuple[str, ...] = ()
    ctx_size: int | None = None
    parallel: int | None = None
    batch_size: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    flash_attention: str | None = None
    kv_type_k: str | None = None
    kv_type_v: str | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    drafts: bool | None = None
    chat_template: str | None = None
    draft_model: str | None = None
    system_prompt: str = ""
    reasoning_budget: int | None = None
    keep_alive: float | None = None
    pin: bool = False
    lora: tuple[LoraFile, ...] = ()
    sampling: tuple[tuple[str, Any], ...] = ()

    def texts(self) -> dict[str, str]:
        """Return the values of the table that are not the defaults, as texts for people."""
        given = {name: getattr(self, name) for name in KEYS}
        return {
            name: _text(name, value)
            for name, value in given.items()
            if value != getattr(NO_SETTINGS, name)
        }

    def key(self, name: str) -> str:
        """Return where one of the values is, for messages."""
        return f"{self.source}.{name}"


def _text(name: str, value: Any) -> str:
    if name == "keep_alive":
        return shown_lifetime(value)
    if name == "lora":
        return ", ".join(f"{lora.path} (scale {lora.scale:g})" for lora in value)
    if name == "sampling":
        return ", ".join(f"{parameter} = {_text('', one)}" for parameter, one in value)
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


NO_SETTINGS = ModelSettings()
"""The settings of a model without a table."""
OVERRIDES = (
    "ctx_size", "parallel", "batch_size", "threads", "gpu_layers", "flash_attention", "kv_type_k",
    "kv_type_v", "use_mmap", "use_mlock", "drafts", "keep_alive", "reasoning_budget",
)  # fmt: skip
"""The settings of the server that a model may have too, with the same names and ranges."""
KEYS = tuple(field.name for field in fields(ModelSettings)[3:])
"""The keys that a table may have."""
