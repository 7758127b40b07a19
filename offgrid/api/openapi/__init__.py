"""``GET /openapi.json``: the document, made of the types that check requests."""
