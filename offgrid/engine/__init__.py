"""The engine: prompts to text, many sequences at once, one process for each loaded model.

:mod:`~offgrid.engine.client` runs in the server process, :mod:`~offgrid.engine.worker` in the
process of a model. Neither imports the other: llama.cpp may end its process on some inputs. What
both need is here: the messages between them (:mod:`~offgrid.engine.protocol`), limits that both
check (:mod:`~offgrid.engine.limits`), and the signals that neither may die of
(:mod:`~offgrid.engine.signals`).
"""
