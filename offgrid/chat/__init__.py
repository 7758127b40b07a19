"""Converts messages to a prompt, and an answer's text to a message, for the model's template."""
