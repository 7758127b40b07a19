"""HTTP: one folder or file for each endpoint, and code that endpoints share.

An endpoint consists of a resource (called by falcon), a request (fields and checks), shapes (types
of its answers, for the OpenAPI document) and the code that builds the answer. A small endpoint has
all of them in one file. Endpoints share :mod:`~offgrid.api.fields` (of requests),
:mod:`~offgrid.api.shapes` (of answers) and :mod:`~offgrid.api.generation` (the generations of one
request). :mod:`~offgrid.api.http` guards, reads and sends, and maps exceptions to the OpenAI error
object.
"""
