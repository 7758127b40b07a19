"""Ollama's API, below ``/api``: https://docs.ollama.com/api."""
