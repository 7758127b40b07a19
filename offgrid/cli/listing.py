"""What ``offgrid list`` and ``offgrid info`` print."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from offgrid.api.models.describe import memory_of
from offgrid.cli.options import fail
from offgrid.cli.output import echo_wrapped, print_table, short_number
from offgrid.config import Settings
from offgrid.engine.client.budget import Budget, budget_limit
from offgrid.engine.client.estimate import PARTS
from offgrid.engine.client.fit import Fit
from offgrid.engine.client.roster import candidate_of
from offgrid.engine.memory import written
from offgrid.errors import ConfigError, ModelNotFound, OffgridError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.description import Description
from offgrid.store.hashes import Hashes
from offgrid.store.survey import ModelEntry
from offgrid.terminal import shown

_HEAD = ("MODEL", "PARAMETERS", "QUANTISED", "CONTEXT", "SIZE", "KIND")
_NUMBERS = (1, 3, 4)
"""Columns of the table with numbers."""


def print_models(settings: Settings, *, as_json: bool) -> None:
    """Print the models that are served, and the files that are not."""
    catalogue = _catalogue(settings)
    entries, skipped = catalogue.survey()
    usable = []
    unusable = [(file.path, file.reason) for file in skipped]
    for entry in entries:
        problem = catalogue.fault(entry)
        if problem is None:
            usable.append((entry, catalogue.describe(entry)))
        else:
            unusable.append((entry.path, problem))
    if as_json:
        hashes = Hashes.beside(settings.responses_file)
        listed = {
            "count": len(usable),
            "models": [_as_json(entry, description, hashes) for entry, description in usable],
            "unusable": [{"path": _text(path), "reason": reason} for path, reason in unusable],
        }
        click.echo(json.dumps(listed, indent=2))
        return
    if usable:
        rows = [_row(entry, description) for entry, description in usable]
        print_table([_HEAD, *rows], _NUMBERS)
    else:
        places = ", ".join(shown(place) for place in catalogue.places)
        click.echo(f"No models in {places}. Copy a GGUF file into it.")
    if [entry.path for entry, _ in usable] == [STARTER_PATH]:
        click.echo()
        echo_wrapped(
            "",
            "This is the starter, which only shows that the server works. For a real model, run "
            f"'offgrid get smollm2-135m', or copy a GGUF file into {settings.models_dir}.",
        )
    if any(description.kind == "base" for _, description in usable):
        click.echo()
        echo_wrapped(
            "",
            "A base model has no chat template: use /v1/completions, or give it a template with "
            "'offgrid serve --model MODEL --chat-template FILE'.",
        )
    if unusable:
        click.echo("\nNot usable:")
        for path, reason in sorted(unusable):
            echo_wrapped("  ", f"{path}: {reason}")


def print_model(model: str, settings: Settings, *, as_json: bool) -> None:
    """Print what the file of a model says about it, and what it needs."""
    entry, description = find_model(model, settings)
    candidate = candidate_of(settings, entry, description)
    fit = Budget(budget_limit(settings)).preview(candidate)
    if as_json:
        hashes = Hashes.beside(settings.responses_file)
        properties = {**_as_json(entry, description, hashes), "memory": memory_of(fit)}
        click.echo(json.dumps(properties, indent=2))
    else:
        for name, value in [*_properties(entry, description), *_settings(entry), *_memory(fit)]:
            echo_wrapped(f"{name:<13} ", value)
    if description.problem is not None:
        fail(f"{entry.id} cannot be used: {description.problem}", 1)


def find_model(model: str, settings: Settings) -> tuple[ModelEntry, Description]:
    """Return a model by id or path, and its description; exit with a message if there is none."""
    catalogue = _catalogue(settings)
    try:
        entry = catalogue.get(model)
    except ModelNotFound as ex:
        path = os.path.expanduser(model)
        if not os.path.lexists(path):
            fail(ex.message, 2)
        if os.path.isdir(path):
            fail(f"{model} is a folder; offgrid list --models-dir {model} lists its models", 2)
        catalogue = _catalogue(replace(settings, model="", model_paths=(Path(path),)))
        entry = catalogue.get("")
    return entry, catalogue.describe(entry)


def _catalogue(settings: Settings) -> Catalogue:
    try:
        catalogue = Catalogue(settings)
        catalogue.check_folder()
    except (ConfigError, OffgridError) as ex:
        fail(str(ex), 2)
    return catalogue


def _row(entry: ModelEntry, description: Description) -> tuple[str, ...]:
    abilities: list[str] = [description.kind if description.kind != "base" else "base model"]
    if entry.projector is not None:
        abilities.append("vision")
    return (
        shown(entry.id),
        short_number(description.parameters),
        shown(description.quantization or "?"),
        f"{description.context_length:,}" if description.context_length is not None else "?",
        _size(entry.size),
        ", ".join(abilities),
    )


def _properties(entry: ModelEntry, description: Description) -> list[tuple[str, str]]:
    rows = [("id", shown(entry.id)), ("file", shown(entry.path))]
    if entry.parts:
        rows.append(("parts", str(len(entry.parts))))
    rows.append(("size", f"{_size(entry.size)} ({entry.size:,} bytes)"))
    if description.problem is not None:
        return rows
    kind = "base model (no chat template)" if description.kind == "base" else description.kind
    rows += [
        ("kind", kind),
        ("architecture", shown(description.architecture or "unknown")),
        ("parameters", f"{short_number(description.parameters)} ({description.parameters or 0:,})"),
        ("quantised", shown(description.quantization or "unknown")),
        ("context", f"{description.context_length or 0:,} tokens (trained)"),
        ("vision", shown(entry.projector) if entry.projector is not None else "no"),
        *([("draft model", shown(entry.draft[0]))] if entry.draft else []),
        ("tools", "yes, in its chat template" if description.tools else "no"),
        ("reasoning", "yes, in its chat template" if description.reasoning else "no"),
    ]
    return rows


def _settings(entry: ModelEntry) -> list[tuple[str, str]]:
    """Return what the configuration file says about this model."""
    return [(name, shown(text)) for name, text in entry.own.texts().items()]


def _memory(fit: Fit) -> list[tuple[str, str]]:
    estimate = fit.estimate
    if estimate is None:
        return []
    parts = [(name, getattr(estimate, name)) for name in PARTS]
    listed = ", ".join(f"{name} {written(size)}" for name, size in parts if size)
    return [
        ("memory", f"{'' if fit.fits else 'does not fit: '}{fit}"),
        ("takes", f"up to {written(estimate.total)}: {listed}"),
    ]


def _as_json(entry: ModelEntry, description: Description, hashes: Hashes) -> dict[str, Any]:
    return {
        "id": entry.id,
        "path": _text(entry.path),
        "size": entry.size,
        "sha256": None if entry.parts else hashes.get(entry.path),
        "parts": [_text(path) for path in entry.parts],
        "problem": description.problem,
        "kind": description.kind if description.problem is None else None,
        "architecture": description.architecture,
        "parameters": description.parameters,
        "quantization": description.quantization,
        "context_length": description.context_length,
        "projector": _text(entry.projector) if entry.projector is not None else None,
        "draft_model": _text(entry.draft[0]) if entry.draft else None,
        "tools": description.tools,
        "reasoning": description.reasoning,
        "settings": entry.own.texts(),
    }


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _text(path: Path) -> str:
    """Return a path as Unicode text; bytes that are not UTF-8 become U+FFFD, for JSON."""
    return os.fsencode(path).decode("utf-8", "replace")
