"""What to do about an unknown path.

Most are the fault of a client's base URL: each API has its own, and clients add different paths to
it. Others are endpoints of APIs that this server does not have.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OPENAI = "/v1"
"""What the base URL of the OpenAI API ends with."""
_LIST = "GET /openapi.json lists all endpoints."


class _Api(NamedTuple):
    """An API that this server has in part.

    Attributes:
        name: in words.
        paths: what its clients add to the base URL, as a regular expression. It may match anywhere
            in a path, since the base URL may end with anything.
    """

    name: str
    paths: str


_OWN = (
    _Api("Ollama API", r"/api/(?:blobs|chat|copy|create|delete|embed|embeddings|generate|me|ps|"
         r"pull|push|show|signin|signout|tags|version|web_fetch|web_search)(?=/)"),
    _Api("Anthropic API", r"/messages/"),
    _Api("llama-server's own API", r"/(?:apply-template|completion|detokenize|infill|"
         r"lora-adapters|props|slots|tokenize)/"),
    _Api("vLLM's own API", r"/(?:classify|pooling|score|tokenizer_info)/"),
)  # fmt: skip
"""Their base URL is the address of the server, without a path."""
_FOREIGN = (
    (r"/api/(?:extra|latest|v1)/|/sdapi/", "KoboldCpp"),
    (r"/api/v0/", "LM Studio"),
    (r"/v1beta/|:generateContent|:streamGenerateContent", "Gemini"),
    (r"/openai/deployments/", "Azure"),
    (r"^/(?:generate|generate_stream|info)/", "Text Generation Inference"),
    (r"^/v2/", "Cohere"),
    (r"^/v1/(?:model|lora|template|token)/", "TabbyAPI"),
)
"""Paths of APIs that this server does not have."""
_WITHOUT_VERSION = re.compile(
    r"^/(?:audio|batches|chat|conversations|embeddings|files|images|models|moderations|rerank|"
    r"responses)/"
)
"""Endpoints of the OpenAI API under a base URL that lacks the end."""


def advice_for(path: str, prefix: str) -> str:
    """Return what to do about an unknown path: sentences for the error's message.

    Args:
        path: of the request.
        prefix: address of the server, as the client knows it.
    """
    openai = f"The base URL of the OpenAI API is {prefix}{_OPENAI}."
    path = f"{path.rstrip('/')}/"
    for api in _OWN:
        found = re.search(api.paths, path)
        if found is not None:
            below = found.start() in (0, len(_OPENAI)) and path.startswith(
                ("/api/", "/v1/messages")
            )
            # Under the right base URL, the endpoint itself is missing.
            missing = f" Of its endpoints, this server has only some: {_LIST}" if below else ""
            return f"The base URL of {_the(api.name)} is {prefix}.{missing}"
    for pattern, name in _FOREIGN:
        if re.search(pattern, path):
            return f"This server does not speak the API of {name}. {openai}"
    if path.startswith("/v1/v1/") or _WITHOUT_VERSION.search(path) or not path.startswith("/v1/"):
        return openai
    return _LIST


def _the(name: str) -> str:
    return name if "'s" in name else f"the {name}"
