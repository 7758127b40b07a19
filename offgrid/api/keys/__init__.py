"""``/v1/keys``: the keys of the server, for callers with the scope ``admin``."""
