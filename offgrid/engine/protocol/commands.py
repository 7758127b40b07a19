"""Commands: what the server sends to a worker."""

from __future__ import annotations

import msgspec

from offgrid.engine.kv_types import PLAIN
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest, TokenQuery
from offgrid.filters.program import FilterProgram
from offgrid.rpc.endpoint import Placed

MAX_FILTERS = 64
"""Content filters that a worker keeps."""
MAX_DRAFT_BATCH = 64
"""Most tokens that a draft model computes at once."""


class Adapter(msgspec.Struct, frozen=True, array_like=True):
    """A file with a LoRA adapter, and the factor by which its effect is multiplied."""

    path: str
    scale: float


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first command: which file to serve and how. Sizes are in tokens.

    ``ctx_size`` is the context of one sequence, 0 for the context with which the model was trained;
    ``parallel`` is the number of slots; with ``threads`` 0 the number is found by measuring;
    ``gpu_layers`` -1 means all; ``flash_attention`` is auto, on or off; ``kv_type_k`` and
    ``kv_type_v`` are types of :mod:`offgrid.engine.kv_types`; ``swa_full`` keeps all tokens of
    layers with a sliding window; ``checkpoints_mb`` is the budget of checkpoints in MiB;
    ``open_objects`` lets the objects of answers have members that their schemas do not describe;
    ``drafts`` lets steps decode proposed tokens; ``projector`` is the projector's file, if there is
    one; ``adapters`` act on all requests; ``draft_model`` is the file of the draft model, if there
    is one. ``cache_ram`` and ``cache_disk`` are MiB for saved prefixes in memory and in the folder
    ``cache_dir`` (-1 for the disk: the worker decides); ``sha256`` is the file's hash, if it is
    known. With ``share_prefixes`` the ``partition`` of requests is ignored. ``core_dumps`` lets a
    crash of the worker write one. ``rpc`` are the servers that lend memory, with the layers that
    each gets; ``rpc_library`` is the file of llama.cpp's RPC if that was built apart. With
    ``examine`` the file is only examined: the worker reports ``Examined`` or ``LoadFailed``, and
    ends.
    """

    path: str
    ctx_size: int = 4096
    parallel: int = 4
    batch_size: int = 512
    threads: int = 0
    gpu_layers: int = 0
    flash_attention: str = "auto"
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False
    swa_full: bool = False
    checkpoints_mb: int = 256
    open_objects: bool = False
    drafts: bool = True
    projector: str | None = None
    adapters: tuple[Adapter, ...] = ()
    draft_model: str | None = None
    examine: bool = False
    cache_ram: int = 0
    cache_dir: str | None = None
    cache_disk: int = 0
    sha256: str = ""
    share_prefixes: bool = False
    core_dumps: bool = False
    rpc: tuple[Placed, ...] = ()
    rpc_library: str = ""

    @property
    def remote_layers(self) -> int:
        """How many layers other machines compute."""
        return sum(placed.layers for placed in self.rpc)

    def of_draft(self) -> Load:
        """Return the command that would serve the draft model alone: with the same slots. It
        computes few tokens at once, so that no step waits long for it."""
        return msgspec.structs.replace(
            self,
            path=self.draft_model or "",
            batch_size=max(self.parallel, min(self.batch_size, MAX_DRAFT_BATCH)),
            kv_type_k=PLAIN,
            kv_type_v=PLAIN,
            swa_full=True,  # rejected tokens and other prefixes are cut off anywhere
            checkpoints_mb=0,
            projector=None,
            adapters=(),
            draft_model=None,
            cache_ram=0,
            cache_disk=0,
            sha256="",
            rpc=(),
        )


class UseFilter(msgspec.Struct, frozen=True, tag=True):
    """Keep a content filter: the requests that follow name it by its digest. A worker keeps the
    last :data:`MAX_FILTERS` that came; the server counts in the same way."""

    program: FilterProgram


class Submit(msgspec.Struct, frozen=True, tag=True):
    id: int
    request: GenerationRequest


class Embed(msgspec.Struct, frozen=True, tag=True):
    id: int
    request: EmbeddingRequest


class LookUp(msgspec.Struct, frozen=True, tag=True):
    id: int
    query: TokenQuery


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Cancel a request, of which no further event comes, or end one ``choice`` of it, whose last
    delta follows. Idempotent. An unknown id is no error, because the request may just have ended.
    """

    id: int
    choice: int | None = None


class Ping(msgspec.Struct, frozen=True, tag=True):
    number: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the process. The server has already ended the running requests.

    ``seconds`` is the time for writing prefixes to disk before; 0 for none.
    """

    seconds: float = 0.0


Command = Load | UseFilter | Submit | Embed | LookUp | Cancel | Ping | Stop
