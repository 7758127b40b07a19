"""OffGrid LLM: serve GGUF models through the OpenAI API on a machine without a network.

The parts, lowest level first: :mod:`offgrid.sampling` (logits to tokens to text, in C),
:mod:`offgrid.engine` (llama.cpp in a worker process of its own), :mod:`offgrid.chat`
(messages to prompt), :mod:`offgrid.store` (models on disk), :mod:`offgrid.api` (HTTP).
"""

__version__ = "0.1.0a1"
