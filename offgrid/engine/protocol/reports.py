"""Reports: what a worker sends to the server."""

from __future__ import annotations

import msgspec

from offgrid.engine.build import Device
from offgrid.engine.protocol.events import EngineEvent


class ModelInfo(msgspec.Struct, frozen=True):
    """The properties of a loaded model. Sizes are in tokens unless stated otherwise."""

    path: str
    description: str
    n_vocab: int
    n_ctx: int
    """Context of one sequence: prompt plus answer."""
    n_ctx_train: int
    n_params: int
    size_bytes: int
    n_parallel: int
    kv_bytes: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    pad_text: str
    add_bos: bool
    control_texts: tuple[str, ...]
    """Texts of all control tokens. Text from a user must not become one of these tokens."""
    fingerprint: str
    """Hash of everything that can change the logits: build, file, context, setting of threads."""
    metadata: dict[str, str]
    pooling: str = "mean"
    """How the states of an input's tokens become its vector: one of :data:`POOLINGS`."""
    generates: bool = True
    """Whether it generates text; models made for embedding or ranking do not."""
    control_ids: dict[str, int] = {}
    """Ids of the ``control_texts``."""
    has_vision: bool = False
    """Whether there is a projector for images."""
    n_threads: int = 1
    """Threads at the beginning; the number changes unless the settings fix it."""
    chat_templates: dict[str, str] = {}
    """Further templates of the file by name, such as ``tool_use``."""
    flash_attention: bool = False
    """Whether its sequences are computed with flash attention."""
    attention_reason: str = ""
    """Why, in words for the log."""

    @property
    def is_base(self) -> bool:
        """Whether it generates text and has no chat template."""
        return self.generates and not (self.chat_template or "").strip()


UNEXPECTED = "an unexpected error ends this worker"
"""What a worker logs before the trace of an exception that ends it."""
POOLINGS = ("mean", "cls", "last", "rank")
"""Mean of all states, the first, the last, or the score that a classification head computes."""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The weights are being loaded. ``progress``: the part that is loaded, 0 to 1."""

    progress: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: ModelInfo


class Examined(msgspec.Struct, frozen=True, tag=True):
    """The file can be loaded, as far as that can be known without loading its weights."""


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """``lasting``: the file itself is at fault, so loading will fail until it is replaced."""

    message: str
    lasting: bool = False


class Lost(msgspec.Struct, frozen=True, tag=True):
    """A machine that computes a part of the model is gone. The worker ends immediately after this.
    ``message``: which machine, and how; for clients."""

    message: str


class SlotState(msgspec.Struct, frozen=True, array_like=True):
    """What a slot is used for. ``running``: whether a sequence has it. ``held``: tokens whose keys
    and values it holds. Of that sequence, ``prompt``: tokens of its prompt; ``cached``: how many of
    them were not computed; ``generated``: tokens of its answer; ``left``: how many more it may
    have; ``owner``: whose request it is."""

    id: int
    running: bool
    held: int
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    left: int = 0
    owner: str = ""


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has counted since it was started, and what it holds.

    ``steps``: rounds of the loop. ``prefilled`` and ``generated``: tokens of prompts and of answers
    that were computed. ``preempted``: sequences whose slots were taken away. ``cells``: cells in
    use, for running sequences and for prefixes in idle slots. ``gpus``: those that llama.cpp can
    compute on. ``slots``: all slots by their ids; empty if the model does not generate.
    """

    steps: int = 0
    prefilled: int = 0
    generated: int = 0
    preempted: int = 0
    cells: int = 0
    gpus: tuple[Device, ...] = ()
    slots: tuple[SlotState, ...] = ()


class Pong(msgspec.Struct, frozen=True, tag=True):
    """Response to a Ping. ``busy_for``: seconds that the loop has been in its current step.
    ``threads``: the numbers of threads in use for decode and for prefill; empty while the model is
    being loaded. ``figures``: what the worker has counted."""

    number: int
    busy_for: float
    running: int
    waiting: int
    threads: tuple[int, ...] = ()
    figures: Figures = Figures()


class Step(msgspec.Struct, frozen=True, tag=True):
    """Events in one frame: those of one step of the loop, or those of another thread."""

    events: tuple[EngineEvent, ...]


Report = Step | Loading | Ready | Examined | LoadFailed | Lost | Pong
