"""The tokens of a model: text to token ids and back, control tokens and end tokens."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Sequence as SequenceOf

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.dry_breakers import MAX_SEQUENCES, PieceIndex, expand_breakers

_MAX_PIECE = 4096
_MAX_CACHED_BREAKERS = 8
_TOO_MANY = -(1 << 31)
"""What ``llama_tokenize`` returns for more tokens than it can count. Other negative numbers say how
many there are."""
_SHOWN = frozenset(("<|channel|>", "<|constrain|>", "<|end|>", "<|message|>", "<|start|>"))
"""Control tokens of gpt-oss that llama.cpp loads as user-defined ones, to show them in answers
(``llama_vocab::impl::load``). It would find them in every text, so that a user could write them."""
Breakers = tuple[tuple[int, ...], ...]
"""Token sequences, ascending."""

# A second binding that takes an address: with it, reading all pieces takes a third of the time.
_token_to_piece = lc._lib["llama_token_to_piece"]
_token_to_piece.argtypes = [
    ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool,
]  # fmt: skip
_token_to_piece.restype = ctypes.c_int32


def _existing(model: lc.llama_model_p, name: str, token: int) -> int:
    """Return a special token's id; -1 if the file names none.

    For byte-level vocabularies without one, llama.cpp answers with the id of GPT-2's, which is any
    word in other vocabularies.
    """
    vocab = lc.llama_model_get_vocab(model)
    if token < 0 or lc.llama_vocab_type(vocab) != lc.LLAMA_VOCAB_TYPE_BPE:
        return token
    key = f"tokenizer.ggml.{name}_token_id".encode()
    named = lc.llama_model_meta_val_str(model, key, ctypes.create_string_buffer(16), 16) >= 0
    control = lc.llama_vocab_get_attr(vocab, token) & lc.LLAMA_TOKEN_ATTR_CONTROL
    return token if named or control else -1


class Vocabulary:
    """The vocabulary of a loaded model. Several threads may use it at once.

    Attributes:
        n_vocab: number of tokens.
        eog_ids: end tokens.
        control_ids: control tokens, in ascending order.
        control_texts: the text of each control token -> its id.
        bos, eos, sep: token ids. -1 if there is none; for the latter two also if the model does not
            expect them around an input.
        add_bos: whether a prompt begins with ``bos``.
        fim_ids: the fill-in-the-middle tokens before the prefix, the suffix and the answer; -1 for
            each that does not exist.
        fim_repository, fim_file: the tokens before the name of a project and before the name of
            each of its files, when a model fills in; -1 for each that does not exist.
    """

    def __init__(self, model: lc.llama_model_p) -> None:
        self._vocab = vocab = lc.llama_model_get_vocab(model)
        self.n_vocab = int(lc.llama_vocab_n_tokens(vocab))
        ids = range(self.n_vocab)
        self.eog_ids = frozenset(i for i in ids if lc.llama_vocab_is_eog(vocab, i))
        special = lc.LLAMA_TOKEN_ATTR_CONTROL | lc.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = [int(lc.llama_vocab_get_attr(vocab, i)) for i in ids]
        shown = {
            i: text for i in ids if attributes[i] & lc.LLAMA_TOKEN_ATTR_USER_DEFINED
            and (text := self.name(i)) in _SHOWN
        }  # fmt: skip
        self.control_ids = tuple(i for i in ids if attributes[i] & special or i in shown)
        # Between the first two characters of such a token's text.
        rest = "|".join(re.escape(text[1:]) for text in shown.values())
        self._inside_shown = re.compile(f"(?<=<)(?=(?:{rest}))") if shown else None
        self.control_texts = {text: i for i in reversed(self.control_ids) if (text := self.name(i))}
        self.bos = _existing(model, "bos", int(lc.llama_vocab_bos(vocab)))
        self.add_bos = bool(lc.llama_vocab_get_add_bos(vocab)) and self.bos >= 0
        self._eos = _existing(model, "eos", int(lc.llama_vocab_eos(vocab)))
        self.eos = self._eos if lc.llama_vocab_get_add_eos(vocab) else -1
        self.sep = int(lc.llama_vocab_sep(vocab)) if lc.llama_vocab_get_add_sep(vocab) else -1
        self.fim_ids = (
            int(lc.llama_vocab_fim_pre(vocab)),
            int(lc.llama_vocab_fim_suf(vocab)),
            int(lc.llama_vocab_fim_mid(vocab)),
        )
        self.fim_repository = int(lc.llama_vocab_fim_rep(vocab))
        self.fim_file = int(lc.llama_vocab_fim_sep(vocab))
        self._pieces: dict[int, bytes] = {}
        self._pieces_with_special: dict[int, bytes] = {}
        self._breakers: dict[tuple[str, ...], Breakers] = {}
        self._index: PieceIndex | None = None
        self._breakers_lock = threading.Lock()

    def template_texts(self) -> tuple[str, str, str]:
        """Return the texts of BOS, EOS and the padding token, which chat templates use; "" if there
        is none."""
        tokens = (self.bos, self._eos, int(lc.llama_vocab_pad(self._vocab)))
        bos, eos, pad = (self.name(i) if i >= 0 else "" for i in tokens)
        return bos, eos, pad

    def name(self, token: int) -> str:
        """Return the text of a token in the vocabulary (``llama_vocab_get_text``)."""
        self._check_token(token)
        return bytes(lc.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    def tokenize(self, parts: SequenceOf[PromptPart]) -> NDArray[np.int32]:
        """Return the token ids of a prompt, with BOS in front if the model expects it.

        Only parts marked ``special`` can produce control tokens (``llama_tokenize``'s
        ``parse_special``). This runs the tokeniser's regular expressions, so the calling thread
        needs a large stack: some vocabularies recurse once per character.
        """
        ids = self.tokenize_bare(parts)
        if self.add_bos and (len(ids) == 0 or ids[0] != self.bos):
            ids = np.concatenate((np.array([self.bos], dtype=np.int32), ids))
        return ids

    def tokenize_bare(self, parts: SequenceOf[PromptPart]) -> NDArray[np.int32]:
        """Return the same token ids as :meth:`tokenize`, but do not add BOS."""
        chunks = [self._tokenize_text(part.text, part.special) for part in parts if part.text]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int32)

    def tokenize_around(self, parts: SequenceOf[PromptPart]) -> NDArray[np.int32]:
        """Return the token ids of a prompt between the tokens that the model expects around an
        input (BOS, EOS), as :meth:`tokenize_input` does for a text."""
        if len(parts) == 1:
            return self._tokenize_text(parts[0].text, parts[0].special, add_special=True)
        begin = np.array([self.bos] if self.add_bos else [], dtype=np.int32)
        around = self._tokenize_text("", False, add_special=True)
        return np.concatenate([begin, self.tokenize_bare(parts), around[len(begin) :]])

    def tokenize_input(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of a text to be embedded, with the tokens that the model expects
        around it (BOS, EOS).

        Nothing in the text becomes a control token.
        """
        return self._tokenize_text(text, False, add_special=True)

    def tokenize_plain(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of a text alone; nothing in it becomes a control token."""
        return self._tokenize_text(text, False)

    def _tokenize_text(
        self, text: str, special: bool, add_special: bool = False
    ) -> NDArray[np.int32]:
        if special or self._inside_shown is None or not self._inside_shown.search(text):
            return self._llama_tokenize(text, special, add_special)
        # llama.cpp would find such tokens in any text, but not in two halves of their texts.
        pieces = self._inside_shown.split(text)
        chunks = [self._llama_tokenize(piece, False, False) for piece in pieces]
        if add_special:
            begin = np.array([self.bos] if self.add_bos else [], dtype=np.int32)
            end = self._llama_tokenize("", False, True)[len(begin) :]
            chunks = [begin, *chunks, end]
        return np.concatenate(chunks)

    def _llama_tokenize(self, text: str, special: bool, add_special: bool) -> NDArray[np.int32]:
        data = text.encode("utf-8")
        count = len(data) + 8
        # Twice at most: T5 and XLM-RoBERTa replace some characters by many.
        for _ in range(2):
            capacity = abs(count)
            ids = np.empty(capacity, dtype=np.int32)
            pointer = ids.ctypes.data_as(ctypes.POINTER(lc.llama_token))
            count = lc.llama_tokenize(
                self._vocab, data, len(data), pointer, capacity, add_special, special
            )
            if count >= 0:
                return ids[:count]
            if count <= _TOO_MANY:
                break
        raise ValueError(f"llama_tokenize returned {count} for {len(data)} bytes")

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; control tokens have none."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._read_piece(token)
        return cached

    def piece_with_special(self, token: int) -> bytes:
        """Return the same as :meth:`piece`, but the texts of control tokens."""
        cached = self._pieces_with_special.get(token)
        if cached is None:
            cached = self._pieces_with_special[token] = self._read_piece(token, special=True)
        return cached

    def _read_piece(self, token: int, special: bool = False) -> bytes:
        self._check_token(token)
        buffer = ctypes.create_string_buffer(_MAX_PIECE)
        length = lc.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = lc.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:length]

    def visible_pieces(self, texts: SequenceOf[str]) -> dict[int, bytes]:
        """Return the bytes of the control tokens that have one of these texts."""
        return {
            self.control_texts[text]: text.encode("utf-8")
            for text in texts
            if text in self.control_texts
        }

    def _check_token(self, token: int) -> None:
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"token {token} is outside the vocabulary of {self.n_vocab}")

    def vocab_pieces(self) -> list[bytes]:
        """Return the bytes of every token, in order of id; for control tokens, their names."""
        pieces = self._read_pieces()
        for token in self.control_ids:
            pieces[token] = self.name(token).encode()
        return pieces

    def index_pieces(self) -> None:
        """Build the index that :meth:`breakers` searches, before other threads need it."""
        with self._breakers_lock:
            if self._index is None:
                self._index = PieceIndex(self._read_pieces())

    def breakers(self, texts: SequenceOf[str]) -> Breakers:
        """Return the token sequences that may contain these texts, for DRY, in ascending order.

        Raises:
            InvalidParameter: there are too many.
        """
        self.index_pieces()
        wanted = tuple(sorted(set(texts)))
        with self._breakers_lock:
            known = self._breakers.get(wanted)
            if known is None:
                assert self._index is not None
                known = tuple(expand_breakers(wanted, self._index, self._tokenize_tail))
                # Most requests have the same breakers. All cached ones take at most some MB.
                if sum(map(len, self._breakers.values())) + len(known) > MAX_SEQUENCES:
                    self._breakers.clear()
                if len(self._breakers) >= _MAX_CACHED_BREAKERS:
                    self._breakers.clear()
                self._breakers[wanted] = known
        return known

    def _read_pieces(self) -> list[bytes]:
        """Return the bytes of every token, in order of id; control tokens have none."""
        buffer = ctypes.create_string_buffer(_MAX_PIECE)
        address = ctypes.addressof(buffer)
        vocab, size = ctypes.cast(self._vocab, ctypes.c_void_p), len(buffer)
        pieces = []
        for token in range(self.n_vocab):
            length = _token_to_piece(vocab, token, address, size, 0, False)
            fits = length >= 0
            pieces.append(ctypes.string_at(address, length) if fits else self._read_piece(token))
        return pieces

    def _tokenize_tail(self, data: bytes) -> list[int]:
        return [int(i) for i in self._tokenize_text(data.decode("utf-8", "replace"), False)]
