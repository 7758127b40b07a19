"""Messages to prompt: :mod:`~offgrid.chat.template` runs the chat template of a model."""
