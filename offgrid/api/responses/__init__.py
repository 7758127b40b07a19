"""``/v1/responses``: responses that are stored and can be continued."""
