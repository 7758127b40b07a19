"""``offgrid cluster``: several machines that serve the same models."""
