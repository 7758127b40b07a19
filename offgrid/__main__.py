"""``python -m offgrid`` is the ``offgrid`` command."""

from __future__ import annotations

from offgrid import cli

if __name__ == "__main__":
    cli.main(prog_name="offgrid")
