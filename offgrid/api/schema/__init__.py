"""Typed requests and responses. :mod:`~offgrid.api.schema.fields` is the shared ground,
:mod:`~offgrid.api.schema.chat` and :mod:`~offgrid.api.schema.completions` the two endpoints, and
:mod:`~offgrid.api.schema.body` turns bytes into checked JSON."""
