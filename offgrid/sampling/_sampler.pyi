from collections.abc import Iterable, Sequence
from typing import Any, final, overload

from typing_extensions import Buffer

from offgrid.sampling.params import SamplingParams
from offgrid.sampling.result import SampleResult

MAX_TOP_LOGPROBS: int

@final
class Sampler:
    params: SamplingParams
    def __init__(
        self,
        n_vocab: int,
        params: SamplingParams | None = None,
        prompt_tokens: Any = (),
        *,
        choice: int = 0,
        banned: Iterable[int] = (),
        end_tokens: Iterable[int] = (),
        isa: str | None = None,
    ) -> None: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def choice(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def mu(self) -> float: ...
    @property
    def state(self) -> tuple[int, float, float]: ...
    @state.setter
    def state(self, value: tuple[int, float, float]) -> None: ...
    @property
    def isa(self) -> str: ...
    @overload
    def sample(
        self,
        logits: Buffer | int,
        top_logprobs: None = None,
        mask: Buffer | None = None,
        *,
        post_sampling: bool = False,
    ) -> int: ...
    @overload
    def sample(
        self,
        logits: Buffer | int,
        top_logprobs: int,
        mask: Buffer | None = None,
        *,
        post_sampling: bool = False,
    ) -> SampleResult: ...
    def accept(self, token: int) -> None: ...
    def rewind(
        self, state: tuple[int, float, float], prompt_tokens: Any, tokens: Iterable[int]
    ) -> None: ...

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]: ...
