"""Requests for models that only peers have: which peer answers, and how its answer is read."""
