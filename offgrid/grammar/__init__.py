"""Compiles request fields to checked grammars, in both processes, without a model.

:mod:`~offgrid.grammar.schema` reads JSON schemas, with the help of
:mod:`~offgrid.grammar.document` (references) and :mod:`~offgrid.grammar.satisfiable`
(unsatisfiable schemas). :mod:`~offgrid.grammar.pattern` reads regular expressions.
:mod:`~offgrid.grammar.gbnf` and :mod:`~offgrid.grammar.lark` read grammars, and
:mod:`~offgrid.grammar.rules` checks that their rules end. A schema is checked once, in the process
that receives it: constructing the type in :mod:`~offgrid.grammar.checked` checks the schema, and
only this type may be compiled. :mod:`~offgrid.grammar.closed` closes the objects of a checked
schema. :mod:`~offgrid.grammar.compilable` converts each grammar to
llguidance's dialect, with the options of :mod:`~offgrid.grammar.options`, and
:mod:`~offgrid.grammar.messages` converts llguidance's messages to errors for clients.
"""
