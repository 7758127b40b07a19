"""``/v1/peers``, and the resources under ``/peer/`` that only peers reach."""
