"""Commands that talk to a model: ``run``, ``complete``, ``ps`` and ``launch``.

- :mod:`~offgrid.cli.talk.remote` is a server that runs, :mod:`~offgrid.cli.talk.local` a model of
  the command's own, and :mod:`~offgrid.cli.talk.source` chooses between the two;
- :mod:`~offgrid.cli.talk.options` has the options that the commands share;
- :mod:`~offgrid.cli.talk.session` runs ``run``, and :mod:`~offgrid.cli.talk.continuation` runs
  ``complete``;
- :mod:`~offgrid.cli.talk.chat` is the terminal chat: it reads lines with
  :mod:`~offgrid.cli.talk.keyboard`, keeps them in a :mod:`~offgrid.cli.talk.conversation`, obeys
  :mod:`~offgrid.cli.talk.commands`, and prints with :mod:`~offgrid.cli.talk.screen`, while
  :mod:`~offgrid.cli.talk.echo` hides what is typed.
"""
