"""The sizes of a model that decide how much memory it takes, read from the headers of its files.

What a size means for memory is llama.cpp's affair: see
:mod:`offgrid.engine.client.estimate`. The widths of keys and values come from the shapes of the
tensors, not from the metadata, so that architectures which skip or share layers need no rules of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from offgrid.store.gguf_header import Header, Tensor

_BLOCK = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$", re.ASCII)
_LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight")
"""Tables of which single rows are read. All other matrices are multiplied with."""
_TOKENS, _MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
_PATTERN = "attention.sliding_window_pattern"
_PERIODS = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma2": (2, False), "gemma3": (6, False), "gemma3n": (5, False),
    "gpt-oss": (2, False), "laguna": (4, True), "llama4": (4, False), "mellum": (4, False),
    "muse-glimmer": (4, False), "olmo2": (4, False), "plamo3": (8, False),
    "smallthinker": (4, True),
}  # fmt: skip
"""Architecture -> how often a layer attends to all tokens, and whether the first layer of each
period does, or else the last: what llama.cpp assumes if the file does not say it."""
_MULTIPLES = (8, 4)
"""Kernels that need another layout of the weights take matrices with so many rows at a time."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What decides how much memory a model takes.

    Attributes:
        data: bytes of all tensors, with the padding between them.
        matrices: (type, rows) -> bytes of the matrices that are multiplied with. ``rows`` is 8 if
            their number of rows is a multiple of 8, else 4 or 1 for the same reason.
        embedding, embedding_type: bytes and type of the token embedding.
        tied: whether the token embedding is also the output matrix. Then ``matrices`` contains it.
        vocabulary: number of tokens.
        merges: number of merges of a byte-level vocabulary.
        context: tokens of the context with which the model was trained; 0 if unknown.
        width: length of a state between layers.
        hidden: length of a token's widest state within a layer, with all experts that are used.
        heads: most heads of a layer.
        queries: most elements of the queries of a token in a layer.
        keys, values: elements of all layers for one cell.
        padded_values: the same as ``values`` if all layers are as wide as the widest.
        state: elements of the recurrent layers for one slot.
        window: tokens of the sliding window to which some layers attend; 0 if there is none.
        window_keys, window_values, window_padded: the parts of ``keys``, ``values`` and
            ``padded_values`` that these layers keep. 0 if it is unknown which layers they are.
        generates: whether the model is made to generate text. Others compute embeddings or scores.
        whole: whether an input must be computed at once: a score, or tokens that attend to later
            ones.
        causal: whether tokens attend only to those before them.
        layers: bytes of the tensors of each layer, the first layer first.
    """

    data: int
    matrices: Mapping[tuple[str, int], int] = field(default_factory=dict)
    embedding: int = 0
    embedding_type: str = ""
    tied: bool = False
    vocabulary: int = 0
    merges: int = 0
    context: int = 0
    width: int = 0
    hidden: int = 0
    heads: int = 0
    queries: int = 0
    keys: int = 0
    values: int = 0
    padded_values: int = 0
    state: int = 0
    window: int = 0
    window_keys: int = 0
    window_values: int = 0
    window_padded: int = 0
    generates: bool = True
    whole: bool = False
    causal: bool = True
    layers: tuple[int, ...] = ()


def sizes_of(
    headers: Sequence[Header], *, generates: bool = True, ranks: bool = False
) -> ModelSizes:
    """Return the sizes of a model.

    Args:
        headers: those of its files, the first one first.
        generates: whether the model is made to generate text.
        ranks: whether it scores inputs.
    """
    tensors = {tensor.name: tensor for header in headers for tensor in header.shapes}
    head = _Numbers(headers[0])
    embedding = tensors.get("token_embd.weight")
    tied = embedding is not None and "output.weight" not in tensors
    width = head.most("embedding_length")
    layers = _layers(tensors.values())
    caches = [_cache(head, number, layer) for number, layer in layers.items()]
    values = [value for _, value in caches]
    window = head.most("attention.sliding_window")
    narrow = [cache for number, cache in zip(layers, caches, strict=True)
              if window and head.has_window(number)]  # fmt: skip
    narrow_values = [value for _, value in narrow]
    causal = headers[0].metadata.get(head.key("attention.causal")) is not False
    return ModelSizes(
        data=sum(header.data_size for header in headers),
        matrices=_matrices(tensors.values(), tied),
        embedding=0 if embedding is None else embedding.size,
        embedding_type="" if embedding is None else embedding.type,
        tied=tied,
        vocabulary=headers[0].texts.get(_TOKENS, 0) or _rows(embedding),
        merges=headers[0].texts.get(_MERGES, 0),
        context=head.most("context_length"),
        width=width,
        hidden=_hidden(head),
        heads=head.most("attention.head_count"),
        queries=max((_rows(layer.get("attn_q")) for layer in layers.values()), default=0) or width,
        keys=sum(key for key, _ in caches),
        values=sum(values),
        padded_values=max(values, default=0) * sum(value > 0 for value in values),
        state=sum(_state(head, layer) for layer in layers.values()),
        window=window,
        window_keys=sum(key for key, _ in narrow),
        window_values=sum(narrow_values),
        window_padded=max(values, default=0) * sum(value > 0 for value in narrow_values),
        generates=generates,
        whole=not generates and (ranks or not causal),
        causal=causal,
        layers=tuple(
            sum(tensor.size for tensor in layer.values()) for _, layer in sorted(layers.items())
        ),
    )


class _Numbers:
    """The metadata of the model's architecture: one number for all layers, or one for each."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._architecture = header.text("general.architecture") or ""

    def key(self, name: str) -> str:
        """Return the whole key of a value."""
        return f"{self._architecture}.{name}"

    def most(self, name: str) -> int:
        """Return a number, the largest of a list; 0 if it is missing or not valid."""
        key = self.key(name)
        numbers = self._header.lists.get(key) or (self._header.number(key) or 0,)
        return max(0, *numbers)

    def of_layer(self, name: str, layer: int) -> int:
        """Return the number for one layer."""
        numbers = self._header.lists.get(self.key(name), ())
        return max(0, numbers[layer]) if layer < len(numbers) else self.most(name)

    def has_window(self, layer: int) -> bool:
        """Whether a layer of a model with a sliding window attends only to the window."""
        if self.key(_PATTERN) in self._header.lists:
            return self.of_layer(_PATTERN, layer) > 0
        usual, dense_first = _PERIODS.get(self._architecture, (0, False))
        period = self.most(_PATTERN) or usual
        if period == 0:
            return False
        return layer % period != (0 if dense_first else period - 1)


Layer = dict[str, Tensor]
"""The tensors of a layer by the last part of their names, without ``.weight``."""


def _layers(tensors: Iterable[Tensor]) -> dict[int, Layer]:
    layers: dict[int, Layer] = {}
    for tensor in tensors:
        match = _BLOCK.match(tensor.name)
        if match is not None:
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
    return layers


def _rows(tensor: Tensor | None) -> int:
    return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0


def _matrices(tensors: Iterable[Tensor], tied: bool) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for tensor in tensors:
        looked_up = tensor.name in _LOOKED_UP and not (tied and tensor.name == _LOOKED_UP[0])
        if len(tensor.shape) < 2 or looked_up or not tensor.name.endswith(".weight"):
            continue
        rows = next((n for n in _MULTIPLES if tensor.shape[1] % n == 0), 1)
        found[tensor.type, rows] = found.get((tensor.type, rows), 0) + tensor.size
    return found


def _hidden(head: _Numbers) -> int:
    experts = head.most("expert_feed_forward_length") * head.most("expert_used_count")
    return max(head.most("feed_forward_length"), experts)


def _is_recurrent(layer: Layer) -> bool:
    return any(name.startswith(("ssm_", "time_mix_", "shortconv.")) for name in layer)


def _cache(head: _Numbers, number: int, layer: Layer) -> tuple[int, int]:
    """Return the elements of keys and of values that a layer keeps for one cell."""
    layers = head.most("block_count")
    if number >= layers - head.most("attention.shared_kv_layers"):
        return 0, 0  # it uses those of an earlier layer
    if number >= layers - head.most("nextn_predict_layers"):
        return 0, 0  # it proposes tokens, and is not loaded
    if "attn_kv_a_mqa" in layer and head.most("attention.key_length_mla"):
        # Multi-head latent attention keeps one short vector, which is key and value.
        return head.most("attention.kv_lora_rank") + head.most("rope.dimension_count"), 0
    if "attn_k" in layer:
        keys = _rows(layer["attn_k"])
        return keys, _rows(layer.get("attn_v")) or keys
    fused = "attn_qkv" in layer and not _is_recurrent(layer)
    if not fused and "attn_kv_a_mqa" not in layer:
        return 0, 0
    heads = head.of_layer("attention.head_count_kv", number) or head.most("attention.head_count")
    width = head.most("embedding_length") // max(1, head.most("attention.head_count"))
    keys = heads * (head.most("attention.key_length") or width)
    return keys, heads * (head.most("attention.value_length") or width)


def _state(head: _Numbers, layer: Layer) -> int:
    """Return the elements of the state that a layer keeps for one slot, by the rules of llama.cpp's
    ``n_embd_r`` and ``n_embd_s``."""
    if not _is_recurrent(layer):
        return 0
    width, heads = head.most("embedding_length"), head.most("attention.head_count")
    if (size := head.most("wkv.head_size")) > 0:
        return (head.most("token_shift_count") or 2) * width + width * size
    if (cached := head.most("shortconv.l_cache")) > 0:
        return width * (cached - 1)
    kernel = head.most("ssm.conv_kernel")
    if (size := head.most("kda.head_dim")) > 0:
        return 3 * (kernel - 1 if kernel else 3) * heads * size + heads * size * size
    inner, state = head.most("ssm.inner_size"), head.most("ssm.state_size")
    groups = head.most("ssm.group_count")
    return max(0, kernel - 1) * (inner + 2 * groups * state) + inner * state
