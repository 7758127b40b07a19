"""All code that depends on waitress: sockets, requests, threads, and how connections end.

:mod:`~offgrid.api.http.waitress.server` starts waitress. A connection is a
:mod:`~offgrid.api.http.waitress.channel`, which reads requests with
:mod:`~offgrid.api.http.waitress.parser`; the threads of
:mod:`~offgrid.api.http.waitress.lanes` answer them. Through
:mod:`~offgrid.api.http.waitress.environ` the application asks the server about a connection; under
another server it works without these answers.
"""
