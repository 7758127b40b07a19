"""The process of one model.

:mod:`~offgrid.engine.worker.main` has its threads and pipes, :mod:`~offgrid.engine.worker.engine`
the loop, :mod:`~offgrid.engine.worker.scheduler` what each step computes,
:mod:`~offgrid.engine.worker.drawing` how its tokens are sampled,
:mod:`~offgrid.engine.worker.images` and :mod:`~offgrid.engine.worker.embedder` what is computed
beside it, :mod:`~offgrid.engine.worker.failures` what happens when that fails,
:mod:`~offgrid.engine.worker.sequence` one choice that is generated,
:mod:`~offgrid.engine.worker.grammars` the grammars of structured answers,
:mod:`~offgrid.engine.worker.matcher` the masks that keep an answer within one, and
:mod:`~offgrid.engine.worker.llama` all that touches llama.cpp.
"""
