"""Fields and values that the requests of several APIs have."""
