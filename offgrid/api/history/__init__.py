"""``/v1/history``: the conversations of the web page, on the server."""
