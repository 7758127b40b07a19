"""Models inside a Python program: no server, no port, the same engine and the same answers.

:mod:`~offgrid.library.llm` has the class :class:`LLM`, which programs import as ``offgrid.LLM``.
It takes the fields of the API's requests as arguments, checks them as the API does, and returns
typed answers:

- :mod:`~offgrid.library.options` has the types of the arguments,
  :mod:`~offgrid.library.messages` makes messages from texts and image files, and
  :mod:`~offgrid.library.structure` makes a schema from a type and a value from an answer;
- :mod:`~offgrid.library.loading` finds the model and loads it;
- :mod:`~offgrid.library.answers` has whole answers, :mod:`~offgrid.library.stream` streams, and
  :mod:`~offgrid.library.scores` scores of texts.

docs/LIBRARY.md is the page for users.
"""
