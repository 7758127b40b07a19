"""HTTP itself: requests, errors, middleware, event streams, and all that knows waitress."""
