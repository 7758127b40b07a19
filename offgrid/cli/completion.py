"""``offgrid completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from offgrid.cli.help import Command
from offgrid.cli.options import fail

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command, short_help="Print the script that completes commands in a shell.")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script with which the Tab key completes commands, options and ids of models.

    SHELL is bash, zsh or fish.

    \b
    bash:  offgrid completion bash > ~/.local/share/bash-completion/completions/offgrid
    zsh:   offgrid completion zsh > "${fpath[1]}/_offgrid"
    fish:  offgrid completion fish > ~/.config/fish/completions/offgrid.fish

    Then open a new shell. For one session of bash or zsh: eval "$(offgrid completion bash)".
    """
    found = get_completion_class(shell)
    if found is None:
        fail(f"this version of click has no completion for {shell}", 1)
    root = ctx.find_root()
    name = root.info_name or "offgrid"
    click.echo(found(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
