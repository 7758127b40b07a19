"""``/v1/conversations``: lists of items that responses continue and extend."""
