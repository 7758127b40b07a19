"""The server's side of the engine.

:mod:`~offgrid.engine.client.pool` provides the engine client of each model,
:mod:`~offgrid.engine.client.roster` knows which models are loaded and which one makes room, and
:mod:`~offgrid.engine.client.client` is one model as the API sees it. Below it:

- :mod:`~offgrid.engine.client.supervisor` runs one worker after another,
  :mod:`~offgrid.engine.client.watchdog` ends one that is stuck,
  :mod:`~offgrid.engine.client.patience` decides how long a worker may be silent and how soon it is
  replaced, and :mod:`~offgrid.engine.client.process` is the process itself;
- :mod:`~offgrid.engine.client.readiness` knows whether the worker serves, and has the lock that all
  parts share;
- :mod:`~offgrid.engine.client.requests` has the requests of the model,
  :mod:`~offgrid.engine.client.pending` is one of them,
  :mod:`~offgrid.engine.client.places` counts the places in the queue, and
  :mod:`~offgrid.engine.client.blame` finds the prompt that a worker died of.

:mod:`~offgrid.engine.client.examination` examines a file in a separate process.
"""
