"""What a model's files say about it, read from their headers without loading the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Literal

from offgrid.store.gguf_header import FILE_TYPES, BadHeader, Header, header_of, read_header
from offgrid.store.names import is_projector, split_of
from offgrid.store.sizes import ModelSizes, sizes_of

Kind = Literal["chat", "base", "embedding", "rerank"]
"""What a model is made for. A base model generates text, but its file has no chat template."""

Blame = Literal["file", "kind", "adapter", "draft"]

_GENERATING = ("chat", "base")

_TEMPLATE = "tokenizer.chat_template"
_TEMPLATES = (_TEMPLATE, f"{_TEMPLATE}.default", f"{_TEMPLATE}.tool_use")
"""Keys of the templates that may be the default one, in the order in which they are tried."""
_RANK = 4
_POOLINGS = (1, 2, 3, _RANK)
"""Values of ``<architecture>.pooling_type`` of models that do not generate text."""
_ENCODERS = ("t5encoder",)
"""Architectures without a decoder."""
_TOOLS = re.compile(r"\btools\b")
_REASONING = re.compile(r"<think>|\breasoning_content\b|\benable_thinking\b|<\|channel\|?>")
_FILL_IN = ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")
"""Keys of the token between a text with a gap and what fills it in."""
_OTHER_TYPES = {
    "adapter": "it is a LoRA adapter and not a model; serve it with a model as its base: "
    '[models."a-new-name"] with base and lora, in the configuration file',
    "mmproj": "it is a projector (mmproj) and not a model",
    "imatrix": "it is an importance matrix and not a model",
}
"""``general.type`` of files that are no models."""
_NO_WEIGHTS = "it contains a vocabulary, but no weights"


@dataclass(frozen=True, slots=True)
class Description:
    """The properties of a model on disk.

    Attributes:
        problem: why the model cannot be used; then nothing else is known. None if it can be.
        kind: what the model is made for.
        architecture: llama.cpp's name of it.
        parameters: number of parameters, counted from the shapes of the tensors.
        quantization: name of the file type; if the file names none, the tensor type that most
            parameters have.
        context_length: tokens of the context with which it was trained; None if unknown.
        tools: whether its chat template writes tools.
        reasoning: whether its chat template mentions reasoning.
        inserts: whether its vocabulary has tokens for filling a gap in a text.
        sizes: what decides how much memory it takes; None if the file cannot be used.
        draft_sizes: the same of its draft model; None if it has none.
        blame: what the problem is a problem of: the file itself is damaged, it is no model (kind),
            or an adapter or the draft model of the settings does not fit it.
    """

    problem: str | None = None
    kind: Kind = "base"
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    tools: bool = False
    reasoning: bool = False
    inserts: bool = False
    sizes: ModelSizes | None = None
    draft_sizes: ModelSizes | None = None
    blame: Blame | None = None

    @property
    def generates(self) -> bool:
        """Whether the model is made to generate text."""
        return self.problem is None and self.kind in _GENERATING


def describe(
    files: Sequence[Path],
    template: str | None = None,
    adapters: Sequence[Path] = (),
    draft: Sequence[Path] = (),
) -> Description:
    """Describe a model.

    Args:
        files: its file, or all parts of a split model in order.
        template: the chat template that it is served with, instead of the one in its file.
        adapters: the LoRA adapters that it is served with.
        draft: the files of the draft model that it is served with.
    """
    headers = []
    for number, path in enumerate(files):
        try:
            header = read_header(path)
            _check_part(header, number, len(files))
        except (BadHeader, OSError) as ex:
            reason = (ex.strerror or str(ex)) if isinstance(ex, OSError) else str(ex)
            reason = reason if len(files) == 1 else f"{path.name}: {reason}"
            return Description(reason, blame="file")
        headers.append(header)
    problem = _not_a_model(headers)
    if problem is not None:
        return Description(problem, blame="kind")
    problem = _misfit(headers[0], adapters)
    if problem is not None:
        return Description(problem, blame="adapter")
    description = _described(headers, template)
    if not draft:
        return description
    second = describe(draft)
    problem = draft_problem(draft[0].name, second)
    if problem is not None:
        return Description(problem, blame="draft")
    return replace(description, draft_sizes=second.sizes)


def draft_problem(name: str, draft: Description) -> str | None:
    """Return why a file cannot be the draft model of another one, as far as its header says; else
    None. The worker, which loads both, compares their vocabularies."""
    if draft.problem is not None:
        return f"its draft model {name}: {draft.problem}"
    if not draft.generates:
        return f"its draft model {name} does not generate text"
    return None


def refusal_of(file: FileIO, name: str) -> str | None:
    """Return why a file would be of no use in a models directory, and what to do; None if it is a
    model, a part of one, a projector or an adapter.

    Args:
        file: open for reading.
        name: what it would be called: names tell parts and projectors.
    """
    _, part, parts = split_of(name) or ("", 1, 1)
    try:
        header = header_of(file)
        _check_part(header, part - 1, parts)
    except BadHeader as ex:
        return f"{ex}. Make a new copy of it."
    if part > 1 or header.text("general.type") == "adapter" or is_projector(name):
        return None
    problem = _other_type(header)
    if problem == _OTHER_TYPES["mmproj"]:
        return f"{problem}. Give it a name that contains mmproj, such as mmproj-MODEL.gguf."
    if problem is None and not header.tensors and parts == 1:
        problem = _NO_WEIGHTS
    return None if problem is None else f"{problem}. Choose another file."


def _described(headers: Sequence[Header], template: str | None) -> Description:
    first = headers[0]
    architecture = first.text("general.architecture") or ""
    if template is None:
        template = next((text for key in _TEMPLATES if (text := first.text(key))), "")
    kind = _kind(first, architecture, template)
    talks = kind == "chat"
    return Description(
        kind=kind,
        architecture=architecture,
        parameters=sum(header.parameters for header in headers),
        quantization=_quantization(headers),
        context_length=first.number(f"{architecture}.context_length"),
        tools=talks and bool(_TOOLS.search(template)),
        reasoning=talks and bool(_REASONING.search(template)),
        inserts=kind in _GENERATING and any(first.number(key) is not None for key in _FILL_IN),
        sizes=sizes_of(headers, generates=kind in _GENERATING, ranks=kind == "rerank"),
    )


def _check_part(header: Header, number: int, parts: int) -> None:
    count = header.number("split.count") or 1
    if count == parts and (header.number("split.no") or 0) == number:
        return
    if parts == 1:
        raise BadHeader(
            f"it is one of {count} parts of a model; give the parts names that end with "
            f"-00001-of-{count:05d}.gguf and so on"
        )
    # Files that were split by other programs carry no numbers.
    if "split.count" in header.metadata:
        raise BadHeader(f"it is not part {number + 1} of {parts} of this model")


def _not_a_model(headers: Sequence[Header]) -> str | None:
    problem = _other_type(headers[0])
    if problem is None and not any(header.tensors for header in headers):
        return _NO_WEIGHTS
    return problem


def _other_type(header: Header) -> str | None:
    """Return what a file is, by its own words, if it is no model and not the first part of one."""
    kind = header.text("general.type")
    if kind in _OTHER_TYPES:
        return _OTHER_TYPES[kind]
    architecture = header.text("general.architecture")
    if architecture == "clip":
        return _OTHER_TYPES["mmproj"]
    return None if architecture else "its header names no architecture"


def _misfit(model: Header, adapters: Sequence[Path]) -> str | None:
    """Return why an adapter cannot be used with a model, as far as its header says; else None.

    The worker, which loads both, compares their tensors.
    """
    for path in adapters:
        try:
            header = read_header(path)
        except (BadHeader, OSError) as ex:
            reason = (ex.strerror or str(ex)) if isinstance(ex, OSError) else str(ex)
            return f"its adapter {path.name}: {reason}"
        if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
            return f"its adapter {path.name} is not a LoRA adapter"
        own, other = (h.text("general.architecture") for h in (model, header))
        if own != other:
            return f"its adapter {path.name} is for {other} models, and its base is {own}"
    return None


def _kind(header: Header, architecture: str, template: str) -> Kind:
    """Return what a model is made for, by the rules with which the worker loads it."""
    pooling = header.number(f"{architecture}.pooling_type")
    if pooling == _RANK:
        return "rerank"
    causal = header.metadata.get(f"{architecture}.attention.causal") is not False
    if pooling in _POOLINGS or not causal or architecture in _ENCODERS:
        return "embedding"
    return "chat" if template.strip() else "base"


def _quantization(headers: Sequence[Header]) -> str | None:
    named = FILE_TYPES.get(headers[0].number("general.file_type") or 0)
    if named is not None and "general.file_type" in headers[0].metadata:
        return named
    counts: dict[str, int] = {}
    for header in headers:
        for name, elements in header.types.items():
            counts[name] = counts.get(name, 0) + elements
    return max(counts, key=lambda name: counts[name]) if counts else None
