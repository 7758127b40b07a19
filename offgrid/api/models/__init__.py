"""``/v1/models``: lists and describes models; loads, unloads, pins and removes them."""
