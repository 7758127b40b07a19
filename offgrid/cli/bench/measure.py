"""Measures how fast a model prefills and generates, through a real worker.

A prompt is random token ids, so nothing of it is cached. Answers go on past their end tokens.
"""

from __future__ import annotations

import random
import time

from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.requests import GenerationRequest

_WAIT = 1.0
"""Seconds after which waiting for a token begins anew, so that Ctrl-C is noticed."""


class Measure:
    """Runs measurements on one loaded model.

    Args:
        client: the model, ready.
        seed: of the random prompts.
    """

    def __init__(self, client: EngineClient, seed: int = 1) -> None:
        self._client = client
        self._random = random.Random(seed)

    def prefill(self, tokens: int, streams: int) -> float:
        """Return the tokens per second at which the prompts of all streams are computed.

        The time ends with the first token of the last stream.
        """
        return streams * tokens / self._seconds(tokens, 1, streams)

    def generate(self, tokens: int, streams: int) -> float:
        """Return the tokens per second of all streams together, each with a prompt of one token."""
        return streams * tokens / self._seconds(1, tokens, streams)

    def _seconds(self, prompt: int, tokens: int, streams: int) -> float:
        """Return the time from the first request to the end of the last answer."""
        requests = [self._request(prompt, tokens) for _ in range(streams)]
        began = time.monotonic()
        generations = [self._client.submit(request) for request in requests]
        for generation in generations:
            while not generation.finished:
                generation.next(_WAIT)
        return time.monotonic() - began

    def _request(self, prompt: int, tokens: int) -> GenerationRequest:
        ids = tuple(self._random.randrange(self._client.info.n_vocab) for _ in range(prompt))
        return GenerationRequest(tokens=ids, max_tokens=tokens, ignore_eos=True, cache_prompt=False)
