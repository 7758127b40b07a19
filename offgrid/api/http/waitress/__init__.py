"""All that depends on how waitress works: sockets, requests, threads, and how connections end.

:mod:`~offgrid.api.http.waitress.server` starts it; a connection is a
:mod:`~offgrid.api.http.waitress.channel`, which reads requests with
:mod:`~offgrid.api.http.waitress.parser` and has them answered by the threads of
:mod:`~offgrid.api.http.waitress.lanes`. What the application may ask of the server is in
:mod:`~offgrid.api.http.waitress.environ`: it goes without where another server runs it.
"""
