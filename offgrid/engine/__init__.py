"""The engine: llama.cpp's logits to text, many sequences at once, in a process of its own.

Server side: :mod:`~offgrid.engine.pool` (which models run), :mod:`~offgrid.engine.client` (one
model and what it is asked), :mod:`~offgrid.engine.process` (its worker process) and
:mod:`~offgrid.engine.blame` (what a worker died of). Both sides: :mod:`~offgrid.engine.protocol`.
Worker side: :mod:`~offgrid.engine.worker` (threads and pipes), :mod:`~offgrid.engine.engine` (the
loop), :mod:`~offgrid.engine.scheduler` (what each step computes; pure),
:mod:`~offgrid.engine.sequence` (one choice being generated) and :mod:`~offgrid.engine.llama`
(all that touches llama.cpp).

The server side never imports the worker side: llama.cpp may end its process on some inputs.
"""
