"""The history of the web page: conversations as append-only trees of messages, in SQLite."""
