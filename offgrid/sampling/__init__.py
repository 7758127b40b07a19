"""From raw logits to text: OffGrid's sampler and text stream, in C with a thin Cython layer.

This package can be used on its own; it depends on neither llama.cpp nor HTTP::

    from offgrid.sampling import Sampler, SamplingParams, TextStream

    sampler = Sampler(n_vocab, SamplingParams(temperature=0.7, top_p=0.95, seed=7))
    token = sampler.sample(logits)
    sampler.accept(token)

The header comments of ``csrc/og_sampler.h`` and ``csrc/og_stops.h`` define every step.
"""

from offgrid.errors import InvalidParameter, SamplingError
from offgrid.sampling.params import SamplingParams
from offgrid.sampling.result import SampleResult, TokenScore

try:
    from offgrid.sampling._config import instruction_sets
    from offgrid.sampling._distribution import Distribution, distribution, draws, follow
    from offgrid.sampling._filter import Filter, FilterStream
    from offgrid.sampling._find import TextSet
    from offgrid.sampling._json import JsonCounts, count_json, cut_json
    from offgrid.sampling._rows import sample_rows, score_rows
    from offgrid.sampling._sampler import Sampler, philox4x32
    from offgrid.sampling._stops import StringScanner, TextStream
except ModuleNotFoundError as ex:
    if ex.name is None or not ex.name.startswith("offgrid.sampling._"):
        raise
    raise ImportError(
        "OffGrid's compiled modules are missing: this is the source tree, not an installation. "
        "Run 'pip install .' in the project folder (it needs a C compiler), then start Python "
        "from another folder."
    ) from ex

__all__ = [
    "Distribution",
    "Filter",
    "FilterStream",
    "InvalidParameter",
    "JsonCounts",
    "SampleResult",
    "Sampler",
    "SamplingError",
    "SamplingParams",
    "StringScanner",
    "TextSet",
    "TextStream",
    "TokenScore",
    "count_json",
    "cut_json",
    "distribution",
    "draws",
    "follow",
    "instruction_sets",
    "philox4x32",
    "sample_rows",
    "score_rows",
]
