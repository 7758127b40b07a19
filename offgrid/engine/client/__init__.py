"""The server's side of the engine.

:mod:`~offgrid.engine.client.pool` decides which models run,
:mod:`~offgrid.engine.client.client` is one model and what it is asked,
:mod:`~offgrid.engine.client.pending` a request that is under way,
:mod:`~offgrid.engine.client.process` the worker process,
:mod:`~offgrid.engine.client.patience` how long it may say nothing, and
:mod:`~offgrid.engine.client.blame` which request it died of.
:mod:`~offgrid.engine.client.examination` looks at a file in a process of its own.
"""
