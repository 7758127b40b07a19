"""Code that the requests of several endpoints share: the body's JSON, fields and their ranges."""
