from collections.abc import Sequence

from offgrid.errors import SamplingError
from offgrid.sampling._sampler import Sampler
from offgrid.sampling.result import SampleResult, TokenScore

def sample_rows(
    addresses: Sequence[int],
    samplers: Sequence[Sampler],
    *,
    top_logprobs: Sequence[int] | None = None,
    masks: Sequence[int] | None = None,
    post_sampling: Sequence[bool] | None = None,
    accept: bool = True,
    threads: int = 1,
) -> list[SampleResult | SamplingError]: ...
def score_rows(
    sampler: Sampler,
    addresses: Sequence[int],
    tokens: Sequence[int],
    top_logprobs: int = 0,
) -> list[TokenScore]: ...
