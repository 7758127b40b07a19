"""What an answer must look like: text to checked grammar, in both processes, without a model.

:mod:`~offgrid.grammar.schema` reads JSON schemas, with the help of
:mod:`~offgrid.grammar.document` (references) and :mod:`~offgrid.grammar.satisfiable` (what no
answer can satisfy); :mod:`~offgrid.grammar.pattern` reads regular expressions,
:mod:`~offgrid.grammar.gbnf` and :mod:`~offgrid.grammar.lark` grammars, whose rules
:mod:`~offgrid.grammar.rules` checks for an end. A schema is checked once, in the process that
receives it: :mod:`~offgrid.grammar.checked` has the type of schemas that may be compiled, and to
construct one is to check it. :mod:`~offgrid.grammar.compilable` puts each grammar into
llguidance's dialect, with the options of :mod:`~offgrid.grammar.options`, and
:mod:`~offgrid.grammar.messages` makes errors for clients of its messages.
"""
