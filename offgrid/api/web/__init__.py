"""The web page: the files of ``offgrid/web``, and who gets the page at ``/``.

The files are not secret and need no key. What the page does with the server goes through the API,
which checks its requests like those of any other client.
"""
