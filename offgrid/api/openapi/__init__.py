"""``GET /openapi.json``: the document, generated from the types that check requests."""
