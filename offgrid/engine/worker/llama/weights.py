"""The weights and metadata of a GGUF, which every context needs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as lc

from offgrid.engine import processors
from offgrid.engine.attention import Choice, fixed_choice
from offgrid.engine.kv_types import PLAIN, bytes_of
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.adapters import Adapters
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.kv_types import (
    GGML_TYPES,
    WITHOUT_FLASH_ATTENTION,
    check_kv_types,
)
from offgrid.engine.worker.llama.rpc import RemoteLayers
from offgrid.engine.worker.llama.tensors import has_tensor, parts_of
from offgrid.engine.worker.llama.vocabulary import Vocabulary

MAX_UBATCH = 512
"""Most tokens that llama.cpp computes at once."""
_MAX_METADATA_VALUE = 1 << 20
_ON = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
_PROGRESS_STEP = 0.01
"""Least difference between two reports of the progress."""
_RANK = "4"
_POOLINGS = {"1": "mean", "2": "cls", "3": "last", _RANK: "rank"}
"""``<architecture>.pooling_type`` of a GGUF (``enum llama_pooling_type``)."""
_HEADS = ("cls.weight", "cls.output.weight")
"""Tensors of a classification head: its hidden layer, and its output layer. It has one or both."""


class Weights(Vocabulary):
    """A loaded GGUF without a context.

    Args:
        load: what to load, and how.
        progress: called with the part of the weights that is loaded, 0 to 1, now and then.
        lost: called on another thread with what happened if a machine is lost that computes a part
            of the model. It should end the process.

    Attributes:
        load: the command that it was loaded for.
        metadata: the scalar metadata as text (``llama_model_meta_*``).
        n_embd: width of the states that the model returns.
        n_ctx: most tokens of a sequence.
        n_parallel, n_threads: slots, and threads at the beginning, of the contexts.
        causal: whether tokens attend only to those before them.
        pooling: how states become one vector.
        recurrent: whether a sequence has a state instead of cells, or in addition to them.
        generates: whether the model is made to generate text.

    Raises:
        LoadError: the file does not load.
    """

    def __init__(
        self,
        load: Load,
        progress: Callable[[float], None] = lambda part: None,
        lost: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._model = None
        lc.llama_backend_init()
        self._remote = RemoteLayers(load, lost) if load.rpc else None
        self._model = _load_model(load, progress, self._remote)
        check_kv_types(self._model, load)
        self._adapters = Adapters(self._model, load.adapters)
        super().__init__(self._model)
        self.load = load
        self.n_embd = int(lc.llama_model_n_embd_out(self._model))
        if lc.llama_model_is_diffusion(self._model):
            raise LoadError("this kind of model does not generate text token by token.")
        self.metadata = self._metadata()
        self._choose_pooling()
        self.n_ctx_train = int(lc.llama_model_n_ctx_train(self._model))
        self.n_ctx = min(load.ctx_size or self.n_ctx_train, self.n_ctx_train)
        self.n_parallel = load.parallel
        self.n_threads = load.threads or processors.cores().start

    @property
    def pointer(self) -> lc.llama_model_p:
        """The loaded model, for functions of llama.cpp. Valid until :meth:`close`."""
        return self._model

    def close(self) -> None:
        """Free the weights, after all contexts. Idempotent."""
        if self._model is not None:
            lc.llama_model_free(self._model)
            self._model = None
        if self._remote is not None:
            self._remote.close()

    def new_context(self, params: lc.llama_context_params) -> lc.llama_context_p:
        """Return a context over these weights (``llama_init_from_model``).

        Args:
            params: this method sets the threads and timings in it.

        Raises:
            LoadError: llama.cpp cannot create it.
        """
        params.n_threads = params.n_threads_batch = self.n_threads
        params.no_perf = True
        context = lc.llama_init_from_model(self._model, params)
        if not context:
            raise LoadError("llama.cpp could not create a context.")
        self._adapters.apply(context)
        return context

    def fixed_attention(self, n_ubatch: int, *, values: str | None = None) -> Choice | None:
        """Return whether flash attention is used, where that needs no measurement.

        Args:
            n_ubatch: most tokens that are computed at once.
            values: as for :func:`~offgrid.engine.attention.fixed_choice`.
        """
        if self.metadata.get("general.architecture") in WITHOUT_FLASH_ATTENTION:
            return Choice(False, "llama.cpp has none for this architecture")
        heads = int(lc.llama_model_n_head(self._model))
        return fixed_choice(self.load, self.n_ctx, n_ubatch, heads, values=values)

    def estimate_kv_bytes(self, n_cells: int, keys: str = PLAIN, values: str = PLAIN) -> int:
        """Return the bytes of keys and values of these types; an upper bound if layers share or
        skip them."""
        heads = max(1, int(lc.llama_model_n_head(self._model)))
        width = int(lc.llama_model_n_embd(self._model)) // heads
        kv_heads = int(lc.llama_model_n_head_kv(self._model))
        layers = int(lc.llama_model_n_layer(self._model))
        elements = layers * kv_heads * width * n_cells
        return bytes_of(keys, elements) + bytes_of(values, elements)

    def _choose_pooling(self) -> None:
        """Read from the file whether the model generates text, and how its states are pooled.

        A model whose file names a pooling, or whose tokens attend to later ones, does not generate.
        llama.cpp's converter names the pooling of hardly any reranker; the tensors of its head tell
        that a model is one.
        """
        architecture = self.metadata.get("general.architecture", "")
        named = self.metadata.get(f"{architecture}.pooling_type", "")
        self.causal = self.metadata.get(f"{architecture}.attention.causal") != "false"
        if named not in _POOLINGS and self._scores_inputs():
            named = _RANK
        self.pooling = _POOLINGS.get(named, "mean")
        self.recurrent = bool(
            lc.llama_model_is_recurrent(self._model) or lc.llama_model_is_hybrid(self._model)
        )
        decodes = bool(lc.llama_model_has_decoder(self._model))
        self.generates = decodes and self.causal and named not in _POOLINGS

    def _scores_inputs(self) -> bool:
        """Whether the model has a classification head with one output, which is a score.

        A head with several outputs sorts texts into classes, which is no order of documents.
        """
        labelled = bool(lc.llama_model_cls_label(self._model, 0))
        if self.causal and not labelled:
            return False  # Do not read the files of the many models that generate once more.
        if int(lc.llama_model_n_cls_out(self._model)) != 1:
            return False
        return any(has_tensor(part, _HEADS) for part in parts_of(Path(self.load.path)))

    def _metadata(self) -> dict[str, str]:
        """Return the GGUF's scalar metadata as text (``llama_model_meta_*``)."""
        metadata = {}
        buffer = ctypes.create_string_buffer(1024)
        for index in range(lc.llama_model_meta_count(self._model)):
            if lc.llama_model_meta_key_by_index(self._model, index, buffer, len(buffer)) < 0:
                continue
            key = buffer.value.decode("utf-8", "replace")
            length = lc.llama_model_meta_val_str_by_index(self._model, index, buffer, len(buffer))
            value = buffer.value
            if len(buffer) <= length < _MAX_METADATA_VALUE:
                large = ctypes.create_string_buffer(length + 1)
                lc.llama_model_meta_val_str_by_index(self._model, index, large, len(large))
                value = large.value
            metadata[key] = value.decode("utf-8", "replace")
        return metadata


def set_attention(params: lc.llama_context_params, choice: Choice) -> None:
    """Turn flash attention on or off for a new context."""
    # On a GPU, llama.cpp finds out itself whether all layers support it.
    on = lc.LLAMA_FLASH_ATTN_TYPE_AUTO if params.type_v == GGML_TYPES[PLAIN] else _ON
    params.flash_attn_type = on if choice.on else lc.LLAMA_FLASH_ATTN_TYPE_DISABLED


def _load_model(
    load: Load, progress: Callable[[float], None], remote: RemoteLayers | None
) -> lc.llama_model_p:
    path = Path(load.path)
    if not path.is_file():
        raise LoadError(f"{path.name} is not there any more.")
    params = lc.llama_model_default_params()
    params.n_gpu_layers = load.gpu_layers if load.gpu_layers >= 0 else 1 << 20
    params.load_mode = _load_mode(load)
    if remote is not None:
        remote.apply(params)
    # NOTE: llama.cpp's AMX kernels can kill the process at their first use ("ldtilecfg" faults on
    # data that they leave uninitialised; ggml-org/llama.cpp#20824). Without them, the weights stay
    # in their plain layout, which all other kernels read.
    params.use_extra_bufts = b"AMX_INT8 = 1" not in lc.llama_print_system_info()
    # The local name keeps the callback alive as long as llama.cpp may call it.
    params.progress_callback = callback = _in_steps(progress)
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    del callback
    if not model:
        raise LoadError(f"llama.cpp does not load {path.name}.")
    return model


def _in_steps(progress: Callable[[float], None]) -> lc.llama_progress_callback:
    """Return llama.cpp's form of a callback; it is called for each tensor, and passes on steps."""
    last = 0.0

    def report(part: float, _: object) -> bool:
        nonlocal last
        if part - last >= _PROGRESS_STEP or part >= 1.0 > last:
            last = part
            progress(min(1.0, part))
        return True  # go on

    return lc.llama_progress_callback(report)


def _load_mode(load: Load) -> int:
    if load.use_mlock:
        return int(lc.LLAMA_LOAD_MODE_MMAP_MLOCK if load.use_mmap else lc.LLAMA_LOAD_MODE_MLOCK)
    return int(lc.LLAMA_LOAD_MODE_MMAP if load.use_mmap else lc.LLAMA_LOAD_MODE_NONE)
