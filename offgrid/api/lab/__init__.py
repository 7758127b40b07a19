"""``POST /v1/lab/distribution``: what each step of sampling does to the next token."""
