"""HTTP: one resource per file, and nothing in them but HTTP.

:mod:`~offgrid.api.schema` checks requests and shapes responses, :mod:`~offgrid.api.errors` maps
exceptions to the OpenAI error object, :mod:`~offgrid.api.sse` streams,
:mod:`~offgrid.api.middleware` guards Host and Origin and numbers the requests.
"""
