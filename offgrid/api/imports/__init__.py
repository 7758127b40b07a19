"""``/v1/import``: models from sticks and folders."""
