"""The process of one model.

- :mod:`~offgrid.engine.worker.main`: its start, its end, and the commands that it takes.
- :mod:`~offgrid.engine.worker.lanes`: the threads that prepare requests.
- :mod:`~offgrid.engine.worker.writer`: what it sends to the server.
- :mod:`~offgrid.engine.worker.engine`: the loop.
- :mod:`~offgrid.engine.worker.scheduler`: which sequence runs, and what each step computes.
- :mod:`~offgrid.engine.worker.drawing`: the sampling of its tokens.
- :mod:`~offgrid.engine.worker.images`, :mod:`~offgrid.engine.worker.embedder`: images and inputs,
  computed beside the streams.
- :mod:`~offgrid.engine.worker.failures`: the handling of failed computations.
- :mod:`~offgrid.engine.worker.sequence`: one choice that is generated.
- :mod:`~offgrid.engine.worker.grammars`: the grammars of structured answers.
- :mod:`~offgrid.engine.worker.matcher`: the masks that keep an answer within a grammar.
- :mod:`~offgrid.engine.worker.llama`: all code that calls llama.cpp.
"""
