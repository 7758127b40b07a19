"""HTTP itself: requests, errors, middleware, event streams, and all code that knows waitress."""
