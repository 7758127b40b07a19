"""The server's side of the engine.

:mod:`~offgrid.engine.client.pool` gives out the engine of a model,
:mod:`~offgrid.engine.client.roster` knows which are loaded and which makes room, and
:mod:`~offgrid.engine.client.client` is one model as the API sees it. Below it:

- :mod:`~offgrid.engine.client.supervisor` runs one worker after the other and watches each,
  :mod:`~offgrid.engine.client.patience` says how long it may be silent and how soon it is replaced,
  and :mod:`~offgrid.engine.client.process` is the process itself;
- :mod:`~offgrid.engine.client.readiness` says whether the worker serves, and has the lock that all
  parts share;
- :mod:`~offgrid.engine.client.requests` are those under way,
  :mod:`~offgrid.engine.client.pending` is one of them,
  :mod:`~offgrid.engine.client.places` counts what the queue has room for, and
  :mod:`~offgrid.engine.client.blame` says which request a worker died of.

:mod:`~offgrid.engine.client.examination` looks at a file in a process of its own.
"""
