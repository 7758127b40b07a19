"""Content filters: a file of phrases and patterns, made into tables for ``offgrid.sampling``.

The server reads the file (:mod:`offgrid.filters.source`) and compiles it
(:mod:`offgrid.filters.program`); the worker gets the tables once. Pure: text to tables.
"""
