"""A loaded GGUF: its weights, its contexts, its projector, and its description."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np

from offgrid import __version__
from offgrid.engine.attention import Choice
from offgrid.engine.memory import free_memory
from offgrid.engine.protocol.commands import Adapter, Load
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.engine.worker.checkpoints import first_needed
from offgrid.engine.worker.image import Embeddings, ImageTile
from offgrid.engine.worker.llama.batch import Batch
from offgrid.engine.worker.llama.chat_templates import CHAT_TEMPLATE, read_chat_templates
from offgrid.engine.worker.llama.embedding import EmbeddingContext
from offgrid.engine.worker.llama.errors import INVALID_BATCH, DecodeError, LoadError
from offgrid.engine.worker.llama.kv_types import GGML_TYPES
from offgrid.engine.worker.llama.remembered import remembered_attention
from offgrid.engine.worker.llama.state import (
    PARTIAL,
    WHOLE,
    StateBytes,
    load_state,
    save_state,
    state_size,
)
from offgrid.engine.worker.llama.untouched import give_back_zeros, trim_heap, writable
from offgrid.engine.worker.llama.vision import Vision, VisionError
from offgrid.engine.worker.llama.weights import MAX_UBATCH, Weights, set_attention

_IMAGE_SHARE = 4
"""An image takes at most this fraction (1/4) of the context, if its projector can be limited."""
_MIN_IMAGE = 64
_CELLS = 256
"""llama.cpp rounds the number of a slot's cells up to a multiple of this."""
_OWN_CACHES = ("deepseek4", "dflash", "dots3note")
"""Architectures whose caches are neither plain ones nor windows beside plain ones. It is not known
what remains if such a cache is cut, so their windows are kept in full."""
_STATE_PARAMETERS = (
    "n_ctx", "n_seq_max", "kv_unified", "type_k", "type_v", "flash_attn_type", "swa_full",
    "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor",
    "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip
"""Parameters of a context that decide what its cells hold and how they are laid out."""

# A second binding of this function that returns the address as an integer: creating a ctypes
# pointer object for every row and casting it back costs more than the call.
_get_logits_ith = lc._lib["llama_get_logits_ith"]
_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_get_logits_ith.restype = ctypes.c_void_p


class Model(Weights):
    """A loaded GGUF with one context of ``load.parallel`` slots.

    Attributes:
        can_cut: whether the end of a sequence can be cut off anywhere.
        window: tokens of the sliding window if the slots hold hardly more than the window; then a
            sequence can be cut where a slot still holds the window before it. Else 0.
        threads_in_use: number of threads that compute the next decode.

    Only one thread may call the methods that use the context (``decode``, ``logits``, ``forget``
    and others); ``tokenize`` may run on another thread at the same time.

    Raises:
        LoadError: the file does not load, or the context does not fit into memory.
    """

    def __init__(
        self,
        load: Load,
        progress: Callable[[float], None] = lambda part: None,
        lost: Callable[[str], None] = lambda message: None,
    ) -> None:
        super().__init__(load, progress, lost)
        self._context = None
        self._memory: Any = None
        self.window = 0
        self.attention = Choice(False, "no text is generated")
        self._embedding: EmbeddingContext | None = None
        self._embedding_lock = threading.Lock()
        self._vision: Vision | VisionError | None = None
        self._vision_lock = threading.Lock()
        self._uncopied: set[int] = set()
        """Slots of copies that the next decode will carry out."""
        self.threads_in_use = self.n_threads
        if self.generates:
            self._create_context()
            n_batch = int(lc.llama_n_batch(self._context))
            self.batch = Batch(n_batch, self.n_parallel, self.n_vocab)
            self.can_cut = self._probe_cut()
            self.index_pieces()
        else:
            self._prepare_embedding_only()
        self.info = self._describe()
        trim_heap()

    def close(self) -> None:
        """Free the contexts, then the model. Idempotent."""
        if self._embedding is not None:
            self._embedding.close()
            self._embedding = None
        if isinstance(self._vision, Vision):
            self._vision.close()
            self._vision = None
        if self._context is not None:
            lc.llama_free(self._context)
            self._context = None
        super().close()

    # --- loading ------------------------------------------------------------------------------

    def _prepare_embedding_only(self) -> None:
        """Prepare a model that does not generate: it has only the embedding context."""
        capacity = max(self.load.batch_size, self.n_parallel)
        self.batch = Batch(capacity, self.n_parallel, self.n_vocab)
        self.can_cut = False
        self.kv_bytes = self.embedding_context().kv_bytes

    def embedding_context(self) -> EmbeddingContext:
        """Return the context for embeddings, which the first call creates.

        Raises:
            LoadError: the context does not fit into memory.
        """
        with self._embedding_lock:
            if self._embedding is None:
                self._embedding = EmbeddingContext(self, self.load.batch_size)
            return self._embedding

    def _create_context(self) -> None:
        window = self._small_window()
        types = self.load.kv_type_k, self.load.kv_type_v
        # It is not known which layers have a window, so this is the least that slots can take.
        cells = (window or self.n_ctx) * self.n_parallel
        self.kv_bytes = self.estimate_kv_bytes(cells, *types)
        available = free_memory()
        if self.kv_bytes > available:
            raise LoadError(
                f"{self.n_parallel} slots of {self.n_ctx} tokens need about "
                f"{self.kv_bytes / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free; "
                "lower OFFGRID_PARALLEL (--parallel) or OFFGRID_CTX_SIZE (--ctx-size)."
            )
        params = self._context_params()
        self.attention = self.fixed_attention(params.n_ubatch) or remembered_attention(self)
        set_attention(params, self.attention)
        before = writable()
        self._context = self.new_context(params)
        give_back_zeros(before)
        self.n_ctx = min(self.n_ctx, int(lc.llama_n_ctx_seq(self._context)))
        self._memory = lc.llama_get_memory(self._context)
        if not self._memory:
            raise LoadError("this kind of model does not generate text token by token.")

    def _context_params(self) -> lc.llama_context_params:
        """Return what the context of the slots is created with, without flash attention."""
        params = lc.llama_context_default_params()
        params.n_ctx = self.n_ctx * self.n_parallel
        # NOTE: an assertion of llama.cpp fails if n_batch is smaller than n_seq_max.
        params.n_batch = max(self.load.batch_size, self.n_parallel)
        params.n_ubatch = min(MAX_UBATCH, params.n_batch)
        params.n_seq_max = self.n_parallel
        params.kv_unified = False
        window = self._small_window()
        params.swa_full = not window
        self.window = 0 if self.recurrent else window
        params.type_k = GGML_TYPES[self.load.kv_type_k]
        params.type_v = GGML_TYPES[self.load.kv_type_v]
        return params

    def _small_window(self) -> int:
        """Return the tokens of the sliding window if the layers with a window shall keep only that
        and the tokens of one call, and not all tokens of the context; else 0."""
        window = int(lc.llama_model_n_swa(self._model))
        n_ubatch = min(MAX_UBATCH, max(self.load.batch_size, self.n_parallel))
        own = self.metadata.get("general.architecture") in _OWN_CACHES
        if own or self.load.swa_full or _rounded(window + n_ubatch) >= _rounded(self.n_ctx):
            return 0
        return window

    @property
    def can_cut_tail(self) -> bool:
        """Whether tokens can be cut off again that were decoded last, as rejected drafts are."""
        return self.can_cut or self.window > 0

    def _probe_cut(self) -> bool:
        """Decode two tokens and try to cut one off: recurrent and hybrid memories cannot do it. A
        memory that forgets what is outside the window can do it in the window only."""
        if self.n_ctx < 2 or self.batch.capacity < 2:
            return False
        self.batch.add(0, 0, np.zeros(2, dtype=np.int32), 1)
        try:
            self.decode()
        except DecodeError as ex:
            raise LoadError(f"the model cannot be computed: {ex}.") from None
        can_cut = self.cut(0, 1)
        self.forget(0)
        self.batch.clear()
        return can_cut and not self.window

    def _describe(self) -> ModelInfo:
        load = self.load
        stat = Path(load.path).stat()
        identity = (
            __version__, lc.llama_print_system_info(), stat.st_size, stat.st_mtime_ns, self.n_ctx,
            self.n_parallel, self.batch.capacity, self.window,
            # Only flash attention divides sums among the threads.
            load.threads if self.attention.on else 0,
            load.gpu_layers, load.remote_layers, load.kv_type_k, load.kv_type_v, self.attention.on,
            *map(_adapter_identity, load.adapters),
        )  # fmt: skip
        description = ctypes.create_string_buffer(256)
        lc.llama_model_desc(self._model, description, len(description))
        bos_text, eos_text, pad_text = self.template_texts()
        chat_template, chat_templates = read_chat_templates(self.metadata)
        return ModelInfo(
            path=load.path,
            description=description.value.decode("utf-8", "replace"),
            n_vocab=self.n_vocab,
            n_ctx=self.n_ctx,
            n_ctx_train=self.n_ctx_train,
            n_params=int(lc.llama_model_n_params(self._model)),
            size_bytes=int(lc.llama_model_size(self._model)),
            n_parallel=self.n_parallel,
            kv_bytes=self.kv_bytes,
            chat_template=chat_template,
            bos_text=bos_text,
            eos_text=eos_text,
            pad_text=pad_text,
            add_bos=self.add_bos,
            control_texts=tuple(sorted(self.control_texts)),
            fingerprint="fp_" + hashlib.sha256(repr(identity).encode()).hexdigest()[:12],
            metadata={k: v for k, v in self.metadata.items() if not k.startswith(CHAT_TEMPLATE)},
            pooling=self.pooling,
            generates=self.generates,
            control_ids=self.control_texts,
            has_vision=load.projector is not None,
            n_threads=self.n_threads,
            chat_templates=chat_templates,
            flash_attention=self.attention.on,
            attention_reason=self.attention.reason,
        )

    # --- images -------------------------------------------------------------------------------

    def vision(self) -> Vision:
        """Return the projector, which the first call loads; other threads' calls wait for that.

        Several threads call it: the compiler prepares requests with images and a grammar, the
        tokeniser those with images but no grammar.

        Raises:
            VisionError: there is no projector, or it does not work; every call raises the same.
        """
        with self._vision_lock:
            if self._vision is None:
                self._vision = self._load_vision()
            vision = self._vision
        if isinstance(vision, VisionError):
            raise VisionError(str(vision))  # two threads that raise one object mix its tracebacks
        return vision

    def _load_vision(self) -> Vision | VisionError:
        if self.load.projector is None or self._context is None:
            return VisionError("This model has no vision support.")
        try:
            return Vision(
                self._model,
                self.load.projector,
                n_threads=self.n_threads,
                n_ubatch=int(lc.llama_n_ubatch(self._context)),
                max_positions=max(_MIN_IMAGE, self.n_ctx // _IMAGE_SHARE),
                on_gpu=self.load.gpu_layers != 0,
            )
        except VisionError as ex:
            return ex

    def encode(self, tile: ImageTile) -> Embeddings:
        """Return the embeddings of an image. Another thread may use the context meanwhile.

        Raises:
            EncodeError: encoding failed.
        """
        return self.vision().encode(tile)

    def decode_image(self, tile: ImageTile, embeddings: Embeddings, slot: int, start: int) -> None:
        """Decode an encoded image into a slot, from position ``start`` on.

        Raises:
            DecodeError: the slot may hold a part of the image; cut it off, or :meth:`forget` the
                slot.
        """
        self._check_slot(slot)
        if not 0 <= start <= self.n_ctx - len(tile.ids):
            raise ValueError(f"no room for an image at position {start}")
        capacity = self.batch.capacity
        code = self.vision().decode(self._context, tile, embeddings, slot, start, capacity)
        if code != 0:
            raise DecodeError(code)

    # --- the context --------------------------------------------------------------------------

    def use_threads(self, number: int) -> None:
        """Set the number of threads that compute the next decodes (``llama_set_n_threads``)."""
        if number != self.threads_in_use:
            self.threads_in_use = number
            # llama.cpp takes the second number for more than one token; both are the same here.
            lc.llama_set_n_threads(self._context, number, number)

    def decode(self) -> None:
        """Compute the filled :attr:`batch`; afterwards :meth:`logits` may be read.

        Raises:
            DecodeError: :attr:`DecodeError.retriable` says whether the memory is unchanged.
        """
        code = lc.llama_decode(self._context, self.batch.struct())
        if code != INVALID_BATCH:  # else it is refused before anything is done
            self._uncopied.clear()
        if code != 0:
            raise DecodeError(int(code))

    def logits(self, index: int) -> int:
        """Return the address of the ``n_vocab`` float32 logits at batch index ``index``.

        Valid until the next :meth:`decode`; only for tokens that were added with logits.
        """
        address = _get_logits_ith(self._context, index)
        if not address:
            raise DecodeError(INVALID_BATCH)
        return int(address)

    def forget(self, slot: int) -> None:
        """Free all memory cells of a slot (``llama_memory_seq_rm`` of the whole sequence)."""
        self._check_slot(slot)
        lc.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def cut(self, slot: int, keep: int) -> bool:
        """Free the cells of a slot from position ``keep`` on (``llama_memory_seq_rm``).

        Returns:
            False if this kind of memory cannot do it (recurrent and hybrid models), or if the slot
            does not hold the window before that position any more. The slot's content is then
            undefined: :meth:`forget` it.
        """
        self._check_slot(slot)
        if keep < 0:
            raise ValueError(f"cannot keep {keep} tokens")
        cut = bool(lc.llama_memory_seq_rm(self._memory, slot, keep, -1))
        if cut and keep and self.window:
            return 0 <= self.oldest(slot) <= first_needed(keep, self.window)
        return cut

    def oldest(self, slot: int) -> int:
        """Return the first position of which a slot's sliding windows hold keys and values; -1 if
        there is none (``llama_memory_seq_pos_min``)."""
        self._check_slot(slot)
        return int(lc.llama_memory_seq_pos_min(self._memory, slot))

    def copy(self, source: int, target: int, *, at_once: bool = False) -> None:
        """Copy a slot's content to an empty slot (``llama_memory_seq_cp`` of the whole sequence).

        Memory that is not unified copies only whole sequences, and does so in the next decode.
        Until then, :meth:`restore` refuses both slots.

        Args:
            source: the slot with the content.
            target: the empty slot.
            at_once: copy before the next decode, through a buffer, if this is possible. Of a
                sliding window, only what the next token needs is copied.
        """
        self._check_slot(source)
        self._check_slot(target)
        if source == target:
            raise ValueError("a slot cannot be copied onto itself")
        # Purely recurrent slots share their state until one of them is decoded.
        late = not lc.llama_model_is_recurrent(self._model)
        if late and at_once and not self._uncopied & {source, target}:
            state = self.save_state(source)
            if state is not None and self.load_state(target, state):
                return
            self.forget(target)
        lc.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        if late:
            self._uncopied |= {source, target}

    @property
    def can_save(self) -> bool:
        """Whether the state of a slot can be restored so that it is as good as before.

        The cells that no sliding window shows any more are not part of a state. So a slot that can
        be cut anywhere because it holds them (``swa_full``) would lose that.
        """
        return self.generates and not (self.can_cut and lc.llama_model_n_swa(self._model))

    @property
    def context_parameters(self) -> tuple[tuple[str, str], ...]:
        """The parameters that decide whether a state fits the context, with their values."""
        params = self._context_params()
        set_attention(params, self.attention)
        return tuple((name, repr(getattr(params, name, None))) for name in _STATE_PARAMETERS)

    def state_size(self, slot: int, flags: int = WHOLE) -> int:
        """Return the bytes of a slot's state; ``flags`` as in :mod:`.state`."""
        self._check_slot(slot)
        return state_size(self._context, slot, flags)

    def save_state(self, slot: int, flags: int = WHOLE) -> StateBytes | None:
        """Return a copy of a slot's state; None if llama.cpp cannot copy it."""
        self._check_slot(slot)
        return save_state(self._context, slot, flags)

    def load_state(self, slot: int, state: StateBytes, flags: int = WHOLE) -> bool:
        """Replace what an empty slot holds by a saved state. If False is returned, :meth:`forget`
        the slot."""
        self._check_slot(slot)
        if not self.carry_out_copies(slot, 0):
            return False
        return load_state(self._context, slot, state, flags)

    def carry_out_copies(self, slot: int, length: int) -> bool:
        """Carry out copies from and to a slot that wait for the next decode: states are read and
        written at once, and would overtake them.

        llama.cpp does so only in a decode. Therefore, if there are such copies, an unneeded token
        is decoded after the ``length`` tokens of the slot, and cut off again.

        Returns:
            False if that failed.
        """
        self._check_slot(slot)
        if slot not in self._uncopied:
            return True
        if not self.can_cut or length >= self.n_ctx:
            return False
        self.batch.clear()
        self.batch.add(slot, length, np.zeros(1, dtype=np.int32), 0)
        try:
            self.decode()
        except DecodeError:
            return False
        finally:
            self.batch.clear()
        return self.cut(slot, length)

    def save_checkpoint(self, slot: int) -> StateBytes | None:
        """Return a copy of the part of a slot that cannot be cut; None if there is no memory for it
        or llama.cpp cannot copy it."""
        try:
            return self.save_state(slot, PARTIAL)
        except MemoryError:
            return None

    def restore(self, slot: int, state: StateBytes, position: int) -> bool:
        """Let a slot hold what it held before ``position``.

        Args:
            slot: it, or one that it was copied to, held the same tokens when the copy was made.
            state: the copy, from :meth:`save_checkpoint`.
            position: after the last token that the slot held then.

        Returns:
            False if this is not possible. The slot's content is then undefined: :meth:`forget` it.
        """
        if slot in self._uncopied:  # the copy, which is still to come, would overwrite the state
            return False
        return self.load_state(slot, state, PARTIAL) and self.cut(slot, position)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.n_parallel:
            raise ValueError(f"slot {slot} is outside 0..{self.n_parallel - 1}")


def _rounded(cells: int) -> int:
    return cells + -cells % _CELLS


def _adapter_identity(adapter: Adapter) -> tuple[int, int, float]:
    stat = Path(adapter.path).stat()
    return stat.st_size, stat.st_mtime_ns, adapter.scale
