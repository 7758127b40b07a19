"""The engine: generates answers to prompts, many at once, in one process for each loaded model.

:mod:`~offgrid.engine.client` runs in the server process, :mod:`~offgrid.engine.worker` in the
process of a model, because some inputs make llama.cpp abort its process. Neither imports the other.
Code that both need is here: the messages between them (:mod:`~offgrid.engine.protocol`), limits
that both check (:mod:`~offgrid.engine.context_length`), and signals that only the server handles
(:mod:`~offgrid.engine.signals`).
"""
