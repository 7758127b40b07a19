"""``/v1/import`` and ``/v1/export``: models from sticks and folders, and to them."""
