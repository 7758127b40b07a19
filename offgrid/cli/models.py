"""``offgrid list`` and ``offgrid info``."""

from __future__ import annotations

from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import chosen_options, complete_model, settings_from


@click.command(cls=Command, short_help="List models, and files that cannot be used.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@chosen_options("models_dir", "model", "chat_template")
def models(as_json: bool, **flags: Any) -> None:
    """List the models that offgrid serve would serve, and the files that it would not."""
    settings = settings_from(flags)
    from offgrid.cli.listing import print_models

    print_models(settings, as_json=as_json)


@click.command(cls=Command, short_help="Show what a model's file says, and what it needs.")
@click.argument("model", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print the properties as JSON.")
@chosen_options(
    "models_dir",
    "memory_budget",
    "parallel",
    "ctx_size",
    "use_mmap",
    "use_mlock",
    "gpu_layers",
    "flash_attention",
    "kv_type_k",
    "kv_type_v",
)
def info(model: str, as_json: bool, **flags: Any) -> None:
    """Show what the file of a model says about it, and how much memory it takes.

    MODEL is an id, its beginning, or the path of a GGUF file.
    """
    settings = settings_from(flags)
    from offgrid.cli.listing import print_model

    print_model(model, settings, as_json=as_json)
