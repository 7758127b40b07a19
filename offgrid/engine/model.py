"""llama.cpp: the only module that imports ``llama_cpp``, but for :mod:`offgrid.engine.vision`.

llama.cpp trusts its caller: an id out of range, a batch that is too large or a sequence id that
does not exist end the process (``SIGABRT``), they do not raise. So everything is checked here
before it goes in. Function names in docstrings are those of ``llama.h``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
import psutil
from numpy.typing import NDArray

from offgrid import __version__
from offgrid.engine.breakers import expand_breaker
from offgrid.engine.protocol import Load, ModelInfo, Part
from offgrid.engine.vision import Chunk, Embeddings, Vision, VisionError

_UBATCH = 512
_MAX_PIECE = 4096
_MAX_SCORES = 512 * 1024 * 1024
"""Bytes."""
_MAX_METADATA_VALUE = 1 << 20
_MAX_CACHED_BREAKERS = 256
_EMBEDDING_SEQUENCES = 64
"""Inputs in one batch. More short ones would not be computed any faster."""
_MAX_EMBEDDING_LOGITS = 64 * 1024 * 1024
"""Bytes of the logits of a batch that nobody wants; llama.cpp holds them twice."""
_MIN_EMBEDDING_BATCH = 32
_IMAGE_SHARE = 4
"""An image takes at most this part (1/4) of the context, where its projector lets one choose."""
_MIN_IMAGE = 64
_POOLINGS = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}
"""``<architecture>.pooling_type`` of a GGUF (``enum llama_pooling_type``)."""
_POOLING_TYPES = {
    "none": lc.LLAMA_POOLING_TYPE_NONE,
    "mean": lc.LLAMA_POOLING_TYPE_MEAN,
    "cls": lc.LLAMA_POOLING_TYPE_CLS,
    "last": lc.LLAMA_POOLING_TYPE_LAST,
    "rank": lc.LLAMA_POOLING_TYPE_RANK,
}

# NOTE: importing llama_cpp installs a Python log callback, which takes the GIL inside llama.cpp's
# threads and can deadlock. NULL puts llama.cpp's own C function back, which writes to stderr.
lc.llama_log_set(lc.llama_log_callback(0), None)

# A second binding of this function that returns the address itself: making a ctypes pointer object
# for every row and casting it back costs more than the call.
_get_logits_ith = lc._lib["llama_get_logits_ith"]
_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_get_logits_ith.restype = ctypes.c_void_p


class LoadError(Exception):
    """The model cannot be loaded; the message is for the user."""


class DecodeError(Exception):
    """``llama_decode`` failed. ``code`` is its return value (llama.h, ``llama_decode``).

    1: no room in the KV memory; 2: aborted; -1: an invalid batch (both leave the memory as it
    was); less than -1: a failed computation (the memory of the batch's sequences is undefined).
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code


def physical_threads() -> int:
    """One thread per physical core that this process may use."""
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores)


class Model:
    """A loaded GGUF with one context of ``load.parallel`` sequences.

    Only one thread may call the methods that touch the context (``decode``, ``logits``,
    ``forget``); ``tokenize`` may run in another at the same time.

    Raises:
        LoadError: the file does not load, or the context does not fit into memory.
    """

    def __init__(self, load: Load) -> None:
        self._model = None
        self._context = None
        self._memory: Any = None
        lc.llama_backend_init()
        self._model = _load_model(load)
        self.vocab = lc.llama_model_get_vocab(self._model)
        self.n_vocab = int(lc.llama_vocab_n_tokens(self.vocab))
        if lc.llama_model_is_diffusion(self._model):
            raise LoadError("this kind of model does not generate text token by token.")
        self.metadata = self._metadata()
        self._choose_pooling()
        self._special_ids()
        self._pieces: dict[int, bytes] = {}
        self._shown: dict[int, bytes] = {}
        self._breakers: dict[str, frozenset[tuple[int, ...]]] = {}
        self._embedding: EmbeddingContext | None = None
        self._vision: Vision | VisionError | None = None
        self._load = load
        if self.generates:
            self._create_context(load)
            n_batch = int(lc.llama_n_batch(self._context))
            self.batch = Batch(n_batch, self.n_parallel, self.n_vocab)
            self.can_cut = self._probe_cut()
        else:
            self._prepare_embedding_only(load)
        self.info = self._describe(load)

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
        if self._model is not None:
            lc.llama_model_free(self._model)
            self._model = None

    # --- loading ------------------------------------------------------------------------------

    def _choose_pooling(self) -> None:
        """Read from the metadata what the model is made for, and how its states are pooled.

        A file that names a pooling, or whose tokens see those behind them, is no writer.
        """
        architecture = self.metadata.get("general.architecture", "")
        named = self.metadata.get(f"{architecture}.pooling_type", "")
        self.causal = self.metadata.get(f"{architecture}.attention.causal") != "false"
        self.pooling = _POOLINGS.get(named, "mean")
        self.recurrent = bool(
            lc.llama_model_is_recurrent(self._model) or lc.llama_model_is_hybrid(self._model)
        )
        decodes = bool(lc.llama_model_has_decoder(self._model))
        self.generates = decodes and self.causal and named not in _POOLINGS

    def _prepare_embedding_only(self, load: Load) -> None:
        """Without a context for text: the embedding context is all there is."""
        n_ctx_train = int(lc.llama_model_n_ctx_train(self._model))
        self.n_ctx = min(load.ctx_size or n_ctx_train, n_ctx_train)
        self.n_parallel = load.parallel
        self.n_threads = load.threads or physical_threads()
        self.batch = Batch(max(load.batch_size, load.parallel), load.parallel, self.n_vocab)
        self.can_cut = False
        self.kv_bytes = self.embedding_context().kv_bytes

    def embedding_context(self) -> EmbeddingContext:
        """Return the context that gives vectors, made at the first call.

        Raises:
            LoadError: it does not fit into memory.
        """
        if self._embedding is None:
            self._embedding = EmbeddingContext(self, self._load)
        return self._embedding

    def _create_context(self, load: Load) -> None:
        n_ctx_train = int(lc.llama_model_n_ctx_train(self._model))
        self.n_ctx = min(load.ctx_size or n_ctx_train, n_ctx_train)
        self.n_parallel = load.parallel
        self.kv_bytes = self.estimate_kv_bytes(self.n_ctx * self.n_parallel)
        available = psutil.virtual_memory().available
        if self.kv_bytes > 0.9 * available:
            raise LoadError(
                f"{load.parallel} slots of {self.n_ctx} tokens need about "
                f"{self.kv_bytes / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free; "
                "lower OFFGRID_PARALLEL (--parallel) or OFFGRID_MAX_CONTEXT (--ctx-size)."
            )
        params = lc.llama_context_default_params()
        params.n_ctx = self.n_ctx * load.parallel
        # NOTE: fewer batch tokens than sequences is an assertion of llama.cpp.
        params.n_batch = max(load.batch_size, load.parallel)
        params.n_ubatch = min(_UBATCH, params.n_batch)
        params.n_seq_max = load.parallel
        self.n_threads = load.threads or physical_threads()
        params.n_threads = params.n_threads_batch = self.n_threads
        params.kv_unified = False
        self._choose_flash_attention(params, load)
        params.no_perf = True
        self._context = lc.llama_init_from_model(self._model, params)
        if not self._context:
            raise LoadError("llama.cpp could not create a context.")
        self.n_ctx = min(self.n_ctx, int(lc.llama_n_ctx_seq(self._context)))
        self._memory = lc.llama_get_memory(self._context)
        if not self._memory:
            raise LoadError("this kind of model does not generate text token by token.")

    def _choose_flash_attention(self, params: lc.llama_context_params, load: Load) -> None:
        # Flash attention on a processor is slow for fewer tokens than 64 at once, and streams are
        # fewer; without it the scores of a whole call stand in memory.
        scores = 4 * self.n_ctx * params.n_ubatch * int(lc.llama_model_n_head(self._model))
        if load.gpu_layers == 0 and scores <= _MAX_SCORES:
            params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_DISABLED

    def new_context(self, params: lc.llama_context_params, load: Load) -> lc.llama_context_p:
        """Return another context over the same weights (``llama_init_from_model``).

        Raises:
            LoadError: llama.cpp refuses.
        """
        params.n_threads = params.n_threads_batch = self.n_threads
        params.no_perf = True
        self._choose_flash_attention(params, load)
        context = lc.llama_init_from_model(self._model, params)
        if not context:
            raise LoadError("llama.cpp could not create a context.")
        return context

    def _probe_cut(self) -> bool:
        """Compute two tokens and cut one off again: recurrent and hybrid memories cannot."""
        if self.n_ctx < 2 or self.batch.capacity < 2:
            return False
        self.batch.add(0, 0, np.zeros(2, dtype=np.int32), 1)
        try:
            self.decode()
        except DecodeError as ex:
            raise LoadError(f"the model does not compute: {ex}.") from None
        can_cut = self.cut(0, 1)
        self.forget(0)
        self.batch.clear()
        return can_cut

    def estimate_kv_bytes(self, n_cells: int) -> int:
        """Keys and values in half precision; an upper bound where layers share or skip them."""
        heads = max(1, int(lc.llama_model_n_head(self._model)))
        width = int(lc.llama_model_n_embd(self._model)) // heads
        kv_heads = int(lc.llama_model_n_head_kv(self._model))
        layers = int(lc.llama_model_n_layer(self._model))
        return 2 * 2 * layers * kv_heads * width * n_cells

    def _special_ids(self) -> None:
        ids = range(self.n_vocab)
        vocab = self.vocab
        self.eog_ids = frozenset(i for i in ids if lc.llama_vocab_is_eog(vocab, i))
        special = lc.LLAMA_TOKEN_ATTR_CONTROL | lc.LLAMA_TOKEN_ATTR_UNKNOWN
        self.control_ids = tuple(i for i in ids if lc.llama_vocab_get_attr(vocab, i) & special)
        self.bos = int(lc.llama_vocab_bos(vocab))
        self.add_bos = bool(lc.llama_vocab_get_add_bos(vocab)) and self.bos >= 0
        self.eos = int(lc.llama_vocab_eos(vocab)) if lc.llama_vocab_get_add_eos(vocab) else -1
        self.sep = int(lc.llama_vocab_sep(vocab)) if lc.llama_vocab_get_add_sep(vocab) else -1
        self.n_embd = int(lc.llama_model_n_embd_out(self._model))
        self.fim_ids = (
            int(lc.llama_vocab_fim_pre(vocab)),
            int(lc.llama_vocab_fim_suf(vocab)),
            int(lc.llama_vocab_fim_mid(vocab)),
        )
        """Around what is to be filled in: before the prefix, the suffix, the answer; -1: none."""

    def _describe(self, load: Load) -> ModelInfo:
        stat = Path(load.path).stat()
        identity = (
            __version__, lc.llama_print_system_info(), stat.st_size, stat.st_mtime_ns, self.n_ctx,
            self.n_parallel, self.batch.capacity, self.n_threads,
            load.gpu_layers,
        )  # fmt: skip
        description = ctypes.create_string_buffer(256)
        lc.llama_model_desc(self._model, description, len(description))
        eos = int(lc.llama_vocab_eos(self.vocab))
        control_ids = {text: i for i in reversed(self.control_ids) if (text := self.name(i))}
        pad = int(lc.llama_vocab_pad(self.vocab))
        return ModelInfo(
            path=load.path,
            description=description.value.decode("utf-8", "replace"),
            n_vocab=self.n_vocab,
            n_ctx=self.n_ctx,
            n_ctx_train=int(lc.llama_model_n_ctx_train(self._model)),
            n_params=int(lc.llama_model_n_params(self._model)),
            size_bytes=int(lc.llama_model_size(self._model)),
            n_parallel=self.n_parallel,
            kv_bytes=self.kv_bytes,
            chat_template=self.metadata.get("tokenizer.chat_template"),
            bos_text=self.name(self.bos) if self.bos >= 0 else "",
            eos_text=self.name(eos) if eos >= 0 else "",
            pad_text=self.name(pad) if pad >= 0 else "",
            add_bos=self.add_bos,
            control_texts=tuple(sorted(control_ids)),
            fingerprint="fp_" + hashlib.sha256(repr(identity).encode()).hexdigest()[:12],
            metadata={k: v for k, v in self.metadata.items() if k != "tokenizer.chat_template"},
            pooling=self.pooling,
            generates=self.generates,
            control_ids=control_ids,
            sees=load.projector is not None,
        )

    def _metadata(self) -> dict[str, str]:
        """The GGUF's scalar metadata as text (``llama_model_meta_*``)."""
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

    def name(self, token: int) -> str:
        """Return how a token is written in the vocabulary (``llama_vocab_get_text``)."""
        self._check_token(token)
        return bytes(lc.llama_vocab_get_text(self.vocab, token)).decode("utf-8", "replace")

    # --- tokens -------------------------------------------------------------------------------

    def tokenize(self, parts: SequenceOf[Part]) -> NDArray[np.int32]:
        """Return the token ids of a prompt, with BOS in front where the model wants one.

        Control tokens come out of parts marked ``special`` only (``llama_tokenize``'s
        ``parse_special``). Runs the tokenizer's regular expressions: give the calling thread a
        large stack, some vocabularies recurse once per character.
        """
        ids = self.tokenize_bare(parts)
        if self.add_bos and (len(ids) == 0 or ids[0] != self.bos):
            ids = np.concatenate((np.array([self.bos], dtype=np.int32), ids))
        return ids

    def tokenize_bare(self, parts: SequenceOf[Part]) -> NDArray[np.int32]:
        """Return the token ids of a text as :meth:`tokenize` does, without BOS."""
        chunks = [self._tokenize_text(part.text, part.special) for part in parts if part.text]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int32)

    def tokenize_input(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text to be embedded, with what the model wants around it (BOS, EOS).

        Nothing in the text becomes a control token.
        """
        return self._tokenize_text(text, False, add_special=True)

    def tokenize_plain(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text alone, none of them a control token."""
        return self._tokenize_text(text, False)

    def _tokenize_text(
        self, text: str, special: bool, add_special: bool = False
    ) -> NDArray[np.int32]:
        data = text.encode("utf-8")
        capacity = len(data) + 8
        ids = np.empty(capacity, dtype=np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(lc.llama_token))
        count = lc.llama_tokenize(
            self.vocab, data, len(data), pointer, capacity, add_special, special
        )
        if count < 0:
            raise ValueError(f"llama_tokenize returned {count} for {len(data)} bytes")
        return ids[:count]

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token stands for; control tokens give none."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._read_piece(token)
        return cached

    def shown(self, token: int) -> bytes:
        """Return the bytes of a token as :meth:`piece` does; control tokens as they are written."""
        cached = self._shown.get(token)
        if cached is None:
            cached = self._shown[token] = self._read_piece(token, special=True)
        return cached

    def _read_piece(self, token: int, special: bool = False) -> bytes:
        self._check_token(token)
        buffer = ctypes.create_string_buffer(_MAX_PIECE)
        length = lc.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = lc.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:length]

    def visible_pieces(self, texts: SequenceOf[str]) -> dict[int, bytes]:
        """Return the bytes of the control tokens that have one of these texts."""
        return {
            self.info.control_ids[text]: text.encode("utf-8")
            for text in texts
            if text in self.info.control_ids
        }

    def _check_token(self, token: int) -> None:
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"token {token} is outside the vocabulary of {self.n_vocab}")

    def vocab_pieces(self) -> list[bytes]:
        """Return the bytes of every token, in order of id; of control tokens their names."""
        control = set(self.control_ids)
        return [
            self.name(token).encode() if token in control else self._read_piece(token)
            for token in range(self.n_vocab)
        ]

    def breakers(self, texts: SequenceOf[str]) -> list[tuple[int, ...]]:
        """Return the token sequences in which these texts can stand, for DRY."""
        found: set[tuple[int, ...]] = set()
        for text in texts:
            if text not in self._breakers:
                if len(self._breakers) >= _MAX_CACHED_BREAKERS:
                    self._breakers.clear()
                pieces = [self.piece(token) for token in range(self.n_vocab)]
                self._breakers[text] = expand_breaker(text, pieces, self._tokenize_tail)
            found |= self._breakers[text]
        return sorted(found)

    def _tokenize_tail(self, data: bytes) -> list[int]:
        return [int(i) for i in self._tokenize_text(data.decode("utf-8", "replace"), False)]

    # --- images -------------------------------------------------------------------------------

    def vision(self) -> Vision:
        """Return what reads images, loaded at the first call, which has to be over before others.

        Raises:
            VisionError: there is no projector, or none that works; the same again at every call.
        """
        if self._vision is None:
            self._vision = self._load_vision()
        if isinstance(self._vision, VisionError):
            raise self._vision
        return self._vision

    def _load_vision(self) -> Vision | VisionError:
        if self._load.projector is None or self._context is None:
            return VisionError("This model does not see images.")
        try:
            return Vision(
                self._model,
                self._load.projector,
                n_threads=self.n_threads,
                n_ubatch=int(lc.llama_n_ubatch(self._context)),
                max_positions=max(_MIN_IMAGE, self.n_ctx // _IMAGE_SHARE),
                on_gpu=self._load.gpu_layers != 0,
            )
        except VisionError as ex:
            return ex

    def encode(self, chunk: Chunk) -> Embeddings:
        """Return the embeddings of an image. Another thread may use the context meanwhile.

        Raises:
            EncodeError: it failed.
        """
        return self.vision().encode(chunk)

    def see(self, chunk: Chunk, embeddings: Embeddings, slot: int, start: int) -> None:
        """Compute an encoded image in a slot, from position ``start`` on.

        Raises:
            DecodeError: a part of it may be in the slot; cut it off, or :meth:`forget` the slot.
        """
        self._check_slot(slot)
        if not 0 <= start <= self.n_ctx - len(chunk.ids):
            raise ValueError(f"no room for an image at position {start}")
        capacity = self.batch.capacity
        code = self.vision().decode(self._context, chunk, embeddings, slot, start, capacity)
        if code != 0:
            raise DecodeError(code)

    # --- the context --------------------------------------------------------------------------

    def decode(self) -> None:
        """Compute the filled :attr:`batch`; afterwards :meth:`logits` may be read.

        Raises:
            DecodeError: see there for what the memory holds afterwards.
        """
        code = lc.llama_decode(self._context, self.batch.struct())
        if code != 0:
            raise DecodeError(int(code))

    def logits(self, index: int) -> int:
        """Return the address of ``n_vocab`` float32 logits of batch position ``index``.

        Valid until the next :meth:`decode`; only for positions that asked for logits.
        """
        address = _get_logits_ith(self._context, index)
        if not address:
            raise DecodeError(-1)
        return int(address)

    def forget(self, slot: int) -> None:
        """Free all memory cells of a slot (``llama_memory_seq_rm`` of the whole sequence)."""
        self._check_slot(slot)
        lc.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def cut(self, slot: int, keep: int) -> bool:
        """Free the cells of a slot from position ``keep`` on (``llama_memory_seq_rm``).

        Returns:
            False where this kind of memory cannot do it (recurrent and hybrid models): what the
            slot holds is then undefined, :meth:`forget` it.
        """
        self._check_slot(slot)
        if keep < 0:
            raise ValueError(f"cannot keep {keep} tokens")
        return bool(lc.llama_memory_seq_rm(self._memory, slot, keep, -1))

    def copy(self, source: int, target: int) -> None:
        """Copy what a slot holds into an empty one (``llama_memory_seq_cp`` of the whole sequence).

        Per-sequence memory copies whole sequences only, and does so in the next decode.
        """
        self._check_slot(source)
        self._check_slot(target)
        if source == target:
            raise ValueError("a slot cannot be copied onto itself")
        lc.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.n_parallel:
            raise ValueError(f"slot {slot} is outside 0..{self.n_parallel - 1}")


class EmbeddingContext:
    """A context over a model's weights that gives the states of tokens, or pooled vectors.

    The cells of its memory are shared by all sequences. Where tokens see those behind them, or a
    classification head scores an input, a sequence has to be in one batch (:attr:`whole`), and
    llama.cpp pools; else inputs come in chunks, and the caller pools their states.

    Attributes:
        capacity: most tokens in one :meth:`decode`.
        n_cells: most tokens of all sequences that are begun.
        n_sequences: how many there can be at once.

    Raises:
        LoadError: it does not fit into memory.
    """

    def __init__(self, model: Model, load: Load) -> None:
        self.whole = not model.causal or model.pooling == "rank"
        self.n_embd = 1 if model.pooling == "rank" else model.n_embd
        self.n_cells = model.n_ctx
        # A recurrent model has a state for each sequence, whatever is in it.
        n_sequences = model.n_parallel if model.recurrent else _EMBEDDING_SEQUENCES
        # llama.cpp computes the logits of all tokens too, and keeps them.
        room = max(_MIN_EMBEDDING_BATCH, _MAX_EMBEDDING_LOGITS // (4 * model.n_vocab))
        chunk = min(load.batch_size, _UBATCH, room, model.n_ctx)
        self.capacity = model.n_ctx if self.whole else chunk
        self.n_sequences = min(n_sequences, self.capacity)
        self.kv_bytes = model.estimate_kv_bytes(self.n_cells) if model.causal else 0
        self._check_room(model)
        params = lc.llama_context_default_params()
        params.n_ctx = self.n_cells
        params.n_batch = params.n_ubatch = self.capacity
        params.n_seq_max = self.n_sequences
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = _POOLING_TYPES[model.pooling if self.whole else "none"]
        self._context = model.new_context(params, load)
        self._memory = lc.llama_get_memory(self._context)
        self.batch = Batch(self.capacity, self.n_sequences, model.n_vocab)

    def _check_room(self, model: Model) -> None:
        # Encoders have no logits.
        logits = 2 * 4 * self.capacity * model.n_vocab if model.causal else 0
        available = psutil.virtual_memory().available
        if self.kv_bytes + logits > 0.9 * available:
            raise LoadError(
                f"embeddings of inputs up to {model.n_ctx} tokens need about "
                f"{(self.kv_bytes + logits) / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are "
                "free; lower OFFGRID_MAX_CONTEXT (--ctx-size)."
            )

    def close(self) -> None:
        """Free it. Idempotent."""
        if self._context is not None:
            lc.llama_free(self._context)
            self._context = None

    def decode(self) -> None:
        """Compute the filled :attr:`batch`.

        Raises:
            DecodeError: llama.cpp failed; :meth:`forget` every sequence of the batch.
        """
        self.batch.want_all()
        code = lc.llama_decode(self._context, self.batch.struct())
        if code != 0:
            raise DecodeError(int(code))

    def states(self, first: int, count: int) -> NDArray[np.float32]:
        """Return a copy of the last hidden states at batch positions, (count, n_embd)."""
        address = ctypes.cast(lc.llama_get_embeddings(self._context), ctypes.c_void_p).value
        if not address:
            raise DecodeError(-1)
        return _copy_floats(address + 4 * first * self.n_embd, count, self.n_embd)

    def pooled(self, sequence: int) -> NDArray[np.float32]:
        """Return a copy of the vector (n_embd,) or score (1,) of a sequence of the batch."""
        pointer = lc.llama_get_embeddings_seq(self._context, sequence)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise DecodeError(-1)
        return _copy_floats(address, 1, self.n_embd).ravel()

    def forget(self, sequence: int) -> None:
        """Free the cells of a sequence; encoders have none."""
        if not 0 <= sequence < self.n_sequences:
            raise ValueError(f"sequence {sequence} is outside 0..{self.n_sequences - 1}")
        if self._memory:
            lc.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def _copy_floats(address: int, rows: int, columns: int) -> NDArray[np.float32]:
    values = np.ctypeslib.as_array((ctypes.c_float * (rows * columns)).from_address(address))
    return np.array(values, dtype=np.float32).reshape(rows, columns)


class Batch:
    """The arrays of a ``llama_batch``, allocated once and filled anew for every decode."""

    def __init__(self, capacity: int, n_slots: int, n_vocab: int) -> None:
        self.capacity = capacity
        self._n_slots = n_slots
        self._n_vocab = n_vocab
        self._size = 0
        self._token = np.zeros(capacity, dtype=np.int32)
        self._pos = np.zeros(capacity, dtype=np.int32)
        self._n_seq_id = np.ones(capacity, dtype=np.int32)
        self._seq_id = np.zeros(capacity, dtype=np.int32)
        self._want = np.zeros(capacity, dtype=np.int8)
        # One sequence a token: each pointer leads to the one id at the same index.
        self._seq_ptr = self._seq_id.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._positions = np.arange(capacity, dtype=np.int32)
        self._struct = lc.llama_batch(
            0,
            _pointer(self._token, ctypes.c_int32),
            None,
            _pointer(self._pos, ctypes.c_int32),
            _pointer(self._n_seq_id, ctypes.c_int32),
            ctypes.cast(self._seq_ptr.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            _pointer(self._want, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Begin a new batch."""
        self._size = 0

    def add(self, slot: int, start: int, tokens: NDArray[np.int32], n_logits: int) -> int:
        """Append tokens of a slot at positions from ``start``; return the last one's index.

        Logits are computed for the last ``n_logits`` of them.
        """
        first, last = self._size, self._size + len(tokens)
        if not len(tokens) or last > self.capacity:
            raise ValueError(f"{len(tokens)} tokens do not fit a batch of {self.capacity}")
        if not 0 <= n_logits <= len(tokens):
            raise ValueError(f"{len(tokens)} tokens have no {n_logits} rows of logits")
        if not 0 <= slot < self._n_slots or start < 0:
            raise ValueError(f"slot {slot} or position {start} does not exist")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self._n_vocab:
            raise ValueError("a token id is outside the vocabulary")
        self._token[first:last] = tokens
        self._pos[first:last] = self._positions[: len(tokens)] + start
        self._seq_id[first:last] = slot
        self._want[first:last] = 0
        self._want[last - n_logits : last] = 1
        self._size = last
        return last - 1

    def add_each(
        self, slots: list[int], positions: list[int], tokens: list[int], want: list[bool]
    ) -> range:
        """Append one token for each of several slots, with logits where wanted; return the indices.

        What :meth:`add` would do for each, in one go: in most steps this is all there is to do.
        """
        first, last = self._size, self._size + len(slots)
        if last > self.capacity:
            raise ValueError(f"{len(slots)} tokens do not fit a batch of {self.capacity}")
        if not slots:
            return range(first, first)
        if min(slots) < 0 or max(slots) >= self._n_slots or min(positions) < 0:
            raise ValueError("a slot or a position does not exist")
        if min(tokens) < 0 or max(tokens) >= self._n_vocab:
            raise ValueError("a token id is outside the vocabulary")
        self._token[first:last] = tokens
        self._pos[first:last] = positions
        self._seq_id[first:last] = slots
        self._want[first:last] = want
        self._size = last
        return range(first, last)

    def want_all(self) -> None:
        """Ask for an output of every token."""
        self._want[: self._size] = 1

    def struct(self) -> lc.llama_batch:
        """Return the C structure over the arrays; it borrows them."""
        self._struct.n_tokens = self._size
        return self._struct


def _pointer(array: NDArray[np.generic], ctype: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctype))


def _load_model(load: Load) -> lc.llama_model_p:
    path = Path(load.path)
    if not path.is_file():
        raise LoadError(f"{path.name} is not there any more.")
    params = lc.llama_model_default_params()
    params.n_gpu_layers = load.gpu_layers if load.gpu_layers >= 0 else 1 << 20
    params.load_mode = _load_mode(load)
    # NOTE: llama.cpp's AMX kernels can end the process at their first use ("ldtilecfg" faults on
    # what they leave uninitialised; ggml-org/llama.cpp#20824). The weights then stay in their
    # plain layout, which every processor's other kernels read.
    params.use_extra_bufts = b"AMX_INT8 = 1" not in lc.llama_print_system_info()
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadError(f"llama.cpp does not load {path.name}.")
    return model


def _load_mode(load: Load) -> int:
    if load.use_mlock:
        return int(lc.LLAMA_LOAD_MODE_MMAP_MLOCK if load.use_mmap else lc.LLAMA_LOAD_MODE_MLOCK)
    return int(lc.LLAMA_LOAD_MODE_MMAP if load.use_mmap else lc.LLAMA_LOAD_MODE_NONE)
