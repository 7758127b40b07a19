"""HTTP: one folder or file for each endpoint, and what they share.

An endpoint has a resource (what falcon calls), a request (fields and checks), shapes (what it
answers, for the OpenAPI document) and what builds the answer; small ones have all that in one file.
:mod:`~offgrid.api.fields` is what requests share, :mod:`~offgrid.api.shapes` what answers share,
:mod:`~offgrid.api.generation` the generations of one request. :mod:`~offgrid.api.http` guards,
reads and sends, and maps exceptions to the OpenAI error object.
"""
