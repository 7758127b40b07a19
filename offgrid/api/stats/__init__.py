"""``/v1/stats``, ``/metrics`` and ``/ready``."""
