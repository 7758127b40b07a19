"""Models inside a Python program: no server, no port, the same engine and the same answers.

:mod:`~offgrid.inprocess.llm` has the class :class:`LLM`, which programs import as ``offgrid.LLM``.
It takes the fields of the API's requests as arguments, checks them as the API does, and returns
typed answers:

- :mod:`~offgrid.inprocess.options` has the types of the arguments,
  :mod:`~offgrid.inprocess.messages` makes messages from texts and image files, and
  :mod:`~offgrid.inprocess.structure` makes a schema from a type and a value from an answer;
- :mod:`~offgrid.inprocess.loading` finds the model and loads it;
- :mod:`~offgrid.inprocess.answers` has whole answers, :mod:`~offgrid.inprocess.stream` streams, and
  :mod:`~offgrid.inprocess.scores` scores of texts.

docs/LIBRARY.md is the page for users.
"""
