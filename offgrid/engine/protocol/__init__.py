"""The messages between the server process and a worker process.

- :mod:`~offgrid.engine.protocol.requests`: what the server asks of a model.
- :mod:`~offgrid.engine.protocol.commands`: what it sends to the worker, requests among others.
- :mod:`~offgrid.engine.protocol.events`: what happens to a request.
- :mod:`~offgrid.engine.protocol.reports`: what the worker sends to the server, events among others.
- :mod:`~offgrid.engine.protocol.frames`: how both cross the pipes.
"""
